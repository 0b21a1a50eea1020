"""What clients send: the server's own requests, and OpenAI's for texts and chats."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Name = Annotated[str, Field(min_length=1, max_length=200)]
Cell = str | Annotated[list[str], Field(fail_fast=True)] | None
"""What a column of a row holds. In a list one mistake is enough: a body of a megabyte can have a million."""
Stop = Annotated[str, Field(max_length=256)]


class Request(BaseModel):
    """A body: nothing in it is unknown, and nothing becomes what it is not."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Predict(Request):
    """For /v1/predict."""

    adapter: Name
    inputs: str | dict[str, Cell] | Annotated[list[str | dict[str, Cell]], Field(min_length=1, fail_fast=True)]

    @property
    def rows(self) -> list[str | dict[str, Cell]]:
        """The inputs, also if there is one."""
        return self.inputs if isinstance(self.inputs, list) else [self.inputs]


class Load(Request):
    """For POST /v1/adapters."""

    path: Annotated[str, Field(min_length=1, max_length=4096)]
    name: Name | None = None


class StreamOptions(Request):
    """What a stream says beside its text."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None  # of OpenAI's service; there is nothing to hide here


class Generate(Request):
    """What texts and chats share. What OpenAI has beside this and would change the answer is refused."""

    model: Name
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2, strict=False, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1, strict=False, allow_inf_nan=False)] | None = None
    n: Annotated[int, Field(ge=1, le=16)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=4, fail_fast=True)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    presence_penalty: Literal[0, None] = None
    frequency_penalty: Literal[0, None] = None
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None
    user: str | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None

    @property
    def stops(self) -> list[str]:
        """The stop sequences."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    @property
    def with_usage(self) -> bool:
        """Whether a stream ends in the number of tokens."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)


Texts = Annotated[list[str], Field(min_length=1, fail_fast=True)]
Ids = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1, fail_fast=True)]


class Complete(Generate):
    """For /v1/completions."""

    prompt: str | Ids | Texts | Annotated[list[Ids], Field(min_length=1, fail_fast=True)]
    best_of: Literal[1, None] = None
    echo: Literal[False, None] = None
    logprobs: None = None
    suffix: None = None

    @property
    def prompts(self) -> list[str | list[int]]:
        """The prompts, also if there is one."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        return [self.prompt] if isinstance(self.prompt[0], int) else list(self.prompt)


class Part(Request):
    """A piece of a message."""

    type: Literal["text"]
    text: str


class Message(Request):
    """One turn of a chat."""

    role: Annotated[str, Field(max_length=50)]
    content: str | Annotated[list[Part], Field(fail_fast=True)]
    name: str | None = None

    def plain(self) -> dict[str, str]:
        """As chat templates read it."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": self.role, "content": text}


class Chat(Generate):
    """For /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1, fail_fast=True)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: Literal[False, None] = None
    top_logprobs: None = None
    tools: Annotated[list[Any], Field(max_length=0)] | None = None
    tool_choice: Literal["none", "auto", None] = None
    response_format: dict[Literal["type"], Literal["text"]] | None = None

    @model_validator(mode="after")
    def _one_limit(self) -> Chat:
        if self.max_tokens is None:
            self.max_tokens = self.max_completion_tokens
        return self

"""Texts as OpenAI's answers: whole, or as a stream of events."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from propulsion_tools.serving.engine import Completion
from propulsion_tools.serving.errors import as_api_error
from propulsion_tools.serving.logs import LOG
from propulsion_tools.serving.text import Writer

DONE = "data: [DONE]\n\n"


@dataclass
class Written:
    """What there is of one text.

    Attributes:
        tokens: How many were generated, with those of a stop sequence and the one that ends the text.
        finish: "stop" or "length"; None: it goes on.
    """

    writer: Writer
    text: str = ""
    tokens: int = 0
    last: int | None = None
    finish: str | None = None


@dataclass
class Answer:
    """An answer to a request for texts.

    Args:
        completion: Where they come from.
        model: What the client calls the adapter.
        stops: Where they end.
        is_chat: Whether it is a chat's.
    """

    completion: Completion
    model: str
    stops: list[str]
    is_chat: bool
    created: int = field(default_factory=lambda: int(time.time()))
    written: list[Written] = field(init=False)

    def __post_init__(self) -> None:
        tokenizer = self.completion.card.setup.tokenizer
        self.written = [Written(Writer(tokenizer, self.stops)) for _ in self.completion.texts]
        self.identity = f"{'chatcmpl' if self.is_chat else 'cmpl'}-{uuid.uuid4().hex}"

    async def pieces(self) -> AsyncIterator[tuple[int, str, str | None]]:
        """What is added to a text, and why it ends there, or None; until all have ended.

        Raises:
            ApiError: One cannot be generated.
        """
        while any(one.finish is None for one in self.written):
            for number, event in await self.completion.events():
                one = self.written[number]
                if one.finish is not None:
                    continue  # it was given up, and has gone on for a step
                if isinstance(event, BaseException):
                    raise event
                added = self._ended(one) if event is None else self._pushed(one, event)
                if one.writer.stopped:
                    one.finish = "stop"
                    self.completion.give_up(number)
                one.text += added
                if added or one.finish:
                    yield number, added, one.finish

    def _pushed(self, one: Written, token: int) -> str:
        one.tokens += 1
        one.last = token
        return "" if token in self.completion.ends else one.writer.push(token)

    def _ended(self, one: Written) -> str:
        one.finish = "stop" if one.last in self.completion.ends else "length"
        return one.writer.end()

    async def whole(self) -> dict[str, Any]:
        """The answer in one piece."""
        async for _ in self.pieces():
            pass
        kind = "chat.completion" if self.is_chat else "text_completion"
        choices = [self._choice(number, one) for number, one in enumerate(self.written)]
        return {**self._head(kind), "choices": choices, "usage": self.usage()}

    async def stream(self, first: list[tuple[int, str, str | None]], rest: Any, usage: bool) -> AsyncIterator[str]:
        """The answer as events of a stream; an error ends it, as its status is sent.

        Args:
            first: Pieces that were waited for before the status was sent.
            rest: Those that follow.
            usage: Whether the number of tokens is sent at the end.
        """
        kind = "chat.completion.chunk" if self.is_chat else "text_completion"
        try:
            if self.is_chat:
                for number in range(len(self.written)):
                    yield self._event(kind, [self._chunk(number, {"role": "assistant", "content": ""}, None)], usage)
            for piece in first:
                yield self._event(kind, [self._chunk(*self._delta(*piece))], usage)
            async for piece in rest:
                yield self._event(kind, [self._chunk(*self._delta(*piece))], usage)
        except Exception as error:
            said = as_api_error(error)
            if said.status == 500:
                LOG.error("failed", exc_info=error)
            yield f"data: {json.dumps(said.body)}\n\n"
            return
        if usage:
            yield f"data: {json.dumps({**self._head(kind), 'choices': [], 'usage': self.usage()})}\n\n"
        yield DONE

    def usage(self) -> dict[str, int]:
        """How many tokens were read and generated."""
        made = sum(one.tokens for one in self.written)
        read = self.completion.prompt_tokens
        return {"prompt_tokens": read, "completion_tokens": made, "total_tokens": read + made}

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.identity, "object": kind, "created": self.created, "model": self.model}

    def _choice(self, number: int, one: Written) -> dict[str, Any]:
        said = {"message": {"role": "assistant", "content": one.text}} if self.is_chat else {"text": one.text}
        return {"index": number, **said, "logprobs": None, "finish_reason": one.finish}

    def _delta(self, number: int, added: str, finish: str | None) -> tuple[int, Any, str | None]:
        return number, ({"content": added} if added else {}) if self.is_chat else added, finish

    def _chunk(self, number: int, added: Any, finish: str | None) -> dict[str, Any]:
        key = "delta" if self.is_chat else "text"
        return {"index": number, key: added, "logprobs": None, "finish_reason": finish}

    def _event(self, kind: str, choices: list[dict[str, Any]], usage: bool) -> str:
        more = {"usage": None} if usage else {}
        return f"data: {json.dumps({**self._head(kind), 'choices': choices, **more})}\n\n"

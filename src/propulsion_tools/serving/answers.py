"""Texts as OpenAI's answers: whole, or as a stream of events."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from propulsion_tools.serving.errors import as_api_error
from propulsion_tools.serving.interface import Completion, Piece
from propulsion_tools.serving.logs import LOG

DONE = "data: [DONE]\n\n"


@dataclass
class Answer:
    """An answer to a request for texts.

    Args:
        completion: Where they come from.
        model: What the client calls the adapter.
        is_chat: Whether it is a chat's.
    """

    completion: Completion
    model: str
    is_chat: bool
    created: int = field(default_factory=lambda: int(time.time()))

    def __post_init__(self) -> None:
        self.identity = f"{'chatcmpl' if self.is_chat else 'cmpl'}-{uuid.uuid4().hex}"

    async def whole(self) -> dict[str, Any]:
        """The answer in one piece."""
        texts = [""] * self.completion.count
        ends: list[str | None] = [None] * self.completion.count
        async for pieces in self.completion.pieces():
            for number, added, finish in pieces:
                texts[number] += added
                ends[number] = finish
        kind = "chat.completion" if self.is_chat else "text_completion"
        choices = [self._choice(number, *one) for number, one in enumerate(zip(texts, ends, strict=True))]
        return {**self._head(kind), "choices": choices, "usage": self.usage()}

    async def stream(self, first: list[Piece], rest: AsyncIterator[list[Piece]], usage: bool) -> AsyncIterator[str]:
        """The answer as events of a stream; an error ends it, as its status is sent.

        Args:
            first: Pieces that were waited for before the status was sent.
            rest: Those that follow.
            usage: Whether the number of tokens is sent at the end.
        """
        kind = "chat.completion.chunk" if self.is_chat else "text_completion"
        try:
            if self.is_chat:
                for number in range(self.completion.count):
                    yield self._event(kind, [self._chunk(number, {"role": "assistant", "content": ""}, None)], usage)
            for piece in first:
                yield self._event(kind, [self._chunk(*self._delta(*piece))], usage)
            async for pieces in rest:
                for piece in pieces:
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
        made, read = self.completion.made, self.completion.prompt_tokens
        return {"prompt_tokens": read, "completion_tokens": made, "total_tokens": read + made}

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.identity, "object": kind, "created": self.created, "model": self.model}

    def _choice(self, number: int, text: str, finish: str | None) -> dict[str, Any]:
        said = {"message": {"role": "assistant", "content": text}} if self.is_chat else {"text": text}
        return {"index": number, **said, "logprobs": None, "finish_reason": finish}

    def _delta(self, number: int, added: str, finish: str | None) -> tuple[int, Any, str | None]:
        return number, ({"content": added} if added else {}) if self.is_chat else added, finish

    def _chunk(self, number: int, added: Any, finish: str | None) -> dict[str, Any]:
        key = "delta" if self.is_chat else "text"
        return {"index": number, key: added, "logprobs": None, "finish_reason": finish}

    def _event(self, kind: str, choices: list[dict[str, Any]], usage: bool) -> str:
        more = {"usage": None} if usage else {}
        return f"data: {json.dumps({**self._head(kind), 'choices': choices, **more})}\n\n"

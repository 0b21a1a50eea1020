"""The texts of one request, as the tokens of this process's model become their pieces."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from propulsion_tools.serving.cards import Card
from propulsion_tools.serving.generation import Event, Generator, Text
from propulsion_tools.serving.interface import Piece
from propulsion_tools.serving.text import Writer
from propulsion_tools.serving.timing import in_time


@dataclass
class _Written:
    """What there is of one text."""

    writer: Writer
    tokens: int = 0
    last: int | None = None
    finish: str | None = None


class Texts:
    """A `Completion` of this process's model.

    Args:
        model: Generates them.
        card: Their adapter.
        prompt_tokens: How many tokens the prompts have.
        texts: One for each prompt and choice.
        events: What the model tells of them.
        stops: Where they end.
        seconds: How long they may take.
    """

    def __init__(
        self,
        model: Generator,
        card: Card,
        prompt_tokens: int,
        texts: list[Text],
        events: asyncio.Queue[list[Event]],
        stops: Sequence[str],
        seconds: float,
    ) -> None:
        self.prompt_tokens = prompt_tokens
        self._model, self._texts, self._events = model, texts, events
        self._written = [_Written(Writer(card.setup.tokenizer, stops)) for _ in texts]
        self._last = asyncio.get_running_loop().time() + seconds

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self._texts)

    @property
    def made(self) -> int:
        """How many tokens were generated up to now."""
        return sum(one.tokens for one in self._written)

    async def pieces(self) -> AsyncIterator[list[Piece]]:
        """What is added to the texts, step by step, until all have ended.

        Raises:
            ApiError: One cannot be generated, or it takes too long (504).
        """
        while any(one.finish is None for one in self._written):
            events = await in_time(self._events.get(), self._last - asyncio.get_running_loop().time())
            if added := [piece for number, event in events if (piece := self._piece(number, event))]:
                yield added

    def _piece(self, number: int, event: int | BaseException | None) -> Piece | None:
        one = self._written[number]
        if one.finish is not None:
            return None  # it was given up, and has gone on for a step
        if isinstance(event, BaseException):
            raise event
        added = self._ended(one) if event is None else self._pushed(one, event)
        if one.writer.stopped:
            one.finish = "stop"
            self._model.cancel([self._texts[number]])
        return (number, added, one.finish) if added or one.finish else None

    def _pushed(self, one: _Written, token: int) -> str:
        one.tokens += 1
        one.last = token
        return "" if token in self._model.ends else one.writer.push(token)

    def _ended(self, one: _Written) -> str:
        one.finish = "stop" if one.last in self._model.ends else "length"
        return one.writer.end()

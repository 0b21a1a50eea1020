"""What the application of `app` needs of whatever answers: an engine of this process, or replicas of a cluster."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from propulsion_tools.records.options import ServeOptions
from propulsion_tools.serving.adapters import Adapters
from propulsion_tools.serving.metrics import Metrics
from propulsion_tools.serving.prediction import Input
from propulsion_tools.serving.prompts import Prompt
from propulsion_tools.serving.sampling import Wishes

Piece = tuple[int, str, str | None]
"""The number of a text in its request, what is added to it, and why it ends there ("stop", "length"), or None."""


@dataclass(frozen=True)
class Wish:
    """How texts are generated.

    Args:
        most: Tokens of one text; None: as many as may be.
        choices: Texts for each prompt.
        wishes: How tokens are chosen.
        stops: Where a text ends; they are no part of it.
    """

    most: int | None = None
    choices: int = 1
    wishes: Wishes = field(default_factory=Wishes)
    stops: tuple[str, ...] = ()


class Completion(Protocol):
    """Texts that are being generated."""

    @property
    def count(self) -> int:
        """How many: one for each prompt and choice, choices of a prompt side by side."""

    @property
    def prompt_tokens(self) -> int:
        """How many tokens the prompts have."""

    @property
    def made(self) -> int:
        """How many were generated up to now, with those of stop sequences and those that end texts."""

    def pieces(self) -> AsyncIterator[list[Piece]]:
        """What is added to the texts, step by step, until all have ended.

        Raises:
            ApiError: One cannot be generated, or it takes too long (504).
        """


class Answering(Protocol):
    """A base model with its adapters, wherever it runs."""

    adapters: Adapters
    limits: ServeOptions
    metrics: Metrics

    @property
    def alive(self) -> bool:
        """Whether what runs the model is there."""

    @property
    def ready(self) -> bool:
        """Whether requests are taken."""

    def close_door(self) -> None:
        """Take no more requests."""

    def close(self) -> None:
        """Answer what was accepted, and end."""

    async def predict(self, name: str, inputs: Sequence[Input]) -> list[dict[str, Any]]:
        """An adapter's answers.

        Args:
            name: The adapter.
            inputs: Texts, or rows by column.

        Raises:
            ApiError: There will be none.
            DataError: An input is not what the adapter's task reads.
        """

    def complete(self, name: str, prompts: Sequence[Prompt], wish: Wish) -> AbstractAsyncContextManager[Completion]:
        """Generate texts until the block ends; those that go on then are given up.

        Args:
            name: The adapter.
            prompts: Texts, token ids, or the messages of a chat.
            wish: How they go on.

        Raises:
            ApiError: There will be none.
        """

"""What the server and the replicas of its model tell each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from propulsion.mixed_batches import BASE_MODEL
from propulsion_tools.serving.errors import ApiError, as_api_error
from propulsion_tools.serving.interface import Piece
from propulsion_tools.serving.logs import LOG


@dataclass(frozen=True)
class Entry:
    """An adapter that a request is for. It says all that a replica needs, which so knows nothing that could be old.

    Attributes:
        plan: The key of what the server serves.
        row: What a replica's bank calls it: its fingerprint, so that other content never answers in its place; or the
            base model alone.
        path: Its folder, from the folder of all adapters on.
    """

    plan: str
    row: str = BASE_MODEL
    path: str = ""

    @property
    def model_id(self) -> str:
        """By what Ray Serve knows which replicas hold it; the base model alone is in all of them."""
        return "" if self.row == BASE_MODEL else self.row


@dataclass(frozen=True)
class Begun:
    """Texts will follow: how many, and how many tokens their prompts have."""

    count: int
    prompt_tokens: int


@dataclass(frozen=True)
class Step:
    """What one step has added to the texts, and how many tokens there are of them now."""

    pieces: list[Piece]
    made: int


@dataclass(frozen=True)
class Reply:
    """What came of a call: errors are sent as values, since Ray writes those that are raised to its logs.

    Attributes:
        value: The answer.
        error: Why there is no answer.
    """

    value: Any = None
    error: ApiError | None = None

    @classmethod
    def refusal(cls, error: Exception) -> Reply:
        """There is no answer; what is a fault of ours is noted."""
        said = as_api_error(error)
        if said.status == 500:
            LOG.error("failed", exc_info=error)
        return cls(error=said)

    def result(self) -> Any:
        """The answer.

        Raises:
            ApiError: There is none.
        """
        if self.error is not None:
            raise self.error
        return self.value

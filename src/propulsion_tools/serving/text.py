"""Tokens become text as they come, up to a stop sequence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_INCOMPLETE = "\ufffd"  # what a tokenizer says for the first bytes of a character


class Writer:
    """The text of tokens that come one by one.

    Text that may turn out to be the beginning of a stop sequence, or of a character, is kept back until it is clear.

    Args:
        tokenizer: The adapter's.
        stops: Where the text ends; they are no part of it.
    """

    def __init__(self, tokenizer: Any, stops: Sequence[str] = ()) -> None:
        self._tokenizer, self._stops = tokenizer, [stop for stop in stops if stop]
        self._ids: list[int] = []
        self._read = self._shown = 0
        self._kept = ""
        self.stopped = False

    def push(self, token: int) -> str:
        """What one more token adds to the text; nothing after a stop sequence."""
        if self.stopped:
            return ""
        self._ids.append(token)
        before = self._decoded(self._ids[self._shown : self._read])
        text = self._decoded(self._ids[self._shown :])
        if len(text) <= len(before) or text.endswith(_INCOMPLETE):
            return ""
        self._shown, self._read = self._read, len(self._ids)
        return self._cut(text[len(before) :], last=False)

    def end(self) -> str:
        """What is left when no more tokens come."""
        if self.stopped:
            return ""
        before = self._decoded(self._ids[self._shown : self._read])
        text = self._decoded(self._ids[self._shown :])
        return self._cut(text[len(before) :], last=True)

    def _decoded(self, ids: list[int]) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    def _cut(self, text: str, last: bool) -> str:
        text = self._kept + text
        found = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        if found:
            self.stopped, self._kept = True, ""
            return text[: min(found)]
        keep = 0 if last else max((_overlap(text, stop) for stop in self._stops), default=0)
        self._kept = text[len(text) - keep :]
        return text[: len(text) - keep]


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of a text may begin a stop sequence."""
    return next((size for size in range(min(len(text), len(stop) - 1), 0, -1) if stop.startswith(text[-size:])), 0)

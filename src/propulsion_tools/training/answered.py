"""The answers of a prediction as they come, kept beside its output until that is there.

A run that was killed leaves them, and the same command goes on behind the last whole batch of them. They belong to one
input, one trained adapter and one set of options: another command has a file of its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

Row = dict[str, Any]


class Answered:
    """A file of answers, one JSON line for each row: its number from 0, and its answer.

    Args:
        path: The file; it may be there already.
        batch: How many rows are answered together; a batch of which some are missing is answered again.
    """

    def __init__(self, path: Path, batch: int) -> None:
        self._path = path
        self.answers, self._kept_bytes = _whole_batches(path, batch)

    @contextmanager
    def writing(self) -> Iterator[IO[bytes]]:
        """A stream for `add`, behind the answers that are kept; what stood behind them is gone."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with self._path.open("ab") as stream:
                stream.truncate(self._kept_bytes)
                yield stream
        finally:
            if not self.answers:
                self.remove()

    def add(self, stream: IO[bytes], answers: Sequence[Row]) -> None:
        """Keep the answers of a batch; they survive the end of the process."""
        for number, answer in enumerate(answers, len(self.answers)):
            stream.write(json.dumps([number, answer]).encode() + b"\n")
        stream.flush()
        self.answers += answers

    def remove(self) -> None:
        """Remove the file, when the output is there."""
        self._path.unlink(missing_ok=True)


def _whole_batches(path: Path, batch: int) -> tuple[list[Row], int]:
    """The answers up to the first that is missing or cut off, of whole batches, and how many bytes they take."""
    answers: list[Row] = []
    ends = [0]
    for line in path.read_bytes().splitlines(keepends=True) if path.is_file() else ():
        try:
            number, answer = json.loads(line)
        except (ValueError, TypeError):
            break
        if number != len(answers) or not line.endswith(b"\n"):
            break
        answers.append(answer)
        ends.append(ends[-1] + len(line))
    kept = len(answers) - len(answers) % batch
    return answers[:kept], ends[kept]

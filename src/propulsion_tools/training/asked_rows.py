"""Rows that a trained model is asked about: checked and encoded all at once, answered batch by batch."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import torch

from propulsion_tools.errors import DataError
from propulsion_tools.tasks.base import INDEX, Task
from propulsion_tools.tasks.given_rows import Given
from propulsion_tools.tasks.metrics import to_numpy
from propulsion_tools.tasks.raw_tables import from_rows, without_index
from propulsion_tools.training.build import Job
from propulsion_tools.training.data import for_model
from propulsion_tools.training.processes import gathered, len_of_round, place_in_round
from propulsion_tools.upstream.transformers_private import nested_concat

Row = dict[str, Any]
PAIR = "text_pair_column"


@dataclass(frozen=True)
class AskedRows:
    """Rows without what is to be predicted.

    Attributes:
        rows: In the columns of the family, one for each row that was given.
        encoded: As token ids; one or more for each of them, in their order.
        owners: The row that each encoded row belongs to, ascending.
    """

    job: Job
    rows: datasets.Dataset
    encoded: datasets.Dataset
    owners: list[int]

    @classmethod
    def of(cls, job: Job, given: Given) -> AskedRows:
        """The rows that were given, as the job's task reads them.

        Raises:
            DataError: One of them cannot be read, or does not fit the model; names it by its number in its source.
        """
        named = {name: getattr(job.spec, name) for name in ("text_column", PAIR)}
        unlabelled = read_rows(job.task, given.rows, given.lines, job.data.columns, named)
        encoded = for_model(job.task.encode(unlabelled, job.setup, training=False).rows, job.model)
        return cls(job, unlabelled, encoded, encoded[INDEX][:])

    def answers(self, first: int, batch: int, device: torch.device) -> Iterator[list[Row]]:
        """The task's answers for the rows from the number `first` (from 0) on, `batch` rows at a time, in their order.

        Several processes take the batches in turn and meet after each round; the first gets the answers of all, and the
        others get none.
        """
        starts = range(first, len(self.rows), batch)
        for turn in range(0, len(starts), len_of_round()):
            own = starts[turn + place_in_round() :][:1]
            parts = gathered([self._answers(start, min(start + batch, len(self.rows)), device) for start in own])
            yield from (answers for part in parts for answers in part)

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def _answers(self, start: int, end: int, device: torch.device) -> list[Row]:
        """The task's answers for the rows from `start` (counted from 0) to before `end`.

        If they have more encoded rows than they are, these are read in several batches.
        """
        task, setup = self.job.task, self.job.setup
        collate, answers, index = task.collator(setup), None, []
        first, last = bisect_left(self.owners, start), bisect_left(self.owners, end)
        for place in range(first, last, end - start):
            windows = self.encoded.select(range(place, min(place + end - start, last))).to_list()
            batch = {name: value.to(device) for name, value in collate(windows).items()}
            with self.job.autocast(device):
                part = task.answer(self.job.model, batch, setup)
            part = tuple(map(to_numpy, part)) if isinstance(part, tuple) else to_numpy(part)
            answers = part if answers is None else nested_concat(answers, part, padding_index=-100)
            index += [row - start for row in batch[INDEX].tolist()]
        return task.decode(answers, index, self.rows.select(range(start, end)), setup)


def read_rows(
    task: Task, rows: Sequence[Row], lines: bool, read: Mapping[str, str], named: Mapping[str, str | None]
) -> datasets.Dataset:
    """Rows as a task takes those that it predicts for.

    Args:
        task: What was trained for.
        rows: As they were given.
        lines: Whether they are lines of text, which have no columns.
        read: The columns that the run has read, by the options that name them.
        named: Those that the user names, by the same options.

    Raises:
        DataError: One cannot be read, or has no text, or it is not clear which column holds it.
    """
    if lines:
        columns = {name: column for name, column in {**named, **read}.items() if column}
        return task.unlabelled([task.from_line(row["text"], columns) for row in rows])
    kept = without_index(from_rows(rows))
    names = _columns(read, named, kept)
    cleaned = [{name: value for name, value in row.items() if name in kept} for row in rows]
    unlabelled = task.unlabelled(cleaned, names.get("text_column"), names.get(PAIR))
    _check_pairs(read, unlabelled, kept)
    return unlabelled


def _columns(
    read: Mapping[str, str], named: Mapping[str, str | None], columns: Mapping[str, Sequence[Any]]
) -> Mapping[str, str | None]:
    """The columns that were named, each or else the one that the run has read, where the rows have them."""
    wanted = {name: column for name, column in read.items() if named.get(name) is None}
    return {**named, **wanted} if all(column in columns for column in wanted.values()) else named


def _check_pairs(read: Mapping[str, str], rows: datasets.Dataset, columns: Mapping[str, Sequence[Any]]) -> None:
    """Refuse single texts where pairs were learned, and pairs where single texts were."""
    if not read or "text" not in rows.column_names:
        return
    learned, there = PAIR in read, "text_pair" in rows.column_names
    if learned == there:
        return
    what = ("pairs of texts", "single texts") if learned else ("single texts", "pairs of texts")
    wanted = " and ".join(f"--{name} ({column!r} in training)" for name, column in read.items())
    raise DataError(
        f"The run was trained on {what[0]}, and these rows have {what[1]}: name the columns with {wanted}. The columns "
        f"are {', '.join(map(repr, columns))}."
    )

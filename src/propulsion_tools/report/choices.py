"""How the learning rates of a grid were chosen, and what speaks against a choice."""

from __future__ import annotations

from dataclasses import dataclass

from propulsion_tools.compare.results import CellResult
from propulsion_tools.compare.run_store import RunStore
from propulsion_tools.records import RunRecord
from propulsion_tools.report.answers import all_alike, read_answers
from propulsion_tools.training.rate_plan import FAILED, Merit, merit, rates_in_words


@dataclass(frozen=True)
class Tried:
    """A run that was to choose a rate.

    Attributes:
        rate: The learning rate that it stands for.
        head_rate: That of the head; None: all tries had the same.
        is_chosen: Whether it is the try whose rates the final runs have.
        score: What it reached on the rows set aside; None: it failed, or is still to come.
        is_constant: Whether every row got the same answer, though not all have it.
        merit: What it was chosen by.
    """

    rate: float
    head_rate: float | None
    is_chosen: bool
    score: float | None
    is_constant: bool
    merit: Merit


@dataclass(frozen=True)
class Choice:
    """A cell's rate among those that were tried; None: none was chosen yet."""

    rate: float | None
    tried: tuple[Tried, ...]

    @property
    def chosen(self) -> str:
        """The rates that were chosen, in words, or nothing."""
        heads = [run.head_rate for run in self.tried if run.is_chosen]
        return rates_in_words(self.rate, next(iter(heads), None)) if self.rate else ""

    @property
    def doubt(self) -> str:
        """Why the rate is hardly a choice, as the end of a sentence; empty where nothing speaks against it."""
        scored = [run for run in self.tried if run.score is not None]
        mine = next((run for run in scored if run.is_chosen), None)
        if mine is None or len(scored) < 2:
            return ""
        if all(run.is_constant for run in scored):
            return "no choice: every rate gave one answer for every row"
        alike = [run.merit for run in scored if run.score == mine.score]
        if sum(merit.is_level(mine.merit) or not merit.loss_counts for merit in alike) > 1:
            return "a tie of rates"
        return "chosen although it gave one answer for every row" if mine.is_constant else ""


def choice_of(store: RunStore, result: CellResult, metric: str) -> Choice:
    """How a cell came to its rate.

    Args:
        store: Where the answers of the runs are.
        result: The cell.
        metric: The score that chooses.
    """
    tried = []
    heads = {run.tried.head_learning_rate for run, _ in result.selection if run.tried is not None}
    for run, outcome in result.selection:
        score = next(iter(outcome.metrics.values()), {}).get(metric) if isinstance(outcome, RunRecord) else None
        constant = isinstance(outcome, RunRecord) and all_alike(read_answers(store, run, outcome))
        assert run.tried is not None  # as of every run that chooses
        head_rate = run.tried.head_learning_rate if len(heads) > 1 else None
        found = merit(outcome) if isinstance(outcome, RunRecord) else FAILED
        tried.append(Tried(run.tried.learning_rate, head_rate, run.tried == result.chosen, score, constant, found))
    return Choice(result.rate, tuple(tried))

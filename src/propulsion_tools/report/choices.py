"""How the learning rates of a grid were chosen, and what speaks against a choice."""

from __future__ import annotations

from dataclasses import dataclass

from propulsion_tools.compare.results import CellResult
from propulsion_tools.compare.run_store import RunStore
from propulsion_tools.records import RunRecord
from propulsion_tools.report.answers import all_alike, read_answers


@dataclass(frozen=True)
class Tried:
    """A run that was to choose a rate.

    Attributes:
        rate: The learning rate.
        score: What it reached on the rows set aside; None: it failed, or is still to come.
        is_constant: Whether every row got the same answer, though not all have it.
    """

    rate: float
    score: float | None
    is_constant: bool


@dataclass(frozen=True)
class Choice:
    """A cell's rate among those that were tried."""

    rate: float | None
    tried: tuple[Tried, ...]

    @property
    def doubt(self) -> str:
        """Why the rate is hardly a choice, as the end of a sentence; empty where nothing speaks against it."""
        scored = [run for run in self.tried if run.score is not None]
        mine = next((run for run in scored if run.rate == self.rate), None)
        if mine is None or len(scored) < 2:
            return ""
        if all(run.is_constant for run in scored):
            return "no choice: every rate gave one answer for every row"
        if sum(run.score == mine.score for run in scored) > 1:
            return "a tie, which the loss broke"
        return "chosen although it gave one answer for every row" if mine.is_constant else ""


def choice_of(store: RunStore, result: CellResult, metric: str) -> Choice:
    """How a cell came to its rate.

    Args:
        store: Where the answers of the runs are.
        result: The cell.
        metric: The score that chooses.
    """
    tried = []
    for run, outcome in result.selection:
        score = next(iter(outcome.metrics.values()), {}).get(metric) if isinstance(outcome, RunRecord) else None
        constant = isinstance(outcome, RunRecord) and all_alike(read_answers(store, run, outcome))
        tried.append(Tried(float(run.spec.learning_rate or 0), score, constant))
    return Choice(result.rate, tuple(tried))

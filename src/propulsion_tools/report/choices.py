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
        is_chosen: Whether the rates are those of the final runs.
        is_long: Whether no other try was longer.
        score: What it reached on the rows set aside; None: it failed, or is still to come.
        is_constant: Whether every row got the same answer, though not all have it.
    """

    rate: float
    is_chosen: bool
    is_long: bool
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
        scored = [run for run in self.tried if run.score is not None and run.is_long]
        mine = next((run for run in scored if run.is_chosen), None)
        if mine is None or len(scored) < 2:
            return ""
        if all(run.is_constant for run in scored):
            return "no choice: every rate gave one answer for every row"
        if sum(run.score == mine.score for run in scored) > 1:
            return "a tie of rates"
        return "chosen although it gave one answer for every row" if mine.is_constant else ""


def choice_of(store: RunStore, result: CellResult, metric: str) -> Choice:
    """How a cell came to its rate.

    Args:
        store: Where the answers of the runs are.
        result: The cell.
        metric: The score that chooses.
    """
    lengths = [(run.spec.max_steps, run.spec.num_train_epochs) for run, _ in result.selection]
    tried = []
    for run, outcome in result.selection:
        score = next(iter(outcome.metrics.values()), {}).get(metric) if isinstance(outcome, RunRecord) else None
        constant = isinstance(outcome, RunRecord) and all_alike(read_answers(store, run, outcome))
        rates = float(run.spec.learning_rate or 0), run.spec.head_learning_rate
        is_chosen = (
            result.chosen is not None and rates[0] == result.rate and rates[1] == result.chosen.head_learning_rate
        )
        is_long = (run.spec.max_steps, run.spec.num_train_epochs) == max(lengths)
        tried.append(Tried(rates[0], is_chosen, is_long, score, constant))
    return Choice(result.rate, tuple(tried))

"""How the learning rates of a grid were chosen, and what speaks against a choice."""

from __future__ import annotations

from dataclasses import dataclass

from propulsion_tools.compare.results import CellResult
from propulsion_tools.compare.run_store import RunStore
from propulsion_tools.records import RunRecord
from propulsion_tools.report.answers import all_alike, read_answers
from propulsion_tools.training.rate_plan import Try, rates_in_words


@dataclass(frozen=True)
class Tried:
    """A run that was to choose a rate.

    Attributes:
        rate: The learning rate that it stands for.
        head_rate: That of the head; None: it has none of its own.
        share: Its length, as in `Run.tried`.
        is_chosen: Whether it is the try whose rates the final runs have.
        score: What it reached on the rows set aside; None: it failed, or is still to come.
        is_constant: Whether every row got the same answer, though not all have it.
    """

    rate: float
    head_rate: float | None
    share: float
    is_chosen: bool
    score: float | None
    is_constant: bool


@dataclass(frozen=True)
class Choice:
    """A cell's rates among those that were tried; None: none was chosen yet."""

    rate: float | None
    head_rate: float | None
    tried: tuple[Tried, ...]

    @property
    def chosen(self) -> str:
        """The rates that were chosen, in words, or nothing."""
        return self._rates(self.rate, self.head_rate) if self.rate else ""

    def words(self, run: Tried) -> str:
        """A try in words that no other try is told by."""
        length = f" for {run.share:.0%}" if len({other.share for other in self.tried}) > 1 else ""
        return f"{self._rates(run.rate, run.head_rate)}{length}"

    def _rates(self, rate: float, head_rate: float | None) -> str:
        """With the head's rate where several were tried."""
        several = len({run.head_rate for run in self.tried}) > 1
        return rates_in_words(rate, head_rate if several else None)

    @property
    def doubt(self) -> str:
        """Why the rate is hardly a choice, as the end of a sentence; empty where nothing speaks against it."""
        longest = max((run.share for run in self.tried), default=1.0)
        scored = [run for run in self.tried if run.score is not None and run.share == longest]
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
    chosen = result.chosen
    head_rate = chosen.head_learning_rate if chosen else None
    tried = []
    for run, outcome in result.selection:
        score = next(iter(outcome.metrics.values()), {}).get(metric) if isinstance(outcome, RunRecord) else None
        constant = isinstance(outcome, RunRecord) and all_alike(read_answers(store, run, outcome))
        item = run.tried or Try(float(run.spec.learning_rate or 0), run.spec.head_learning_rate, 1.0)
        tried.append(Tried(item.learning_rate, item.head_learning_rate, item.share, item == chosen, score, constant))
    return Choice(result.rate, head_rate, tuple(tried))

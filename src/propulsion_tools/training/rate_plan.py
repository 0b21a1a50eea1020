"""Which learning rates are tried, for how long, and which is chosen: by successive halving, within one run's price.

| Tries | Length, as a share of the run | |
|---|---|---|
| the usual rate, a third and three times of it; once more beyond the best, if it is at an edge | 0.08 each | 0.32 |
| the two best of them, anew | 0.17 each | 0.34 |
| the better one with a third and three times the head's rate | 0.17 each | 0.34 |

Every try goes through a whole schedule of its own. A short run bears a higher rate than a long one, so what is not
better by more than chance loses to what is nearer to the method's usual rates, which were found in long runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from propulsion_tools.records import RunRecord, RunSpec
from propulsion_tools.tasks import get_task
from propulsion_tools.tasks.selection import SELECTION

FACTOR = 3.0
SHORT, LONG = 0.08, 0.17
MOST_TRIES = 8
SELECTION_FRACTION = 0.15
BETTER_BY = 0.5
"""A score between 0 and 1 of n rows is better if it is so by more than this share of 1/√n, a standard error at most."""


@dataclass(frozen=True)
class Try:
    """Rates, and how long they are tried.

    Attributes:
        learning_rate: That of the method.
        head_learning_rate: That of the head; None: the same.
        share: Of the length of the run.
    """

    learning_rate: float
    head_learning_rate: float | None
    share: float


def rates_in_words(rate: float, head_rate: float | None) -> str:
    """The rates of a try, or of a run, for people."""
    return f"{rate:.3g}" if head_rate is None else f"{rate:.3g} ({head_rate:.3g} for the head)"


@dataclass(frozen=True)
class Merit:
    """How good a try was; more is better.

    Attributes:
        score: The main metric, its sign such that more is better; minus infinity where the try failed.
        loss: Minus the loss.
        is_steady: Whether nothing collapsed.
        margin: By how much another score has to be better to be so not by chance.
    """

    score: float
    loss: float
    is_steady: bool
    margin: float

    def beats(self, other: Merit) -> bool:
        """Whether it is better by more than chance."""
        if self.is_steady != other.is_steady:
            return self.is_steady
        margin = max(self.margin, other.margin)
        if not margin and self.score == other.score:
            return self.loss > other.loss
        return self.score > other.score + margin


FAILED = Merit(-math.inf, -math.inf, False, 0.0)
Outcome = Callable[[Try], Merit | None]


@dataclass(frozen=True)
class Plan:
    """How far a search has come.

    Attributes:
        tries: All that were asked for so far.
        todo: Those that have no outcome yet.
        chosen: The rates; None: not yet, or every try failed.
    """

    tries: tuple[Try, ...]
    todo: tuple[Try, ...]
    chosen: Try | None


def plan(rate: float, head_rate: float | None, outcome: Outcome) -> Plan:
    """What to try next, by what came of the tries before.

    Args:
        rate: The method's usual rate.
        head_rate: The usual rate of its head; None: it has no rate of its own.
        outcome: What came of a try; None: it has not ended.
    """
    usual = Try(rate, head_rate, LONG)
    tries: list[Try] = []
    for rung in (_rates, _beyond, _longer, _heads):
        new = [item for item in rung(usual, tries, outcome) if item not in tries]
        tries += new
        if todo := tuple(item for item in new if outcome(item) is None):
            return Plan(tuple(tries), todo, None)
    long = [item for item in tries if item.share == LONG]
    return Plan(tuple(tries), (), next(iter(ranked(long, usual, outcome)), None))


def ranked(tries: Iterable[Try], usual: Try, outcome: Outcome) -> list[Try]:
    """The tries that ended well, the best first; of two that are equal but for chance, the one nearer to the usual."""
    near = sorted(tries, key=lambda item: (_distance(item, usual), item.learning_rate))
    left = [item for item in near if (outcome(item) or FAILED).score > -math.inf]
    order = []
    while left:
        best = left[0]
        for item in left[1:]:
            if _merit(item, outcome).beats(_merit(best, outcome)):
                best = item
        order.append(best)
        left.remove(best)
    return order


def _merit(item: Try, outcome: Outcome) -> Merit:
    return outcome(item) or FAILED


def _distance(item: Try, usual: Try) -> float:
    heads = (item.head_learning_rate or 1.0) / (usual.head_learning_rate or 1.0)
    return round(abs(math.log(item.learning_rate / usual.learning_rate)) + abs(math.log(heads)), 6)


def _rates(usual: Try, tries: Sequence[Try], outcome: Outcome) -> list[Try]:
    return [_at(usual, factor, SHORT) for factor in (1 / FACTOR, 1.0, FACTOR)]


def _beyond(usual: Try, tries: Sequence[Try], outcome: Outcome) -> list[Try]:
    order = ranked(tries, usual, outcome)
    edges = {_at(usual, factor, SHORT): _at(usual, factor**2, SHORT) for factor in (1 / FACTOR, FACTOR)}
    return [edges[order[0]]] if order and order[0] in edges else []


def _longer(usual: Try, tries: Sequence[Try], outcome: Outcome) -> list[Try]:
    return [replace(item, share=LONG) for item in ranked(tries, usual, outcome)[:2]]


def _heads(usual: Try, tries: Sequence[Try], outcome: Outcome) -> list[Try]:
    order = ranked([item for item in tries if item.share == LONG], usual, outcome)
    if not order or (head := order[0].head_learning_rate) is None:
        return []
    return [replace(order[0], head_learning_rate=_rounded(head * factor)) for factor in (1 / FACTOR, FACTOR)]


def _at(usual: Try, factor: float, share: float) -> Try:
    return replace(usual, learning_rate=_rounded(usual.learning_rate * factor), share=share)


def _rounded(rate: float) -> float:
    return float(f"{rate:.4g}")


def merit(record: RunRecord) -> Merit:
    """How good a finished try was."""
    task = get_task(str(record.spec.task))
    scores = record.metrics[SELECTION]
    score, loss = (_number(scores.get(name)) for name in (task.main_metric, "loss"))
    rows = record.rows.get(SELECTION, 0)
    is_share = score is not None and abs(score) <= 1
    return Merit(
        score=-math.inf if score is None else score if task.greater_is_better else -score,
        loss=-math.inf if loss is None else -loss,
        is_steady=not record.collapses,
        margin=BETTER_BY / math.sqrt(rows) if rows and is_share else 0.0,
    )


def _number(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else value


def try_spec(spec: RunSpec, item: Try) -> RunSpec:
    """The run of a try: that of `spec` on the rows that are not set aside, shorter, scored once at its end.

    Where the schedule follows the score, it is scored on its way too.

    Args:
        spec: Of the run that the rates are for.
        item: The rates and the length.
    """
    steps = max(1, round(item.share * spec.max_steps)) if spec.max_steps > 0 else spec.max_steps
    return replace(
        spec,
        learning_rate=item.learning_rate,
        head_learning_rate=item.head_learning_rate,
        max_steps=steps,
        num_train_epochs=spec.num_train_epochs * item.share,
        selection_fraction=spec.selection_fraction or SELECTION_FRACTION,
        eval_strategy=spec.eval_strategy if spec.follows_score else "no",
        save_strategy="no",
        load_best_model_at_end=False,
        early_stopping_patience=None,
        forgetting_text=None,
    )

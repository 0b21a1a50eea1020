"""Which learning rates are tried, for how long, and which is chosen: within one run's price.

| Tries | Length, as a share of the run | |
|---|---|---|
| the usual rate, and twice of it | 1/3 each | 0.67 |
| four times of it, if twice is better, or else half of it | 1/3 | 0.33 |

Every try goes through a whole schedule of its own. A short run bears a higher rate than a long one: its best rate falls
with about the root of the length (docs/log.md, "The search for a rate"). So a try of a third of the run is trained at
√3 times the rate that it stands for; compared at the same rates, thirds choose what fails in the whole. What is not
better by more than chance loses to what is nearer to the method's usual rate, which was found in long runs; where texts
are generated, whose scores are coarse on a few rows, the loss decides before.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from propulsion_tools.records import RunRecord, RunSpec
from propulsion_tools.tasks import get_task
from propulsion_tools.tasks.generation import Generation
from propulsion_tools.tasks.selection import SELECTION

FACTOR = 2.0
SHARE = 1 / 3
MOST_TRIES = 3
SELECTION_FRACTION = 0.15
BETTER_BY = 0.5
"""A score between 0 and 1 of n rows is better if it is so by more than this share of 1/√n, a standard error at most."""

LOSS_BETTER_BY = 0.02
"""A loss per token is lower if it is so by more than this share of it."""


@dataclass(frozen=True)
class Try:
    """Rates of a run, and for how much of it they are tried.

    Attributes:
        learning_rate: That of the method in the whole run; the try's own is `trained_at`.
        head_learning_rate: That of the head; None: the same.
        share: Of the length of the run.
    """

    learning_rate: float
    head_learning_rate: float | None
    share: float

    @property
    def trained_at(self) -> float:
        """The rate at which so much of a run does as the whole does at its own; the head's stays what it is."""
        return _rounded(self.learning_rate / math.sqrt(self.share))


def rates_in_words(rate: float, head_rate: float | None) -> str:
    """The rates of a try, or of a run, for people."""
    return f"{rate:.3g}" if head_rate is None else f"{rate:.3g} ({head_rate:.3g} for the head)"


@dataclass(frozen=True)
class Merit:
    """How good a try was; more is better.

    Attributes:
        score: The main metric, its sign such that more is better; minus infinity where the try failed.
        loss: Minus the loss.
        is_sound: Whether nothing collapsed, and it learned more than the most frequent answer (which, where texts are
            generated, a row or two decide: there the loss tells).
        margin: By how much another score has to be better to be so not by chance.
        loss_margin: By how much a loss has to be lower to decide where no score does; infinity: it does not.
    """

    score: float
    loss: float
    is_sound: bool
    margin: float
    loss_margin: float = 0.0

    def beats(self, other: Merit) -> bool:
        """Whether its score is better by more than chance."""
        if self.is_sound != other.is_sound:
            return self.is_sound
        return self.score > other.score + max(self.margin, other.margin)

    @property
    def loss_counts(self) -> bool:
        """Whether a lower loss decides between scores that are alike but for chance."""
        return 0 < self.loss_margin < math.inf

    def is_level(self, other: Merit) -> bool:
        """Whether neither score nor loss tells the two apart."""
        if self.beats(other) or other.beats(self):
            return False
        lower = max(self, other, key=lambda item: item.loss)
        return min(self.loss, other.loss) >= lower.loss - lower.loss_margin


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
    usual = Try(rate, head_rate, SHARE)
    tries = [usual, _at(usual, FACTOR)]
    if todo := tuple(item for item in tries if outcome(item) is None):
        return Plan(tuple(tries), todo, None)
    tries.append(_at(usual, FACTOR**2 if ranked(tries, usual, outcome)[:1] == tries[1:] else 1 / FACTOR))
    return choose(tries, usual, outcome)


def choose(tries: Sequence[Try], usual: Try, outcome: Outcome) -> Plan:
    """The best of these tries, once all have ended; one alone is chosen untried."""
    if len(tries) == 1:
        return Plan((), (), tries[0])
    todo = tuple(item for item in tries if outcome(item) is None)
    return Plan(tuple(tries), todo, None if todo else next(iter(ranked(tries, usual, outcome)), None))


def ranked(tries: Iterable[Try], usual: Try, outcome: Outcome) -> list[Try]:
    """The tries that ended well, the best first; of two that are equal but for chance, the one nearer to the usual."""
    near = sorted(tries, key=lambda item: (_distance(item, usual), item.learning_rate, _of_heads(item, usual)))
    left = [item for item in near if (outcome(item) or FAILED).score > -math.inf]
    order = []
    while left:
        merits = {item: _merit(item, outcome) for item in left}
        unbeaten = [item for item in left if not any(other.beats(merits[item]) for other in merits.values())]
        lowest = max((merits[item] for item in unbeaten), key=lambda merit: merit.loss)
        order.append(next(item for item in unbeaten if merits[item].is_level(lowest)))
        left.remove(order[-1])
    return order


def _merit(item: Try, outcome: Outcome) -> Merit:
    return outcome(item) or FAILED


def _distance(item: Try, usual: Try) -> float:
    return round(abs(math.log(item.learning_rate / usual.learning_rate)), 6)


def _of_heads(item: Try, usual: Try) -> float:
    return abs(math.log((item.head_learning_rate or 1.0) / (usual.head_learning_rate or 1.0)))


def _at(usual: Try, factor: float) -> Try:
    return replace(usual, learning_rate=_rounded(usual.learning_rate * factor))


def _rounded(rate: float) -> float:
    return float(f"{rate:.4g}")


def merit(record: RunRecord) -> Merit:
    """How good a finished try was."""
    task = get_task(str(record.spec.task))
    scores = record.metrics[SELECTION]
    sign = 1 if task.greater_is_better else -1
    score, loss = (_number(scores.get(name)) for name in (task.main_metric, "loss"))
    guessed = _number(record.majority.get(SELECTION, {}).get(task.main_metric))
    rows = record.rows.get(SELECTION, 0)
    is_share = score is not None and abs(score) <= 1
    margin = BETTER_BY / math.sqrt(rows) if rows and is_share else 0.0
    generated = isinstance(task, Generation) and loss is not None
    has_learned = generated or score is None or guessed is None or sign * score > sign * guessed
    return Merit(
        score=-math.inf if score is None else sign * score,
        loss=-math.inf if loss is None else -loss,
        is_sound=has_learned and not record.collapses,
        margin=margin,
        loss_margin=0.0 if not margin else LOSS_BETTER_BY * abs(loss or 0.0) if generated else math.inf,
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

    def shorter(steps: float) -> int:
        return max(1, int(item.share * steps))

    schedule = {
        name: shorter(value) if name.startswith("num_") and name.endswith("_steps") else value
        for name, value in (spec.lr_scheduler_kwargs or {}).items()
    }
    return replace(
        spec,
        learning_rate=item.trained_at,
        head_learning_rate=item.head_learning_rate,
        max_steps=shorter(spec.max_steps) if spec.max_steps > 0 else spec.max_steps,
        warmup_steps=shorter(spec.warmup_steps) if spec.warmup_steps >= 1 else spec.warmup_steps,
        lr_scheduler_kwargs=schedule or spec.lr_scheduler_kwargs,
        num_train_epochs=spec.num_train_epochs * item.share,
        selection_fraction=spec.selection_fraction or SELECTION_FRACTION,
        eval_strategy=spec.eval_strategy if spec.follows_score else "no",
        save_strategy="no",
        load_best_model_at_end=False,
        early_stopping_patience=None,
        forgetting_text=None,
    )

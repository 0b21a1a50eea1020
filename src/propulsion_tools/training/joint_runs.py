"""Several runs at once, in one process and, where they go together, in one batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from propulsion_tools.records import RunRecord, RunSpec
from propulsion_tools.tasks import TaskData
from propulsion_tools.training.notify import Notify, keep_quiet
from propulsion_tools.training.run import train
from propulsion_tools.training.together import Place, Together, run_together

MOST_TOGETHER = 8


@dataclass(frozen=True)
class Ended:
    """How one of several runs ended.

    Attributes:
        record: What it left; None: it failed.
        error: Why it failed.
        apart: Why the runs were trained one after the other; None: they were trained in one batch.
    """

    record: RunRecord | None
    error: BaseException | None
    apart: str | None


def train_together(
    specs: Sequence[RunSpec],
    notify: Sequence[Notify] | None = None,
    data: TaskData | None = None,
    measure: bool = True,
    on_end: Callable[[int, BaseException | None], None] = lambda number, error: None,
) -> list[Ended]:
    """Train several runs that share a base model, in one batch where they can be.

    Each leaves what it leaves alone: the same weights and scores to rounding, and a record that says under `joint` how
    many were trained in one batch; its seconds and its memory are then those of all of them. Runs that cannot be in one
    batch (`propulsion.joint.why_apart`) are trained one after the other.

    Args:
        specs: What to run; each names its output_dir.
        notify: For each run, what is told as by `train`.
        data: Rows that all of them train on; None: those that each spec names.
        measure: Whether they are trained one after the other where that is as fast, by some steps at the start; this
            can differ from one machine or one hour to the next, and with it the last digits of what is trained.
        on_end: Is called with the number of each run that ends and, if it failed, why.

    Returns:
        How each ended, in their order. A run that fails leaves the others alone.
    """
    group = Together(measure)

    def run(number: int, place: Place) -> RunRecord:
        error: BaseException | None = None
        try:
            return train(specs[number], notify[number] if notify else keep_quiet, data, place)
        except Exception as caught:
            error = caught
            raise
        finally:
            on_end(number, error)

    turns = run_together([partial(run, number) for number in range(len(specs))], group)
    return [Ended(turn.result, turn.error, group.apart) for turn in turns]

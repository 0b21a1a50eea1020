"""Which runs of a grid are trained together, in one process and one batch."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

from propulsion_tools.compare.plan import Run
from propulsion_tools.records import RunSpec
from propulsion_tools.training.joint_runs import MOST_TOGETHER
from propulsion_tools.training.together import why_alone

_ALIKE = (
    *(item.name for item in fields(RunSpec) if item.metadata["group"] in ("model", "data")),
    *("per_device_train_batch_size", "gradient_accumulation_steps", "bf16", "use_cpu"),
)


@dataclass(frozen=True)
class Grouping:
    """How runs are put together.

    Attributes:
        finals: Whether those that count are, too, and not only those that choose a learning rate.
        measure: Whether a group goes on one run after the other where that is as fast.
    """

    finals: bool
    measure: bool

    def first_group(self, waiting: Iterable[Run], slots: int) -> list[Run]:
        """The first run that waits, with others that go with it, so many that there is as much for each free slot."""
        runs = list(waiting)
        key = self._key(runs[0])
        alike = [run for run in runs if key is not None and self._key(run) == key]
        return alike[: min(MOST_TOGETHER, math.ceil(len(alike) / slots))] or runs[:1]

    def _key(self, run: Run) -> tuple[Any, ...] | None:
        """What runs of a group have in common; None of a run that is trained alone."""
        if (run.is_final and not self.finals) or why_alone(run.spec):
            return None
        return run.is_final, *(repr(getattr(run.spec, name)) for name in _ALIKE)

"""A grid of runs: methods × tasks × sizes × learning rates × seeds, checked before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from propulsion_tools.compare.settings import check_settings
from propulsion_tools.errors import OptionError
from propulsion_tools.methods import get_method
from propulsion_tools.records import refuse_unknown
from propulsion_tools.records.fields import AUTO
from propulsion_tools.tasks import get_task
from propulsion_tools.training.rate_plan import MOST_TRIES

Settings = Mapping[str, Any]
Rates = tuple[float, ...] | str
MOST_RUNS = 10_000
EVERY_ROW = "all"


@dataclass(frozen=True)
class Grid:
    """What is compared with what, and how.

    Attributes:
        name: Names the folder, if `output_dir` does not.
        methods: Fields of `RunSpec` by the label of a row, ``method`` among them.
        tasks: Fields of `RunSpec` by the label of a task, ``task`` among them.
        settings: Fields of `RunSpec` for all runs; those of a task win over these, and those of a row over both. With
            ``selection_fraction`` the final runs, too, are scored on training rows set aside: to choose settings.
        learning_rates: Rates to choose from, by label of a row or under ``all``, or `AUTO`: found around the method's
            own, which the other rows have.
        head_learning_rates: Rates of the head to choose from, at the rate that was chosen, beside the usual one; by
            label of a row or under ``all``. Rows whose head has no rate of its own pass them over.
        seeds: Seeds of the final runs.
        train_sizes: Values of ``max_train_samples``; None: what the settings say.
        selection: Fields of `RunSpec` for the runs that choose a rate, the seed and selection_fraction among them.
        data_root: Folder with a folder of data for each task, named like it; None: each task's own source.
        output_dir: Where runs and report go; None: ``runs/<name>``.
        keep_weights: Whether what the final runs trained stays; scores, answers and curves always do.
        title: Stands above the report.
        notes: What a reader of the report has to know, a sentence each.

    Raises:
        OptionError: There are no runs, or more than 10,000, or a value is of the wrong kind.
        UnknownNameError: A method, task or key is unknown; names the near misses.
    """

    name: str
    methods: Mapping[str, Settings]
    tasks: Mapping[str, Settings]
    settings: Settings = field(default_factory=dict)
    learning_rates: Mapping[str, Rates] = field(default_factory=dict)
    head_learning_rates: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    seeds: tuple[int, ...] = (42,)
    train_sizes: tuple[int | None, ...] = (None,)
    selection: Settings = field(default_factory=dict)
    data_root: str | None = None
    output_dir: str | None = None
    keep_weights: bool = True
    title: str | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.output_dir and (self.name in ("", "..") or Path(self.name).name != self.name):
            raise OptionError(f"name must name a folder in runs/, which {self.name!r} does not: or set output_dir.")
        for key in ("learning_rates", "head_learning_rates"):
            refuse_unknown(getattr(self, key), [*self.methods, EVERY_ROW], f"row of the grid (in {key})")
        for label, row in self.methods.items():
            get_method(str(row["method"]))
            check_settings(row, f"the row {label!r}")
        for label, task in self.tasks.items():
            get_task(str(task["task"]))
            check_settings(task, f"the task {label!r}")
        check_settings(self.settings, "settings", but={"selection_fraction"})
        check_settings(self.selection, "selection", but={"seed", "selection_fraction"})
        if self.selection.get("selection_fraction") == 0:
            raise OptionError("selection_fraction must be above 0: a rate chosen on the validation split is no choice.")
        if not self.runs:
            raise OptionError(f"The grid {self.name} has 0 runs: {self.shape}. Name at least one of each.")
        if self.runs > MOST_RUNS:
            raise OptionError(f"The grid {self.name} has {self.runs:,} runs, more than {MOST_RUNS:,}: {self.shape}.")

    @property
    def folder(self) -> Path:
        """Where runs and report go."""
        return Path(self.output_dir or f"runs/{self.name}")

    @property
    def runs(self) -> int:
        """How many runs there are, those that choose a learning rate included; none without seeds."""
        if not self.seeds:
            return 0
        tries = [self.rate_count(label) + len(self.head_rates(label)) for label in self.methods]
        per_row = [(count if count > 1 else 0) + len(self.seeds) for count in tries]
        return sum(per_row) * len(self.tasks) * len(self.train_sizes)

    @property
    def shape(self) -> str:
        """The size of the grid in words."""
        most = max(map(self.rate_count, self.methods), default=1)
        heads = max((len(self.head_rates(label)) for label in self.methods), default=0)
        rates = f"up to {most} learning rates to choose from, " if most > 1 else ""
        rates += f"{heads} more rate{'' if heads == 1 else 's'} of the head, " if heads else ""
        sizes = f" × {len(self.train_sizes)} sizes" if len(self.train_sizes) > 1 else ""
        counts = (("method", self.methods), ("task", self.tasks), ("seed", self.seeds))
        methods, tasks, seeds = (f"{len(some)} {name}{'' if len(some) == 1 else 's'}" for name, some in counts)
        return f"{methods} × {tasks}{sizes}, {rates}{seeds}"

    def rates(self, label: str) -> Rates:
        """The rates that are named for a row, or `AUTO`; none where the row has the method's own."""
        return self.learning_rates.get(label) or self.learning_rates.get(EVERY_ROW) or ()

    def head_rates(self, label: str) -> tuple[float, ...]:
        """The rates of the head that a row chooses from, beside the usual one."""
        row = {**self.settings, **self.methods[label]}
        usual = row.get("head_learning_rate") or get_method(str(row["method"])).head_learning_rate
        named = self.head_learning_rates.get(label) or self.head_learning_rates.get(EVERY_ROW) or ()
        return tuple(rate for rate in named if rate != usual) if usual else ()

    def rate_count(self, label: str) -> int:
        """How many rates there are to choose from, at most."""
        rates = self.rates(label)
        return MOST_TRIES if rates == AUTO else len(rates) or 1

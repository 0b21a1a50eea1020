"""What `propulsion compare` and `propulsion ablate` are told. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from propulsion_tools.errors import OptionError, UnknownNameError, near_misses
from propulsion_tools.records import option

_option = partial(option, "options")
BACKENDS = ("local", "ray")


@dataclass(frozen=True)
class CompareOptions:
    """Run a grid, and write its report."""

    jobs: int | None = _option(None, "runs at once (default: half the cores; with ray: one for each core)")
    backend: str = _option("local", "where runs run: local (processes of this machine) or ray")
    ray_address: str | None = _option(None, "address of a running Ray cluster; None: one is started on this machine")
    output_dir: str | None = _option(None, "where runs and report go (default: what the grid says, or runs/<name>)")
    data_root: str | None = _option(None, "folder with a folder of data for each task, named like the task")
    retry_failed: bool = _option(False, "run again what failed before")
    report_only: bool = _option(False, "run nothing, write the report of what there is")
    archive: bool = _option(False, "also write runs.tar.xz, from which a report can be made without the runs' folders")

    def __post_init__(self) -> None:
        if self.jobs is not None and self.jobs < 1:
            raise OptionError(f"jobs must be at least 1, and not {self.jobs}.")
        if self.backend not in BACKENDS:
            hint = near_misses(self.backend, BACKENDS) or f" There are {' and '.join(BACKENDS)}."
            raise UnknownNameError(f"There is no backend {self.backend!r}.{hint}")
        if self.ray_address is not None and self.backend != "ray":
            raise OptionError("ray_address goes with --backend ray.")


@dataclass(frozen=True)
class AblateOptions(CompareOptions):
    """Run one of the paper's ablations on any task and model, and write its report."""

    task: str | tuple[str, ...] = _option("docstrings", "one task or a list; see `propulsion tasks`")
    model_name_or_path: str = _option("minilm", "a folder, a hub id, or 'minilm'")
    seeds: tuple[int, ...] = _option((42,), "seeds of every row")
    learning_rate: float | None = _option(None, "of every row (default: propulsion's at its usual degree, 1e-3)")
    scale_rate: bool = _option(False, "divide the learning rate by the degree instead of one for every row")
    max_length: int | None = _option(None, "truncate to this many tokens (default: the task's)")
    max_train_samples: int | None = _option(None, "use at most this many training rows")
    max_eval_samples: int | None = _option(None, "use at most this many rows of each other split")
    num_train_epochs: float = _option(1.0, "passes over the training data")
    max_steps: int = _option(-1, "stop after this many steps")
    per_device_train_batch_size: int = _option(16, "rows per step and device")
    use_cpu: bool = _option(False, "stay on the CPU even if there is an accelerator")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("task", "seeds"):
            if isinstance(value := getattr(self, name), list):
                object.__setattr__(self, name, tuple(value))
        if self.scale_rate and self.learning_rate is not None:
            raise OptionError("learning_rate is one for every row, and scale_rate one for each: give one of them.")

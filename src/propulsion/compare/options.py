"""What `propulsion compare` and `propulsion ablate` are told. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from propulsion.errors import ConfigError, UnknownNameError, near_misses
from propulsion.records import option

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

    def __post_init__(self) -> None:
        if self.jobs is not None and self.jobs < 1:
            raise ConfigError(f"jobs must be at least 1, and not {self.jobs}.")
        if self.backend not in BACKENDS:
            hint = near_misses(self.backend, BACKENDS) or f" There are {' and '.join(BACKENDS)}."
            raise UnknownNameError(f"There is no backend {self.backend!r}.{hint}")
        if self.ray_address is not None and self.backend != "ray":
            raise ConfigError("ray_address goes with --backend ray.")

"""What a run costs: parameters, bytes, seconds and memory."""

from __future__ import annotations

import contextlib
import platform
import statistics
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from propulsion_tools.upstream.transformers_private import ExportableState


def peak_memory() -> int:
    """Most bytes held so far: allocated on the GPU if there is one in use, else resident in this process."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    try:
        import resource
    except ImportError:  # Windows has no resource module
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def reset_peak() -> int:
    """Forget the peak so far, where the system can (CUDA, Linux), so that loading does not hide what training takes.

    Returns:
        The bytes held now: allocated on the GPU if there is one in use, else resident in this process.
    """
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return int(psutil.Process().memory_info().rss)


def bytes_of_weights(model: nn.Module) -> int:
    """Bytes of the parameters and buffers, each counted once."""
    return sum(tensor.numel() * tensor.element_size() for tensor in (*model.parameters(), *model.buffers()))


def environment(device: torch.device | str) -> dict[str, Any]:
    """Versions, device and threads: what a number depends on beside the spec."""
    versions = {"python": platform.python_version()}
    for name, package in (("propulsion", "propulsion-peft"), *((n, n) for n in ("torch", "transformers", "peft"))):
        try:
            versions[name] = version(package)
        except PackageNotFoundError:
            versions[name] = "unknown"
    device = torch.device(device)
    label = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {"versions": versions, "device": f"{device.type} ({label})", "threads": torch.get_num_threads()}


class StepClock(TrainerCallback, ExportableState):
    """Times the steps; its state travels with the checkpoints, so that a resumed run reports the whole of it."""

    def __init__(self) -> None:
        self.steps: list[float] = []
        self.before = 0.0
        self._step = time.perf_counter()
        self._start: float | None = None  # a run that is resumed at its end trains no more
        self._end: float | None = None

    @property
    def train(self) -> float:
        """Seconds of training, those before a resumption included."""
        return self.before + (0.0 if self._start is None else (self._end or time.perf_counter()) - self._start)

    @property
    def per_step_median(self) -> float:
        """Median seconds of one optimizer step."""
        return statistics.median(self.steps) if self.steps else 0.0

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"args": {}, "attributes": {"before": self.train, "steps": [round(step, 6) for step in self.steps]}}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._start, self._end = time.perf_counter(), None

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._end = time.perf_counter()

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._step = time.perf_counter()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.steps.append(time.perf_counter() - self._step)

"""Where a model runs: decided here for every command."""

from __future__ import annotations

import torch
from transformers.utils import is_torch_xla_available

from propulsion_tools.errors import OptionError
from propulsion_tools.records import RunSpec


def uses_cpu(spec: RunSpec) -> bool:
    """Whether `Trainer` is to stay on the CPU, because it is told to or because there is nothing else."""
    return spec.use_cpu or not (torch.accelerator.is_available() or is_torch_xla_available())


def device_of(spec: RunSpec) -> torch.device:
    """Where a model runs outside of `Trainer`: on the accelerator that it would take (CUDA, MPS, XPU and so on).

    XLA is no accelerator to torch: there, only what `Trainer` runs leaves the CPU.
    """
    if spec.use_cpu or not torch.accelerator.is_available():
        return torch.device("cpu")
    return torch.device(torch.accelerator.current_accelerator() or "cpu")


def check_device(spec: RunSpec) -> None:
    """Refuse what the device cannot train.

    Raises:
        OptionError: float16 on the CPU.
    """
    if spec.torch_dtype == "float16" and uses_cpu(spec):
        raise OptionError("torch_dtype float16 trains on an accelerator only: use bfloat16 or float32 on the CPU.")

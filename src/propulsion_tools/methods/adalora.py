"""AdaLoRA: W + P Λ Q with ranks that go where they matter most (Zhang et al., 2023)."""

from __future__ import annotations

from typing import Any

import torch
from peft import AdaLoraConfig
from torch import Tensor, nn
from transformers import PreTrainedModel

from propulsion_tools.errors import OptionError
from propulsion_tools.methods.from_peft import on_targets, peft_method
from propulsion_tools.methods.method_callback import MethodCallback
from propulsion_tools.methods.registry import Cost
from propulsion_tools.records import RunSpec
from propulsion_tools.upstream.peft_private import rank_allocator

# The schedule of ranks needs the number of steps, which only the trainer knows.
UNKNOWN_STEPS = 1_000_000_000
START_SHARE, END_SHARE = 0.1, 0.3


class AllocateRanks(MethodCallback):
    """Updates the importance of every rank and takes away the least important, as PEFT's `update_and_allocate` does.

    PEFT's own keeps its pattern of ranks in the configuration, which then resizes what is saved, so that a checkpoint
    could not be resumed. Here masked ranks are zeros in Λ.
    """

    def __init__(self, model: Any, given: dict[str, Any]) -> None:
        self.model = model.base_model.model
        self.allocator = rank_allocator(model)
        self.config = self.allocator.peft_config
        self.given = given
        self.pattern: dict[str, list[bool]] = {}

    def begin(self, steps: int) -> None:
        total = self.config.total_step = max(2, steps)
        self.config.tinit = min(self.given.get("tinit", int(START_SHARE * total)), total - 2)
        self.config.tfinal = min(self.given.get("tfinal", int(END_SHARE * total)), total - self.config.tinit - 1)
        self.config.deltaT = self.given.get("deltaT", max(1, total // 100))

    def after_step(self, step: int, steps: int) -> None:
        last = self.config.total_step - self.config.tfinal
        if step <= last:
            _, pattern = self.allocator.update_and_allocate(self.model, step, force_mask=step == last)
            self.pattern = pattern or self.pattern
        elif self.pattern:
            self.allocator.mask_using_rank_pattern(self.model, self.pattern)

    def tensors(self) -> dict[str, Tensor]:
        averages = {"ipt": self.allocator.exp_avg_ipt, "unc": self.allocator.exp_avg_unc}
        importance = {f"{kind}|{name}": value for kind, values in averages.items() for name, value in values.items()}
        return importance | {f"pattern|{name}": torch.tensor(mask) for name, mask in self.pattern.items()}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        for key, value in tensors.items():
            kind, _, name = key.partition("|")
            if kind == "pattern":
                self.pattern[name] = value.tolist()
                continue
            averages = self.allocator.exp_avg_ipt if kind == "ipt" else self.allocator.exp_avg_unc
            averages[name] = value.to(self.model.device)
            self.allocator.ipt[name] = torch.zeros_like(averages[name])


def schedule(values: dict[str, Any], base_model: PreTrainedModel, spec: RunSpec) -> dict[str, Any]:
    """The configuration with a schedule that `AllocateRanks` replaces once it knows the number of steps.

    Raises:
        OptionError: The arguments name that number.
    """
    if "total_step" in values:
        raise OptionError("total_step is the number of steps of the run, and not one of method_args: pass --max_steps.")
    shape = {key: value for key, value in values.items() if key not in ("tinit", "tfinal", "deltaT")}
    return on_targets({**shape, "total_step": UNKNOWN_STEPS}, base_model, spec)


def callbacks(model: nn.Module, spec: RunSpec) -> list[MethodCallback]:
    """Ranks are allocated after each step."""
    return [AllocateRanks(model, spec.method_args or {})]


METHOD = peft_method(
    name="adalora",
    description="low-rank updates whose ranks move to where they matter",
    config_class=AdaLoraConfig,
    learning_rate=2e-3,
    defaults={"init_r": 12, "target_r": 8},
    derive=schedule,
    callbacks=callbacks,
    delta="ΔW = P Λ Q, Λ = diag(σ₁ … σᵣ), PᵀP ≈ I ≈ QQᵀ",
    cost=Cost("O((d + d + r) × r)", "O((d + d + r) × r)", "2dr + r²"),
)

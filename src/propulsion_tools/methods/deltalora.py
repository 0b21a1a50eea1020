"""Delta-LoRA: the frozen weights move along with the low-rank product (Zi et al., 2023).

W ← W + λ (α/r) (B' A' − B A) after each step, from `start_step` on. So the base model does change: the weights beside
the pieces become buffers, which are saved with what is trained, and stay out of the optimizer.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from propulsion_tools.methods.low_rank import LowRank, LowRankOptions, attach_each, low_rank_method, pieces
from propulsion_tools.methods.method_callback import MethodCallback
from propulsion_tools.records import RunSpec


@dataclass(frozen=True)
class Options(LowRankOptions):
    """Raises `OptionError` for what is out of range."""

    ratio: float = 2.0
    """λ, how far the weights move for a move of the product."""
    start_step: int | None = None
    """The first step after which they move; None: after a tenth of all steps."""


class Moving(LowRank):
    """A low-rank piece whose weight follows it."""

    def __init__(self, layer: nn.Module, options: Options) -> None:
        super().__init__(layer, options)
        self.ratio = options.ratio


class Follow(MethodCallback):
    """Moves the weights."""

    def __init__(self, model: nn.Module, start_step: int | None) -> None:
        self.pairs = pieces(model, Moving)
        self.start_step = start_step
        self.before: list[Tensor] = []

    def before_step(self, step: int, steps: int) -> None:
        start = self.start_step or max(1, steps // 10)
        self.before = [piece.update() for _, piece in self.pairs] if step >= start else []

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def after_step(self, step: int, steps: int) -> None:
        for (layer, piece), before in zip(self.pairs, self.before, strict=False):
            move = piece.ratio * (piece.update() - before)
            layer.weight.add_(move.T if isinstance(layer, Conv1D) else move)


def attach_to(model: PreTrainedModel, names: list[str], options: Options) -> None:
    """The weights beside the pieces become buffers."""
    attach_each(model, names, lambda layer: Moving(layer, options))
    for name in names:
        layer = model.get_submodule(name)
        weight = layer.weight.detach()
        del layer.weight
        layer.register_buffer("weight", weight)


def callbacks(model: nn.Module, spec: RunSpec) -> list[MethodCallback]:
    """The weights move after each step."""
    return [Follow(model, (spec.method_args or {}).get("start_step"))]


METHOD = low_rank_method(
    name="deltalora",
    description="LoRA whose frozen weights move along",
    options_class=Options,
    attach_to=attach_to,
    learning_rate=1e-3,
    callbacks=callbacks,
    delta="ΔW = W_down W_up; W ← W + λ (W'_down W'_up − W_down W_up)",
)

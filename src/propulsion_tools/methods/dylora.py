"""DyLoRA: each step trains the first b ranks, b drawn anew, so that any smaller rank works too (Valipour et al., 2023).

b ~ U{1, …, r},  ΔW = (α / b) B[:, :b] A[:b].
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from propulsion_tools.methods.low_rank import LowRank, LowRankOptions, attach_each, low_rank_method


class Draw:
    """The rank of the present step, the same in every layer."""

    def __init__(self, r: int) -> None:
        self.r = self.rank = r

    def __call__(self, model: nn.Module, inputs: tuple[Any, ...]) -> None:
        """Forward pre-hook of the model: draw while training, all ranks otherwise."""
        self.rank = int(torch.randint(1, self.r + 1, ())) if model.training else self.r


class Truncated(LowRank):
    """y + (α / b) B[:, :b] A[:b] x."""

    def __init__(self, layer: nn.Module, options: LowRankOptions, draw: Draw) -> None:
        super().__init__(layer, options)
        self.draw, self.alpha = draw, options.scale * options.r

    def forward(self, x: Tensor, output: Tensor) -> Tensor:
        """The new output, float32."""
        b = self.draw.rank
        inner = functional.linear(x.float(), self.A[:b])
        return torch.add(output.float(), functional.linear(inner, self.B[:, :b]), alpha=self.alpha / b)


def attach_to(model: PreTrainedModel, names: list[str], options: LowRankOptions) -> None:
    """One draw for all layers."""
    draw = Draw(options.r)
    attach_each(model, names, lambda layer: Truncated(layer, options, draw))
    model.register_forward_pre_hook(draw)


METHOD = low_rank_method(
    name="dylora",
    description="LoRA that works at every rank up to r",
    options_class=LowRankOptions,
    attach_to=attach_to,
    learning_rate=1e-3,
    delta="ΔW = W_down↓b W_up↓b, b ∈ {r_min, …, r_max}",
)

"""Kernel-mix: LoRA, and a low-rank update of its own for each head of the attention (Chen et al., 2022).

For head h with the outputs d_h: ΔW^h = (B, B^h) (A^h; A'^h), B shared by all heads.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from propulsion.errors import TargetError
from propulsion_tools.methods.attach import random_matrix, sizes, zeros
from propulsion_tools.methods.low_rank import LowRank, LowRankOptions, attach_each, low_rank_method


@dataclass(frozen=True)
class Options(LowRankOptions):
    """Raises `OptionError` for what is out of range."""

    head_r: int = 2
    """The rank that each head has for itself."""


class PerHead(LowRank):
    """y + s (A B x + [A'^h B^h x for each head h]); LoRA calls the shared B its A."""

    def __init__(self, layer: nn.Module, options: Options, head_dim: int) -> None:
        super().__init__(layer, options)
        inputs, outputs = sizes(layer)
        heads, self.head_r = outputs // head_dim, options.head_r
        self.down, self.up = random_matrix(heads * options.head_r, inputs), zeros(heads, options.head_r, head_dim)

    def forward(self, x: Tensor, output: Tensor) -> Tensor:
        """The new output, float32."""
        inner = functional.linear(x.float(), self.down).unflatten(-1, (-1, self.head_r))
        own = torch.einsum("...hr,hrd->...hd", inner, self.up).flatten(-2)
        return torch.add(super().forward(x, output), own, alpha=self.scale)


def attach_to(model: PreTrainedModel, names: list[str], options: Options) -> None:
    """Outputs belong to heads in blocks of the head dimension.

    Raises:
        TargetError: A layer's outputs are not made of whole heads.
    """
    config = model.config
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    for name in names:
        if sizes(model.get_submodule(name))[1] % head_dim:
            raise TargetError(f"The outputs of {name} are not made of whole heads; target queries, keys or values.")
    attach_each(model, names, lambda layer: PerHead(layer, options, head_dim))


METHOD = low_rank_method(
    name="kernel-mix",
    description="LoRA, and a low-rank update for each head",
    options_class=Options,
    attach_to=attach_to,
    learning_rate=1e-3,
    delta="ΔW^h = (B_LoRA, B^h) (A_LoRA^h; A^h)",
)

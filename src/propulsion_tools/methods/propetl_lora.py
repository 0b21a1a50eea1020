"""ProPETL for LoRA: one pair A, B for all layers, of which each layer learns masks of its own (Zeng et al., 2023)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from propulsion_tools.methods.attach import random_matrix, sizes, zeros
from propulsion_tools.methods.low_rank import LowRankOptions, attach_each, low_rank_method
from propulsion_tools.methods.propetl import Masked, check_share


@dataclass(frozen=True)
class Options(LowRankOptions):
    """Raises `OptionError` for what is out of range."""

    kept: float = 0.5
    """The share of the shared weights that each layer keeps."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share(self.kept)


class Shared(nn.Module):
    """A and B for all layers of one size and role, B = 0 at the start."""

    def __init__(self, inputs: int, outputs: int, r: int) -> None:
        super().__init__()
        self.A, self.B = random_matrix(r, inputs), zeros(outputs, r)


class MaskedLowRank(nn.Module):
    """y + s (B ⊙ m') (A ⊙ m) x."""

    def __init__(self, shared: Shared, options: Options) -> None:
        super().__init__()
        self.shared, self.scale = shared, options.scale
        self.mask_A, self.mask_B = Masked(shared.A.shape, options.kept), Masked(shared.B.shape, options.kept)

    def forward(self, x: Tensor, output: Tensor) -> Tensor:
        """The new output, float32."""
        inner = functional.linear(x.float(), self.mask_A(self.shared.A))
        return torch.add(output.float(), functional.linear(inner, self.mask_B(self.shared.B)), alpha=self.scale)


def attach_to(model: PreTrainedModel, names: list[str], options: Options) -> None:
    """Queries share with queries, values with values."""
    shared: dict[tuple[str, int, int], Shared] = {}
    for name in names:
        inputs, outputs = sizes(model.get_submodule(name))
        role = (name.rpartition(".")[2], inputs, outputs)
        pair = shared.setdefault(role, Shared(inputs, outputs, options.r))
        attach_each(model, [name], lambda layer, pair=pair: MaskedLowRank(pair, options))  # type: ignore[misc]


METHOD = low_rank_method(
    "propetl-lora",
    "one LoRA shared by all layers, masked by each",
    Options,
    attach_to,
    1e-3,
    delta="ΔW_l = (W_down ⊙ m_l) (W_up ⊙ m'_l)",
)

"""ProPETL: one module shared by all layers, of which each layer learns a mask of its own (Zeng et al., 2023).

W_l = W ⊙ m_l with m_l = 1 where |score_l| is among the `kept` share of the largest, else 0; the gradient passes the
threshold straight through.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from propulsion_tools.errors import OptionError
from propulsion_tools.methods.attach import attach, check_options, hidden_size, random_matrix
from propulsion_tools.methods.bottleneck import Bottleneck, Serial, refuse_targets
from propulsion_tools.methods.heads import train_the_head_alone
from propulsion_tools.methods.layer_names import before_residual, feed_forward
from propulsion_tools.methods.registry import HasTaskType, Method, register
from propulsion_tools.records import RunSpec


class TopShare(torch.autograd.Function):
    """The mask of the largest scores."""

    @staticmethod
    def forward(context: Any, scores: Tensor, kept: float) -> Tensor:
        """1 for the ⌈kept · n⌉ scores of largest magnitude, 0 for the others."""
        count = math.ceil(kept * scores.numel())
        mask = torch.zeros_like(scores).view(-1)
        mask[scores.abs().view(-1).topk(count).indices] = 1
        return mask.view_as(scores)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """Straight through."""
        return gradients[0], None


class Masked(nn.Module):
    """A layer's own mask of a shared matrix.

    Args:
        shape: That of the matrix.
        kept: The share of its entries that the layer keeps.
    """

    def __init__(self, shape: torch.Size, kept: float) -> None:
        super().__init__()
        self.scores, self.kept = random_matrix(*shape), kept

    def forward(self, weight: Tensor) -> Tensor:
        """`weight` with zeros where the mask is 0."""
        masked: Tensor = weight * TopShare.apply(self.scores, self.kept)
        return masked


@dataclass(frozen=True)
class AdapterOptions:
    """Raises `OptionError` for what is out of range."""

    bottleneck: int | None = None
    """Width in the middle; None: a twelfth of the hidden size."""
    kept: float = 0.5
    """The share of the shared weights that each layer keeps."""

    def __post_init__(self) -> None:
        check_options(self, "propetl-adapter")
        check_share(self.kept)


def check_share(kept: float) -> None:
    """Refuse a share above 1.

    Raises:
        OptionError: It is.
    """
    if kept > 1:
        raise OptionError(f"kept is the share of weights that each layer keeps, at most 1, and not {kept!r}.")


class MaskedBottleneck(nn.Module):
    """The shared bottleneck through the masks of one layer."""

    def __init__(self, shared: Bottleneck, kept: float) -> None:
        super().__init__()
        self.shared = shared
        self.down, self.up = Masked(shared.down.shape, kept), Masked(shared.up.shape, kept)

    def forward(self, x: Tensor) -> Tensor:
        """What is added, shape and float32 dtype of x."""
        shared = self.shared
        inner = functional.gelu(functional.linear(x, self.down(shared.down), shared.down_bias))
        return functional.linear(inner, self.up(shared.up), shared.up_bias)


def build_adapter(base_model: PreTrainedModel, spec: RunSpec, task: HasTaskType) -> nn.Module:
    """One shared adapter after each feed-forward part.

    Raises:
        OptionError: An argument is out of range.
        TargetError: The architecture is unknown.
    """
    options = AdapterOptions(**(spec.method_args or {}))
    refuse_targets(spec)
    train_the_head_alone(base_model, spec)
    width = hidden_size(base_model)
    shared = Bottleneck(width, options.bottleneck or max(1, width // 12))
    for _, last in feed_forward(base_model):
        place = base_model.get_submodule(before_residual(base_model, last))
        attach(place, "adapter", Serial(MaskedBottleneck(shared, options.kept)))
    return base_model


ADAPTER = register(
    Method(
        "propetl-adapter",
        "one bottleneck shared by all layers, masked by each",
        build_adapter,
        lambda spec: 1e-3,
        5e-3,
        delta="ΔW = 0; y ← y + (U ⊙ m_l) σ((D ⊙ m'_l) y)",
        config_class=AdapterOptions,
    )
)

"""ProPETL: one module shared by all layers, of which each layer learns a mask of its own (Zeng et al., 2023).

W_l = W ⊙ m_l with m_l = 1 where |score_l| is among the `kept` share of the largest, else 0; the gradient passes the
threshold straight through. The module is a bottleneck, a LoRA, or a prefix.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from propulsion_tools.errors import OptionError
from propulsion_tools.methods.attach import (
    attach,
    attached_method,
    check_options,
    hidden_size,
    random_matrix,
    sizes,
    zeros,
)
from propulsion_tools.methods.bottleneck import Bottleneck, Serial, bottleneck
from propulsion_tools.methods.layer_names import before_residual, feed_forward
from propulsion_tools.methods.layer_prefix import Prefix, attach_prefix
from propulsion_tools.methods.low_rank import LowRankOptions, attach_each, low_rank_method
from propulsion_tools.methods.registry import HasTaskType
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


def check_share(kept: float) -> None:
    """Refuse a share above 1.

    Raises:
        OptionError: It is.
    """
    if kept > 1:
        raise OptionError(f"kept is the share of weights that each layer keeps, at most 1, and not {kept!r}.")


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


class MaskedBottleneck(nn.Module):
    """The shared bottleneck through the masks of one layer."""

    def __init__(self, shared: Bottleneck, kept: float) -> None:
        super().__init__()
        self.shared = shared
        self.down, self.up = Masked(shared.down.shape, kept), Masked(shared.up.shape, kept)

    def forward(self, x: Tensor) -> Tensor:
        """What is added, shape and float32 dtype of x."""
        shared = self.shared
        down, up = self.down(shared.down), self.up(shared.up)
        return bottleneck(x, down, shared.down_bias, up, shared.up_bias, functional.gelu)


def attach_adapter(model: PreTrainedModel, spec: RunSpec, task: HasTaskType, options: AdapterOptions) -> None:
    """One shared bottleneck after each feed-forward part.

    Raises:
        TargetError: The architecture is unknown.
    """
    width = hidden_size(model)
    shared = Bottleneck(width, options.bottleneck or max(1, width // 12), functional.gelu)
    for _, last in feed_forward(model):
        attach(
            model.get_submodule(before_residual(model, last)),
            "adapter",
            Serial(MaskedBottleneck(shared, options.kept)),
        )


@dataclass(frozen=True)
class LoraOptions(LowRankOptions):
    """Raises `OptionError` for what is out of range."""

    kept: float = 0.5
    """The share of the shared weights that each layer keeps."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share(self.kept)


class SharedLowRank(nn.Module):
    """A and B for all layers of one size and role, B = 0 at the start."""

    def __init__(self, inputs: int, outputs: int, r: int) -> None:
        super().__init__()
        self.A, self.B = random_matrix(r, inputs), zeros(outputs, r)


class MaskedLowRank(nn.Module):
    """y + s (B ⊙ m') (A ⊙ m) x."""

    def __init__(self, shared: SharedLowRank, options: LoraOptions) -> None:
        super().__init__()
        self.shared, self.scale = shared, options.scale
        self.mask_A, self.mask_B = Masked(shared.A.shape, options.kept), Masked(shared.B.shape, options.kept)

    def forward(self, x: Tensor, output: Tensor) -> Tensor:
        """The new output, float32."""
        inner = functional.linear(x.float(), self.mask_A(self.shared.A))
        return torch.add(output.float(), functional.linear(inner, self.mask_B(self.shared.B)), alpha=self.scale)


def attach_lora(model: PreTrainedModel, names: list[str], options: LoraOptions) -> None:
    """Queries share with queries, values with values."""
    shared: dict[tuple[str, int, int], SharedLowRank] = {}
    for name in names:
        inputs, outputs = sizes(model.get_submodule(name))
        role = (name.rpartition(".")[2], inputs, outputs)
        pair = shared.setdefault(role, SharedLowRank(inputs, outputs, options.r))
        attach_each(model, [name], lambda layer, pair=pair: MaskedLowRank(pair, options))  # type: ignore[misc]


@dataclass(frozen=True)
class PrefixOptions:
    """Raises `OptionError` for what is out of range."""

    num_virtual_tokens: int = 20
    """Length of the prefix."""
    kept: float = 0.5
    """The share of the shared prefix that each layer keeps."""

    def __post_init__(self) -> None:
        check_options(self, "propetl-prefix")
        check_share(self.kept)


class SharedPrefix(Prefix):
    """One prefix for all layers, masked by each."""

    def __init__(self, layers: int, heads: int, length: int, head_dim: int, *, kept: float) -> None:
        super().__init__(1, heads, length, head_dim)
        width = heads * head_dim
        self.masks = nn.ModuleList(Masked(torch.Size((2 * length, width)), kept) for _ in range(layers))

    def keys_and_values(self) -> list[tuple[Tensor, Tensor]]:
        """One pair for each layer, of shape (heads, length, head dimension)."""
        _, _, heads, length, head_dim = self.states.shape
        shared = self.states[:, 0].transpose(1, 2).reshape(2 * length, heads * head_dim)
        layers = [mask(shared).view(2, length, heads, head_dim).transpose(1, 2) for mask in self.masks]
        return [(layer[0], layer[1]) for layer in layers]


def attach_shared_prefix(model: PreTrainedModel, spec: RunSpec, task: HasTaskType, options: PrefixOptions) -> None:
    """One prefix, masked by each layer.

    Raises:
        OptionError: The prefix does not fit.
    """
    attach_prefix(model, spec, task, options.num_virtual_tokens, partial(SharedPrefix, kept=options.kept))


ADAPTER = attached_method(
    name="propetl-adapter",
    description="one bottleneck shared by all layers, masked by each",
    options_class=AdapterOptions,
    attach_to=attach_adapter,
    learning_rate=1e-3,
    delta="ΔW = 0; y ← y + (U ⊙ m_l) σ((D ⊙ m'_l) y)",
)
LORA = low_rank_method(
    name="propetl-lora",
    description="one LoRA shared by all layers, masked by each",
    options_class=LoraOptions,
    attach_to=attach_lora,
    learning_rate=1e-3,
    delta="ΔW_l = (W_down ⊙ m_l) (W_up ⊙ m'_l)",
)
PREFIX = attached_method(
    name="propetl-prefix",
    description="one prefix shared by all layers, masked by each",
    options_class=PrefixOptions,
    attach_to=attach_shared_prefix,
    learning_rate=1e-2,
    delta="ΔW = 0; K ← [P_K ⊙ m_l; K], V ← [P_V ⊙ m'_l; V]",
)

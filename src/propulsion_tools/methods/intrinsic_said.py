"""Intrinsic SAID: all updates live in one small subspace (Aghajanyan et al., 2021).

W_i + λ_i P_i(θ), θ ∈ R^d trained and shared by all layers, one trained λ_i for each, P_i the Fastfood projection
(Le et al., 2013): d padded to n = 2^m, P = S H G Π H B, with random signs B, a random permutation Π, Gaussian G, the
Walsh–Hadamard transform H, and a scale S, stacked until it is as long as W_i. λ = 1 and θ = 0 at the start.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from transformers import PreTrainedModel

from propulsion_tools.methods.attach import attached_method, check_options, zeros
from propulsion_tools.methods.layer_names import linear_names
from propulsion_tools.methods.registry import HasTaskType
from propulsion_tools.records import RunSpec

LINEARS = ("attn", "mlp")


@dataclass(frozen=True)
class Options:
    """Raises `OptionError` for what is out of range."""

    dimension: int = 1000
    """d, how many numbers are shared by all layers."""

    def __post_init__(self) -> None:
        check_options(self, "intrinsic-said")


def hadamard(x: Tensor) -> Tensor:
    """The Walsh–Hadamard transform of the last dimension, a power of 2, divided by the root of its length."""
    size, width = x.shape[-1], 1
    while width < size:
        pairs = x.unflatten(-1, (-1, 2, width))
        x = torch.stack((pairs[..., 0, :] + pairs[..., 1, :], pairs[..., 0, :] - pairs[..., 1, :]), -2).flatten(-3)
        width *= 2
    return x / math.sqrt(size)


class Subspace(nn.Module):
    """θ, the point in the subspace."""

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.theta = zeros(dimension)


class Fastfood(nn.Module):
    """W + λ P(θ), as a parametrization of W.

    Args:
        weight: W, for its shape.
        subspace: θ, shared.
        seed: Of P, which is made again from it and not saved.
    """

    def __init__(self, weight: Tensor, subspace: Subspace, seed: int) -> None:
        super().__init__()
        self.subspace, self.scale, self.seed = subspace, nn.Parameter(torch.ones(())), seed
        self.length = 1 << max(1, math.ceil(math.log2(subspace.theta.numel())))
        self.blocks = -(-weight.numel() // self.length)
        self.drawn: tuple[Tensor, Tensor, Tensor] | None = None

    def projection(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Signs, order and Gaussian of each block, shape (blocks, n), drawn once."""
        if self.drawn is None or self.drawn[0].device != device:
            generator = torch.Generator(device="cpu").manual_seed(self.seed)
            signs, keys, gaussian = (
                torch.randn(self.blocks, self.length, generator=generator, device="cpu") for _ in range(3)
            )
            self.drawn = (signs.sign().to(device), keys.argsort(1).to(device), gaussian.to(device))
        return self.drawn

    def forward(self, weight: Tensor) -> Tensor:
        """The weight that the layer computes with."""
        signs, order, gaussian = self.projection(weight.device)
        theta = nn.functional.pad(self.subspace.theta, (0, self.length - self.subspace.theta.numel()))
        mixed = hadamard(signs * theta).gather(1, order)
        projected = hadamard(gaussian * mixed).flatten()[: weight.numel()].view_as(weight)
        # S: the columns of P are then as long on average as those of a random Gaussian matrix over √n.
        return (weight + self.scale * projected / math.sqrt(self.length)).to(weight.dtype)


def attach_to(model: PreTrainedModel, spec: RunSpec, task: HasTaskType, options: Options) -> None:
    """Every linear of the attention and the feed-forward parts, or the spec's targets, move in the subspace.

    Raises:
        TargetError: The targets match nothing.
    """
    subspace = Subspace(options.dimension)
    for seed, name in enumerate(linear_names(model, spec, LINEARS)):
        layer = model.get_submodule(name)
        parametrize.register_parametrization(layer, "weight", Fastfood(layer.weight, subspace, seed), unsafe=True)


METHOD = attached_method(
    name="intrinsic-said",
    description="all weights move in one small random subspace",
    options_class=Options,
    attach_to=attach_to,
    learning_rate=1e-2,
    takes_targets=True,
    delta="ΔW = F(W^r), F: ℝʳ → ℝᵈ, r ≪ d",
)

"""Bottleneck adapters: Houlsby's between the sublayers (Houlsby et al., 2019), and one beside the feed-forward part
(He et al., 2022)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from propulsion_tools.errors import OptionError
from propulsion_tools.methods.attach import attach, attached_method, check_options, hidden_size, random_matrix, zeros
from propulsion_tools.methods.layer_names import attention_outputs, before_residual, block_of, feed_forward
from propulsion_tools.methods.registry import HasTaskType
from propulsion_tools.records import RunSpec

Activation: TypeAlias = Callable[[Tensor], Tensor]
LAYER_NORMS = ("none", "output", "all")


@dataclass(frozen=True)
class HoulsbyOptions:
    """Raises `OptionError` for what is out of range."""

    bottleneck: int | None = None
    """Width in the middle; None: 200, but never more than 200/768 of the hidden size."""
    layer_norms: str = "output"
    """Which norms of the blocks are trained too: none, output (the last of each block: the paper's count) or all."""

    def __post_init__(self) -> None:
        check_options(self, "adapter")
        if self.layer_norms not in LAYER_NORMS:
            raise OptionError(f"layer_norms must be one of {', '.join(LAYER_NORMS)}, and not {self.layer_norms!r}.")


def bottleneck(
    x: Tensor, down: Tensor, down_bias: Tensor, up: Tensor, up_bias: Tensor, activation: Activation
) -> Tensor:
    """U σ(D x + d) + u.

    Args:
        x: Shape (…, width).
        down: D, shape (bottleneck, width).
        down_bias: d, shape (bottleneck,).
        up: U, shape (width, bottleneck).
        up_bias: u, shape (width,).
        activation: σ.
    """
    return functional.linear(activation(functional.linear(x, down, down_bias)), up, up_bias)


class Bottleneck(nn.Module):
    """U σ(D x + d) + u, with U = 0 and u = 0 at the start.

    Args:
        width: Dimension of x.
        middle: Dimension in the middle.
        activation: σ.
    """

    def __init__(self, width: int, middle: int, activation: Activation) -> None:
        super().__init__()
        self.down, self.down_bias = random_matrix(middle, width), zeros(middle)
        self.up, self.up_bias = zeros(width, middle), zeros(width)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """What is added, shape and float32 dtype of x."""
        return bottleneck(x, self.down, self.down_bias, self.up, self.up_bias, self.activation)


class Serial(nn.Module):
    """y + U σ(D y): an adapter that reads and changes a sublayer's output."""

    def __init__(self, added: nn.Module) -> None:
        super().__init__()
        self.added = added

    def forward(self, x: Tensor, output: Tensor) -> Tensor:
        output = output.float()
        changed: Tensor = output + self.added(output)
        return changed


def attach_houlsby(model: PreTrainedModel, spec: RunSpec, task: HasTaskType, options: HoulsbyOptions) -> None:
    """An adapter after each attention and each feed-forward part, after the dropout and before the residual.

    Raises:
        TargetError: The architecture is unknown.
    """
    width = hidden_size(model)
    middle = options.bottleneck or max(1, min(200, width * 200 // 768))
    for name in [*attention_outputs(model), *(last for _, last in feed_forward(model))]:
        place = model.get_submodule(before_residual(model, name))
        attach(place, "adapter", Serial(Bottleneck(width, middle, functional.gelu)))
    for norm in _norms(model, options.layer_norms):
        norm.requires_grad_(True)


def _norms(model: PreTrainedModel, which: str) -> list[nn.Module]:
    blocks = {block_of(last) for _, last in feed_forward(model)}
    by_block: dict[str, list[nn.Module]] = {}
    for name, module in model.named_modules():
        if type(module).__name__.endswith("Norm") and (block := block_of(name)) in blocks:
            by_block.setdefault(block, []).append(module)
    chosen = {"none": slice(0), "output": slice(-1, None), "all": slice(None)}[which]
    return [norm for norms in by_block.values() for norm in norms[chosen]]


@dataclass(frozen=True)
class ParallelOptions:
    """Raises `OptionError` for what is out of range."""

    bottleneck: int | None = None
    """Width in the middle; None: two thirds of the hidden size, 512 of 768 as in the original."""
    scale: float = 4.0
    """s, what the adapter's output is multiplied with."""

    def __post_init__(self) -> None:
        check_options(self, "parallel-adapter")


class Parallel(nn.Module):
    """FFN(x) + s · U relu(D x): an adapter that reads what the feed-forward part reads."""

    def __init__(self, added: nn.Module, scale: float) -> None:
        super().__init__()
        self.added, self.scale = added, scale
        self.seen: Tensor | None = None

    def see(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """Forward pre-hook of the feed-forward part's first linear."""
        self.seen = inputs[0]

    def forward(self, x: Tensor, output: Tensor) -> Tensor:
        seen, self.seen = self.seen, None
        assert seen is not None
        changed: Tensor = torch.add(output.float(), self.added(seen.float()), alpha=self.scale)
        return changed


def attach_parallel(model: PreTrainedModel, middle: int | None, scale: float) -> None:
    """Put an adapter beside each feed-forward part.

    Args:
        model: What is changed.
        middle: Width in the middle; None: two thirds of the hidden size.
        scale: What the adapter's output is multiplied with.

    Raises:
        TargetError: The architecture is unknown.
    """
    width = hidden_size(model)
    for first, last in feed_forward(model):
        piece = Parallel(Bottleneck(width, middle or max(1, width * 2 // 3), functional.relu), scale)
        attach(model.get_submodule(last), "parallel", piece)
        model.get_submodule(first).register_forward_pre_hook(piece.see)


HOULSBY = attached_method(
    name="adapter",
    description="Houlsby's bottlenecks after attention and feed-forward",
    options_class=HoulsbyOptions,
    attach_to=attach_houlsby,
    learning_rate=1e-3,
    delta="ΔW = 0; y ← y + U σ(D y)",
)
PARALLEL = attached_method(
    name="parallel-adapter",
    description="a bottleneck beside each feed-forward part",
    options_class=ParallelOptions,
    attach_to=lambda model, spec, task, options: attach_parallel(model, options.bottleneck, options.scale),
    learning_rate=1e-3,
    delta="ΔW = 0; FFN(x) ← FFN(x) + s U relu(D x)",
)

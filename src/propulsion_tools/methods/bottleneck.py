"""Bottleneck adapters: Houlsby's between the sublayers (Houlsby et al., 2019), and one beside the feed-forward part
(He et al., 2022)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from propulsion_tools.errors import OptionError
from propulsion_tools.methods.attach import attach, check_options, hidden_size, random_matrix, zeros
from propulsion_tools.methods.heads import train_the_head_alone
from propulsion_tools.methods.layer_names import attention_outputs, before_residual, block_of, feed_forward
from propulsion_tools.methods.registry import HasTaskType, Method, register
from propulsion_tools.records import RunSpec

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


class Bottleneck(nn.Module):
    """U σ(D x + d) + u, with U = 0 and u = 0 at the start.

    Args:
        width: Dimension of x.
        bottleneck: Dimension in the middle.
        activation: σ.
    """

    def __init__(self, width: int, bottleneck: int, activation: str = "gelu") -> None:
        super().__init__()
        self.down, self.down_bias = random_matrix(bottleneck, width), zeros(bottleneck)
        self.up, self.up_bias = zeros(width, bottleneck), zeros(width)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """What is added, shape and float32 dtype of x."""
        inner = getattr(functional, self.activation)(functional.linear(x, self.down, self.down_bias))
        return functional.linear(inner, self.up, self.up_bias)


class Serial(nn.Module):
    """y + U σ(D y): an adapter that reads and changes a sublayer's output."""

    def __init__(self, added: nn.Module) -> None:
        super().__init__()
        self.added = added

    def forward(self, x: Tensor, output: Tensor) -> Tensor:
        output = output.float()
        changed: Tensor = output + self.added(output)
        return changed


def build_houlsby(base_model: PreTrainedModel, spec: RunSpec, task: HasTaskType) -> nn.Module:
    """An adapter after each attention and each feed-forward part, after the dropout and before the residual.

    Raises:
        OptionError: An argument is out of range.
        TargetError: The architecture is unknown.
    """
    options = HoulsbyOptions(**(spec.method_args or {}))
    refuse_targets(spec)
    train_the_head_alone(base_model, spec)
    width = hidden_size(base_model)
    bottleneck = options.bottleneck or max(1, min(200, width * 200 // 768))
    for name in [*attention_outputs(base_model), *(last for _, last in feed_forward(base_model))]:
        place = base_model.get_submodule(before_residual(base_model, name))
        attach(place, "adapter", Serial(Bottleneck(width, bottleneck)))
    for norm in _norms(base_model, options.layer_norms):
        norm.requires_grad_(True)
    return base_model


def _norms(model: PreTrainedModel, which: str) -> list[nn.Module]:
    blocks = {block_of(last) for _, last in feed_forward(model)}
    found: dict[str, list[nn.Module]] = {}
    for name, module in model.named_modules():
        if type(module).__name__.endswith("Norm") and (block := block_of(name)) in blocks:
            found.setdefault(block, []).append(module)
    kept = {"none": slice(0), "output": slice(-1, None), "all": slice(None)}[which]
    return [norm for norms in found.values() for norm in norms[kept]]


def refuse_targets(spec: RunSpec) -> None:
    """These methods know their places themselves.

    Raises:
        OptionError: The spec names targets.
    """
    for name in ("target_modules", "exclude_modules", "layers_to_transform"):
        if getattr(spec, name) is not None:
            raise OptionError(f"{spec.method} sits beside the sublayers of every block and has no use for {name}.")


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


def attach_parallel(base_model: PreTrainedModel, bottleneck: int | None, scale: float) -> None:
    """Put an adapter beside each feed-forward part.

    Raises:
        TargetError: The architecture is unknown.
    """
    width = hidden_size(base_model)
    for first, last in feed_forward(base_model):
        piece = Parallel(Bottleneck(width, bottleneck or max(1, width * 2 // 3), "relu"), scale)
        attach(base_model.get_submodule(last), "parallel", piece)
        base_model.get_submodule(first).register_forward_pre_hook(piece.see)


def build_parallel(base_model: PreTrainedModel, spec: RunSpec, task: HasTaskType) -> nn.Module:
    """An adapter beside each feed-forward part.

    Raises:
        OptionError: An argument is out of range.
        TargetError: The architecture is unknown.
    """
    options = ParallelOptions(**(spec.method_args or {}))
    refuse_targets(spec)
    train_the_head_alone(base_model, spec)
    attach_parallel(base_model, options.bottleneck, options.scale)
    return base_model


HOULSBY = register(
    Method(
        "adapter",
        "Houlsby's bottlenecks after attention and feed-forward",
        build_houlsby,
        lambda spec: 1e-3,
        5e-3,
        delta="ΔW = 0; y ← y + U σ(D y)",
        config_class=HoulsbyOptions,
    )
)
PARALLEL = register(
    Method(
        "parallel-adapter",
        "a bottleneck beside each feed-forward part",
        build_parallel,
        lambda spec: 1e-3,
        5e-3,
        delta="ΔW = 0; FFN(x) ← FFN(x) + s U relu(D x)",
        config_class=ParallelOptions,
    )
)

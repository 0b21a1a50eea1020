"""What the relatives of LoRA that PEFT does not have are built from: y + (α/r) B A x, beside a frozen linear."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from propulsion_tools.methods.attach import attach, attached_method, check_options, random_matrix, sizes, zeros
from propulsion_tools.methods.layer_names import linear_names
from propulsion_tools.methods.registry import HasTaskType, Method
from propulsion_tools.records import RunSpec

PIECE = "low_rank"
Options = TypeVar("Options", bound="LowRankOptions")


@dataclass(frozen=True)
class LowRankOptions:
    """Raises `OptionError` for what is out of range."""

    r: int = 8
    """The rank."""
    alpha: float | None = None
    """The update's scale is alpha / r; None: 2r."""

    def __post_init__(self) -> None:
        check_options(self, "this method")

    @property
    def scale(self) -> float:
        """α / r."""
        return 2.0 if self.alpha is None else self.alpha / self.r


class LowRank(nn.Module):
    """y + s B A x, B = 0 at the start.

    Args:
        layer: The frozen linear, for its sizes.
        options: Rank and scale.
    """

    def __init__(self, layer: nn.Module, options: LowRankOptions) -> None:
        super().__init__()
        inputs, outputs = sizes(layer)
        self.A, self.B, self.scale = random_matrix(options.r, inputs), zeros(outputs, options.r), options.scale

    def forward(self, x: Tensor, output: Tensor) -> Tensor:
        """The new output, float32."""
        inner = functional.linear(x.float(), self.A)
        return torch.add(output.float(), functional.linear(inner, self.B), alpha=self.scale)

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def update(self) -> Tensor:
        """ΔW = s B A, shape (outputs, inputs)."""
        return self.scale * self.B @ self.A


def low_rank_method(
    *, options_class: type[Options], attach_to: Callable[[PreTrainedModel, list[str], Options], object], **fields: Any
) -> Method:
    """Register a relative of LoRA.

    Args:
        options_class: Its options, built from `method_args`.
        attach_to: Puts its modules beside the linears of these names.
        **fields: Those of `attached_method`.
    """

    def attach_to_targets(model: PreTrainedModel, spec: RunSpec, task: HasTaskType, options: Options) -> None:
        attach_to(model, linear_names(model, spec), options)

    return attached_method(options_class=options_class, attach_to=attach_to_targets, takes_targets=True, **fields)


def attach_each(model: PreTrainedModel, names: list[str], make: Callable[[nn.Module], nn.Module]) -> None:
    """Put what `make` gives for a layer beside it."""
    for name in names:
        layer = model.get_submodule(name)
        attach(layer, PIECE, make(layer).to(next(layer.parameters()).device))


def pieces(model: nn.Module, kind: type[Any]) -> list[tuple[nn.Module, Any]]:
    """The layers that have a piece of this kind beside them, each with its piece."""
    by_layer = [(module, getattr(module, PIECE, None)) for module in model.modules()]
    return [(layer, piece) for layer, piece in by_layer if isinstance(piece, kind)]

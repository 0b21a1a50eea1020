"""LoRAPrune: low-rank updates, and groups of outputs that are pruned by what the updates' gradients say (Zhang et al.,
2024).

y = ((W + s B A) x) ⊙ M + b, with M ∈ {0, 1}, one entry for each group of outputs, 1 at the start. A weight's importance
is (∂L/∂W · (W + ΔW))² with ∂L/∂W ≈ (∂L/∂B A + B ∂L/∂A − ∂L/∂B ∂L/∂A) / s, so that W itself needs no gradient; that of a
group is the sum over its weights, smoothed. Every step the least important groups are pruned, more and more of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from propulsion_tools.errors import OptionError
from propulsion_tools.methods.low_rank import LowRank, LowRankOptions, attach_each, low_rank_method, pieces
from propulsion_tools.methods.method_callback import MethodCallback
from propulsion_tools.records import RunSpec

SMOOTHING = 0.9
PRUNED_BY = 0.8  # the sparsity is reached after this share of the steps


@dataclass(frozen=True)
class Options(LowRankOptions):
    """Raises `OptionError` for what is out of range."""

    sparsity: float = 0.2
    """The share of groups that is pruned in the end."""
    group_size: int = 8
    """Outputs of one group; the last group of a layer may be smaller."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sparsity >= 1:
            raise OptionError(f"sparsity must be below 1, and not {self.sparsity!r}.")


class Pruned(LowRank):
    """((W + s B A) x) ⊙ M + b."""

    def __init__(self, layer: nn.Module, options: Options) -> None:
        super().__init__(layer, options)
        self.size = options.group_size
        self.outputs = self.B.shape[0]
        # In a list, so that the frozen layer is not a child of its own child.
        self.layer = [layer]
        self.mask: Tensor
        self.register_buffer("mask", torch.ones(-(-self.outputs // self.size)))

    def forward(self, x: Tensor, output: Tensor) -> Tensor:
        """The new output, float32."""
        bias = self.layer[0].bias
        plain = output.float() if bias is None else output.float() - bias
        inner = functional.linear(functional.linear(x.float(), self.A), self.B)
        pruned = torch.add(plain, inner, alpha=self.scale) * self.mask.repeat_interleave(self.size)[: self.outputs]
        changed: Tensor = pruned if bias is None else pruned + bias
        return changed

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def importance(self) -> Tensor:
        """Of each group, shape of the mask."""
        layer, (down, up) = self.layer[0], (self.A.grad, self.B.grad)
        assert down is not None
        assert up is not None
        weight = layer.weight.T if isinstance(layer, Conv1D) else layer.weight
        gradient = (up @ self.A + self.B @ down - up @ down) / self.scale
        rows = (gradient * (weight + self.update())).square().sum(1)
        return torch.zeros_like(self.mask).index_add_(0, torch.arange(self.outputs) // self.size, rows.to(self.mask))


class Prune(MethodCallback):
    """Prunes after a step."""

    def __init__(self, model: nn.Module, options: Options) -> None:
        self.pieces: list[Pruned] = [piece for _, piece in pieces(model, Pruned)]
        self.sparsity = options.sparsity
        self.importance = [torch.zeros_like(piece.mask) for piece in self.pieces]

    def after_step(self, step: int, steps: int) -> None:
        for number, piece in enumerate(self.pieces):
            now = piece.importance()
            self.importance[number] = SMOOTHING * self.importance[number].to(now) + (1 - SMOOTHING) * now
        share = min(1.0, step / max(1.0, PRUNED_BY * steps))
        self.prune(self.sparsity * (1 - (1 - share) ** 3))

    def prune(self, sparsity: float) -> None:
        """Prune the least important groups of each layer; what is pruned stays so."""
        for importance, piece in zip(self.importance, self.pieces, strict=True):
            count = int(sparsity * piece.mask.numel()) - int((piece.mask == 0).sum())
            if count > 0:
                open_to = importance.masked_fill(piece.mask == 0, torch.inf)
                piece.mask[open_to.topk(count, largest=False).indices] = 0

    def tensors(self) -> dict[str, Tensor]:
        return {str(number): value for number, value in enumerate(self.importance)}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        self.importance = [tensors[str(number)] for number in range(len(self.importance))]


def attach_to(model: PreTrainedModel, names: list[str], options: Options) -> None:
    """Every layer is pruned by itself."""
    attach_each(model, names, lambda layer: Pruned(layer, options))


def callbacks(model: nn.Module, spec: RunSpec) -> list[MethodCallback]:
    """Groups are pruned after each step."""
    return [Prune(model, Options(**(spec.method_args or {})))]


METHOD = low_rank_method(
    name="loraprune",
    description="LoRA that prunes groups of outputs on the way",
    options_class=Options,
    attach_to=attach_to,
    learning_rate=1e-3,
    callbacks=callbacks,
    delta="ΔW = (W + W_down W_up) ⊙ M − W, M ∈ {0, 1}^(1 × G)",
)

"""IncreLoRA: ranks are granted during training to the layers where they matter most (Zhang et al., 2023).

W + (α/r) B diag(E) A, of which the granted ranks are used; E = 0 at the start. A layer's importance is the mean of
|parameter · gradient| over its granted ranks, smoothed; every so many steps the most important layers get one rank
more, until all layers have r on average. The original's regularisation of A and B towards orthogonality is left out.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from propulsion_tools.methods.attach import random_matrix, sizes, zeros
from propulsion_tools.methods.low_rank import LowRankOptions, attach_each, low_rank_method, pieces
from propulsion_tools.methods.method_callback import MethodCallback
from propulsion_tools.records import RunSpec

SMOOTHING = 0.85
GRANTED_BY = 0.7  # all ranks are granted after this share of the steps


@dataclass(frozen=True)
class Options(LowRankOptions):
    """Raises `OptionError` for what is out of range."""

    start_r: int = 1
    """The rank that every layer has at the start; r is the average at the end, and twice r the most of one layer."""


class Growing(nn.Module):
    """y + s B diag(E ⊙ granted) A x."""

    def __init__(self, layer: nn.Module, options: Options) -> None:
        super().__init__()
        inputs, outputs = sizes(layer)
        most = max(2 * options.r, options.start_r)
        self.A, self.E, self.scale = random_matrix(most, inputs), zeros(most), options.scale
        self.B = nn.Parameter(random_matrix(most, outputs).detach().T.contiguous())
        self.granted: Tensor
        self.register_buffer("granted", torch.arange(most) < options.start_r)

    def forward(self, x: Tensor, output: Tensor) -> Tensor:
        """The new output, float32."""
        inner = functional.linear(x.float(), self.A) * (self.E * self.granted)
        return torch.add(output.float(), functional.linear(inner, self.B), alpha=self.scale)

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def importance(self) -> Tensor:
        """The mean of |p · ∂L/∂p| over what is granted: a scalar."""
        rows = (self.A * self.A.grad).abs().mean(1) + (self.B * self.B.grad).abs().mean(0)
        rows = rows + (self.E * self.E.grad).abs()
        return rows[self.granted].mean()


class Grant(MethodCallback):
    """Grants ranks after a step: one each to the most important layers, as many as the schedule says."""

    def __init__(self, model: nn.Module, options: Options) -> None:
        self.pieces: list[Growing] = [piece for _, piece in pieces(model, Growing)]
        self.start, self.end = (rank * len(self.pieces) for rank in (options.start_r, max(options.r, options.start_r)))
        self.importance = torch.zeros(len(self.pieces))

    def after_step(self, step: int, steps: int) -> None:
        now = torch.stack([piece.importance() for piece in self.pieces]).cpu()
        self.importance = SMOOTHING * self.importance + (1 - SMOOTHING) * now
        share = min(1.0, step / max(1.0, GRANTED_BY * steps))
        self.grant(self.start + round(share * (self.end - self.start)))

    def grant(self, total: int) -> None:
        """Grant ranks until there are `total` in all layers together."""
        order = self.importance.argsort(descending=True).tolist()
        missing = total - sum(int(piece.granted.sum()) for piece in self.pieces)
        while missing > 0:
            growing = [self.pieces[number] for number in order if not bool(self.pieces[number].granted.all())]
            for piece in growing[:missing]:
                piece.granted[int(piece.granted.sum())] = True
                missing -= 1

    def tensors(self) -> dict[str, Tensor]:
        return {"importance": self.importance}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        self.importance = tensors["importance"]


def attach_to(model: PreTrainedModel, names: list[str], options: Options) -> None:
    """Every layer starts with as many ranks."""
    attach_each(model, names, lambda layer: Growing(layer, options))


def callbacks(model: nn.Module, spec: RunSpec) -> list[MethodCallback]:
    """Ranks are granted after each step."""
    return [Grant(model, Options(**(spec.method_args or {})))]


METHOD = low_rank_method(
    name="increlora",
    description="low-rank updates whose ranks are granted where they matter",
    options_class=Options,
    attach_to=attach_to,
    learning_rate=2e-3,
    callbacks=callbacks,
    delta="ΔW = W_down Λ W_up, Λ = diag(λ₁ … λᵣ)",
)

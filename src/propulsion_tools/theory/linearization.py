"""How far a model is from being linear in what is trained (appendix C, definition 2).

Kernel behaviour asks for two things: outputs that follow the first-order expansion at the start, and a Jacobian that
stays what it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from propulsion_tools.errors import NotFiniteError
from propulsion_tools.theory.gradients import Readout, Row
from propulsion_tools.theory.tangent_kernel import jacobian


@dataclass(frozen=True)
class Departure:
    """A model at one step of training beside its first-order expansion at the start.

    Attributes:
        step: Optimizer steps so far.
        moved: ‖θ_t - θ_0‖.
        change: ‖φ(θ_t) - φ(θ_0)‖ over all samples and outputs.
        error: ‖φ(θ_t) - φ(θ_0) - ⟨∇φ(θ_0), θ_t - θ_0⟩‖.
    """

    step: int
    moved: float
    change: float
    error: float

    @property
    def relative(self) -> float:
        """The error as a share of the change; NaN at the start."""
        return self.error / self.change if self.change else float("nan")


class Linearization:
    """The first-order expansion of a model at the point where this is made.

    Args:
        model: Its parameters will be trained in place.
        rows: The samples.
        readout: The outputs φ.
        names: Names of all parameters that will be trained.
    """

    def __init__(self, model: nn.Module, rows: Sequence[Row], readout: Readout, names: Sequence[str]) -> None:
        self.rows, self.readout, self.names = rows, readout, names
        self.jacobian = jacobian(model, rows, readout, names)
        self.start = _flat(model, names)
        self.outputs = outputs(model, rows, readout)

    def depart(self, model: nn.Module, step: int) -> Departure:
        """Compare the model as it is now with its expansion.

        Raises:
            NotFiniteError: An output is no longer finite.
        """
        moved = _flat(model, self.names) - self.start
        change = outputs(model, self.rows, self.readout) - self.outputs
        if not change.isfinite().all():
            raise NotFiniteError(f"An output is no longer finite at step {step}: lower the learning rate.")
        error = change - self.jacobian.to(moved) @ moved
        return Departure(step, float(moved.norm()), float(change.norm()), float(error.norm()))


def outputs(model: nn.Module, rows: Sequence[Row], readout: Readout) -> Tensor:
    """φ at each sample, of shape (n, C), float64, from a model in evaluation mode, which it leaves as it was."""
    was_training = [module for module in model.modules() if module.training]
    model.eval()
    with torch.no_grad():
        values = torch.stack([readout(model, row) for row in rows]).cpu().double()
    for module in was_training:
        module.training = True
    return values


def _flat(model: nn.Module, names: Sequence[str]) -> Tensor:
    parameters = dict(model.named_parameters())
    return torch.cat([parameters[name].detach().flatten() for name in names]).cpu().double()

"""What an adapter trains in one layer, as a module: the place where others look for an adapter's parameters."""

from __future__ import annotations

from torch import Tensor, nn

from propulsion.upstream.torch_private import PARAMETERS, is_hooked


class Vectors(nn.Module):
    """One adapter's vectors in one layer, δ of shape (p, d_out) or β of shape (d_out,), as the `weight` of a module.

    The parameters are then named `….propulsion_delta.<adapter>.weight`: TRL finds those of an adapter by `.<adapter>.`.
    The module is called for its weight, so that a hook that brings offloaded weights (accelerate's) has its chance.
    """

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def __call__(self) -> Tensor:
        """The vectors, by way of the hooks if there are any."""
        if is_hooked(self):
            return super().__call__()
        return vars(self)[PARAMETERS]["weight"]  # in each forward of each layer, where a Module's call is slow

    def forward(self) -> Tensor:
        """The vectors."""
        return self.weight

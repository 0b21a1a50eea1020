"""What an adapter trains in one layer, as modules: the place where others look for an adapter's parameters."""

from __future__ import annotations

from torch import Tensor, nn

from propulsion.gain import z_of
from propulsion.upstream.torch_private import PARAMETERS, is_hooked


class TrainedVectors(nn.Module):
    """One adapter's parameter in one layer, as the `weight` of a module that is called for what is made of it.

    The parameters are then named `….propulsion_delta.<adapter>.weight`: TRL finds those of an adapter by `.<adapter>.`.
    By the call, a hook that brings offloaded or sharded weights (accelerate, FSDP) has its chance. What it returns has
    memory of its own: a hook may take the weight's away.
    """

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def __call__(self) -> Tensor:
        """What `forward` gives, by way of the hooks if there are any."""
        # In each forward of each layer, where a Module's call is slow. FSDP and DataParallel take the parameter away.
        weight = None if is_hooked(self) else vars(self)[PARAMETERS].get("weight")
        return super().__call__() if weight is None else self.derive(weight)

    def forward(self) -> Tensor:
        """What is made of the weight."""
        return self.derive(self.weight)

    @staticmethod
    def derive(weight: Tensor) -> Tensor:
        """What is made of this weight."""
        raise NotImplementedError


class Delta(TrainedVectors):
    """δ of shape (p, d_out), called for z = 1 + δ."""

    @staticmethod
    def derive(weight: Tensor) -> Tensor:
        """z of shape (p, d_out), in float32 or wider."""
        return z_of(weight)


class Beta(TrainedVectors):
    """β of shape (d_out,), called for a copy of it."""

    @staticmethod
    def derive(weight: Tensor) -> Tensor:
        """β, in memory of its own."""
        return weight.clone()

"""How p steered outputs become one (multi-propulsion, appendix F.1).

The pooled outputs are V^i = s_i ⊙ V of one V, so pooling them is a matter of the gains and, for max and min, of the
sign of V: max_i (s_i v) = v max_i s_i where v ≥ 0 and v min_i s_i where v < 0.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from propulsion.gain import scale

POOLINGS = ("mean", "max", "min", "l2")


def folds_into_weights(pooling: str, num_vectors: int) -> bool:
    """Whether the pooled steering is one gain per output dimension, whatever the sign of the output."""
    return num_vectors == 1 or pooling in ("mean", "l2")


def pool(gains: Tensor, pooling: str) -> Tensor:
    """The gains of p vectors pooled.

    Args:
        gains: s_i, of shape (p, d_out).
        pooling: "mean"; "l2", the root mean square of the gains, which keeps the sign of V and, unlike the bare norm of
            the outputs, is the identity at the start; "max" or "min". One vector is its own pool.

    Returns:
        Shape (1, d_out), or (2, d_out) for max and min: the gain of outputs ≥ 0, then that of outputs < 0.
    """
    if gains.shape[0] == 1:
        return gains
    if pooling == "mean":
        return gains.mean(0, keepdim=True)
    if pooling == "l2":
        return _root_mean_square(gains)
    ordered = torch.stack([gains.amax(0), gains.amin(0)])
    return ordered if pooling == "max" else ordered.flip(0)


def steer(
    output: Tensor,
    pooled: Tensor,
    in_place: bool = False,
    recompute: Callable[[], Tensor] | None = None,
    degree: int = 1,
) -> Tensor:
    """Multiply a frozen layer's output with pooled gains, or with the power of one vector.

    Args:
        output: V, of any shape.
        pooled: One or two gains as from `pool`, stacked in front: (1, ...) or (2, ...), the rest broadcasting with V.
        in_place, recompute, degree: As for `propulsion.gain.scale`; two gains have degree 1.
    """
    if pooled.shape[0] == 1:
        # (1, d_out) broadcasts as (d_out,) does, without one more operation for autograd.
        return scale(output, pooled if output.dim() >= pooled.dim() else pooled.squeeze(0), in_place, recompute, degree)
    return (output * torch.where(output >= 0, pooled[0], pooled[1])).to(output.dtype)


def _root_mean_square(gains: Tensor) -> Tensor:
    mean_square = gains.square().mean(0, keepdim=True)
    is_zero = mean_square == 0  # where the root has no gradient
    return torch.where(is_zero, 1.0, mean_square).sqrt().masked_fill(is_zero, 0.0)

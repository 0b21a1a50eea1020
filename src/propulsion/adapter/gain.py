"""The multiplication V' = V ⊙ z^k (paper, section 2, equations 1 to 3) and its gradient without keeping V.

`gain` turns the trained vectors into gains, `scale_reference` is the product as it is written, and `scale` is the same
product at the price of a frozen layer. With y = s ⊙ v the gradient of the gain is

    ∂L/∂s = Σ_tokens (∂L/∂y ⊙ v) = (Σ_tokens ∂L/∂y ⊙ y) / s

so all that has to be kept is y, which the next operation usually keeps anyway, and v can be overwritten.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from propulsion.adapter import kernels
from propulsion.adapter.ownership import is_unshared

# The smallest |gain| of the in-place path, by the output's dtype: far below its resolution, so that such an output is
# zero for every purpose, and far from underflow, so that y / s still gives v. Other dtypes never run in place.
SMALLEST_GAIN = {torch.float32: 1e-15, torch.bfloat16: 1e-15, torch.float64: 1e-30}


def gain(delta: Tensor, degree: Sequence[int]) -> Tensor:
    """The gains z^k = (1 + δ)^k of p vectors (equation 3).

    Args:
        delta: δ, the trained distance from the identity, of shape (p, d_out).
        degree: k ≥ 0 for each of the p vectors.

    Returns:
        The gains, of δ's shape, in float32 or δ's own dtype if that is wider.
    """
    z = 1 + (delta if delta.dtype == torch.float32 else delta.to(torch.promote_types(delta.dtype, torch.float32)))
    if len(set(degree)) == 1:
        return z.pow(degree[0])
    return z.pow(torch.tensor(degree, dtype=z.dtype, device=z.device).unsqueeze(-1))


def scale_reference(output: Tensor, scale: Tensor) -> Tensor:
    """s ⊙ V as it is written; every other path is compared with this one.

    Args:
        output: V, the output of a frozen layer.
        scale: s, in float32 or wider, of a shape that broadcasts with `output`.

    Returns:
        The product, computed in the wider of both dtypes and given in the output's.
    """
    return (output * scale).to(output.dtype)


def scale(output: Tensor, scale: Tensor, in_place: bool = False, again: Callable[[], Tensor] | None = None) -> Tensor:
    """s ⊙ V, differentiable in both, with the cheapest backward that the situation allows.

    Args:
        output: V, the output of a frozen layer, of shape (..., d_out) or with the channels elsewhere.
        scale: s, in float32 or wider, of a shape that broadcasts with `output`: (d_out,), (rows, 1, d_out), ...
        in_place: The caller owns `output`, nobody else has kept it, and nobody changes the result in place.
            It is then overwritten, and V is not kept for the backward.
        again: Computes V, which has no gradient, once more, so that nothing of it has to be kept.

    Returns:
        The product, in the output's dtype.
    """
    if _is_transformed():
        return scale_reference(output, scale)
    in_place = in_place and output.dtype in SMALLEST_GAIN and _has_room(output, scale)
    if not torch.is_grad_enabled():
        return kernels.multiply(output, scale, out=output if in_place else None)
    return _Scale.apply(output, scale, in_place, again)


def _is_transformed() -> bool:
    """Whether torch.compile, torch.func or forward-mode differentiation reads the program: they want plain formulas."""
    return (
        torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0
    )


def _has_room(output: Tensor, scale: Tensor) -> bool:
    """Whether the product has the output's shape; torch.broadcast_shapes takes ten times as long."""
    if not output.is_contiguous() or scale.dim() > output.dim():
        return False
    ends = output.shape[output.dim() - scale.dim() :]
    return all(own in (1, other) for own, other in zip(scale.shape, ends, strict=True))


class _Scale(torch.autograd.Function):
    """y = s ⊙ v, which keeps y if v was overwritten, v if it was not, and neither if v can be had again."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, scale: Tensor, in_place: bool, again: Callable[[], Tensor] | None) -> Tensor:
        trains_gain = ctx.needs_input_grad[1]
        divides = in_place and trains_gain and again is None
        ctx.again, ctx.divisor = again, _guard(scale, output.dtype) if divides else None
        # .data: the result shares v's memory without being a view of v, so that autograd need not rebase v's history.
        result = kernels.multiply(output, ctx.divisor if divides else scale, out=output.data if in_place else None)
        kept = (result if in_place else output) if trains_gain and again is None else None
        ctx.save_for_backward(kept, scale)
        ctx.shape = output.shape
        return result

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        kept, scale = ctx.saved_tensors
        needs_output, needs_scale = ctx.needs_input_grad[:2]
        overwrite = needs_output and is_unshared(grad_outputs)
        if needs_scale and ctx.again is not None:
            kept = ctx.again()
        if ctx.divisor is not None:  # with its history where a second derivative is wanted
            scale = _guard(scale, kept.dtype) if torch.is_grad_enabled() else ctx.divisor
        grad_output, grad_scale = kernels.multiply_backward(
            grad_outputs[0], kept if needs_scale else None, scale, needs_output, overwrite
        )
        if grad_output is not None and grad_output.shape != ctx.shape:
            grad_output = grad_output.sum_to_size(ctx.shape)
        if grad_scale is not None and ctx.divisor is not None:
            grad_scale = grad_scale / scale
        return grad_output, grad_scale, None, None


def _guard(scale: Tensor, dtype: torch.dtype) -> Tensor:
    return scale.abs().clamp_min_(SMALLEST_GAIN[dtype]).copysign_(scale)

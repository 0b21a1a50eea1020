"""The multiplication V' = V ⊙ z^k (paper, section 2, equations 1 to 3) and its gradient without keeping V.

`gain` turns the trained vectors into gains, `scale_reference` is the product as it is written, and `scale` is the same
product at the price of a frozen layer. With y = z^k ⊙ v the gradient of the vector is

    ∂L/∂z = k z^(k-1) Σ_tokens (∂L/∂y ⊙ v) = (k / z) Σ_tokens (∂L/∂y ⊙ y)

so all that has to be saved is y, which the next operation usually keeps anyway, and v can be overwritten.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from propulsion import kernels, triton_kernels
from propulsion.ownership import is_unshared
from propulsion.upstream.torch_private import is_forward_mode, is_recorded, is_transformed

# What stands in for z = 0 in place, by the output's dtype: far below its resolution, so that an output times it is zero
# for every purpose, and far from underflow, so that y / z still gives v. Other dtypes never run in place.
NEARLY_ZERO = {torch.float32: 1e-15, torch.bfloat16: 1e-15, torch.float64: 1e-30}


def gain(delta: Tensor, degree: Sequence[int]) -> Tensor:
    """The gains z^k = (1 + δ)^k of p vectors (equation 3).

    Args:
        delta: δ, the trained distance from the identity, of shape (p, d_out).
        degree: k ≥ 0 for each of the p vectors.

    Returns:
        The gains, of δ's shape, in float32 or δ's own dtype if that is wider.
    """
    return powers(z_of(delta), degree)


def powers(z: Tensor, degree: Sequence[int]) -> Tensor:
    """z^k of p vectors, each with a degree of its own; shapes and dtypes are those of `gain`."""
    if len(set(degree)) == 1:
        return z.pow(degree[0])
    return z.pow(torch.tensor(degree, dtype=z.dtype, device=z.device).unsqueeze(-1))


def z_of(delta: Tensor) -> Tensor:
    """z = 1 + δ, in float32 or δ's own dtype if that is wider."""
    return 1 + in_full(delta)


def in_full(delta: Tensor) -> Tensor:
    """δ in float32 or its own dtype if that is wider."""
    return delta if delta.dtype == torch.float32 else delta.to(torch.promote_types(delta.dtype, torch.float32))


def scale_reference(output: Tensor, z: Tensor, degree: int = 1) -> Tensor:
    """z^k ⊙ V as it is written; every other path is compared with this one.

    Args:
        output: V, the output of a frozen layer.
        z: The vector, in float32 or wider, of a shape that broadcasts with `output`; or, with degree 1, any gain.
        degree: k.

    Returns:
        The product, computed in the wider of both dtypes and given in the output's.
    """
    return (output * power(z, degree)).to(output.dtype)


def scale(
    output: Tensor,
    z: Tensor,
    in_place: bool = False,
    lookup: tuple[Tensor, Tensor] | None = None,
    degree: int = 1,
) -> Tensor:
    """z^k ⊙ V, differentiable in both, with the cheapest backward that the situation allows.

    Args:
        output: V, the output of a frozen layer, of shape (..., d_out) or with the channels elsewhere.
        z: The vector, in float32 or wider, of a shape that broadcasts with `output`: (d_out,), (rows, 1, d_out), ...;
            or, with degree 1, any gain.
        in_place: The caller owns `output`, nobody else has saved it, and nobody changes the result in place.
            It is then overwritten, and V is not kept for the backward.
        lookup: A table, which has no gradient, and ids with V = table[ids]: V is looked up again in the backward, so
            that only the ids, which must be nobody else's to change, are kept of it.
        degree: k.

    Returns:
        The product, in the output's dtype.
    """
    if reads_the_program():
        return scale_reference(output, z, degree)
    in_place = in_place and output.dtype in NEARLY_ZERO and _has_room(output, z)
    if not torch.is_grad_enabled():
        return kernels.multiply(output, power(z, degree), out=output if in_place else None)
    return _Scale.apply(output, z, in_place, lookup, degree)


def reads_the_program() -> bool:
    """Whether something reads the program and wants the plain formula: what records it, torch.func or forward mode."""
    return is_recorded() or is_transformed() or is_forward_mode()


def _has_room(output: Tensor, z: Tensor) -> bool:
    """Whether the product has the output's shape; torch.broadcast_shapes takes ten times as long."""
    if not output.is_contiguous() or z.dim() > output.dim():
        return False
    if z.dim() and z.numel() == z.size(-1) == output.size(-1):  # one vector: what follows, said quickly
        return True
    ends = output.shape[output.dim() - z.dim() :]
    return all(own in (1, other) for own, other in zip(z.shape, ends, strict=True))


class _Scale(torch.autograd.Function):
    """y = z^k ⊙ v, which keeps y if v was overwritten, v if it was not, and neither if v can be looked up."""

    @staticmethod
    def forward(
        ctx: Any, output: Tensor, z: Tensor, in_place: bool, lookup: tuple[Tensor, Tensor] | None, degree: int
    ) -> Tensor:
        trains = ctx.needs_input_grad[1]
        # Where v is overwritten, the gradient is had from y by dividing by z, which must not be 0 then.
        divides = in_place and trains and lookup is None
        ctx.degree, ctx.divides, ctx.shape = degree, divides, output.shape
        # .data: the result shares v's memory without being a view of v, so that autograd need not rebase v's history.
        out = output.data if in_place else None
        # Without history, as all that is computed in here; a second derivative gives it back to them.
        if triton_kernels.suits(output, z):
            ctx.detached = None
            result = triton_kernels.multiply(output, z, out, degree, divides)
        else:
            ctx.detached = _divisor_and_gains(z, output.dtype, degree, divides)
            result = kernels.multiply(output, ctx.detached[1], out=out)
        values = (None, *lookup) if lookup else (result if in_place else output, None, None)
        ctx.save_for_backward(z, *(values if trains else (None, None, None)))
        return result

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        # Saved, not closed over: autograd says so if one of them has been changed since.
        z, values, table, ids = ctx.saved_tensors
        needs_output, needs_z = ctx.needs_input_grad[:2]
        overwrite = needs_output and not is_transformed() and is_unshared(grad_outputs)
        if table is not None:
            values = functional.embedding(ids, table)
        if ctx.detached is None and needs_z and kernels.is_plain(grad_outputs[0]):
            grad, values = grad_outputs[0].contiguous(), values.contiguous()
            how = (needs_output, overwrite, ctx.degree, ctx.divides)
            return *triton_kernels.multiply_backward(grad, values, z, *how), None, None, None
        divisor, gains = ctx.detached or _divisor_and_gains(z.detach(), grad_outputs[0].dtype, ctx.degree, ctx.divides)
        if torch.is_grad_enabled():  # for a second derivative
            divisor = z + (divisor - z).detach()  # the same numbers, with z's history
            gains = power(divisor, ctx.degree)
        grad_output, grad_gains = kernels.multiply_backward(
            grad_outputs[0], values if needs_z else None, gains, needs_output, overwrite
        )
        if grad_output is not None and grad_output.shape != ctx.shape:
            grad_output = grad_output.sum_to_size(ctx.shape)
        grad_z = None if grad_gains is None else times_derivative(grad_gains, divisor, ctx.degree, ctx.divides)
        return grad_output, grad_z, None, None, None


def _divisor_and_gains(z: Tensor, dtype: torch.dtype, degree: int, divides: bool) -> tuple[Tensor, Tensor]:
    """What sums over an output of this dtype may be divided by, and its power."""
    divisor = divisor_of(z, dtype, divides)
    return divisor, power(divisor, degree)


def power(z: Tensor, degree: int) -> Tensor:
    """z^k."""
    return z if degree == 1 else z.pow(degree)


def times_derivative(sums: Tensor, z: Tensor, degree: int, divides: bool) -> Tensor:
    """∂L/∂z from Σ ∂L/∂y ⊙ y if it is to be divided by z, from Σ ∂L/∂y ⊙ v if not."""
    if degree == 0:
        return torch.zeros_like(sums)
    if divides:
        sums = sums / z
    elif degree > 1:
        sums = sums * z.pow(degree - 1)
    return sums if degree == 1 else sums * degree


def divisor_of(z: Tensor, dtype: torch.dtype, divides: bool) -> Tensor:
    """z or, if the sum over y of this dtype is to be divided by it, z with a tiny number in place of zero."""
    return z.masked_fill(z == 0, NEARLY_ZERO[dtype]) if divides else z

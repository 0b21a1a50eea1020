"""V' = V ⊙ z^k where each row of V is an expert's output, so that each row has gains of its own.

As `propulsion.gain`, but the rows of a table of gains are taken by the experts' numbers. Neither the gains by row nor,
where the output is overwritten, the output itself is kept for the backward: only y, the table and the numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import torch
from torch import Tensor

from propulsion import kernels
from propulsion.gain import NEARLY_ZERO, divisor_of, power, scale_reference, times_derivative
from propulsion.ownership import is_unshared
from propulsion.upstream.torch_private import is_forward_mode, is_transformed

# The number of each row's expert, of shape (rows,); or how many rows each expert has, for rows in the experts' order.
Experts: TypeAlias = Tensor | tuple[int, ...]


def numbers_of(experts: Experts, device: torch.device) -> Tensor:
    """The number of each row's expert, of shape (rows,), int64."""
    if isinstance(experts, Tensor):
        return experts
    return torch.arange(len(experts), device=device).repeat_interleave(torch.tensor(experts, device=device))


def scale_by_expert_reference(output: Tensor, z: Tensor, experts: Experts, degree: int = 1) -> Tensor:
    """z^k of each row's expert ⊙ V, as it is written.

    Args:
        output: V, of shape (rows, d_out).
        z: The experts' vectors, or with degree 1 any gains, of shape (num_experts, d_out), in float32 or wider.
        experts: The rows' experts.
        degree: k.

    Returns:
        The product, in the output's dtype.
    """
    return scale_reference(output, z[numbers_of(experts, z.device)], degree)


def scale_by_expert(output: Tensor, z: Tensor, experts: Experts, in_place: bool = False, degree: int = 1) -> Tensor:
    """As `scale_by_expert_reference`, with a backward that keeps one tensor of the output's size.

    Args:
        output, z, experts, degree: As there.
        in_place: As for `propulsion.gain.scale`: the output is overwritten.
    """
    if torch.compiler.is_compiling() or is_transformed() or is_forward_mode():
        return scale_by_expert_reference(output, z, experts, degree)
    in_place = in_place and output.dtype in NEARLY_ZERO and output.is_contiguous()
    if not torch.is_grad_enabled():
        return _multiply(output, power(z, degree), experts, output if in_place else None)
    return _ScaleByExpert.apply(output, z, experts, in_place, degree)


class _ScaleByExpert(torch.autograd.Function):
    """y = z^k of the row's expert ⊙ v, which keeps y if v was overwritten, and v if it was not."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, z: Tensor, experts: Experts, in_place: bool, degree: int) -> Tensor:
        trains = ctx.needs_input_grad[1]
        ctx.degree, ctx.divides, ctx.dtype = degree, in_place and trains, output.dtype
        gains = power(divisor_of(z, output.dtype, ctx.divides), degree)
        # .data: as in propulsion.gain, so that autograd need not rebase v's history.
        result = _multiply(output, gains, experts, output.data if in_place else None)
        numbers = experts if isinstance(experts, Tensor) else None
        ctx.sizes = None if numbers is not None else experts
        ctx.save_for_backward(z, numbers, (result if in_place else output) if trains else None)
        return result

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        z, numbers, values = ctx.saved_tensors
        experts = ctx.sizes if numbers is None else numbers
        needs_output, needs_z = ctx.needs_input_grad[:2]
        again = torch.is_grad_enabled()  # for a second derivative
        overwrite = needs_output and not again and not is_transformed() and is_unshared(grad_outputs)
        divisor = divisor_of(z, ctx.dtype, ctx.divides)
        if again:
            divisor = z + (divisor - z).detach()  # the same numbers, with z's history
            experts = numbers_of(experts, z.device)
        grad = grad_outputs[0].contiguous()
        grad_output = grad_z = None
        if needs_z:  # before the product, which may overwrite what the sum reads
            grad_z = times_derivative(_sums(grad, values, z, experts), divisor, ctx.degree, ctx.divides)
        if needs_output:
            gains = power(divisor, ctx.degree)
            if again:
                grad_output = (grad * gains[experts]).to(grad.dtype)
            else:
                grad_output = _multiply(grad, gains, experts, grad if overwrite else None)
        return grad_output, grad_z, None, None, None


def _multiply(values: Tensor, gains: Tensor, experts: Experts, out: Tensor | None) -> Tensor:
    out = torch.empty_like(values) if out is None else out
    if isinstance(experts, Tensor):
        return torch.mul(values, gains[experts], out=out)
    for expert, part, result in _parts(experts, values, out):
        kernels.multiply(part, gains[expert], out=result)
    return out


def _sums(grad: Tensor, values: Tensor, z: Tensor, experts: Experts) -> Tensor:
    """Σ grad ⊙ values over the rows of each expert, of z's shape."""
    if isinstance(experts, Tensor):
        return torch.zeros_like(z).index_add(0, experts, grad.to(z.dtype) * values)
    sums = torch.zeros_like(z)
    for expert, part, kept in _parts(experts, grad, values):
        sums[expert] = kernels.multiply_backward(part, kept, z[expert], needs_values=False)[1]
    return sums


def _parts(sizes: tuple[int, ...], one: Tensor, other: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
    """The rows of each expert that has any."""
    for expert, (part, matching) in enumerate(zip(one.split(sizes), other.split(sizes), strict=True)):
        if len(part):
            yield expert, part, matching

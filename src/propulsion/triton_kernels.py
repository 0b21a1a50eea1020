"""The passes over the activations as Triton kernels, for CUDA: float32 arithmetic on data of any dtype.

Activations are seen as (tokens, d) with one vector z for all of them, or one for each row of the batch. The gains z^k
and their derivative are computed inside: on a GPU an operation on a vector costs as much as one on a small batch, and a
layer would need ten. Triton comes with PyTorch's CUDA builds; where it is missing, `AVAILABLE` is False and nothing
here is called.
"""

from __future__ import annotations

import torch
from torch import Tensor

from propulsion.triton_launch import Launcher

try:
    import triton
    import triton.language as tl
except ImportError:
    AVAILABLE = False
else:
    AVAILABLE = True

BLOCK = 128  # channels and tokens of one tile
TOKENS = 32
MOST_PROGRAMS = 1024  # of the first stage of the reduction, each with sums of its own


def suits(values: Tensor, z: Tensor) -> bool:
    """Whether the kernels take these: (tokens..., d) on CUDA, with vectors of shape (d,) or (rows, 1, ..., d)."""
    # Tensors of other types hold no numbers of their own: those of a FakeTensorMode, for one.
    return AVAILABLE and values.is_cuda and type(values) is Tensor and values.is_contiguous() and _fit(values, z)


def multiply(values: Tensor, z: Tensor, out: Tensor | None = None, degree: int = 1, is_divisor: bool = False) -> Tensor:
    """values ⊙ z^k, in float32, rounded once to the values' dtype.

    Args:
        values: Contiguous activations of shape (..., d).
        z: Vectors in float32 of shape (d,) or (rows, 1, ..., d).
        out: Where the result goes, if not to fresh memory; may be `values`.
        degree: k ≥ 0.
        is_divisor: Whether something will be divided by z, so that a tiny number has to stand for zero.
    """
    rows, tokens, channels = _sizes(values, z)
    out = torch.empty_like(values) if out is None else out
    if tokens:
        grid = (_over(tokens, TOKENS), rows, _over(channels, BLOCK))
        constants = (degree, degree.bit_length(), is_divisor, TOKENS, BLOCK)
        _multiply(grid, (values, z.contiguous(), out), (tokens,), channels, constants)
    return out


def multiply_backward(
    grad: Tensor,
    saved: Tensor,
    z: Tensor,
    needs_values: bool = True,
    overwrite: bool = False,
    degree: int = 1,
    is_divisor: bool = False,
) -> tuple[Tensor | None, Tensor]:
    """The gradients of y = z^k ⊙ v, reading ∂L/∂y and what was saved once.

    Args:
        grad: ∂L/∂y, contiguous, of shape (..., d).
        saved: v or, if z is a divisor, y; contiguous, of the same shape.
        z: As for `multiply`.
        needs_values: Whether the first is wanted.
        overwrite: Whether it may take the memory of `grad`.
        degree: k.
        is_divisor: As for `multiply`.

    Returns:
        ∂L/∂v, and ∂L/∂z of z's shape.
    """
    rows, tokens, channels = _sizes(grad, z)
    z = z.contiguous()
    grad_values = (grad if overwrite else torch.empty_like(grad)) if needs_values else None
    grad_z = torch.empty_like(z)
    if not tokens:
        return grad_values, grad_z.zero_()
    # Stage one: each program sums some tokens of one row of the batch. Stage two, if there is more than one such sum:
    # sums of sums, in a fixed order.
    blocks = _over(channels, BLOCK)
    parts = max(1, min(_over(tokens, TOKENS), MOST_PROGRAMS // (rows * blocks)))
    into, counts = grad if grad_values is None else grad_values, (tokens, _over(tokens, parts))
    power = (degree, degree.bit_length(), is_divisor, TOKENS, BLOCK)
    sums = grad_z if parts == 1 else z.new_empty((rows, parts, channels))
    tensors = (grad, saved, z, into, sums)
    _backward((rows, parts, blocks), tensors, counts, channels, (needs_values, parts == 1, *power))
    if parts > 1:
        _derivative((rows, blocks, 1), (sums, z, grad_z), (parts,), channels, power)
    return grad_values, grad_z


def _fit(values: Tensor, z: Tensor) -> bool:
    """Whether the vectors belong to the last axis, and are one or one for each row of the batch."""
    if not z.dim() or not values.dim() or z.dtype != torch.float32 or values.dtype == torch.float64:
        return False
    channels, numbers = z.size(-1), z.numel()
    if not numbers or values.size(-1) != channels:
        return False
    return numbers == channels or (z.dim() == values.dim() and z.size(0) == numbers // channels == values.size(0))


def _sizes(values: Tensor, z: Tensor) -> tuple[int, int, int]:
    """How many vectors there are, how many tokens for each, and how many channels, of what fits."""
    numbers, channels = z.numel(), z.size(-1)
    return numbers // channels, values.numel() // numbers, channels


def _over(number: int, size: int) -> int:
    """How many blocks of a size cover a number."""
    return -(-number // size)


if AVAILABLE:
    # Without annotations: Triton compiles them like everything else, and knows no names but its own.

    @triton.jit
    def _divisor(z):
        return tl.where(z == 0.0, 1e-15, z)  # as propulsion.gain.NEARLY_ZERO has it for the dtypes of a GPU

    @triton.jit
    def _gain(z, DEGREE: tl.constexpr, BITS: tl.constexpr, IS_DIVISOR: tl.constexpr):
        if IS_DIVISOR:
            z = _divisor(z)
        gain = tl.zeros_like(z) + 1.0
        factor = z
        for bit in tl.static_range(BITS):
            if (DEGREE >> bit) & 1:
                gain = gain * factor
            factor = factor * factor
        return gain

    @triton.jit
    def _derivative_of(total, z, DEGREE: tl.constexpr, BITS: tl.constexpr, IS_DIVISOR: tl.constexpr):
        if IS_DIVISOR:
            total = total / _divisor(z)
        elif DEGREE > 1:
            total = total * _gain(z, DEGREE - 1, BITS, False)
        return total * DEGREE

    @Launcher
    @triton.jit(do_not_specialize=["tokens"])
    def _multiply(
        values, z, out, tokens, channels,
        DEGREE: tl.constexpr, BITS: tl.constexpr, IS_DIVISOR: tl.constexpr, TOKENS: tl.constexpr, BLOCK: tl.constexpr,
    ):  # fmt: skip
        token, row = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS), tl.program_id(1).to(tl.int64)
        channel = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
        is_channel = channel < channels
        gain = _gain(tl.load(z + row * channels + channel, mask=is_channel, other=1.0), DEGREE, BITS, IS_DIVISOR)
        is_inside = (token < tokens)[:, None] & is_channel[None, :]
        place = (row * tokens + token)[:, None] * channels + channel[None, :]
        value = tl.load(values + place, mask=is_inside, other=0.0).to(tl.float32)
        tl.store(out + place, (value * gain[None, :]).to(out.dtype.element_ty), mask=is_inside)

    @Launcher
    @triton.jit(do_not_specialize=["tokens", "share"])
    def _backward(
        grad, saved, z, grad_values, sums, tokens, share, channels, NEEDS_VALUES: tl.constexpr, IS_ALL: tl.constexpr,
        DEGREE: tl.constexpr, BITS: tl.constexpr, IS_DIVISOR: tl.constexpr, TOKENS: tl.constexpr, BLOCK: tl.constexpr,
    ):  # fmt: skip
        row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
        channel = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
        is_channel = channel < channels
        own = tl.load(z + row * channels + channel, mask=is_channel, other=1.0)
        gain = _gain(own, DEGREE, BITS, IS_DIVISOR)
        total = tl.zeros((BLOCK,), dtype=tl.float32)
        end = tl.minimum(tokens, (part + 1) * share)
        for start in range(part * share, end, TOKENS):
            token = start + tl.arange(0, TOKENS)
            is_inside = (token < end)[:, None] & is_channel[None, :]
            place = (row * tokens + token)[:, None] * channels + channel[None, :]
            dy = tl.load(grad + place, mask=is_inside, other=0.0).to(tl.float32)
            y = tl.load(saved + place, mask=is_inside, other=0.0).to(tl.float32)
            total += tl.sum(dy * y, axis=0)
            if NEEDS_VALUES:
                tl.store(grad_values + place, (dy * gain[None, :]).to(grad_values.dtype.element_ty), mask=is_inside)
        if IS_ALL:
            total = _derivative_of(total, own, DEGREE, BITS, IS_DIVISOR)
        tl.store(sums + (row * tl.num_programs(1) + part) * channels + channel, total, mask=is_channel)

    @Launcher
    @triton.jit(do_not_specialize=["parts"])
    def _derivative(
        sums, z, grad_z, parts, channels,
        DEGREE: tl.constexpr, BITS: tl.constexpr, IS_DIVISOR: tl.constexpr, TOKENS: tl.constexpr, BLOCK: tl.constexpr,
    ):  # fmt: skip
        row = tl.program_id(0).to(tl.int64)
        channel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        is_channel = channel < channels
        total = tl.zeros((BLOCK,), dtype=tl.float32)
        for start in range(0, parts, TOKENS):
            part = start + tl.arange(0, TOKENS)
            is_inside = (part < parts)[:, None] & is_channel[None, :]
            place = (row * parts + part)[:, None] * channels + channel[None, :]
            total += tl.sum(tl.load(sums + place, mask=is_inside, other=0.0), axis=0)
        own = tl.load(z + row * channels + channel, mask=is_channel, other=1.0)
        total = _derivative_of(total, own, DEGREE, BITS, IS_DIVISOR)
        tl.store(grad_z + row * channels + channel, total, mask=is_channel)

"""The passes over the activations as Triton kernels, for CUDA: float32 arithmetic on data of any dtype.

Activations are seen as (tokens, d) with one vector z for all of them, or one for each row of the batch. The gains z^k
and their derivative are computed inside: on a GPU an operation on a vector costs as much as one on a small batch, and a
layer would need ten. Triton comes with PyTorch's CUDA builds; where it is missing, `AVAILABLE` is False and nothing
here is called.
"""

from __future__ import annotations

import torch
from torch import Tensor

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
    return AVAILABLE and values.is_cuda and values.is_contiguous() and _rows(values, z) is not None


def multiply(values: Tensor, z: Tensor, out: Tensor | None = None, degree: int = 1, is_divisor: bool = False) -> Tensor:
    """values ⊙ z^k, in float32, rounded once to the values' dtype.

    Args:
        values: Contiguous activations of shape (..., d).
        z: Vectors in float32 of shape (d,) or (rows, 1, ..., d).
        out: Where the result goes, if not to fresh memory; may be `values`.
        degree: k ≥ 0.
        is_divisor: Whether something will be divided by z, so that a tiny number has to stand for zero.
    """
    rows, channels, tokens = _sizes(values, z)
    out = torch.empty_like(values) if out is None else out
    if values.numel():
        grid = (triton.cdiv(tokens, TOKENS), rows, triton.cdiv(channels, BLOCK))
        power = (degree, degree.bit_length(), is_divisor)
        _multiply[grid](values, z.contiguous(), out, tokens, channels, *power, TOKENS, BLOCK)
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
    rows, channels, tokens = _sizes(grad, z)
    grad_values = (grad if overwrite else torch.empty_like(grad)) if needs_values else None
    grad_z = torch.empty_like(z, memory_format=torch.contiguous_format)
    if not grad.numel():
        return grad_values, grad_z.zero_()
    # Stage one: each program sums some tokens of one row of the batch. Stage two: sums of sums, in a fixed order.
    blocks = triton.cdiv(channels, BLOCK)
    parts = max(1, min(triton.cdiv(tokens, TOKENS), MOST_PROGRAMS // (rows * blocks)))
    sums = torch.empty(rows, parts, channels, dtype=torch.float32, device=grad.device)
    power, z = (degree, degree.bit_length(), is_divisor), z.contiguous()
    into, share = grad if grad_values is None else grad_values, triton.cdiv(tokens, parts)
    _backward[(rows, parts, blocks)](
        grad, saved, z, into, sums, tokens, share, channels, needs_values, *power, TOKENS, BLOCK
    )
    _derivative[(rows, blocks)](sums, z, grad_z, parts, channels, *power, TOKENS, BLOCK)
    return grad_values, grad_z


def _rows(values: Tensor, z: Tensor) -> int | None:
    """How many vectors there are, each for an equal part of the tokens; None for other shapes."""
    channels = values.shape[-1] if values.dim() else 0
    if not z.numel() or z.dtype != torch.float32 or values.dtype == torch.float64 or z.shape[-1] != channels:
        return None
    rows = z.numel() // channels
    if rows == 1:
        return 1
    whole = z.dim() == values.dim() and z.shape[0] == rows == values.shape[0]
    return rows if whole else None


def _sizes(values: Tensor, z: Tensor) -> tuple[int, int, int]:
    """How many rows and channels there are, and how many tokens a row has."""
    channels = z.shape[-1]
    rows = z.numel() // channels
    return rows, channels, values.numel() // (rows * channels)


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

    @triton.jit(do_not_specialize=["tokens", "share"])
    def _backward(
        grad, saved, z, grad_values, sums, tokens, share, channels, NEEDS_VALUES: tl.constexpr,
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
        tl.store(sums + (row * tl.num_programs(1) + part) * channels + channel, total, mask=is_channel)

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
        if IS_DIVISOR:
            total = total / _divisor(own)
        elif DEGREE > 1:
            total = total * _gain(own, DEGREE - 1, BITS, False)
        tl.store(grad_z + row * channels + channel, total * DEGREE, mask=is_channel)

"""The passes over the activations as Triton kernels, for CUDA: float32 arithmetic on data of any dtype.

Each has the signature of its counterpart in `propulsion.kernels`. Activations are seen as (tokens, d) with one
gain for each channel, or one row of a bank of gains for each row of the batch. Triton comes with PyTorch's CUDA builds;
where it is missing, `AVAILABLE` is False and nothing here is called.
"""

from __future__ import annotations

from typing import Any

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
MOST_PROGRAMS = 1024  # of the first stage of the reduction, each with a row of sums of its own


def suits(values: Tensor, scale: Tensor) -> bool:
    """Whether the kernels take these: (tokens..., d) on CUDA, with gains of shape (d,) or (rows, 1, ..., d)."""
    return AVAILABLE and values.is_cuda and values.is_contiguous() and _rows(values, scale) is not None


def multiply(values: Tensor, scale: Tensor, out: Tensor | None = None, index: Tensor | None = None) -> Tensor:
    """values ⊙ scale, in float32, rounded once to the values' dtype.

    Args:
        values: Contiguous activations of shape (..., d).
        scale: Gains of shape (d,) or (rows, 1, ..., d); with `index` a bank of them, of shape (adapters, d).
        out: Where the result goes, if not to fresh memory; may be `values`.
        index: For each row of the batch, its row in the bank.
    """
    bank, index, tokens = _bank(values, scale, index)
    out = torch.empty_like(values) if out is None else out
    if values.numel():
        rows, channels = values.numel() // bank.shape[-1], bank.shape[-1]
        grid = (triton.cdiv(rows, TOKENS), triton.cdiv(channels, BLOCK))
        _multiply[grid](values, bank, index, out, rows, channels, tokens, TOKENS, BLOCK)
    return out


def multiply_backward(
    grad: Tensor,
    saved: Tensor,
    scale: Tensor,
    needs_values: bool = True,
    overwrite: bool = False,
    index: Tensor | None = None,
) -> tuple[Tensor | None, Tensor]:
    """s ⊙ grad and Σ grad ⊙ saved over the tokens, reading both once.

    Args:
        grad: ∂L/∂y, contiguous, of shape (..., d).
        saved: v or y, of the same shape.
        scale: As for `multiply`.
        needs_values: Whether the first is wanted.
        overwrite: Whether it may take the memory of `grad`.
        index: As for `multiply`.

    Returns:
        ∂L/∂v, and a sum for each gain, of its shape.
    """
    bank, index, tokens = _bank(grad, scale, index)
    rows, channels = index.numel() if grad.numel() else 0, bank.shape[-1]
    grad_values = (grad if overwrite else torch.empty_like(grad)) if needs_values else None
    # Stage one: each program sums some tokens of one row of the batch. Stage two: sums of sums, in a fixed order.
    parts = max(1, min(triton.cdiv(tokens, TOKENS), MOST_PROGRAMS // max(1, rows)))
    sums = torch.zeros(index.numel(), parts, channels, dtype=torch.float32, device=grad.device)
    if rows:
        grid = (rows, parts, triton.cdiv(channels, BLOCK))
        into = grad if grad_values is None else grad_values
        _backward[grid](
            grad,
            saved,
            bank,
            index,
            into,
            sums,
            channels,
            tokens,
            triton.cdiv(tokens, parts),
            needs_values,
            TOKENS,
            BLOCK,
        )
    totals = torch.zeros(bank.shape, dtype=torch.float32, device=grad.device)
    totals.index_add_(0, index.long(), sums.sum(1))
    return grad_values, totals.to(scale.dtype).view(scale.shape)


def _rows(values: Tensor, scale: Tensor) -> int | None:
    """How many rows of gains there are, each for an equal part of the tokens; None for other shapes."""
    channels = values.shape[-1] if values.dim() else 0
    if (
        not scale.numel()
        or scale.dtype != torch.float32
        or values.dtype == torch.float64
        or scale.shape[-1] != channels
    ):
        return None
    rows = scale.numel() // channels
    if rows == 1:
        return 1
    whole = scale.dim() == values.dim() and scale.shape[0] == rows == values.shape[0]
    return rows if whole else None


def _bank(values: Tensor, scale: Tensor, index: Tensor | None) -> tuple[Tensor, Tensor, int]:
    """The bank of gains, for each row of the batch its row there, and how many tokens a row has."""
    bank = scale.reshape(-1, scale.shape[-1]).contiguous()
    if index is None:
        index = torch.arange(len(bank), device=values.device)
    return bank, index, values.numel() // max(1, index.numel() * bank.shape[-1])


if AVAILABLE:

    @triton.jit  # type: ignore[untyped-decorator, unused-ignore]
    def _multiply(
        values: Any, bank: Any, index: Any, out: Any, rows: Any, channels: Any, tokens: Any,
        TOKENS: tl.constexpr, BLOCK: tl.constexpr,
    ) -> None:  # fmt: skip
        row = tl.program_id(0).to(tl.int64) * TOKENS + tl.arange(0, TOKENS)
        channel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        is_row, is_channel = row < rows, channel < channels
        is_inside = is_row[:, None] & is_channel[None, :]
        place = row[:, None] * channels + channel[None, :]
        adapter = tl.load(index + row // tokens, mask=is_row, other=0)
        gain = tl.load(bank + adapter[:, None] * channels + channel[None, :], mask=is_inside, other=0.0)
        value = tl.load(values + place, mask=is_inside, other=0.0).to(tl.float32)
        tl.store(out + place, (value * gain).to(out.dtype.element_ty), mask=is_inside)

    @triton.jit  # type: ignore[untyped-decorator, unused-ignore]
    def _backward(
        grad: Any, saved: Any, bank: Any, index: Any, grad_values: Any, sums: Any, channels: Any, tokens: Any, share: Any,
        NEEDS_VALUES: tl.constexpr, TOKENS: tl.constexpr, BLOCK: tl.constexpr,
    ) -> None:  # fmt: skip
        row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
        channel = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
        is_channel = channel < channels
        adapter = tl.load(index + row)
        gain = tl.load(bank + adapter * channels + channel, mask=is_channel, other=0.0)
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

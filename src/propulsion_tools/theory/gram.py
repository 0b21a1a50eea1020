"""Gram matrices of gradients that are kept as factors or as they are: exact, and block by block where they are wide."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from propulsion_tools.theory.gradients import Factors, Gradient

BLOCK = 1 << 25  # numbers of a block of gradients that are in memory at once


def gram(gradients: Sequence[Gradient], outputs: int) -> Tensor:
    """The inner products of the gradients of one parameter.

    Args:
        gradients: Its gradients at each of the n samples.
        outputs: C, how many outputs there are.

    Returns:
        Shape (n · C, n · C), float64, ordered by sample and then by output.
    """
    present = [index for index, gradient in enumerate(gradients) if gradient is not None]
    nonzero = [gradient for gradient in gradients if gradient is not None]
    rows = torch.tensor([index * outputs + output for index in present for output in range(outputs)], dtype=torch.long)
    result = torch.zeros(len(gradients) * outputs, len(gradients) * outputs, dtype=torch.float64)
    if nonzero:
        result[rows[:, None], rows] = _products(nonzero)
    return result


def _products(gradients: Sequence[Factors | Tensor]) -> Tensor:
    factors = [gradient for gradient in gradients if isinstance(gradient, Factors)]
    if not factors:
        return _sum_of_products(_direct_blocks([gradient for gradient in gradients if isinstance(gradient, Tensor)]))
    if not any(len(factor.ids) for factor in factors) and _cost_of_tokens(factors) < _cost_of_blocks(factors):
        return _by_tokens(factors)
    return _sum_of_products(_weight_blocks(factors))


def _sum_of_products(blocks: Iterator[Tensor]) -> Tensor:
    """Σ B Bᵀ over blocks of columns, each of shape (n · C, width)."""
    return sum((block @ block.T).cpu().double() for block in blocks)


def _direct_blocks(gradients: Sequence[Tensor]) -> Iterator[Tensor]:
    """Columns of the stacked gradients, each (C, numel)."""
    size = gradients[0].shape[1]
    width = max(1, BLOCK // (len(gradients) * len(gradients[0])))
    for start in range(0, size, width):
        yield torch.cat([gradient[:, start : start + width] for gradient in gradients])


def _weight_blocks(factors: Sequence[Factors]) -> Iterator[Tensor]:
    """The gradients of the weight, some of its rows at a time; rows that are zero at all samples are left out."""
    outputs, _, d_out = factors[0].grads.shape
    d_in = factors[0].inputs.shape[1]
    ids = [factor.ids for factor in factors]
    used = torch.cat(ids).unique()
    if any(len(factor.inputs) for factor in factors):
        used = torch.arange(d_out, device=used.device)
    positions = [torch.searchsorted(used, looked_up) for looked_up in ids]
    width = max(1, BLOCK // (len(factors) * outputs * d_in))
    for start in range(0, len(used), width):
        stop = min(start + width, len(used))
        block = factors[0].grads.new_empty(len(factors), outputs, stop - start, d_in)
        for part, factor, position in zip(block, factors, positions, strict=True):
            torch.matmul(factor.grads[:, :, start:stop].transpose(1, 2), factor.inputs, out=part)
            inside = (position >= start) & (position < stop)
            part.index_add_(1, position[inside] - start, factor.slopes[:, inside])
        yield block.view(len(factors) * outputs, -1)


def _by_tokens(factors: Sequence[Factors]) -> Tensor:
    """Σ_tt' (a_t · a_t') (g_t · g_t'), which never forms a matrix as large as the weight."""
    outputs, _, d_out = factors[0].grads.shape
    count = len(factors)
    inputs = torch.cat([factor.inputs for factor in factors])
    grads = torch.cat([factor.grads for factor in factors], dim=1)
    lengths = torch.tensor([len(factor.inputs) for factor in factors])
    owner = torch.arange(count).repeat_interleave(lengths).to(inputs.device)
    result = inputs.new_zeros(count, outputs, outputs, count)
    for part, factor in zip(result, factors, strict=True):
        closeness = factor.inputs @ inputs.T
        slopes = (factor.grads.reshape(-1, d_out) @ grads.reshape(-1, d_out).T).view(outputs, -1, outputs, len(inputs))
        part.index_add_(2, owner, (slopes * closeness[None, :, None]).sum(1))
    return result.permute(0, 1, 3, 2).reshape(count * outputs, -1).cpu().double()


def _cost_of_tokens(factors: Sequence[Factors]) -> int:
    """Multiplications of `_by_tokens`."""
    outputs, _, d_out = factors[0].grads.shape
    tokens = sum(len(factor.inputs) for factor in factors)
    return tokens**2 * (factors[0].inputs.shape[-1] + outputs**2 * d_out)


def _cost_of_blocks(factors: Sequence[Factors]) -> int:
    """Multiplications of `_weight_blocks` and of their products."""
    outputs, _, d_out = factors[0].grads.shape
    tokens = sum(len(factor.inputs) for factor in factors)
    return (outputs * tokens + (len(factors) * outputs) ** 2) * factors[0].inputs.shape[-1] * d_out

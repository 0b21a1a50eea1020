"""The two passes over the activations that steering costs: s ⊙ v forward, and dv with Σ dy ⊙ y backward.

Both work in chunks that stay in the processor's cache, so that a bfloat16 activation is never copied to float32 whole.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

CHUNK_ELEMENTS = 1 << 17


def multiply(values: Tensor, scale: Tensor, out: Tensor | None = None) -> Tensor:
    """values ⊙ scale in the wider of both dtypes, rounded once to the values' dtype.

    Args:
        values: Activations of any shape.
        scale: Gains in float32 or wider, of a shape that broadcasts with the activations.
        out: Where the result goes, if not to fresh memory; may be `values` itself.
    """
    if values.dtype == torch.promote_types(values.dtype, scale.dtype):
        return torch.mul(values, scale, out=out)
    shape = torch.broadcast_shapes(values.shape, scale.shape)
    if out is None:
        out = values.new_empty(shape)
    for scale_rows, value_rows, out_rows in _chunks(scale, values.expand(shape), out):
        torch.mul(value_rows, scale_rows, out=out_rows)
    return out


def multiply_backward(
    grad: Tensor, kept: Tensor | None, scale: Tensor, needs_values: bool = True
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients of `multiply` with respect to the values and the gains.

    Args:
        grad: ∂L/∂y, of y's shape.
        kept: What ∂L/∂y is multiplied with for the gains' gradient, v or y; None if that gradient is not wanted.
        scale: s.
        needs_values: Whether ∂L/∂v is wanted.

    Returns:
        ∂L/∂v = s ⊙ ∂L/∂y, and Σ ∂L/∂y ⊙ kept over all that `scale` was broadcast over, in the gains' dtype.
    """
    if torch.is_grad_enabled():
        return _differentiable_backward(grad, kept, scale, needs_values)
    grad_values = multiply(grad, scale) if needs_values else None
    if kept is None:
        return grad_values, None
    if grad.dtype == scale.dtype:
        return grad_values, (grad * kept).sum_to_size(scale.shape)
    return grad_values, _product_sum(grad, kept, scale)


def _differentiable_backward(
    grad: Tensor, kept: Tensor | None, scale: Tensor, needs_values: bool
) -> tuple[Tensor | None, Tensor | None]:
    grad_values = (grad * scale).to(grad.dtype) if needs_values else None
    if kept is None:
        return grad_values, None
    return grad_values, (grad.to(scale.dtype) * kept).sum_to_size(scale.shape)


def _product_sum(grad: Tensor, kept: Tensor, scale: Tensor) -> Tensor:
    total = torch.zeros_like(scale)
    for total_rows, grad_rows, kept_rows in _chunks(total, grad, kept.expand_as(grad)):
        total_rows += (grad_rows.to(scale.dtype) * kept_rows).sum_to_size(total_rows.shape)
    return total


def _chunks(scale: Tensor, *activations: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Matching pieces of the gains and of activations of one shape, small enough for the cache."""
    if scale.dim() == 1 and all(tensor.is_contiguous() for tensor in activations):
        activations = tuple(tensor.view(-1, tensor.shape[-1]) for tensor in activations)
    length = activations[0].shape[0]
    step = max(1, CHUNK_ELEMENTS * length // max(1, activations[0].numel()))
    has_rows = scale.dim() == activations[0].dim() and scale.shape[0] > 1
    for start in range(0, length, step):
        rows = slice(start, start + step)
        yield (scale[rows] if has_rows else scale, *(tensor[rows] for tensor in activations))

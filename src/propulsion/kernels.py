"""The passes over the activations that steering costs: s ⊙ v forward, s ⊙ dy and Σ dy ⊙ y backward.

On the CPU they borrow the normalisations, in one call each and with all threads. Batch normalisation with mean 0 and
variance 1 gives s ⊙ v, and the gradient of its weight is Σ dy ⊙ v; it computes in float32 on bfloat16 data without a
copy of it. The gradient of layer normalisation's weight is the same sum, in less time, but in the data's own precision.
On CUDA they are Triton kernels where Triton is installed.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from propulsion import triton_kernels
from propulsion.upstream.torch_private import (
    batch_norm,
    batch_norm_backward,
    has_storage,
    is_transformed,
    layer_norm_backward,
    without_modes,
)

FEW = 1 << 14  # activations for which one more operation costs more than their copies


class _Piece(NamedTuple):
    """Gains of shape (channels,), and contiguous activations of shape (..., channels, ...) that they belong to."""

    gains: Tensor
    after: int  # activations that follow one another in each channel
    activations: tuple[Tensor, ...]


def multiply(values: Tensor, scale: Tensor, out: Tensor | None = None) -> Tensor:
    """values ⊙ scale in the wider of both dtypes, rounded once to the values' dtype.

    Args:
        values: Activations of any shape.
        scale: Gains in float32 or wider, of a shape that broadcasts with the activations.
        out: Where the result goes, if not to fresh memory: contiguous, and maybe `values` itself.
    """
    if triton_kernels.suits(values, scale):
        return triton_kernels.multiply(values, scale, out)
    if values.dtype == scale.dtype or values.dtype == torch.promote_types(values.dtype, scale.dtype):
        return torch.mul(values, scale, out=out)
    if out is None:
        is_one_vector = scale.dim() == 1  # which broadcasts to nothing but the values' shape
        shape = values.shape if is_one_vector else torch.broadcast_shapes(values.shape, scale.shape)
        out = values.new_empty(shape)
    # The gains are of a wider type, so that torch.mul would first make a copy of the activations in it.
    pieces = _by_channel(scale, values, out) if _pays(values, scale) else None
    if pieces is None:
        return torch.mul(values, scale, out=out)
    for gains, after, (value, result) in pieces:
        channels = len(gains)
        zeros, ones, minus_zeros, unused = _constants(channels, gains.dtype)
        image = _image(value, channels, after)
        into = image if result is value else _image(result, channels, after)
        # The bias is -0 because -0 · 1 + 0 would lose the sign of a zero.
        batch_norm(image, gains, minus_zeros, zeros, ones, False, 0.0, 0.0, out=(into, unused, unused))
    return out


def multiply_backward(
    grad: Tensor, saved: Tensor | None, scale: Tensor, needs_values: bool = True, overwrite: bool = False
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients of `multiply` with respect to the values and the gains.

    Args:
        grad: ∂L/∂y, of y's shape.
        saved: What ∂L/∂y is multiplied with for the gains' gradient, v or y; None if that gradient is not wanted.
        scale: s.
        needs_values: Whether ∂L/∂v is wanted.
        overwrite: Whether ∂L/∂v may take the memory of `grad`, which has to be contiguous then.

    Returns:
        ∂L/∂v = s ⊙ ∂L/∂y, and Σ ∂L/∂y ⊙ saved over all that `scale` was broadcast over, in the gains' dtype.
    """
    if not is_plain(grad):
        grad_values = (grad * scale).to(grad.dtype) if needs_values else None
        return grad_values, None if saved is None else _product_sum_reference(grad, saved, scale)
    grad = grad.contiguous()
    if saved is not None and saved.shape == grad.shape and triton_kernels.suits(grad, scale):
        return triton_kernels.multiply_backward(grad, saved.contiguous(), scale, needs_values, overwrite)
    # The sum before the product, which may overwrite what the sum reads.
    grad_scale = None if saved is None else _product_sum(grad, saved, scale)
    return multiply(grad, scale, out=grad if overwrite else None) if needs_values else None, grad_scale


def is_plain(grad: Tensor) -> bool:
    """Whether a gradient is numbers in memory, of which no second derivative and not many at once are wanted."""
    return not torch.is_grad_enabled() and not is_transformed() and has_storage(grad)


def _product_sum(grad: Tensor, saved: Tensor, scale: Tensor) -> Tensor:
    """Σ grad ⊙ saved over all that `scale` was broadcast over."""
    pieces = _by_channel(scale, grad, saved.contiguous()) if _pays(grad, scale) else None
    if pieces is None:
        return _product_sum_reference(grad, saved, scale)
    sums = [_product_sum_of(*piece) for piece in pieces]
    return (sums[0] if len(sums) == 1 else torch.stack(sums)).view_as(scale)


def _product_sum_of(gains: Tensor, after: int, activations: tuple[Tensor, ...]) -> Tensor:
    grad, saved = activations
    channels, wanted = len(gains), [False, True, False]
    # Not for 16-bit data, whose sums over thousands of tokens this one would keep in 16 bits.
    if after == 1 and grad.dtype == gains.dtype and grad.shape[-1] == channels:
        zeros, ones, *_ = _constants(grad.numel() // channels, gains.dtype)
        return layer_norm_backward(grad, saved, [channels], zeros, ones, gains, None, wanted)[1]
    zeros, ones, *_ = _constants(channels, gains.dtype)
    images = _image(grad, channels, after), _image(saved, channels, after)
    return batch_norm_backward(*images, gains, zeros, ones, None, None, False, 0.0, wanted)[1]


def _product_sum_reference(grad: Tensor, saved: Tensor, scale: Tensor) -> Tensor:
    product = grad.to(scale.dtype) * saved
    return product if product.shape == scale.shape else product.sum_to_size(scale.shape)


def _pays(activations: Tensor, scale: Tensor) -> bool:
    """Whether each of the pieces has more than few activations."""
    by_row = scale.dim() > 1 and scale.shape[-1] > 1
    return activations.numel() >= FEW * (len(scale) if by_row else 1)


def _by_channel(scale: Tensor, *activations: Tensor) -> list[_Piece] | None:
    """Matching pieces of the gains and of activations.

    Returns:
        One piece for gains like (d,), (d, 1), or (rows, d, 1); one for each row for (rows, 1, d); None for all else.
    """
    shape, ndim, channels = activations[0].shape, scale.dim(), scale.numel()
    if scale.dtype != torch.promote_types(activations[0].dtype, torch.float32):
        return None
    for tensor in activations:
        if not _suits(tensor, shape):
            return None
    if channels in (1, activations[0].numel()):
        return None
    if channels == scale.shape[-1] == shape[-1] and ndim <= len(shape):  # one vector: what follows, said quickly
        return [_Piece(scale if ndim == 1 else scale.reshape(channels), 1, activations)]
    wide = [axis - ndim for axis in range(ndim) if scale.shape[axis] > 1]
    first, last = len(shape) + wide[0], len(shape) + wide[-1] + 1
    if shape[first:last] == scale.shape[wide[0] : ndim + wide[-1] + 1]:
        return [_Piece(scale.reshape(-1), shape[last:].numel(), activations)]
    if wide == [-len(shape), -1]:
        rows = [_by_channel(*row) for row in zip(scale, *activations, strict=True)]
        return [piece for pieces in rows if pieces is not None for piece in pieces]
    return None


def _suits(tensor: Tensor, shape: torch.Size) -> bool:
    # Tensors of other types hold no numbers of their own: those of a FakeTensorMode, for one.
    return type(tensor) is Tensor and tensor.is_cpu and tensor.is_contiguous() and tensor.shape == shape


# The statistics of normalisations that change nothing. They outlive the call that makes them, and so must not become
# inference or fake tensors because that call is under such a mode.
@lru_cache(maxsize=64)
def _constants(size: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Zeros, ones and negative zeros of shape (size,), and an empty tensor for statistics that nobody asks for."""
    with torch.inference_mode(False), without_modes():
        zeros = torch.zeros(size, dtype=dtype, device="cpu")
        return zeros, torch.ones_like(zeros), -zeros, zeros.new_empty(0)


def _image(tensor: Tensor, channels: int, after: int) -> Tensor:
    """A view of shape (n, channels, after, 1), or (1, channels, n, 1) if nothing comes after: channels last."""
    before = tensor.numel() // (channels * after)
    if after == 1:
        return tensor.as_strided((1, channels, before, 1), (before * channels, 1, channels, channels))
    return tensor.view(before, channels, after, 1)

"""Launches a kernel of Triton's without Triton's Python around it, once it has been compiled.

`kernel[grid](...)` binds and specializes its arguments, checks its globals and looks all of that up every time, while a
GPU waits that a small batch does not keep busy. It returns what it has compiled, and that can be launched itself, by
the same `[grid](...)`, launch hooks included: with addresses for tensors, so that the driver is not asked whose they
are.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

ALIGNMENT = 16  # bytes: Triton compiles a kernel of its own for pointers that are no multiple of it
MOST_INT32 = 2**31 - 1  # and one for larger numbers


class Launcher:
    """A kernel whose arguments are tensors, counts that it is not specialized for, channels, and constants, in order.

    Triton compiles for each kind of call: devices, dtypes, channels and constants, so once for each size of a layer and
    each degree; what is kept here it keeps as well. Its settings (`knobs`) are those of the first call of a kind.
    """

    def __init__(self, kernel: Any) -> None:
        """Wrap a kernel.

        Args:
            kernel: As `triton.jit` made it. The counts must be named in its `do_not_specialize`.
        """
        self.kernel = kernel
        self._compiled: dict[tuple[Any, ...], tuple[Any, tuple[Any, ...]]] = {}

    def __call__(
        self,
        grid: tuple[int, int, int],
        tensors: tuple[Tensor, ...],
        counts: tuple[int, ...],
        channels: int,
        constants: tuple[int, ...],
    ) -> None:
        """Run the kernel on the tensors' device and its current stream.

        Args:
            grid: How many programs there are, along three axes.
            tensors: On one device.
            counts: The other numbers.
            channels: d, for which the kernel is specialized.
            constants: Those that are compiled in.
        """
        device = tensors[0].get_device()
        if device >= 0 and device != torch.cuda.current_device():  # Triton launches on the current one
            with torch.cuda.device(device):
                return self(grid, tensors, counts, channels, constants)
        kind = (channels, constants, *[(tensor.dtype, tensor.get_device()) for tensor in tensors])
        places = [tensor.data_ptr() for tensor in tensors]
        is_usual = _is_usual(places, counts)
        if is_usual and kind in self._compiled:
            compiled, constants = self._compiled[kind]
            compiled[grid](*places, *counts, channels, *constants)
            return None
        compiled = self.kernel[grid](*tensors, *counts, channels, *constants)
        if is_usual and _is_launched_alike(compiled):
            # Triton 3.2 does not take the constants again.
            taken = len(compiled.src.signature) - len(tensors) - len(counts) - 1
            self._compiled[kind] = compiled, constants[:taken]
        return None


def _is_usual(places: list[int], counts: tuple[int, ...]) -> bool:
    """Whether nothing but the kind decides what is compiled for pointers and counts."""
    bits = 0
    for place in places:
        bits |= place
    return bits % ALIGNMENT == 0 and max(counts) <= MOST_INT32


def _is_launched_alike(compiled: Any) -> bool:
    """Whether what a call returned can be launched: Triton's interpreter and its hooks return None.

    For AMD's GPUs Triton asks for the size of each tensor as well.
    """
    return torch.version.hip is None and hasattr(type(compiled), "__getitem__")

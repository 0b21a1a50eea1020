"""Whether a gradient that autograd hands to a backward may be overwritten, which saves the memory of another.

Autograd itself adds into a gradient in place where nobody else refers to the tensor or to its storage. The same rule
holds here, with two additions: the gradient may be a view of a tensor that only it keeps alive, as those that come
through a reshape are, and references of Python's count as well, for they are invisible to PyTorch's own counts.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from propulsion.upstream.torch_private import reference_counts


def is_unshared(grad_outputs: tuple[Tensor, ...]) -> bool:
    """Whether nobody but the running backward can see the first of its gradients.

    Args:
        grad_outputs: All that the backward was given, as one tuple.
    """
    counts = reference_counts(grad_outputs)
    return counts is not None and counts in unshared_references()


@cache
def unshared_references() -> frozenset[tuple[int, ...]]:
    """The counts of gradients that are known to be unshared; they differ between versions of Python and PyTorch.

    Empty, so that nothing is ever overwritten, if a shared gradient has the same counts.
    """
    # The first call is inside of some backward, whose modes must not decide what is learnt here once and for all.
    with torch.inference_mode(False), torch.enable_grad():
        # Each way in which a gradient reaches a backward, beside the sum, whose gradient both of its sides receive.
        alone = {_observe(lambda y, other: 2 * y), _observe(lambda y, other: 2 * y.view(2, 2))}
        shared = {_observe(lambda y, other: y + other), _observe(lambda y, other: y.view(2, 2) + other.view(2, 2))}
    # A build that does not tell the two apart must not overwrite anything: better slow than wrong.
    known = {counts for counts in alone - shared if counts is not None}
    return frozenset(known if len(known) == len(alone) else ())


def _observe(use: Callable[[Tensor, Tensor], Tensor]) -> tuple[int, ...] | None:
    """The counts of the gradient of y, in a backward in which `other` gets its gradient after y."""
    seen: list[tuple[int, ...] | None] = []

    class Observed(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
            seen.append(reference_counts(grad_outputs))
            return grad_outputs[0]

    x = torch.ones(4, device="cpu", requires_grad=True)
    # Older than y: autograd runs the youngest first, so that `other` still waits for its gradient when y's is seen.
    other = x.clone()
    y = Observed.apply(x)
    (2 * use(y, other)).sum().backward()
    return seen[0]

"""Private names of torch that the tools need."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves


def leaves(tree: Any) -> list[Any]:
    """All that lies in nested tuples, lists, dictionaries and outputs of models, as torch.func sees them.

    There is no public name for it in the versions that we support.
    """
    return tree_leaves(tree)


def times_changed(tensor: Tensor) -> int:
    """How often a tensor was changed in place: the count by which autograd refuses a backward, and keeps to itself."""
    return tensor._version

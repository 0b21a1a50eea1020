"""One of several processes, as torchrun and `accelerate launch` start them."""

from __future__ import annotations

import os

import torch.distributed


def is_first() -> bool:
    """Whether this process speaks for all; known before they have found each other, and true where there is one."""
    return os.environ.get("RANK", "0") == "0"


def is_alone() -> bool:
    """Whether this is the only process of its run."""
    return os.environ.get("WORLD_SIZE", "1") == "1"


def leave_process_group() -> None:
    """Part from the others: a process that ends without it is now and then aborted by its connections' threads."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()

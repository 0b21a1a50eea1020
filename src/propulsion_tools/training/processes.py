"""One of several processes, as torchrun and `accelerate launch` start them."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from accelerate import PartialState

T = TypeVar("T")


def is_first() -> bool:
    """Whether this process speaks for all; known before they have found each other, and true where there is one."""
    return os.environ.get("RANK", "0") == "0"


def number_of_processes() -> int:
    """How many there are; known before they have found each other."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def have_met() -> bool:
    """Whether there are others, and this process can talk to them."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def meet(use_cpu: bool) -> torch.device:
    """Find the others, where there are some.

    Args:
        use_cpu: Stay on the CPU.

    Returns:
        The device of this process.
    """
    device: torch.device = PartialState(cpu=use_cpu).device
    return device


def leave_process_group() -> None:
    """Part from the others: a process that ends without it is now and then aborted by its connections' threads."""
    if have_met():
        torch.distributed.destroy_process_group()


def len_of_round() -> int:
    """How many processes take turns."""
    return torch.distributed.get_world_size() if have_met() else 1


def place_in_round() -> int:
    """Which turn this process takes, from 0."""
    return torch.distributed.get_rank() if have_met() else 0


def sum_over_processes(value: float, device: torch.device) -> float:
    """The sum over all processes of a run."""
    if not have_met():
        return value
    total = torch.tensor(value, device=device)
    torch.distributed.all_reduce(total)
    return total.item()


def mean_over_processes(value: float, device: torch.device) -> float:
    """The mean over all processes of a run, so that all of them see the same."""
    return sum_over_processes(value, device) / len_of_round()


def holds_for_all(fact: bool, device: torch.device) -> bool:
    """Whether something holds in every process, so that all of them decide the same."""
    return mean_over_processes(float(fact), device) == 1.0


def from_first(make: Callable[[], T]) -> T:
    """What the first process makes, or raises, in all of them."""
    if not have_met():
        return make()
    made: list[Any] = [None, None]
    if is_first():
        try:
            made[0] = make()
        except Exception as error:
            made[1] = error
    torch.distributed.broadcast_object_list(made)
    if made[1] is not None:
        raise made[1]
    result: T = made[0]
    return result


def gathered(part: T) -> list[T]:
    """The parts of all processes, in their order; in the first, and an empty list in the others."""
    if not have_met():
        return [part]
    parts: list[Any] = [None] * torch.distributed.get_world_size() if is_first() else []
    torch.distributed.gather_object(part, parts if is_first() else None)
    return parts

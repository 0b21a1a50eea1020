"""The registry of methods: one file each, found by name, duplicates refused."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Protocol

from torch import nn
from transformers import PreTrainedModel

from propulsion.errors import ConfigError, UnknownNameError, near_misses
from propulsion.records import RunSpec


class HasTaskType(Protocol):
    """What a method needs to know of a task."""

    @property
    def peft_task_type(self) -> str:
        """A name of `peft.TaskType`, for example SEQ_CLS."""


@dataclass(frozen=True)
class Method:
    """One way to fine-tune a model.

    Args:
        name: What the command line calls it.
        description: One line for `propulsion methods`.
        build: Wraps the base model, or changes it in place, so that exactly what the method trains requires grad.
        learning_rate: The step size that suits the method when none is given.
        head_learning_rate: That of a new head beside it; None: the same.
    """

    name: str
    description: str
    build: Callable[[PreTrainedModel, RunSpec, HasTaskType], nn.Module]
    learning_rate: Callable[[RunSpec], float]
    head_learning_rate: float | None = None


_METHODS: dict[str, Method] = {}


def register(method: Method) -> Method:
    """Add a method.

    Raises:
        ConfigError: The name is taken.
    """
    if method.name in _METHODS:
        raise ConfigError(f"There is already a method named {method.name!r}.")
    _METHODS[method.name] = method
    return method


@cache
def _load_all() -> None:
    package = importlib.import_module("propulsion.methods")
    for module in pkgutil.iter_modules(package.__path__, "propulsion.methods."):
        importlib.import_module(module.name)


def method_names() -> tuple[str, ...]:
    """The names of all methods, sorted."""
    _load_all()
    return tuple(sorted(_METHODS))


def get_method(name: str) -> Method:
    """The method of this name.

    Raises:
        UnknownNameError: There is none; names the near misses.
    """
    _load_all()
    if name not in _METHODS:
        hint = near_misses(name, _METHODS) or f" There are {', '.join(method_names())}."
        raise UnknownNameError(f"There is no method named {name!r}.{hint}")
    return _METHODS[name]

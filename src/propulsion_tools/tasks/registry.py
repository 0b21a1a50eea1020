"""Tasks by name."""

from __future__ import annotations

from propulsion_tools.errors import OptionError, UnknownNameError, near_misses
from propulsion_tools.tasks.base import Task

_TASKS: dict[str, Task] = {}


def register(task: Task) -> Task:
    """Make a task known by its name.

    Raises:
        OptionError: There is a task of this name already.
    """
    if task.name in _TASKS:
        raise OptionError(f"There is already a task {task.name!r} ({_TASKS[task.name].description}).")
    _TASKS[task.name] = task
    return task


def get_task(name: str) -> Task:
    """The task of this name.

    Raises:
        UnknownNameError: There is none; names the near misses.
    """
    if name not in _TASKS:
        hint = near_misses(name, _TASKS) or f" There are {', '.join(task_names())}."
        raise UnknownNameError(f"There is no task {name!r}.{hint}")
    return _TASKS[name]


def task_names() -> list[str]:
    """The names of all tasks, in the order of their registration."""
    return list(_TASKS)

"""Tasks by name: the modules of names.py define them, and are imported when the first task is asked for."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

from propulsion_tools.errors import OptionError
from propulsion_tools.tasks.names import TASK_MODULES, check_task_name

if TYPE_CHECKING:
    from propulsion_tools.tasks.base import Task


def register(task: Task) -> Task:
    """Make a task known by its name.

    Raises:
        OptionError: There is a task of this name already.
    """
    if (known := _tasks().get(task.name)) is not None:
        raise OptionError(f"There is already a task {task.name!r} ({known.description}).")
    _tasks()[task.name] = task
    return task


def get_task(name: str) -> Task:
    """The task of this name.

    Raises:
        UnknownNameError: There is none; names the near misses.
    """
    check_task_name(name, _tasks())
    return _tasks()[name]


def task_names() -> list[str]:
    """The names of all tasks, in the order of names.py."""
    return list(_tasks())


@cache
def _tasks() -> dict[str, Task]:
    """Every task by its name, and those that were registered since."""
    known: dict[str, Task] = {}
    for module in dict.fromkeys(TASK_MODULES.values()):
        defined = import_module(f"propulsion_tools.tasks.{module}").TASKS
        listed = [name for name, home in TASK_MODULES.items() if home == module]
        if (names := [task.name for task in defined]) != listed:
            odd = ", ".join(sorted({*names} ^ {*listed})) or "another order, or a name twice"
            raise LookupError(f"tasks/names.py and the TASKS of tasks/{module}.py differ: {odd}.")
        known |= dict(zip(names, defined, strict=True))
    return known

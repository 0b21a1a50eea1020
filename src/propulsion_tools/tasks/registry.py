"""Tasks by name: the modules of names.py define them, and are imported when the first task is asked for."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

from propulsion_tools.errors import OptionError
from propulsion_tools.tasks.names import TASK_MODULES, check_task_name

if TYPE_CHECKING:
    from propulsion_tools.tasks.base import Task

_TASKS: dict[str, Task] = {}


def register(task: Task) -> Task:
    """Make a task known by its name.

    Raises:
        OptionError: There is a task of this name already.
    """
    _load_all()
    return _add(task)


def get_task(name: str) -> Task:
    """The task of this name.

    Raises:
        UnknownNameError: There is none; names the near misses.
    """
    _load_all()
    check_task_name(name, _TASKS)
    return _TASKS[name]


def task_names() -> list[str]:
    """The names of all tasks, in the order of names.py."""
    _load_all()
    return list(_TASKS)


def _add(task: Task) -> Task:
    if task.name in _TASKS:
        raise OptionError(f"There is already a task {task.name!r} ({_TASKS[task.name].description}).")
    _TASKS[task.name] = task
    return task


@cache
def _load_all() -> None:
    for module in dict.fromkeys(TASK_MODULES.values()):
        tasks = {task.name: task for task in import_module(f"propulsion_tools.tasks.{module}").TASKS}
        listed = [name for name, home in TASK_MODULES.items() if home == module]
        if list(tasks) != listed:
            odd = ", ".join(sorted({*tasks} ^ {*listed})) or "the same in another order"
            raise LookupError(f"tasks/names.py and the TASKS of tasks/{module}.py differ: {odd}.")
        for task in tasks.values():
            _add(task)

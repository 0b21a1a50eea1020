"""The table of tasks says what the modules define, and no more."""

from __future__ import annotations

import pkgutil
from importlib import import_module

import pytest

from propulsion_tools import tasks
from propulsion_tools.errors import UnknownNameError
from propulsion_tools.tasks import get_task, names, registry, task_names


def test_the_table_lists_what_the_modules_define() -> None:
    defined = {
        task.name: module.name.rpartition(".")[2]
        for module in pkgutil.iter_modules(tasks.__path__, "propulsion_tools.tasks.")
        for task in getattr(import_module(module.name), "TASKS", ())
    }
    assert defined == names.TASK_MODULES
    assert task_names() == list(names.TASK_MODULES)


@pytest.mark.parametrize(("name", "module"), [("sst3", "classification_datasets"), ("sst2", "arithmetic")])
def test_a_name_that_its_module_does_not_define_is_refused(
    name: str, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(names.TASK_MODULES, name, module)
    with pytest.raises(LookupError, match=rf"TASKS of tasks/\w+\.py differ: {name}"):
        registry._tasks.__wrapped__()


def test_a_name_is_checked_as_the_registry_does() -> None:
    names.check_task_name("sst2")
    with pytest.raises(UnknownNameError) as light:
        names.check_task_name("sst-2")
    with pytest.raises(UnknownNameError) as registered:
        get_task("sst-2")
    assert str(light.value) == str(registered.value)

"""The table of methods says what the modules register, and no more."""

from __future__ import annotations

import pkgutil
from importlib import import_module

import pytest

from propulsion_tools import methods
from propulsion_tools.errors import UnknownNameError
from propulsion_tools.methods import get_method, method_names, names, registry


def test_the_table_lists_what_the_modules_register() -> None:
    for module in pkgutil.iter_modules(methods.__path__, "propulsion_tools.methods."):
        import_module(module.name)
    assert method_names() == tuple(sorted(names.METHOD_MODULES))


def test_a_name_that_no_module_registers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(names.METHOD_MODULES, "lora-r3", "lora")
    with pytest.raises(LookupError, match="lora-r3"):
        registry._load_all.__wrapped__()


def test_a_name_is_checked_as_the_registry_does() -> None:
    names.check_method_name("lora")
    with pytest.raises(UnknownNameError) as light:
        names.check_method_name("lorra")
    with pytest.raises(UnknownNameError) as registered:
        get_method("lorra")
    assert str(light.value) == str(registered.value)

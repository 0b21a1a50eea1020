"""What the packages import is what pyproject declares."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OURS = {"propulsion", "propulsion_tools"}
BROUGHT = {
    "integrations/axolotl.py": {"axolotl", "pydantic"},
    "integrations/ms_swift.py": {"swift"},
    "integrations/llama_factory.py": {"llamafactory"},
}
"""Plug-in → what the program that imports it brings."""


def imported(source: str) -> Iterator[str]:
    """Names of packages that a module imports, or asks for by `require`."""
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [item.name for item in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "require":
            names = [item.value for item in node.args[:1] if isinstance(item, ast.Constant)]
        yield from (name.partition(".")[0] for name in names)


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def declared(*extras: str) -> set[str]:
    """Distributions that pyproject asks for, with these extras."""
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lists = [project["dependencies"], *(project["optional-dependencies"][extra] for extra in extras)]
    return {normal(re.match(r"[\w.-]+", entry)[0]) for entries in lists for entry in entries}  # type: ignore[index]


def undeclared(package: str, allowed: set[str]) -> dict[str, str]:
    """Imported package → a module that imports it, where no declared distribution brings it."""
    distributions = importlib.metadata.packages_distributions()
    where = {
        name: file.name
        for file in sorted((ROOT / "src" / package).rglob("*.py"))
        for name in imported(file.read_text(encoding="utf-8"))
        if name not in OURS and name not in sys.stdlib_module_names
        if name not in BROUGHT.get(file.relative_to(ROOT / "src" / package).as_posix(), ())
    }
    return {
        name: file
        for name, file in where.items()
        if not {normal(item) for item in distributions.get(name, [name])} & allowed
    }


def test_the_method_imports_what_it_declares() -> None:
    assert undeclared("propulsion", declared("kernels")) == {}


def test_every_plug_in_imports_its_program_alone() -> None:
    for file, brought in BROUGHT.items():
        assert brought <= set(imported((ROOT / "src" / "propulsion" / file).read_text(encoding="utf-8"))), file


def test_the_tools_import_what_their_extras_declare() -> None:
    assert undeclared("propulsion_tools", declared("train", "report", "distributed", "quantization", "serve")) == {}


def test_a_package_that_is_not_declared_is_named() -> None:
    assert undeclared("propulsion_tools", declared()).keys() >= {"numpy", "psutil", "PIL", "yaml", "tokenizers"}

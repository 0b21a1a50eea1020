"""What the authors of the installed packages wrote, read from source files with `ast`: no package is imported."""

from __future__ import annotations

import ast
import gc
import importlib.util
import inspect
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = {
    "networkx": "networkx",
    "numpy": "numpy",
    "pandas": "pandas",
    "scipy": "scipy",
    "sklearn": "scikit-learn",
    "sympy": "sympy",
    "torch": "torch",
    "transformers": "transformers",
}
"""Import name → distribution name."""

_RULE = re.compile(r"([=*~#^_+`-])\1{3,}")
_TESTS = {"tests", "test", "testing", "_testing", "conftest.py"}
_FUNCTION = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Documented:
    """A module, class or function that has a docstring.

    Args:
        name: What it is called; empty for a module.
        signature: Its parameters as they are written; of a class, those of its ``__init__``.
        docstring: Its docstring without indentation.
    """

    name: str
    signature: str
    docstring: str


def documented_in(source: bytes) -> Iterator[Documented]:
    """A module and every class and function in it that has a docstring; none if it cannot be parsed."""
    if b'"""' not in source and b"'''" not in source:
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in other people's strings
            todo: list[ast.AST] = [ast.parse(source)]
    except (SyntaxError, ValueError, RecursionError):
        return
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Module | ast.ClassDef | _FUNCTION):
            docstring = ast.get_docstring(node, clean=False)
            if docstring:
                yield Documented(getattr(node, "name", ""), _signature(node), inspect.cleandoc(docstring))
        todo.extend(child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt | ast.excepthandler))


def one_line(text: str) -> str:
    """The text with single spaces for any white space, and without the rules under headings."""
    return " ".join(_RULE.sub(" ", text).split())


def first_paragraph(docstring: str) -> tuple[str, str]:
    """The first paragraph and the rest."""
    first, _, rest = re.sub(r"\n[ \t]+\n", "\n\n", docstring).partition("\n\n")
    return first, rest


def key_of(text: str) -> str:
    """What two texts have in common that differ only in case, digits and punctuation."""
    return " ".join(re.findall(r"[^\W\d_]+", text.lower()))


def word_count(text: str) -> int:
    """The number of runs of letters."""
    return len(re.findall(r"[^\W\d_]+", text))


def package_root(name: str) -> Path | None:
    """The folder of an installed package, found without importing it."""
    try:
        spec = importlib.util.find_spec(name)
    except ValueError:  # a module without a spec stands in for it
        return None
    folders = list(spec.submodule_search_locations or []) if spec is not None else []
    return Path(folders[0]) if folders else None


def release(distribution: str) -> str:
    """The name of a distribution with its version, where that is known."""
    try:
        return f"{distribution} {version(distribution)}"
    except PackageNotFoundError:
        return distribution


def is_test(path: Path) -> bool:
    """Whether a file below a package's folder belongs to its tests."""
    return any(part in _TESTS or part.startswith("test_") for part in path.parts)


@contextmanager
def no_collection() -> Iterator[None]:
    """Syntax trees hold no cycles, and collecting garbage while they grow takes as long as parsing them."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _signature(node: ast.AST) -> str:
    if isinstance(node, ast.ClassDef):
        inits = [item for item in node.body if isinstance(item, _FUNCTION) and item.name == "__init__"]
        return _signature(inits[0]) if inits else ""
    if not isinstance(node, _FUNCTION):
        return ""
    names = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
    return ", ".join(name for name in names if name not in ("self", "cls"))

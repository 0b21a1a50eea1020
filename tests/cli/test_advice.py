"""A message names an option only where the command that can raise it has that option."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from pathlib import Path

import pytest

from propulsion_tools.cli.commands import COMMANDS
from propulsion_tools.methods.names import METHOD_MODULES
from propulsion_tools.records import RunSpec
from propulsion_tools.tasks.names import TASK_MODULES

SOURCE = Path(__file__).parents[2] / "src"
LOADED_BY_NAME = {
    "propulsion_tools.tasks.registry": {f"propulsion_tools.tasks.{name}" for name in TASK_MODULES.values()},
    "propulsion_tools.methods.registry": {f"propulsion_tools.methods.{name}" for name in METHOD_MODULES.values()},
}
GRIDS = ("compare", "ablate")
"""Commands whose runs have their options in a grid, under the same names."""

STUDIES = ("ntk", "jacobian", "bound")
USERS = ("train", "evaluate", "predict", "compare", "ablate", "inspect", "regress", *STUDIES)
"""Commands that read what a user names; the others list what there is, or, as the demo, decide it themselves."""
NO_ADVICE = {"propulsion_tools.training.next_commands", "propulsion_tools.training.console"}
"""Whole commands, which are tested by running them, and headings of lists."""
SAID_BY = {
    # Only these are told a method, and build it anew.
    ("methods.bitfit", ""): ("train", *GRIDS, *STUDIES),
    ("methods.head_only", ""): ("train", *GRIDS, *STUDIES),
    ("methods.layer_prefix", ""): ("train", *GRIDS, *STUDIES),
    ("methods.propulsion", ""): ("train", *GRIDS, *STUDIES),
    # Only these are told arguments of a method, modules to train as well, or a dropout.
    ("methods.adalora", ""): ("train", *GRIDS),
    ("methods.head_training", ""): ("train", *GRIDS),
    ("training.base_models", "dropout"): ("train", *GRIDS),
    # Only these read labels: `predict` has none, and `regress` reads what its run could read.
    ("tasks.columns", "label_column"): ("train", "evaluate", *GRIDS, *STUDIES),
    ("tasks.columns", "task"): ("train", "evaluate", *GRIDS, *STUDIES),
    ("tasks.columns", ""): ("train", "evaluate", "predict", *GRIDS, *STUDIES),
    ("tasks.classification", ""): ("train", "evaluate", *GRIDS, *STUDIES),
    ("tasks.labels", ""): ("train", "evaluate", *GRIDS, *STUDIES),
    ("tasks.language_modelling", ""): ("train", "evaluate", *GRIDS, *STUDIES),
    # Only these read a data set; `regress` has a run of text classification.
    ("tasks.hub", ""): ("train", "evaluate", "regress", *GRIDS, *STUDIES),
    ("tasks.task_data", ""): ("train", "evaluate", "regress", *GRIDS, *STUDIES),
    ("tasks.prompts", ""): ("train", "evaluate", "predict", *GRIDS, *STUDIES),
    ("tasks.windows", ""): ("train", "evaluate", "predict", *GRIDS, *STUDIES),
    ("tasks.completion", ""): ("train", *GRIDS, *STUDIES),
    # Only this one writes rows with their answers.
    ("training.answer_files", ""): ("predict",),
    # Only this one writes over a run.
    ("training.checkpoints", ""): ("train",),
    ("training.evaluate", ""): ("evaluate",),
    ("training.going_on", ""): ("train",),
    ("theory.commands.study", ""): STUDIES,
    ("records.options", "backend"): GRIDS,
}
"""Module and option ("": all) → the commands that can say so, where these are fewer than those that import it."""


@cache
def tree(module: str) -> ast.Module | None:
    base = SOURCE.joinpath(*module.split("."))
    file = base / "__init__.py" if base.is_dir() else base.with_suffix(".py")
    return ast.parse(file.read_text(encoding="utf-8")) if file.is_file() else None


def imports(node: ast.AST) -> set[str]:
    """The modules of ours that are imported anywhere in this part of a module."""
    names: set[str] = set()
    for item in ast.walk(node):
        if isinstance(item, ast.ImportFrom) and item.module:
            names |= {item.module, *(f"{item.module}.{alias.name}" for alias in item.names)}
    return {name for name in names if name.startswith("propulsion_tools.") and tree(name) is not None}


@cache
def reached(command: str) -> frozenset[str]:
    """The modules that a command may run code of."""
    commands = tree("propulsion_tools.cli.commands")
    assert commands is not None
    (function,) = (
        n for n in commands.body if isinstance(n, ast.FunctionDef) and n.name == COMMANDS[command].run.__name__
    )
    found: set[str] = set()
    todo = imports(function)
    while todo:
        found |= (new := todo - found)
        todo = {name for module in new for name in imports(tree(module)) | LOADED_BY_NAME.get(module, set())} - found
    return frozenset(found)


def sentences(module: str) -> Iterator[str]:
    """The texts in the functions of a module, whole, without docstrings."""
    parsed = tree(module)
    assert parsed is not None
    docs = {id(node.value) for node in ast.walk(parsed) if isinstance(node, ast.Expr)}
    inside: set[int] = set()
    bodies = (node for node in ast.walk(parsed) if isinstance(node, ast.FunctionDef))
    for node in (part for body in bodies for part in ast.walk(body)):
        if id(node) in docs or id(node) in inside:
            continue
        if isinstance(node, ast.JoinedStr):
            inside |= {id(part) for part in node.values}
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def named(sentence: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--([a-z][a-z_]+)", sentence))


def offered(command: str) -> set[str]:
    """The options of a command, and what it is told in a file in their place."""
    given = {item.name for item in fields(COMMANDS[command].options)}
    own = {"config"} | ({"recipe"} if COMMANDS[command].takes_recipe else set())
    return given | own | ({item.name for item in fields(RunSpec)} if command in GRIDS else set())


def misleading(module: str, sentence: str) -> set[tuple[str, str]]:
    """The options that a sentence names and a command that can say it does not have."""
    if called := set(re.findall(r"propulsion ([a-z]+)", sentence)) & COMMANDS.keys():
        known = set().union(*map(offered, called))
        return {(name, command) for command in called for name in named(sentence) - known}
    found = set()
    for name in named(sentence):
        short = module.removeprefix("propulsion_tools.")
        speakers = SAID_BY.get((short, name), SAID_BY.get((short, ""), USERS))
        found |= {(name, c) for c in speakers if module in reached(c) and name not in offered(c)}
    return found


MODULES = sorted({module for command in USERS for module in reached(command)} - NO_ADVICE)


@pytest.mark.parametrize("module", MODULES)
def test_advice_names_options_that_the_command_has(module: str) -> None:
    found = {sentence: wrong for sentence in sentences(module) if (wrong := misleading(module, sentence))}
    assert found == {}


def test_an_option_that_is_not_there_would_be_found() -> None:
    module = "propulsion_tools.tasks.prompts"
    assert misleading(module, "raise --max_length") == set()
    assert ("label_column", "predict") in misleading(module, "name it with --label_column")
    assert misleading(module, "Run `propulsion predict RUN --label_column x`") == {("label_column", "predict")}


@pytest.mark.parametrize("key", SAID_BY)
def test_what_is_said_by_few_is_still_said(key: tuple[str, str]) -> None:
    module, name = f"propulsion_tools.{key[0]}", key[1]
    assert any(name in named(sentence) if name else named(sentence) for sentence in sentences(module))
    assert all(module in reached(command) for command in SAID_BY[key])

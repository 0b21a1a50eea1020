"""What `propulsion tasks` and `propulsion methods` print; rows that differ in nothing but their name are one."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from propulsion_tools.methods.registry import Method
from propulsion_tools.tasks import Task
from propulsion_tools.training.console import table

RANKING = "_ranking"


def tasks_lists(tasks: Sequence[Task]) -> list[Table | str]:
    """Every task with its metric and where its data is from."""
    names = [task.name for task in tasks]
    rows = []
    for task in tasks:
        if task.name.endswith(RANKING):
            continue
        name = f"{task.name} [{RANKING}]" if f"{task.name}{RANKING}" in names else task.name
        rows.append([name, task.main_metric, _source(task), task.description])
    return [
        table("Tasks", ["--task", "metric", "data", "description"], rows),
        "data: hub, a download; here, docstrings of installed packages; yours, for every task: what --data_dir or "
        "--dataset_name names.",
        f"[{RANKING}]: also as boolq{RANKING} and so on, by the likelihood of each option instead of a written answer.",
    ]


def _source(task: Task) -> str:
    return "here" if task.default is not None else "hub" if task.hub_id is not None else "yours"


def methods_lists(methods: Sequence[Method]) -> list[Table | str]:
    """Every method with its ΔW (the paper's table 6), with what it costs (table 4), and those that cannot run here."""
    presets = [method for method in methods if method.family not in ("", method.name)]
    plain = [method for method in methods if method not in presets]
    rows = [[method.name, method.description, method.delta] for method in plain]
    for family in dict.fromkeys(method.family for method in presets):
        words = [method.name.removeprefix(f"{family}-") for method in presets if method.family == family]
        row = [f"{family}-PRESET", f"{family} on one preset: {', '.join(words)}", ""]
        rows.insert([name for name, *_ in rows].index(family) + 1, row)
    layer = "for one layer W of d × d: rank r, l_p virtual tokens, L layers"
    here = [f"{method.name} cannot run here: {reason}" for method in methods if (reason := method.refusal())]
    return [
        table("Methods", ["--method", "description", "reparameterisation"], rows),
        table(f"Costs, {layer}", ["--method", "space", "time", "parameters"], _costs(plain)),
        *here,
    ]


def _costs(methods: Sequence[Method]) -> list[list[str]]:
    """One row for each cost, with the methods that have it."""
    names: dict[tuple[str, ...], list[str]] = {}
    for method in methods:
        if method.cost:
            names.setdefault(tuple(method.cost), []).append(method.name)
    return [[", ".join(some), *cost] for cost, some in names.items()]

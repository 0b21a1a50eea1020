"""The commands: one entry of COMMANDS and one function each, which imports what it needs when it is called."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from propulsion_tools.errors import OptionError
from propulsion_tools.records import RunSpec, to_json, write_atomically, written
from propulsion_tools.records.options import (
    AblateOptions,
    BoundOptions,
    CompareOptions,
    DemoOptions,
    EvaluateOptions,
    ExportOptions,
    ImportOptions,
    InspectOptions,
    JacobianOptions,
    MethodsOptions,
    NtkOptions,
    PredictOptions,
    RecipesOptions,
    RegressionOptions,
    ServeOptions,
)
from propulsion_tools.training.going_on import after_grid, after_predict, after_train

PACKAGES = ("rich", "matplotlib", "datasets", "sklearn")
"""What nearly every command needs of the extra `train`, beside the parser."""


RUNS, MANY, THEORY, LISTS = "a run", "many runs", "theory", "what there is"
"""Headings of the overview."""


@dataclass(frozen=True)
class Nothing:
    """No options."""


def begins_anew(*words: Any) -> str:
    """What there is to say of a command that keeps nothing of an interrupted call."""
    return ""


@dataclass(frozen=True)
class Command:
    """One word after `propulsion`.

    Args:
        description: One line for the overview.
        options: The dataclass whose fields are its options.
        run: Called with the positional argument, if there is one, and the options.
        positional: The name of that argument.
        positional_help: What it is.
        positional_required: Whether it has to be given; if not, it is None.
        stray_word: The option that a word without one is likely meant for.
        takes_recipe: Whether `--recipe NAME` gives its options their values.
        heading: What it stands under in the overview.
        goes_on: How it goes on after an interruption or a full disk, as a clause, for the positional argument and the
            options; empty where it begins anew.
        packages: What is asked for before anything is imported, of the extra `train`.
    """

    description: str
    options: type[Any]
    run: Callable[..., None]
    positional: str | None = None
    positional_help: str = "output_dir of a finished `propulsion train`"
    positional_required: bool = True
    stray_word: str | None = None
    takes_recipe: bool = False
    heading: str = RUNS
    goes_on: Callable[..., str] = begins_anew
    packages: tuple[str, ...] = PACKAGES


def _train(spec: RunSpec) -> None:
    from propulsion_tools.training import console, processes
    from propulsion_tools.training.notify import keep_quiet

    notify = console.show if processes.is_first() else keep_quiet
    if spec.smoke:
        from propulsion_tools.training.smoke import smoke

        record = smoke(spec, notify)
        processes.leave_process_group()
        notify(f"{record.spec.task} by {record.spec.method}: {record.spec.max_steps} steps taken, nothing kept.")
        return
    from propulsion_tools.training.run import train

    record = train(spec, notify)
    processes.leave_process_group()
    if processes.is_first():
        from propulsion_tools.training.next_commands import after_training

        console.show_run(record)
        console.show("", "What to do next:", "", *(f"  {command}" for command in after_training(record)))


def _evaluate(adapter_dir: str, options: EvaluateOptions) -> None:
    from propulsion_tools.training import console, processes
    from propulsion_tools.training.evaluate import evaluate
    from propulsion_tools.training.notify import keep_quiet

    metrics = evaluate(Path(adapter_dir), options, console.show if processes.is_first() else keep_quiet)
    processes.leave_process_group()
    if processes.is_first():
        console.show(console.metrics_table(metrics, adapter_dir))
        _write_json(options.output, metrics, console.show)


def _write_json(file: str | None, values: Any, notify: Callable[[str], None]) -> None:
    """Write values where they were asked for, and say where."""
    if file is not None:
        said = written(Path(file))
        write_atomically(Path(file), to_json(values))
        notify(f"{said[0].upper()}{said[1:]}")


def _predict(adapter_dir: str, options: PredictOptions) -> None:
    from propulsion_tools.training import processes
    from propulsion_tools.training.predict import predict

    predict(Path(adapter_dir), options, partial(print, file=sys.stderr))
    processes.leave_process_group()


def _inspect(adapter_dir: str, options: InspectOptions) -> None:
    from propulsion_tools.inspection.inspect_adapter import inspect_adapter

    files = [Path(file) if file else None for file in (options.figure, options.distribution)]
    print(inspect_adapter(Path(adapter_dir), *files))


def _export(adapter_dir: str, options: ExportOptions) -> None:
    from propulsion_tools.export.export import export

    export(Path(adapter_dir), options, print)


def _import(adapter_dir: str, options: ImportOptions) -> None:
    from propulsion_tools.export.from_ia3 import from_ia3

    from_ia3(Path(adapter_dir), options, print)


def _ntk(options: NtkOptions) -> None:
    from propulsion_tools.theory.commands.ntk import describe, measure_kernels
    from propulsion_tools.training.console import show

    show(*describe(*measure_kernels(options, show)))


def _jacobian(options: JacobianOptions) -> None:
    from propulsion_tools.theory.commands.jacobian import describe, measure_jacobian
    from propulsion_tools.training.console import show

    show(*describe(*measure_jacobian(options, show)))


def _bound(options: BoundOptions) -> None:
    from propulsion_tools.theory.commands.bound import describe, measure_bound
    from propulsion_tools.training.console import show

    show(*describe(*measure_bound(options, show)))


def _regress(adapter_dir: str, options: RegressionOptions) -> None:
    from propulsion_tools.theory.commands.regress import describe, regress
    from propulsion_tools.training.console import show

    scores = regress(Path(adapter_dir), options)
    show(*describe(scores))
    _write_json(options.result, scores, show)


def _methods(options: MethodsOptions) -> None:
    from propulsion_tools.methods import get_method, method_names
    from propulsion_tools.training import console

    if options.counts:
        from propulsion_tools.methods.counts import counts

        console.show(console.counts_table(counts(options.counts), options.counts))
        return
    from propulsion_tools.training.lists import methods_lists

    console.show(*methods_lists([get_method(name) for name in method_names()]))


def _tasks(options: Nothing) -> None:
    from propulsion_tools.tasks import get_task, task_names
    from propulsion_tools.training.console import show
    from propulsion_tools.training.lists import tasks_lists

    show(*tasks_lists([get_task(name) for name in task_names()]))


def _recipes(name: str | None, options: RecipesOptions) -> None:
    from propulsion_tools.recipes import find_recipes, recipe

    rows = find_recipes(name=name, table=options.table, model=options.model, task=options.task, method=options.method)
    if options.print:
        if name is None:
            raise OptionError("--print writes one recipe: `propulsion recipes NAME --print`.")
        from propulsion_tools.recipes.printing import yaml_text

        print(yaml_text(recipe(name)), end="")
        return
    from propulsion_tools.recipes.listing import listing
    from propulsion_tools.training.console import show

    show(*listing(rows))


def _demo(options: DemoOptions) -> None:
    from propulsion_tools.compare.demo import demo

    demo(options)


def _serve(options: ServeOptions) -> None:
    from propulsion_tools.errors import check_installed
    from propulsion_tools.training.console import show

    for package in ("fastapi", "uvicorn", "prometheus_client"):
        check_installed(package, "serve")
    from propulsion_tools.serving.command import serve

    serve(options, show)


def _compare(path: str, options: CompareOptions) -> None:
    from propulsion_tools.compare.command import compare, require_a_finished_run
    from propulsion_tools.compare.grid_file import read_grid
    from propulsion_tools.report.write import write_report

    grid = read_grid(path, output_dir=options.output_dir, data_root=options.data_root)
    results = compare(grid, options)
    report = write_report(grid, results)
    require_a_finished_run(results, report)
    print(f"Written to {report}")


def _ablate(study: str, options: AblateOptions) -> None:
    from propulsion_tools.report.ablate import ablate

    print(f"Written to {ablate(study, options)}")


ADAPTER_DIR = "adapter_dir"
ADAPTER_HELP = "folder of an adapter: output_dir of `propulsion train`, or what PEFT saved"
STUDY_HELP = "degree, position, initialization, vectors or pooling"
GRID_HELP = "YAML file with methods, tasks and settings, for example recipes/compare/quick.yaml"
RECIPE_HELP = "one recipe, for example table1/roberta-base-sst2-propulsion-all (default: all)"
COMMANDS = {
    "train": Command(
        "train an adapter and write it with its record", RunSpec, _train, takes_recipe=True, goes_on=after_train
    ),
    "evaluate": Command("score a finished run again, also on other data", EvaluateOptions, _evaluate, ADAPTER_DIR),
    "predict": Command(
        "label texts with a finished run",
        PredictOptions,
        _predict,
        ADAPTER_DIR,
        stray_word="input",
        goes_on=after_predict,
    ),
    "compare": Command(
        "run a grid of methods and tasks, and report",
        CompareOptions,
        _compare,
        "grid",
        GRID_HELP,
        heading=MANY,
        goes_on=after_grid,
    ),
    "ablate": Command(
        "repeat one of the paper's ablations",
        AblateOptions,
        _ablate,
        "study",
        STUDY_HELP,
        heading=MANY,
        goes_on=after_grid,
    ),
    "inspect": Command(
        "show what an adapter has learned", InspectOptions, _inspect, ADAPTER_DIR, stray_word="figure", packages=()
    ),
    "export": Command(
        "write an adapter as a plain checkpoint, or as an adapter of PEFT's own methods",
        ExportOptions,
        _export,
        ADAPTER_DIR,
        ADAPTER_HELP,
        stray_word="output",
    ),
    "import": Command(
        "make an adapter of one that PEFT's (IA)³ has trained",
        ImportOptions,
        _import,
        ADAPTER_DIR,
        "folder of an adapter that PEFT saved",
        stray_word="output",
    ),
    "serve": Command(
        "answer over HTTP with many adapters of one base model", ServeOptions, _serve, stray_word="adapters"
    ),
    "ntk": Command("compare a method's tangent kernel with that of full fine-tuning", NtkOptions, _ntk, heading=THEORY),
    "jacobian": Command("see whether training stays in the kernel regime", JacobianOptions, _jacobian, heading=THEORY),
    "bound": Command("hold the theorem's bound against a model's own weights", BoundOptions, _bound, heading=THEORY),
    "regress": Command(
        "predict by a finished run's tangent kernel", RegressionOptions, _regress, ADAPTER_DIR, heading=THEORY
    ),
    "methods": Command(
        "list the ways to fine-tune, or count what each trains", MethodsOptions, _methods, heading=LISTS
    ),
    "tasks": Command("list the tasks", Nothing, _tasks, heading=LISTS),
    "recipes": Command(
        "list the rows of the paper's tables that `train --recipe` runs, or print one",
        RecipesOptions,
        _recipes,
        "name",
        RECIPE_HELP,
        positional_required=False,
        heading=LISTS,
        packages=("rich",),
    ),
    "demo": Command("head alone against Propulsion, without a download", DemoOptions, _demo),
}

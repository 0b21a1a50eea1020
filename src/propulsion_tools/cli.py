"""The command line: words → dataclass → one function call. A command imports what it needs, and no other does."""

from __future__ import annotations

import errno
import json
import os
import sys
import traceback
import typing
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from propulsion.errors import PropulsionError
from propulsion_tools.compare.options import AblateOptions, CompareOptions
from propulsion_tools.errors import OptionError, ToolsError, UnknownNameError, near_misses, require
from propulsion_tools.records import RunSpec, refuse_unknown, write_atomically
from propulsion_tools.training.options import (
    BoundOptions,
    DemoOptions,
    EvaluateOptions,
    InspectOptions,
    JacobianOptions,
    MethodsOptions,
    NtkOptions,
    PredictOptions,
    RegressionOptions,
)
from propulsion_tools.upstream.peft_private import OLD_NAME_WARNING

USAGE_ERROR, INTERRUPTED = 2, 130
GOES_ON = "`train` goes on with --resume_from_checkpoint true, `compare` and `ablate` with the same command"
Options = TypeVar("Options")


@dataclass(frozen=True)
class Nothing:
    """No options."""


@dataclass(frozen=True)
class Command:
    """One word after `propulsion`."""

    description: str
    options: type[Any]
    run: Callable[..., None]
    positional: str | None = None
    positional_help: str = "output_dir of a finished `propulsion train`"


# The disk is full or not ours to read or write, or a file is a folder: nothing that a traceback would tell more of.
_DISK = ("ENOSPC", "EDQUOT", "EACCES", "EPERM", "EROFS", "EISDIR", "ENOTDIR")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: The words after `propulsion`; those of the process if not given.

    Returns:
        The exit status: 0, 2 after an error of ours (one sentence on standard error), 130 after Ctrl-C.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words or os.environ.get("PROPULSION_DEBUG", "0") not in ("", "0")
    words = [word for word in words if word != "--debug"]
    warnings.filterwarnings("ignore", message=OLD_NAME_WARNING, category=FutureWarning)
    try:
        _dispatch(words)
    except (PropulsionError, ToolsError) as error:
        if debug:
            traceback.print_exc()
        print(f"propulsion: {error}", file=sys.stderr)
        return USAGE_ERROR
    except KeyboardInterrupt:
        print(f"propulsion: interrupted; {GOES_ON}", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        if debug or errno.errorcode.get(error.errno or 0) not in _DISK:
            raise
        print(f"propulsion: {error.filename or 'a file'}: {error.strerror}; {GOES_ON}", file=sys.stderr)
        return USAGE_ERROR
    return 0


def _dispatch(words: list[str]) -> None:
    if not words or words[0] in ("-h", "--help"):
        print(_overview())
        return
    name, *rest = words
    if name == "--version":
        from importlib.metadata import version

        print(f"propulsion {version('propulsion-peft')}")
        return
    if name not in COMMANDS:
        hint = near_misses(name, COMMANDS) or f" There are {', '.join(COMMANDS)}."
        raise UnknownNameError(f"There is no command {name!r}.{hint}")
    command = COMMANDS[name]
    if (values := _parse(name, command, rest)) is not None:
        positional = [values.pop(command.positional)] if command.positional else []
        command.run(*positional, command.options(**values))


def _overview() -> str:
    lines = ["usage: propulsion COMMAND [options]", "", "commands:"]
    lines += [f"  {name:<10} {command.description}" for name, command in COMMANDS.items()]
    lines += ["", "`propulsion COMMAND --help` lists its options; each may also stand in a file: --config FILE.yaml"]
    return "\n".join(lines)


def _parse(name: str, command: Command, words: list[str]) -> dict[str, Any] | None:
    """The options' values, from --config and flags, or None after --help."""
    known = [item.name for item in fields(command.options)]
    words = _with_bool_values([_underscored(word) for word in words], command.options)
    _refuse_unknown_flags(words, known)
    _check_config_files(words, known)
    parser = _parser(name, command)
    argument_error = require("jsonargparse", "train").ArgumentError
    try:
        parsed = parser.parse_args(words)
    except argument_error as error:
        raise OptionError(_one_sentence(str(error), name)) from error
    except SystemExit as end:
        if end.code:
            raise
        return None
    values = vars(parsed)
    values.pop("config", None)
    values.pop("print_config", None)
    return {key: value for key, value in values.items() if key in known or key == command.positional}


def _parser(name: str, command: Command) -> Any:
    jsonargparse = require("jsonargparse", "train")
    positional = f" {command.positional}" if command.positional else ""
    parser = jsonargparse.ArgumentParser(
        prog=f"propulsion {name}",
        usage=f"propulsion {name}{positional} [options]",
        description=command.description,
        exit_on_error=False,
    )
    if command.positional:
        parser.add_argument(command.positional, type=str, help=command.positional_help)
    if fields(command.options):
        parser.add_argument("--config", action="config", help="YAML file with any of these options")
    hints = typing.get_type_hints(command.options)
    groups: dict[str, Any] = {}
    for item in fields(command.options):
        title = item.metadata["group"]
        group = groups.setdefault(title, groups.get(title) or parser.add_argument_group(title))
        group.add_argument(f"--{item.name}", type=hints[item.name], default=item.default, help=item.metadata["help"])
    return parser


def _underscored(word: str) -> str:
    """`--learning-rate` is `--learning_rate`, as in the scripts of transformers."""
    flag, equals, value = word.partition("=")
    name, dot, key = flag.partition(".")
    return "--" + name[2:].replace("-", "_") + dot + key + equals + value if word.startswith("--") else word


def _with_bool_values(words: list[str], options: type[Any]) -> list[str]:
    """`--bf16` alone stands for `--bf16 true`, as it does in the scripts of transformers."""
    switches = {f"--{item.name}" for item in fields(options) if "bool" in str(item.type)}
    done: list[str] = []
    for number, word in enumerate(words):
        done.append(word)
        following = words[number + 1] if number + 1 < len(words) else "--"
        if word in switches and following.startswith("--"):
            done.append("true")
    return done


def _refuse_unknown_flags(words: list[str], known: list[str]) -> None:
    flags = [word[2:].split("=")[0].split(".")[0] for word in words if word.startswith("--")]
    refuse_unknown(dict.fromkeys(flag for flag in flags if flag), [*known, "config", "print_config", "help"], "option")


def _check_config_files(words: list[str], known: list[str]) -> None:
    for number, word in enumerate(words):
        if word != "--config" and not word.startswith("--config="):
            continue
        name = word.partition("=")[2] or "".join(words[number + 1 : number + 2])
        if not name or name.startswith("--"):
            raise OptionError("--config wants a YAML file after it.")
        file = Path(name)
        if not file.is_file():
            raise OptionError(f"There is no configuration file {str(file)!r}.")
        yaml = require("yaml", "train")
        try:
            values = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise OptionError(f"{file} is not YAML: {' '.join(str(error).split())}.") from error
        if not isinstance(values, dict):
            raise OptionError(f"{file} must hold options as `name: value` lines.")
        refuse_unknown(values, known, f"option in {file}")


def _one_sentence(message: str, name: str) -> str:
    """jsonargparse's report without the list of everything that was tried."""
    lines = [line.strip() for line in message.splitlines()]
    given = next((line.removeprefix("Given value: ") for line in lines if line.startswith("Given value: ")), None)
    if lines[0].startswith("Parser key ") and given is not None:
        key = lines[0].split('"')[1]
        hint = RunSpec.__dataclass_fields__[key].type if key in RunSpec.__dataclass_fields__ else None
        wanted = f"; it takes {hint}" if hint else ""
        return f"{key} cannot be {given}{wanted}."
    return f"{' '.join(lines)} (see `propulsion {name} --help`)"


def _train(spec: RunSpec) -> None:
    run, report, processes = _room("training.run"), _room("training.console"), _room("training.processes")
    tell = report.show if processes.is_first() else str
    if spec.smoke:
        record = _room("training.smoke").smoke(spec, tell=tell)
        processes.part()
        tell(f"{record.spec.task} by {record.spec.method}: {record.spec.max_steps} steps taken, nothing kept.")
        return
    record = run.train(spec, tell=tell)
    processes.part()
    if not processes.is_first():
        return
    metric = run.get_task(str(record.spec.task)).main_metric
    split = next(iter(record.metrics), "validation")
    report.show(report.run_table({record.spec.method: record}, metric, split), f"Written to {record.spec.output_dir}")


def _evaluate(adapter_dir: str, options: EvaluateOptions) -> None:
    report = _room("training.console")
    metrics = _room("training.evaluate").evaluate(Path(adapter_dir), options, tell=report.show)
    report.show(report.metrics_table(metrics, adapter_dir))
    if options.output:
        write_atomically(Path(options.output), json.dumps(metrics, indent=2) + "\n")


def _predict(adapter_dir: str, options: PredictOptions) -> None:
    count = _room("training.predict").predict(Path(adapter_dir), options)
    print(f"{count:,} rows written to {options.output}", file=sys.stderr)


def _inspect(adapter_dir: str, options: InspectOptions) -> None:
    from propulsion_tools.inspection.inspect_adapter import inspect_adapter

    files = [Path(file) if file else None for file in (options.figure, options.distribution)]
    print(inspect_adapter(Path(adapter_dir), *files))


def _ntk(options: NtkOptions) -> None:
    ntk, report = _room("theory.commands.ntk"), _room("training.console")
    report.show(*ntk.describe(*ntk.measure_kernels(options, tell=report.show)))


def _jacobian(options: JacobianOptions) -> None:
    jacobian, report = _room("theory.commands.jacobian"), _room("training.console")
    report.show(*jacobian.describe(*jacobian.measure_jacobian(options, tell=report.show)))


def _bound(options: BoundOptions) -> None:
    bound, report = _room("theory.commands.bound"), _room("training.console")
    report.show(*bound.describe(*bound.measure_bound(options, tell=report.show)))


def _regress(adapter_dir: str, options: RegressionOptions) -> None:
    regression, report = _room("theory.commands.regress"), _room("training.console")
    found = regression.regress(Path(adapter_dir), options)
    report.show(*regression.describe(found))
    if options.result:
        write_atomically(Path(options.result), json.dumps(found, indent=2) + "\n")


def _methods(options: MethodsOptions) -> None:
    report = _room("training.console")
    if options.counts:
        from propulsion_tools.methods.counts import counts

        report.show(report.counts_table(counts(options.counts), options.counts))
        return
    from propulsion_tools.methods import get_method, method_names

    report.show(*report.methods_tables([get_method(name) for name in method_names()]))


def _tasks(options: Nothing) -> None:
    require("datasets", "train")
    from propulsion_tools.tasks import get_task, task_names

    rows = [[task.name, task.main_metric, task.description] for task in map(get_task, task_names())]
    report = _room("training.console")
    report.show(report.table("Tasks", ["--task", "metric", "description"], rows))


def _demo(options: DemoOptions) -> None:
    _room("compare.demo").demo(options)


def _compare(path: str, options: CompareOptions) -> None:
    read_grid = _room("compare.grid_file").read_grid
    grid = read_grid(path, output_dir=options.output_dir, data_root=options.data_root)
    results = _room("compare.command").compare(grid, options)
    report = _room("report.write").write_report(grid, results)
    _room("compare.command").require_a_finished_run(results, report)
    print(f"Written to {report}")


def _ablate(study: str, options: AblateOptions) -> None:
    print(f"Written to {_room('report.ablate').ablate(study, options)}")


def _room(name: str) -> Any:
    """A module of the tools, after a check of the packages that it needs."""
    import importlib

    for package in ("rich", "matplotlib", "datasets", "sklearn"):
        require(package, "train")
    return importlib.import_module(f"propulsion_tools.{name}")


ADAPTER_DIR = "adapter_dir"
STUDY_HELP = "degree, position, initialization, vectors or pooling"
GRID_HELP = "YAML file with methods, tasks and settings, for example recipes/compare/quick.yaml"
COMMANDS = {
    "train": Command("train an adapter and write it with its record", RunSpec, _train),
    "evaluate": Command("score a finished run again, also on other data", EvaluateOptions, _evaluate, ADAPTER_DIR),
    "predict": Command("label texts with a finished run", PredictOptions, _predict, ADAPTER_DIR),
    "compare": Command("run a grid of methods and tasks, and report", CompareOptions, _compare, "grid", GRID_HELP),
    "ablate": Command("repeat one of the paper's ablations", AblateOptions, _ablate, "study", STUDY_HELP),
    "inspect": Command("show what an adapter has learned", InspectOptions, _inspect, ADAPTER_DIR),
    "ntk": Command("compare a method's tangent kernel with that of full fine-tuning", NtkOptions, _ntk),
    "jacobian": Command("see whether training stays in the kernel regime", JacobianOptions, _jacobian),
    "bound": Command("hold the theorem's bound against a model's own weights", BoundOptions, _bound),
    "regress": Command("predict by a finished run's tangent kernel", RegressionOptions, _regress, ADAPTER_DIR),
    "methods": Command("list the ways to fine-tune, or count what each trains", MethodsOptions, _methods),
    "tasks": Command("list the tasks", Nothing, _tasks),
    "demo": Command("head alone against Propulsion, without a download", DemoOptions, _demo),
}

"""What to do with a run that has finished, as commands that work when pasted."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from propulsion_tools.errors import DataError
from propulsion_tools.installation import program
from propulsion_tools.methods import get_method
from propulsion_tools.records import RunRecord
from propulsion_tools.tasks import get_task
from propulsion_tools.tasks.data_files import LINES, form_of, split_name
from propulsion_tools.training.answer_files import output_name
from propulsion_tools.training.trained_files import ADAPTER_CONFIG

ANSWERS = ("label", "target", "reference", "answers", "tags")
"""Columns of a split that hold what is to be predicted, whatever the family."""


def next_commands(adapter: Path, source: Path | str, beside: str, draws: bool = True) -> list[str]:
    """Score a run again, label texts with it, look inside.

    Args:
        adapter: The output folder of `train`.
        source: What `predict` reads: a file, or a row as JSON.
        beside: What the names of its predictions and of the figure begin with.
        draws: Whether there are gains to look at.
    """
    form = form_of(source.name) if isinstance(source, Path) else None
    names = (str(adapter), f"{beside}{output_name(None, form or LINES)}", f"{beside}gains.png")
    run, output, figure = map(shlex.quote, names)
    before, given = f"echo {shlex.quote(str(source))} | ", ""
    if isinstance(source, Path):
        before, given = "", f"--input {shlex.quote(str(source))} "
    called = program()
    commands = [f"{called} evaluate {run}", f"{before}{called} predict {run} {given}--output {output}"]
    return [*commands, f"{called} inspect {run} --figure {figure}"] if draws else commands


def after_training(record: RunRecord) -> list[str]:
    """The next commands for a run; those of `predict` read the run's own data, or else a row that is made up."""
    folder = Path(str(record.spec.output_dir))
    draws = get_method(record.spec.method).is_propulsion and (folder / ADAPTER_CONFIG).is_file()
    return next_commands(folder, _own_file(record) or _example(record), f"{folder}-", draws)


def _own_file(record: RunRecord) -> Path | None:
    """A file of the data's folder that `predict` reads, of the split that was scored where there is one."""
    if record.spec.data_dir is None:
        return None
    files = [file for file in sorted(Path(record.spec.data_dir).iterdir()) if form_of(file.name)]
    return min(files, key=lambda file: split_name(file.name.partition(".")[0]) not in record.metrics, default=None)


def _example(record: RunRecord) -> Path | str:
    """A row of the task's own toys without what is to be predicted; a name to fill in where the task takes none."""
    task = get_task(str(record.spec.task))
    row = {name: value for name, value in task.toy().splits["validation"][0].items() if name not in ANSWERS}
    named = {name: record.columns.get(f"{name}_column", name) for name in row}
    try:
        task.unlabelled([row])
    except DataError:
        return Path("rows.jsonl")
    return json.dumps({named[name]: value for name, value in row.items()})

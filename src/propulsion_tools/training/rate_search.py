"""`--learning_rate auto`: the tries of a run, one after the other, in a folder beside it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from propulsion_tools.errors import CollapseError, NotFiniteError, OptionError
from propulsion_tools.methods import get_method
from propulsion_tools.records import RECORD_FILE, RunRecord, RunSpec
from propulsion_tools.records.fields import AUTO
from propulsion_tools.tasks import TaskData
from propulsion_tools.tasks.selection import set_aside
from propulsion_tools.training.checkpoints import is_of, write_spec
from propulsion_tools.training.notify import Notify
from propulsion_tools.training.processes import is_first
from propulsion_tools.training.rate_plan import (
    FAILED,
    SELECTION_FRACTION,
    Merit,
    Plan,
    Try,
    merit,
    plan,
    rates_in_words,
    try_spec,
)

FOLDER = "rate_search"
TrainAll = Callable[[list[RunSpec], TaskData], "list[RunRecord | BaseException]"]
Outcome = RunRecord | NotFiniteError | CollapseError | None
"""What came of a try; None: it has left no record, as one that failed before."""


@dataclass(frozen=True)
class Found:
    """What a search found.

    Attributes:
        spec: The run with its rates.
        tried: For each try ``learning_rate`` (that which it stands for), ``head_learning_rate``, ``share``, ``score``,
            ``loss`` and ``seconds``; nothing where nothing was searched.
        apart: Why tries that were to be trained in one batch were not, as clauses.
    """

    spec: RunSpec
    tried: tuple[dict[str, Any], ...] = ()
    apart: tuple[str, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of it; nothing where nothing was searched."""
        if not self.tried:
            return ()
        rates = rates_in_words(float(self.spec.learning_rate or 0), self.spec.head_learning_rate)
        seconds = sum(item["seconds"] for item in self.tried)
        return (
            f"The learning rate {rates} is the best of {len(self.tried)} tries, "
            f"scored on training rows that were set aside; they took {seconds:.0f} s.",
            *(f"Tries were trained one after the other: {reason}." for reason in self.apart),
        )


def search_rates(spec: RunSpec, data: TaskData, train_all: TrainAll, together: bool, notify: Notify) -> Found:
    """Choose the rates of a run on a part of its training rows.

    Tries that an earlier start has finished are read and not run again, unless the folder is to be overwritten.

    Args:
        spec: A resolved spec whose learning rate is `AUTO`.
        data: Its rows.
        train_all: Trains tries on these rows, and gives the record of each or why it failed.
        together: Whether it is given all tries of a rung at once.
        notify: Is told which try begins.

    Raises:
        OptionError: Every try failed.
        DataError: There are too few training rows to set some aside.
    """
    folder = Path(str(spec.output_dir)) / FOLDER
    anew = spec.overwrite_output_dir and not spec.resume_from_checkpoint
    if anew and is_first():
        shutil.rmtree(folder, ignore_errors=True)
    method = get_method(spec.method)
    rows = set_aside(data, spec.selection_fraction or SELECTION_FRACTION, spec.max_eval_samples)
    usual = method.learning_rate(spec), spec.head_learning_rate
    ended: dict[Try, Outcome] = {}
    while todo := (search := plan(*usual, lambda item: _merit(ended[item]) if item in ended else None)).todo:
        for rung in [list(todo)] if together else [[item] for item in todo]:
            specs = [_spec_of(item, spec, folder / _name(item)) for item in rung]
            # Of several processes, one may still see what the first is removing.
            before = [None if anew else _finished(one, Path(str(one.output_dir))) for one in specs]
            for item in (item for item, record in zip(rung, before, strict=True) if record is None):
                rates = rates_in_words(item.learning_rate, item.head_learning_rate)
                notify(f"Trying the learning rate {rates} for {item.share:.0%} of the run.")
            ended.update(zip(rung, _outcomes(specs, before, rows, train_all), strict=True))
    if search.chosen is None:
        tried = ", ".join(f"{item.learning_rate:.3g}" for item in search.tries)
        raise OptionError(
            f"No learning rate trains: all of {tried} failed. Try the settings "
            "with a --learning_rate of your own to see why."
        )
    rate, head_rate = search.chosen.learning_rate, search.chosen.head_learning_rate
    return _found(replace(spec, learning_rate=rate, head_learning_rate=head_rate), search, ended)


def found_before(spec: RunSpec, before: RunSpec) -> Found:
    """What was found for a run that goes on: the rates that it began with, and what is left of its tries.

    Under other settings the search might find other rates, and the optimizer keeps those of the checkpoint.

    Args:
        spec: A resolved spec whose learning rate is `AUTO`.
        before: That of the checkpoint that it goes on from.
    """
    folder = Path(str(spec.output_dir)) / FOLDER
    asked = replace(before, learning_rate=AUTO, modules_to_save=spec.modules_to_save)  # as it was before the model
    ended: dict[Try, Outcome] = {}

    def outcome(item: Try) -> Merit:
        place = folder / _name(item)
        ended[item] = _finished(_spec_of(item, asked, place), place)
        return _merit(ended[item])

    search = plan(get_method(spec.method).learning_rate(before), before.head_learning_rate, outcome)
    spec = replace(spec, learning_rate=before.learning_rate, head_learning_rate=before.head_learning_rate)
    return _found(spec, search, ended) if search.chosen else Found(spec)


def _found(spec: RunSpec, search: Plan, ended: Mapping[Try, Outcome]) -> Found:
    apart = [outcome.apart for outcome in ended.values() if isinstance(outcome, RunRecord) and outcome.apart]
    tried = tuple(_recorded(item, ended[item]) for item in search.tries)
    return Found(spec, tried, tuple(dict.fromkeys(apart)))


def _name(item: Try) -> str:
    head = "" if item.head_learning_rate is None else f"-head{item.head_learning_rate:.4g}"
    return f"lr{item.learning_rate:.4g}{head}-{item.share:g}"


def _spec_of(item: Try, spec: RunSpec, folder: Path) -> RunSpec:
    return replace(
        try_spec(spec, item),
        output_dir=str(folder),
        overwrite_output_dir=True,
        resume_from_checkpoint=None,
        report_to="none",
    )


def _outcomes(
    specs: list[RunSpec], before: list[RunRecord | None], rows: TaskData, train_all: TrainAll
) -> list[Outcome]:
    """What came of tries, those of which there is a record from before and those that are run now.

    Raises:
        Exception: One of them failed by more than its rate.
    """
    todo = [spec for spec, record in zip(specs, before, strict=True) if record is None]
    now = iter(train_all(todo, rows) if todo else [])
    found: list[Outcome] = []
    for spec, record in zip(specs, before, strict=True):
        outcome = next(now) if record is None else record
        if isinstance(outcome, BaseException) and not isinstance(outcome, (NotFiniteError, CollapseError)):
            raise outcome
        if isinstance(outcome, RunRecord) and is_first():
            _keep_record_only(Path(str(spec.output_dir)), spec)
        found.append(outcome)
    return found


def _merit(outcome: Outcome) -> Merit:
    return merit(outcome) if isinstance(outcome, RunRecord) else FAILED


def _recorded(item: Try, outcome: Outcome) -> dict[str, Any]:
    """What is recorded of a try."""
    said = {"learning_rate": item.learning_rate, "head_learning_rate": item.head_learning_rate, "share": item.share}
    if not isinstance(outcome, RunRecord):
        return {**said, "score": None, "loss": None, "seconds": 0.0}
    found = merit(outcome)
    seconds = outcome.seconds["train"] / max(1, outcome.joint) + outcome.seconds["evaluate"]
    return {**said, "score": found.score, "loss": -found.loss, "seconds": seconds}


def _finished(spec: RunSpec, folder: Path) -> RunRecord | None:
    """The record of a try that an earlier start of the same run has finished."""
    return RunRecord.read(folder) if (folder / RECORD_FILE).is_file() and is_of(spec, folder) else None


def _keep_record_only(folder: Path, spec: RunSpec) -> None:
    """The record says all that is asked of a try; its spec beside it tells it from tries of other runs."""
    for path in folder.iterdir():
        if path.name != RECORD_FILE:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    write_spec(spec, folder)

"""Answer for new rows with a finished run, batch by batch, so that the input may be longer than the memory."""

from __future__ import annotations

import contextlib
import csv
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import IO, Any, TextIO

import torch
from tqdm import tqdm

from propulsion_tools.errors import DataError, OptionError
from propulsion_tools.records import RunRecord, atomic
from propulsion_tools.records.options import PredictOptions
from propulsion_tools.records.run_spec import PREDICT
from propulsion_tools.tasks.base import INDEX
from propulsion_tools.tasks.metrics import to_numpy
from propulsion_tools.training.build import Job
from propulsion_tools.training.data import for_model, progress_bars
from propulsion_tools.training.device import device_of
from propulsion_tools.training.evaluate import restore
from propulsion_tools.upstream.transformers_private import nested_concat

Row = dict[str, Any]
STANDARD_STREAM = "-"


def predict(adapter_dir: Path, options: PredictOptions) -> int:
    """Read rows, answer for them, write them as JSON lines with what the task makes of them under `prediction`.

    Args:
        adapter_dir: The output folder of `train`.
        options: Where to read and write.

    Returns:
        How many rows were answered for.

    Raises:
        OptionError: There is no such input, or no record.
        DataError: A row is not what its file's name says, or has no text.
    """
    record = RunRecord.read(adapter_dir)
    _check_output(options)
    spec = replace(record.spec.overridden(PREDICT, options), disable_tqdm=True)
    with _opened(options.input) as stream:
        job = restore(adapter_dir, replace(record, spec=spec))
        device = device_of(spec)
        if not hasattr(job.model, "hf_device_map"):  # or its weights are where they were put
            job.model.to(device)
        rows = _rows(stream, options.input)
        bar = tqdm(unit=" rows", desc="predict", leave=False, disable=options.disable_tqdm)
        count = 0
        with bar, progress_bars(False), _writer(options.output) as out:
            for batch in _batches(rows, options.per_device_eval_batch_size):
                for row, answer in zip(batch, label(job, batch, device), strict=True):
                    out.write(json.dumps({**row, "prediction": answer}, ensure_ascii=False) + "\n")
                count += len(batch)
                bar.update(len(batch))
    return count


@torch.inference_mode()  # type: ignore[untyped-decorator]
def label(job: Job, rows: list[Row], device: torch.device) -> list[Row]:
    """The task's answers for one batch of rows; one with more windows than rows is read in several."""
    names = _columns(job, rows)
    unlabelled = job.task.unlabelled(rows, names.get("text_column"), names.get("text_pair_column"))
    encoded = for_model(job.task.encode(unlabelled, job.setup, training=False).rows, job.model)
    collate, answers, index = job.task.collator(job.setup), None, []
    for windows in _batches(encoded, len(rows)):
        batch = {name: value.to(device) for name, value in collate(windows).items()}
        with job.autocast(device):
            part = job.task.answer(job.model, batch, job.setup)
        part = tuple(map(to_numpy, part)) if isinstance(part, tuple) else to_numpy(part)
        answers = part if answers is None else nested_concat(answers, part, padding_index=-100)
        index += batch[INDEX].tolist()
    return job.task.decode(answers, index, unlabelled, job.setup)


def _check_output(options: PredictOptions) -> None:
    if options.output == STANDARD_STREAM:
        return
    path = Path(options.output)
    if path.is_dir():
        raise OptionError(f"{path} is a folder: name a .jsonl file in it to write to.")
    if path.suffix in (".csv", ".tsv", ".parquet", ".xlsx", ".gz"):
        raise OptionError(f"Cannot write {path}: the rows are written as JSON lines, name it like predictions.jsonl.")
    if options.input != STANDARD_STREAM and path.resolve() == Path(options.input).resolve():
        raise OptionError(f"{path} is the input too, which would be lost: name another --output.")


def _columns(job: Job, rows: list[Row]) -> Mapping[str, str | None]:
    """The columns that were named, each or else the one that the run has read, where the rows have them."""
    named = {name: getattr(job.spec, name) for name in ("text_column", "text_pair_column")}
    read = {name: column for name, column in job.data.columns.items() if named[name] is None}
    return named | read if all(column in rows[0] for column in read.values()) else named


@contextlib.contextmanager
def _opened(name: str) -> Iterator[TextIO]:
    if name == STANDARD_STREAM:
        yield sys.stdin
        return
    path = Path(name)
    if not path.is_file():
        raise OptionError(f"There is no file {name} to predict from.")
    if path.suffix not in (".jsonl", ".csv"):
        raise OptionError(f"Cannot read {name}: the input is a .jsonl or .csv file, or - for standard input.")
    with path.open(encoding="utf-8-sig", newline="") as stream:
        yield stream


def _rows(stream: TextIO, name: str) -> Iterator[Row]:
    if name.endswith(".csv"):
        yield from csv.DictReader(stream)
        return
    for number, line in enumerate(stream, 1):
        if line := line.strip():
            yield _row(line, number, name)


def _row(line: str, number: int, name: str) -> Row:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        if name == STANDARD_STREAM:
            return {"text": line}
        raise DataError(f"{name}, line {number} is not JSON: {error}.") from error
    if isinstance(row, dict):
        return row
    if name == STANDARD_STREAM:
        return {"text": line}
    raise DataError(f"{name}, line {number} is not a JSON object with the text under its column's name.")


def _batches(rows: Iterable[Row], length: int) -> Iterator[list[Row]]:
    rows = iter(rows)
    while batch := list(islice(rows, length)):
        yield batch


@contextlib.contextmanager
def _writer(name: str) -> Iterator[IO[str]]:
    """The output, which appears under its name only when all of it is there."""
    if name == STANDARD_STREAM:
        yield sys.stdout
        return
    with atomic(Path(name)) as stream:
        yield stream

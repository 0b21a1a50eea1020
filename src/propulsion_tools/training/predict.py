"""Answer for new rows with a finished run: all rows are read and checked first, then answered batch by batch."""

from __future__ import annotations

import contextlib
import hashlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO, Any

from tqdm import tqdm

from propulsion_tools.records import RECORD_FILE, RunRecord, is_stream
from propulsion_tools.records.options import PredictOptions
from propulsion_tools.records.run_spec import PREDICT
from propulsion_tools.tasks.data_files import Form
from propulsion_tools.tasks.given_rows import STANDARD_STREAM, Given, read_given
from propulsion_tools.training.answer_files import RowWriter, column_names, output_form, output_name, write_answers
from propulsion_tools.training.answered import Answered
from propulsion_tools.training.asked_rows import AskedRows
from propulsion_tools.training.data import progress_bars
from propulsion_tools.training.device import device_of, uses_cpu
from propulsion_tools.training.evaluate import restore
from propulsion_tools.training.moved_runs import located
from propulsion_tools.training.notify import Notify, keep_quiet
from propulsion_tools.training.processes import from_first, is_first, meet, number_of_processes

Row = dict[str, Any]
Sink = tuple[int, Callable[[Sequence[Row]], None]]
"""The first row that is wanted, counted from 0, and what takes the answers of each batch from there on."""
WITHOUT_EFFECT = ("input", "output", "per_device_eval_batch_size", "disable_tqdm", "use_cpu")
"""Options that the answers do not depend on."""


def predict(adapter_dir: Path, options: PredictOptions, notify: Notify = keep_quiet) -> int:
    """Read rows, answer for them, write them with what the task makes of them under `prediction`.

    The output appears whole or not at all. Until then the answers are kept beside it, and the same call goes on with
    them after an interruption; what is written to a stream is written as it comes.

    Args:
        adapter_dir: The output folder of `train`.
        options: Where to read and write.
        notify: Is told where the answers are, and whether some were there already.

    Returns:
        How many rows were answered for.

    Raises:
        OptionError: There is no such input, or no record.
        DataError: A row is not what its file's name says, or has no text; before the first batch is answered.
    """
    record = RunRecord.read(adapter_dir)
    spec = located(record.spec, adapter_dir, options).overridden(PREDICT, options)
    spec = replace(spec, disable_tqdm=True)
    device = meet(uses_cpu(spec)) if number_of_processes() > 1 else device_of(spec)
    given = from_first(lambda: read_given(options.input))
    target = output_name(options.output, given.form)
    form = output_form(target, options.input, given)
    job = restore(adapter_dir, replace(record, spec=spec))
    with progress_bars(not options.disable_tqdm):
        asked = AskedRows.of(job, given)
    batch = options.per_device_eval_batch_size
    if not hasattr(job.model, "hf_device_map"):  # or its weights are where they were put
        job.model.to(device)
    hidden = options.disable_tqdm or not is_first()
    bar = tqdm(total=len(given.rows), unit=" rows", desc="predict", leave=False, disable=hidden)
    if not is_first():
        sink = _to_the_first()
    elif target == STANDARD_STREAM or is_stream(Path(target)):
        sink = _to_stream(target, form, given)
    else:
        partial_file = Path(f"{target}.{_identity(adapter_dir, options, given)}.partial")
        sink = _to_file(Path(target), form, given, Answered(partial_file, batch), notify)
    with bar, progress_bars(False), sink as (kept, take):
        first = from_first(lambda: kept)
        bar.update(first)
        for answers in asked.answers(first, batch, device):
            take(answers)
            bar.update(len(answers))
    rows = "1 row" if len(given.rows) == 1 else f"{len(given.rows):,} rows"
    if is_first():
        notify(f"{rows} written to {'standard output' if target == STANDARD_STREAM else target}")
    return len(given.rows)


@contextlib.contextmanager
def _to_the_first() -> Iterator[Sink]:
    """Of a process whose answers another one takes."""
    yield 0, lambda answers: None


def _identity(adapter_dir: Path, options: PredictOptions, given: Given) -> str:
    """A name for what the answers depend on: the run, the input, the options."""
    asked = {name: value for name, value in sorted(asdict(options).items()) if name not in WITHOUT_EFFECT}
    record = (adapter_dir / RECORD_FILE).read_bytes()
    return hashlib.sha256(record + f"{given.digest}{asked}".encode()).hexdigest()[:12]


@contextlib.contextmanager
def _to_file(path: Path, form: Form, given: Given, kept: Answered, notify: Notify) -> Iterator[Sink]:
    """Keeps answers until all are there, and then writes the file."""
    if kept.answers:
        notify(f"{len(kept.answers):,} of {len(given.rows):,} rows were answered before: going on behind them.")
    with kept.writing() as stream:
        yield len(kept.answers), lambda answers: kept.add(stream, answers)
    write_answers(path, form, given.rows, kept.answers)
    kept.remove()


@contextlib.contextmanager
def _to_stream(target: str, form: Form, given: Given) -> Iterator[Sink]:
    """Writes rows as soon as they are answered."""
    with _opened(target) as stream:
        writer, rows = RowWriter(stream, form, column_names(given.rows)), iter(given.rows)

        def take(answers: Sequence[Row]) -> None:
            writer.write([next(rows) for _ in answers], answers)
            stream.flush()

        yield 0, take


@contextlib.contextmanager
def _opened(target: str) -> Iterator[IO[str]]:
    if target in (STANDARD_STREAM, "/dev/stdout"):
        yield sys.stdout
        return
    with Path(target).open("w", encoding="utf-8") as stream:
        yield stream

"""What the studies of the theory start from: a job at its start, samples ordered by label, the output to look at."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from propulsion_tools.errors import DataError, OptionError, check_name
from propulsion_tools.methods import get_method
from propulsion_tools.methods.head_training import is_head
from propulsion_tools.records import RunSpec, model_slug
from propulsion_tools.records.fields import borrowed_fields
from propulsion_tools.records.options import StudyOptions
from propulsion_tools.tasks import Task, TaskData, get_task
from propulsion_tools.tasks.model_kinds import SEQUENCE_CLASSIFIER
from propulsion_tools.theory.gradients import Readout, Row
from propulsion_tools.theory.readout import check_readout, default_readout, make_readout
from propulsion_tools.training.build import Job, build
from propulsion_tools.training.data import for_model, load_data, progress_bars
from propulsion_tools.training.device import device_of
from propulsion_tools.training.notify import Notify
from propulsion_tools.training.resolve import resolve
from propulsion_tools.training.trainer import make_trainer

NUMBERS_FILE = "numbers.json"
"""What every study writes, last."""


@dataclass(frozen=True)
class Samples:
    """The samples of a study.

    Attributes:
        rows: The model's inputs for each.
        labels: The label of each, as text.
        texts: The text of each.
        index: Its row in the split.
    """

    rows: list[Row]
    labels: list[str]
    texts: list[str]
    index: list[int]


@dataclass(frozen=True)
class Study:
    """A spec with its data and the samples to look at; jobs are built from it one at a time."""

    spec: RunSpec
    task: Task
    data: TaskData
    options: StudyOptions

    @classmethod
    def of(cls, options: StudyOptions, command: str, notify: Notify) -> Study:
        """Resolve the options, read the data, and pass on the notes on it.

        Raises:
            OptionError: An option is wrong.
            DataError: The data cannot be used, or has fewer samples than were asked for.
        """
        check_readout(options.output)
        given = {
            name: value for name in borrowed_fields(type(options)) if (value := getattr(options, name)) is not None
        }
        spec = resolve(RunSpec(**given))
        if options.output_dir is None:
            model = model_slug(spec.model_name_or_path)
            spec = replace(spec, output_dir=f"runs/{command}-{spec.task}-{spec.method}-{model}")
        _refuse_to_replace(Path(str(spec.output_dir)), options)
        data = load_data(spec)
        _check_samples(data, options)
        for note in data.notes:
            notify(note)
        return cls(spec, get_task(str(spec.task)), data, options)

    @property
    def folder(self) -> Path:
        """Where the results go."""
        folder = Path(str(self.spec.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @property
    def device(self) -> torch.device:
        """Where the model runs."""
        return device_of(self.spec)

    def job(self, **changes: Any) -> Job:
        """The job at its start; the same seed gives the same head to every method."""
        spec = replace(self.spec, **changes)
        foreign = get_method(spec.method).foreign_options(spec)  # of the method beside which this one is looked at
        spec = resolve(replace(spec, **{name: getattr(RunSpec, name) for name in foreign}))
        trains = self.options.training_steps > 0
        splits = {name: rows for name, rows in self.data.splits.items() if name == "train" and trains}
        job = build(spec, replace(self.data, splits=splits))
        job.model.to(self.device).eval()
        return job

    def samples(self, job: Job) -> Samples:
        """The samples as a job's model reads them."""
        rows = self.data.splits[self.options.split]
        labels = list(rows["label"]) if "label" in rows.column_names else [0] * len(rows)
        index = evenly_spaced(labels, self.options.num_samples, self.spec.seed)
        return Samples(
            rows=encode(job, rows.select(index), self.device),
            labels=[label_name(labels[position], self.data.label_names) for position in index],
            texts=[_text(rows[position]) for position in index],
            index=index,
        )

    def readout(self, job: Job) -> tuple[str, Readout]:
        """What is differentiated, by name and as a function."""
        labels = num_labels(job)
        name = self.options.output or default_readout(labels)
        return name, make_readout(name, labels)

    def title(self, what: str, output: str | None = None) -> str:
        """A line that says what a figure is about."""
        source = self.spec.dataset_name or (Path(self.spec.data_dir).name if self.spec.data_dir else self.spec.task)
        model = Path(self.spec.model_name_or_path).name
        differentiated = f", output {output}" if output else ""
        return f"{what}: {self.spec.method} on {source}, {model}, {self.options.num_samples} samples{differentiated}"


def encode(job: Job, rows: Any, device: torch.device) -> list[Row]:
    """Labelled rows of a split as a model's inputs, one by one, so that none is padded.

    Raises:
        DataError: A row does not fit into one input.
    """
    with progress_bars(not job.spec.disable_tqdm):
        encoded = for_model(job.task.encode(rows, job.setup, training=True).rows, job.model)
    if len(encoded) != len(rows):
        raise DataError(f"{len(rows)} samples make {len(encoded)} inputs: raise max_length, so that each makes one.")
    collate = job.task.collator(job.setup)
    return [
        {name: values.to(device) for name, values in collate([row]).items() if isinstance(values, torch.Tensor)}
        for row in encoded
    ]


def num_labels(job: Job) -> int | None:
    """The logits of a classifier of whole texts; None for every other model."""
    if job.kind is not SEQUENCE_CLASSIFIER:
        return None
    return len(job.data.label_names) if job.data.label_names else 1


def trained_names(job: Job) -> dict[str, list[str]]:
    """The names of the parameters that a job trains: those of its body, and those of its head."""
    names = [name for name, parameter in job.model.named_parameters() if parameter.requires_grad]
    return {
        "body": [name for name in names if not is_head(name, job.heads)],
        "head": [name for name in names if is_head(name, job.heads)],
    }


def train_steps(job: Job, steps: int, folder: Path, callbacks: Sequence[Any] = ()) -> None:
    """Train a job's model where it is, without a checkpoint or an evaluation.

    Raises:
        NotFiniteError: The loss or a gain left the finite range.
    """
    trainer = make_trainer(job, max_steps=steps, eval_strategy="no", save_strategy="no", output_dir=str(folder))
    for callback in callbacks:
        trainer.add_callback(callback)
    trainer.train()
    job.model.eval()


def evenly_spaced(labels: Sequence[Any], count: int, seed: int) -> list[int]:
    """`count` different positions, evenly spaced in the order of their labels; equal labels in random order."""
    order = list(range(len(labels)))
    random.Random(seed).shuffle(order)
    order.sort(key=lambda position: labels[position])
    return [order[number * len(order) // count] for number in range(count)]


def label_name(label: Any, names: tuple[str, ...] | None) -> str:
    """A label as text."""
    if names is not None and isinstance(label, int):
        return names[label]
    return f"{label:.3g}" if isinstance(label, float) else str(label)


def _refuse_to_replace(folder: Path, options: StudyOptions) -> None:
    if folder.exists() and not folder.is_dir():
        raise OptionError(f"output_dir {folder} is a file.")
    if (folder / NUMBERS_FILE).exists() and not options.overwrite_output_dir:
        raise OptionError(
            f"{folder} holds the results of an earlier study: pass --overwrite_output_dir true to replace them, or "
            "another --output_dir."
        )


def _check_samples(data: TaskData, options: StudyOptions) -> None:
    check_name("split", options.split, data.splits)
    if options.num_samples > (there := len(data.splits[options.split])):
        raise DataError(
            f"The split {options.split!r} has {there:,} rows, fewer than num_samples {options.num_samples}."
        )


def _text(row: dict[str, Any]) -> str:
    words = " / ".join(str(value) for value in row.values() if isinstance(value, str))
    return words if len(words) <= 90 else f"{words[:89]}…"

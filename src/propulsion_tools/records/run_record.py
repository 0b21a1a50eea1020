"""What comes out of a run: `RunRecord`, JSON both ways."""

from __future__ import annotations

import json
import os
from dataclasses import MISSING, Field, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from propulsion_tools.errors import OptionError, SchemaVersionError, UnknownNameError
from propulsion_tools.records.fields import refuse_unknown
from propulsion_tools.records.files import write_atomically
from propulsion_tools.records.json_values import check_types, to_json
from propulsion_tools.records.run_spec import BEFORE, RunSpec

SCHEMA_VERSION = 1
RECORD_FILE = "record.json"
PREDICTIONS_FILE = "eval_predictions.npz"

_INNER_KEYS = {
    "parameters": ("adapter", "head", "trainable", "total"),
    "seconds": ("train", "per_step_median"),
    "environment": ("versions", "device", "threads"),
}


@dataclass(frozen=True)
class RunRecord:
    """What one training run gave. The keys are stable: other tools read them."""

    spec: RunSpec
    metrics: dict[str, dict[str, float]]
    """split → name → value, for example ``metrics["validation"]["accuracy"]``."""
    parameters: dict[str, int]
    """Counts under ``adapter``, ``head``, ``trainable`` and ``total``."""
    adapter_bytes: int
    """Size of the files that hold what was trained."""
    seconds: dict[str, float]
    """``train``, ``steps`` (the part of it without evaluations), ``evaluate`` and ``per_step_median``."""
    peak_memory_bytes: int
    """Largest resident set since the training began, or what was allocated on the accelerator."""
    environment: dict[str, Any]
    """``versions``, ``device`` and ``threads``."""
    label_names: tuple[str, ...] | None = None
    history: dict[str, list[list[float]]] = field(default_factory=dict)
    """name → [step, value] pairs: ``loss``, the main metric of the validation split, and the ``epoch`` of each step."""
    memory_bytes: dict[str, int] = field(default_factory=dict)
    """``weights`` (parameters and buffers) and ``start`` (as the peak, but before the first step)."""
    notes: tuple[str, ...] = ()
    """What was guessed or left out, in sentences."""
    columns: dict[str, str] = field(default_factory=dict)
    """The columns that a text and its pair were read from, by the options that name them (text classification)."""
    collapses: tuple[dict[str, Any], ...] = ()
    """What was lost while it trained: ``step``, ``reason``, ``back_to`` (a step; None: it went on) and ``factor``."""
    rate_search: tuple[dict[str, Any], ...] = ()
    """The tries it was chosen by: the rates they stand for, ``share`` of the run, ``score``, ``loss``, seconds."""
    joint: int = 0
    """How many runs were trained in one batch, this one included; its time and memory are theirs. 0: it was alone."""
    apart: str | None = None
    """Why it was not, or not to its end, in one batch with the runs that it was to be with, as a clause."""
    rows: dict[str, int] = field(default_factory=dict)
    """split → how many rows were trained on or scored; empty in records of before it was kept."""
    label_column: str | None = None
    """The column that the label was read from, where the task has one."""
    majority: dict[str, dict[str, float]] = field(default_factory=dict)
    """split → name → the score of giving every row the most frequent answer; empty where there is none, or in records
    of before it was kept."""
    forgetting: dict[str, float] = field(default_factory=dict)
    """``before`` and ``after``: the loss per token on other text; empty where it was not measured."""
    schema_version: int = SCHEMA_VERSION

    @property
    def forgotten(self) -> float | None:
        """By how much the loss on other text has grown; None where it was not measured."""
        values = self.forgetting.get("before"), self.forgetting.get("after")
        return None if values[0] is None or values[1] is None else values[1] - values[0]

    def to_json(self) -> str:
        """The record as indented JSON; numbers that are not finite become null."""
        return to_json(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> RunRecord:
        """Read what `to_json` wrote.

        Raises:
            OptionError: It is not JSON, a key is missing, or a value is of the wrong type.
            SchemaVersionError: It was written under another version of the schema.
            UnknownNameError: There is a key that is not known; names the near misses.
        """
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise OptionError(f"This record is not JSON: {error}.") from error
        if not isinstance(values, dict) or "schema_version" not in values:
            raise OptionError("This is no record: it has no schema_version.")
        if (version := values["schema_version"]) != SCHEMA_VERSION:
            raise SchemaVersionError(
                f"This record has schema version {version!r}; this release reads {SCHEMA_VERSION}: read it with the "
                "release that wrote it, or run it again."
            )
        refuse_unknown(values, [item.name for item in fields(cls)], "key of a record")
        if missing := [item.name for item in fields(cls) if _required(item) and item.name not in values]:
            raise OptionError(f"This record lacks {', '.join(missing)}.")
        check_types(cls, values)
        for name, inner in _INNER_KEYS.items():
            if missing := [key for key in inner if key not in values[name]]:
                raise OptionError(f"This record lacks {', '.join(missing)} in {name}.")
        values["spec"] = RunSpec.from_dict({**BEFORE, **values["spec"]})
        for name in ("label_names", "notes", "collapses", "rate_search"):
            if values.get(name) is not None:
                values[name] = tuple(values[name])
        return cls(**values)

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write to `path`, whole or not at all."""
        write_atomically(Path(path), self.to_json())

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> RunRecord:
        """Read from `path`, a record or the folder that holds one.

        Raises:
            OptionError: There is no record, or it cannot be read.
        """
        file = Path(path) / RECORD_FILE if Path(path).is_dir() else Path(path)
        if not file.is_file():
            raise OptionError(f"There is no {file}: pass the output_dir of a finished `propulsion train`.")
        try:
            return cls.from_json(file.read_text(encoding="utf-8"))
        except (OptionError, UnknownNameError) as error:
            raise type(error)(f"{file}: {error}") from error
        except UnicodeDecodeError as error:
            raise OptionError(f"{file}: {error}") from error


def _required(item: Field[Any]) -> bool:
    return item.default is MISSING and item.default_factory is MISSING

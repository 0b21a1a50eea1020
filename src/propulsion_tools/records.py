"""What goes into a run and what comes out of it: `RunSpec` in, `RunRecord` out, JSON both ways.

Standard library only, so that a record can be read where nothing else is installed.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import MISSING, Field, asdict, dataclass, field, fields, is_dataclass
from functools import partial
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from propulsion_tools.errors import OptionError, SchemaVersionError, UnknownNameError, near_misses

SCHEMA_VERSION = 1
RECORD_FILE = "record.json"
PREDICTIONS_FILE = "eval_predictions.npz"


def option(group: str, default: Any, text: str) -> Any:
    """A field whose documentation is the command line's help."""
    return field(default=default, metadata={"group": group, "help": text})


_model, _data, _method, _train, _loop, _save = (
    partial(option, group)
    for group in ("model", "data", "method", "optimization", "length and size", "logging and saving")
)


@dataclass(frozen=True)
class RunSpec:
    """Everything that decides one training run, under the names of `TrainingArguments` and PEFT."""

    model_name_or_path: str = _model("minilm", "a folder, a hub id, or 'minilm' (weights from the package index)")
    torch_dtype: str = _model("float32", "dtype of the base model: float32, bfloat16 or float16")
    load_in_8bit: bool = _model(False, "keep the frozen weights in 8 bits (bitsandbytes)")
    load_in_4bit: bool = _model(False, "keep the frozen weights in 4 bits, NF4 (bitsandbytes)")
    device_map: str | None = _model(None, "where the weights go, for example auto; None: one device")
    dropout: float | None = _model(None, "dropout of hidden layers and attention; None: the model's")
    attn_implementation: str | None = _model(None, "eager, sdpa, flash_attention_2 and so on; None: the model's")

    task: str | None = _data(None, "see `propulsion tasks`; text-classification if data is named, else docstrings")
    data_dir: str | None = _data(None, "folder with train and validation files: .jsonl, .jsonl.gz, .csv or .parquet")
    dataset_name: str | None = _data(None, "data set id on the hub")
    dataset_config_name: str | None = _data(None, "configuration of the hub's data set")
    text_column: str | None = _data(None, "column with the text (guessed and shown if not given)")
    text_pair_column: str | None = _data(None, "column with the second text, for pairs")
    label_column: str | None = _data(None, "column with the label (guessed and shown if not given)")
    max_train_samples: int | None = _data(None, "use at most this many training rows")
    max_eval_samples: int | None = _data(None, "use at most this many rows of each other split")
    selection_fraction: float = _data(
        0.0, "above 0: score on this share of the training rows, set aside, and on no other split (to choose settings)"
    )
    max_length: int | None = _data(None, "longest input in tokens, for decoders with the target; None: the task's")
    max_target_length: int | None = _data(None, "longest target of an encoder-decoder in tokens; None: the task's")
    doc_stride: int | None = _data(None, "tokens that the windows of a long context share; None: the task's")
    null_score_diff_threshold: float = _data(0.0, "leave a question unanswered if no answer scores better by more")
    max_new_tokens: int | None = _data(None, "longest answer that is generated, in tokens; None: the task's")
    num_beams: int | None = _data(None, "beams of the generation; None: the task's")

    method: str = _method("propulsion", "how to fine-tune; see `propulsion methods`")
    target_modules: str | tuple[str, ...] | None = _method(
        None, "preset, list, regex or all-linear; None: the method's"
    )
    exclude_modules: str | tuple[str, ...] | None = _method(None, "list or regex of modules to leave alone")
    degree: int | tuple[int, ...] = _method(15, "degree k of the gain z^k, or one per vector")
    degree_pattern: dict[str, int | list[int]] | None = _method(None, "degree per module name, for example {query: 5}")  # noqa: RUF009
    num_vectors: int = _method(1, "vectors per layer (multi-propulsion)")
    pooling: str = _method("mean", "how the outputs of several vectors are pooled: mean, max, min or l2")
    init_weights: bool | str = _method(True, "true (the identity), false, or zeros, normal, uniform, xavier")
    init_noise: float = _method(0.0, "standard deviation of the noise that tells the vectors apart")
    train_bias: bool = _method(False, "also train the biases of the steered layers")
    method_args: dict[str, Any] | None = _method(None, "fields of the method's own configuration, for example {r: 4}")  # noqa: RUF009
    modules_to_save: tuple[str, ...] | None = _method(None, "modules trained whole beside the task's head")
    layers_to_transform: int | tuple[int, ...] | None = _method(None, "indices of the blocks to steer (default: all)")

    learning_rate: float | None = _train(None, "step size at the peak; None: the method's (propulsion: 0.015 / degree)")
    head_learning_rate: float | None = _train(None, "step size of the head; None: the method's (most: 5e-3)")
    weight_decay: float = _train(0.0, "decay of the weights; pulls gains towards the identity")
    max_grad_norm: float = _train(1.0, "clip the norm of the gradient to this")
    optim: str = _train("adamw_torch", "optimizer, by its name in TrainingArguments")
    lr_scheduler_type: str = _train("linear", "schedule, by its name in TrainingArguments")
    warmup_steps: float = _train(0.06, "warm-up steps; below 1, a share of all steps")
    bf16: bool = _train(False, "compute in bfloat16 by autocast; trained weights stay float32")
    gradient_checkpointing: bool = _train(False, "recompute activations to save memory")
    seed: int = _train(42, "seed of the head, the adapter, the order of the data and dropout")

    num_train_epochs: float = _loop(3.0, "passes over the training data")
    max_steps: int = _loop(-1, "stop after this many steps; overrides num_train_epochs if positive")
    per_device_train_batch_size: int = _loop(16, "rows per step and device")
    group_by_length: bool = _loop(False, "put rows of about the same length into a batch")
    per_device_eval_batch_size: int = _loop(64, "rows per evaluation batch and device")
    gradient_accumulation_steps: int = _loop(1, "batches per step")
    early_stopping_patience: int | None = _loop(None, "stop after this many evaluations without a better metric")

    output_dir: str | None = _save(None, "where results go; None: runs/<task>-<method>-<model>-seed<seed>")
    overwrite_output_dir: bool = _save(False, "replace the run that is in output_dir")
    resume_from_checkpoint: bool | str | None = _save(None, "true: the last checkpoint in output_dir, or its path")
    logging_steps: float = _save(10, "record the loss every so many steps")
    eval_strategy: str = _save("epoch", "when to evaluate: no, steps or epoch")
    eval_steps: float | None = _save(None, "steps between evaluations when eval_strategy is steps")
    save_strategy: str = _save("epoch", "when to write a checkpoint: no, steps, epoch or best")
    save_steps: float = _save(500, "steps between checkpoints when save_strategy is steps")
    save_total_limit: int | None = _save(2, "keep at most this many checkpoints")
    load_best_model_at_end: bool = _save(False, "end with the best checkpoint instead of the last weights")
    report_to: str | tuple[str, ...] = _save("none", "trackers: none, all, tensorboard, wandb and so on")
    disable_tqdm: bool = _save(False, "no progress bars")
    use_cpu: bool = _save(False, "stay on the CPU even if there is an accelerator")
    smoke: bool = _save(False, "try two steps offline: a tiny random model of this architecture, made-up rows")

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, list):
                object.__setattr__(self, item.name, tuple(value))
        _check_numbers(self)
        _check_choices(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RunSpec:
        """The spec with these fields, and defaults for the others.

        Raises:
            UnknownNameError: There is a key that is not a field; names the near misses.
            OptionError: A value is out of range.
        """
        refuse_unknown(values, [item.name for item in fields(cls)], "field of a run")
        return cls(**values)


_AT_LEAST_ONE = (
    "max_length",
    "max_target_length",
    "max_new_tokens",
    "num_beams",
    "num_vectors",
    "per_device_train_batch_size",
    "per_device_eval_batch_size",
    "gradient_accumulation_steps",
    "max_train_samples",
    "max_eval_samples",
    "early_stopping_patience",
    "save_total_limit",
)
_NOT_NEGATIVE = ("doc_stride", "init_noise", "weight_decay", "max_grad_norm", "warmup_steps", "seed")
_ABOVE_ZERO = (
    "learning_rate",
    "head_learning_rate",
    "num_train_epochs",
    "logging_steps",
    "eval_steps",
    "save_steps",
)
_SHARES = ("selection_fraction", "dropout")
_FINITE = ("null_score_diff_threshold",)
_CHOICES = {
    "torch_dtype": ("float32", "bfloat16", "float16"),
    "eval_strategy": ("no", "steps", "epoch"),
    "save_strategy": ("no", "steps", "epoch", "best"),
}


def _check_numbers(spec: RunSpec) -> None:
    rules = (
        (_AT_LEAST_ONE, "an integer of at least 1", lambda v: isinstance(v, int) and v >= 1),
        (_NOT_NEGATIVE, "a number of at least 0", lambda v: math.isfinite(v) and v >= 0),
        (_ABOVE_ZERO, "a number above 0", lambda v: math.isfinite(v) and v > 0),
        (_SHARES, "a share of at least 0 and below 1", lambda v: 0 <= v < 1),
        (_FINITE, "a finite number", math.isfinite),
    )
    for names, wanted, holds in rules:
        for name in names:
            value = getattr(spec, name)
            optional = "None" in str(type(spec).__dataclass_fields__[name].type)
            if value is None and optional:
                continue
            if isinstance(value, bool) or not isinstance(value, int | float) or not holds(value):
                raise OptionError(f"{name} must be {wanted}, and not {value!r}.")


def _check_choices(spec: RunSpec) -> None:
    for name, choices in _CHOICES.items():
        if (value := getattr(spec, name)) not in choices:
            raise OptionError(f"{name} must be one of {', '.join(choices)}, and not {value!r}.")
    if spec.load_in_8bit and spec.load_in_4bit:
        raise OptionError("load_in_8bit and load_in_4bit are both set: drop one of them.")
    needs_best = spec.load_best_model_at_end or spec.early_stopping_patience or spec.save_strategy == "best"
    if needs_best and spec.eval_strategy == "no":
        raise OptionError("Finding the best checkpoint needs evaluations: set eval_strategy to epoch or steps.")
    if spec.load_best_model_at_end and spec.save_strategy not in ("best", spec.eval_strategy):
        raise OptionError("load_best_model_at_end needs save_strategy to be best or the same as eval_strategy.")


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
    """name → [step, value] pairs: ``loss``, and the main metric of the validation split."""
    memory_bytes: dict[str, int] = field(default_factory=dict)
    """``weights`` (parameters and buffers) and ``start`` (as the peak, but before the first step)."""
    notes: tuple[str, ...] = ()
    """What was guessed or left out, in sentences."""
    columns: dict[str, str] = field(default_factory=dict)
    """The columns that a text and its pair were read from, by the options that name them (text classification)."""
    schema_version: int = SCHEMA_VERSION

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
        values["spec"] = RunSpec.from_dict(values["spec"])
        for name in ("label_names", "notes"):
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


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file so that a reader, or a kill, never meets half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial_file = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with partial_file.open("wb") as file:
            file.write(content.encode("utf-8") if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial_file, path)
    finally:
        partial_file.unlink(missing_ok=True)


def refuse_unknown(values: Mapping[str, Any], known: list[str], what: str) -> None:
    """Raise `UnknownNameError` for the first key of `values` that is not `known`."""
    for key in values:
        if key not in known:
            raise UnknownNameError(f"{key!r} is no {what}.{near_misses(str(key), known)}")


def check_types(cls: type[Any], values: Mapping[str, Any]) -> None:
    """Check values that were read from JSON against the annotations of a dataclass.

    Raises:
        OptionError: One is of another type.
    """
    for name, hint in get_type_hints(cls).items():
        if name in values and not _fits(values[name], hint):
            raise OptionError(f"{name} is of the wrong type: {repr(values[name])[:80]}.")


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value from JSON is one of these; null stands for a number that was not finite."""
    kind, parts = get_origin(hint) or hint, get_args(hint)
    if kind is Any:
        return True
    if kind in (Union, UnionType):
        return any(_fits(value, part) for part in parts)
    if kind is dict:
        return isinstance(value, dict) and all(_fits(item, parts[1]) for item in value.values())
    if kind in (list, tuple):
        return isinstance(value, list | tuple) and all(_fits(item, parts[0]) for item in value)
    if is_dataclass(kind):
        return isinstance(value, dict)
    if kind is float:
        return value is None or (isinstance(value, int | float) and not isinstance(value, bool))
    return isinstance(value, kind)


def _required(item: Field[Any]) -> bool:
    return item.default is MISSING and item.default_factory is MISSING


def to_json(values: Any) -> str:
    """Indented JSON; numbers that are not finite become null."""
    return json.dumps(_finite(values), indent=2, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

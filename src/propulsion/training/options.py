"""What the commands beside `train` are told. Standard library only, so that the command line starts quickly."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from propulsion.errors import ConfigError
from propulsion.records import option

_option = partial(option, "options")


@dataclass(frozen=True)
class EvaluateOptions:
    """Score a finished run again, on its own data or on other data. What is not given is read from its record."""

    task: str | None = _option(None, "another task of the same kind")
    data_dir: str | None = _option(None, "another folder of data")
    dataset_name: str | None = _option(None, "another data set on the hub")
    dataset_config_name: str | None = _option(None, "configuration of the hub's data set")
    split: str | None = _option(None, "only this split (default: every split but train)")
    max_eval_samples: int | None = _option(None, "use at most this many rows of each split")
    max_length: int | None = _option(None, "longest input in tokens")
    max_new_tokens: int | None = _option(None, "longest answer that is generated, in tokens")
    num_beams: int | None = _option(None, "beams of the generation")
    null_score_diff_threshold: float | None = _option(
        None, "leave a question unanswered if no answer scores better by more (the metrics name the best threshold)"
    )
    per_device_eval_batch_size: int | None = _option(None, "rows per batch")
    output: str | None = _option(None, "also write the metrics to this JSON file")
    disable_tqdm: bool = _option(False, "no progress bar")
    use_cpu: bool = _option(False, "stay on the CPU even if there is an accelerator")


@dataclass(frozen=True)
class PredictOptions:
    """Answer for new rows with a finished run."""

    input: str = _option("-", ".jsonl or .csv file, or - for standard input (JSON objects or plain lines)")
    output: str = _option("predictions.jsonl", "where the rows go, each with its `prediction`; - for standard output")
    max_new_tokens: int | None = _option(None, "longest answer that is generated, in tokens; None: as trained")
    num_beams: int | None = _option(None, "beams of the generation; None: as trained")
    null_score_diff_threshold: float | None = _option(
        None, "leave a question unanswered if no answer scores better by more; None: as trained"
    )
    per_device_eval_batch_size: int = _option(64, "rows per batch")
    disable_tqdm: bool = _option(False, "no progress bar")
    use_cpu: bool = _option(False, "stay on the CPU even if there is an accelerator")

    def __post_init__(self) -> None:
        if self.per_device_eval_batch_size < 1:
            raise ConfigError("per_device_eval_batch_size must be at least 1.")


@dataclass(frozen=True)
class InspectOptions:
    """Show what an adapter has learned: its targets, and the gains of each layer."""

    figure: str | None = _option(None, "also draw the gains as a heat map, .html or .png")


@dataclass(frozen=True)
class MethodsOptions:
    """List the ways to fine-tune, or count what each of them trains in a model."""

    counts: str | None = _option(None, "count parameters in this model: roberta-base, ..., a folder or a hub id")


@dataclass(frozen=True)
class DemoOptions:
    """Train the head alone and Propulsion on the docstrings of installed packages, and compare them."""

    output_dir: str = _option("runs/demo", "where both runs go")
    seed: int = _option(42, "seed of both runs")
    max_train_samples: int | None = _option(None, "use at most this many training rows")
    max_eval_samples: int | None = _option(None, "use at most this many validation rows")
    num_train_epochs: float = _option(1.0, "passes over the training data")
    disable_tqdm: bool = _option(False, "no progress bars")

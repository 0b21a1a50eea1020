"""What the commands beside `train` are told. Standard library only, so that the command line starts quickly."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from propulsion_tools.errors import OptionError
from propulsion_tools.records import option

_option = partial(option, "options")


@dataclass(frozen=True)
class EvaluateOptions:
    """Score a finished run again, on its own data or on other data. What is not given is read from its record."""

    task: str | None = _option(None, "another task of the same kind")
    data_dir: str | None = _option(None, "another folder of data")
    dataset_name: str | None = _option(None, "another data set on the hub")
    dataset_config_name: str | None = _option(None, "configuration of the hub's data set")
    text_column: str | None = _option(None, "column with the text")
    text_pair_column: str | None = _option(None, "column with the second text, for pairs")
    label_column: str | None = _option(None, "column with the label")
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
    text_column: str | None = _option(None, "column with the text; None: the one that the run has read")
    text_pair_column: str | None = _option(
        None, "column with the second text, for pairs; None: the one that the run has read"
    )
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
            raise OptionError("per_device_eval_batch_size must be at least 1.")


@dataclass(frozen=True)
class InspectOptions:
    """Show what an adapter has learned: its targets, and the gains of each layer."""

    figure: str | None = _option(None, "also draw the gains as a heat map, .html or .png")
    distribution: str | None = _option(None, "also draw how z spreads before and after training, .png or .svg")


@dataclass(frozen=True)
class MethodsOptions:
    """List the ways to fine-tune, or count what each of them trains in a model."""

    counts: str | None = _option(None, "count parameters in this model: roberta-base, ..., a folder or a hub id")


@dataclass(frozen=True)
class RecipesOptions:
    """List the rows of the paper's tables that can be run, or print one as a YAML file."""

    table: int | None = _option(None, "only those of this table: 1, 2, 3 or 9 to 23")
    model: str | None = _option(None, "only those of this model, by the paper's name, for example roberta-base")
    task: str | None = _option(None, "only those of this task; see `propulsion tasks`")
    method: str | None = _option(None, "only those of this method; see `propulsion methods`")
    print: bool = _option(False, "write the recipe as YAML, with the origin of each value, for `train --config`")


@dataclass(frozen=True)
class DemoOptions:
    """Train the head alone and Propulsion on the docstrings of installed packages, and compare them."""

    output_dir: str = _option("runs/demo", "where both runs go")
    seed: int = _option(42, "seed of both runs")
    max_train_samples: int | None = _option(None, "use at most this many training rows")
    max_eval_samples: int | None = _option(None, "use at most this many validation rows")
    num_train_epochs: float = _option(1.0, "passes over the training data")
    disable_tqdm: bool = _option(False, "no progress bars")


@dataclass(frozen=True)
class StudyOptions:
    """What the studies of the theory share: a model, a task, a method, and the samples to look at."""

    model_name_or_path: str = _option("minilm", "a folder, a hub id, or 'minilm' (weights from the package index)")
    task: str | None = _option(None, "see `propulsion tasks`; text-classification if data is named, else docstrings")
    data_dir: str | None = _option(None, "folder with train and validation files: .jsonl, .jsonl.gz, .csv or .parquet")
    dataset_name: str | None = _option(None, "data set id on the hub")
    dataset_config_name: str | None = _option(None, "configuration of the hub's data set")
    max_length: int | None = _option(None, "truncate to this many tokens; None: the task's")
    method: str = _option("propulsion", "the method beside full fine-tuning; see `propulsion methods`")
    target_modules: str | tuple[str, ...] | None = _option(
        None, "preset, list, regex or all-linear; None: the method's"
    )
    degree: int = _option(15, "degree k of the gain z^k")
    learning_rate: float | None = _option(None, "step size of the method; None: the method's own")
    per_device_train_batch_size: int = _option(16, "rows per training step")
    seed: int = _option(42, "seed of the head, the adapter, the samples and the order of the data")
    split: str = _option("train", "the samples are of this split")
    num_samples: int = _option(64, "how many samples, evenly spaced in the order of their labels")
    output: str | None = _option(
        None, "what is differentiated: difference (of two logits), sum, classes, or loss; None: what suits the task"
    )
    memory: float = _option(2.0, "GiB for the gradients that are kept at once; less means more passes")
    output_dir: str | None = _option(None, "where results go; None: runs/<command>-<task>-<method>-<model>")
    disable_tqdm: bool = _option(False, "no progress bars")
    use_cpu: bool = _option(False, "stay on the CPU even if there is an accelerator")

    def __post_init__(self) -> None:
        for name, least in (("num_samples", 1), ("steps", 0)):
            if getattr(self, name, least) < least:
                raise OptionError(f"{name} must be at least {least}, and not {getattr(self, name)}.")
        if not self.memory > 0:
            raise OptionError(f"memory must be above 0 GiB, and not {self.memory}.")


@dataclass(frozen=True)
class NtkOptions(StudyOptions):
    """The tangent kernels of full fine-tuning and of a method, beside each other (figure 6)."""

    steps: int = _option(0, "also train both for this many steps, and compare the kernels there")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_samples < 2:
            raise OptionError("num_samples must be at least 2: a kernel compares samples.")


@dataclass(frozen=True)
class JacobianOptions(StudyOptions):
    """The Jacobian before and after training, and how well the model is linear in what is trained (figure 7)."""

    num_samples: int = _option(32, "how many samples, evenly spaced in the order of their labels")
    steps: int = _option(100, "train for this many steps")


@dataclass(frozen=True)
class BoundOptions(StudyOptions):
    """The Johnson-Lindenstrauss bound at the model's own weights, and at random ones of growing width (theorem 1)."""

    target_modules: str | tuple[str, ...] | None = _option("all", "layers whose weights are looked at")


@dataclass(frozen=True)
class RegressionOptions:
    """Predict by kernel regression with a finished run's tangent kernel at its start, beside the trained adapter."""

    output: str | None = _option(None, "what is differentiated, as for `propulsion ntk`, but not the loss")
    max_eval_samples: int | None = _option(None, "use at most this many rows of each other split")
    result: str | None = _option(None, "also write the scores to this JSON file")
    disable_tqdm: bool = _option(False, "no progress bars")
    use_cpu: bool = _option(False, "stay on the CPU even if there is an accelerator")

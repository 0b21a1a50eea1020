"""What each command beside `train` is told."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from propulsion_tools.errors import OptionError, check_name
from propulsion_tools.records.fields import (
    ABOVE_ZERO,
    AT_LEAST_ONE,
    NOT_NEGATIVE,
    Checked,
    Values,
    at_least,
    borrow,
    one_of,
    option,
)
from propulsion_tools.records.run_spec import RunSpec

_option, _borrowed = partial(option, "options"), partial(borrow, RunSpec)
BACKENDS = ("local", "ray")
RAY_OPTIONS = ("replicas", "ray_address", "ray_settings", "ray_application")
MERGED, IA3 = "merged", "peft-ia3"
EXPORT_FORMATS = (MERGED, IA3, "peft-road", "peft-dora")
SERVED_TASKS = one_of("SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS", "CAUSAL_LM")
PORT = Values("a port of 0 to 65535", lambda v: isinstance(v, int) and 0 <= v <= 65535)
BASE_MODEL = "where the base model is, if it is not where the run says"


def check_backend(name: str) -> None:
    """Refuse what is no backend.

    Raises:
        UnknownNameError: It is none; names the near misses.
    """
    check_name("backend", name, BACKENDS)


@dataclass(frozen=True)
class EvaluateOptions(Checked):
    """Score a finished run again, on its own data or on other data. What is not given is read from its record."""

    task: str | None = _borrowed("task", text="another task of the same kind")
    data_dir: str | None = _borrowed("data_dir", text="another folder of data")
    dataset_name: str | None = _borrowed("dataset_name", text="another data set on the hub")
    dataset_config_name: str | None = _borrowed("dataset_config_name")
    text_column: str | None = _borrowed("text_column", text="column with the text")
    text_pair_column: str | None = _borrowed("text_pair_column")
    label_column: str | None = _borrowed("label_column", text="column with the label")
    model_name_or_path: str | None = _borrowed("model_name_or_path", default=None, text=BASE_MODEL)
    split: str | None = _option(None, "only this split (default: every split but train)")
    max_eval_samples: int | None = _borrowed("max_eval_samples", text="use at most this many rows of each split")
    max_length: int | None = _borrowed("max_length", text="longest input in tokens")
    max_new_tokens: int | None = _borrowed("max_new_tokens", text="longest answer that is generated, in tokens")
    num_beams: int | None = _borrowed("num_beams", text="beams of the generation")
    null_score_diff_threshold: float | None = _borrowed(
        "null_score_diff_threshold",
        default=None,
        text="leave a question unanswered if no answer scores better by more (the metrics name the best threshold)",
    )
    per_device_eval_batch_size: int | None = _borrowed(
        "per_device_eval_batch_size", default=None, text="rows per batch"
    )
    output: str | None = _option(None, "also write the metrics to this JSON file")
    disable_tqdm: bool = _borrowed("disable_tqdm")
    use_cpu: bool = _borrowed("use_cpu")


@dataclass(frozen=True)
class PredictOptions(Checked):
    """Answer for new rows with a finished run."""

    input: str = _option(
        "-", "file as for training (.jsonl, .json, .csv, .tsv, .parquet), or - for standard input (JSON or plain lines)"
    )
    output: str | None = _option(
        None,
        "where the rows go, each with its `prediction`, in the form that its name says or else the input's; - for "
        "standard output; None: predictions with the input's ending",
    )
    text_column: str | None = _borrowed("text_column", text="column with the text; None: the one that the run has read")
    text_pair_column: str | None = _borrowed(
        "text_pair_column", text="column with the second text, for pairs; None: the one that the run has read"
    )
    model_name_or_path: str | None = _borrowed("model_name_or_path", default=None, text=BASE_MODEL)
    max_length: int | None = _borrowed("max_length", text="longest input in tokens; None: as trained")
    max_new_tokens: int | None = _borrowed(
        "max_new_tokens", text="longest answer that is generated, in tokens; None: as trained"
    )
    num_beams: int | None = _borrowed("num_beams", text="beams of the generation; None: as trained")
    null_score_diff_threshold: float | None = _borrowed(
        "null_score_diff_threshold",
        default=None,
        text="leave a question unanswered if no answer scores better by more; None: as trained",
    )
    per_device_eval_batch_size: int = _borrowed("per_device_eval_batch_size", text="rows per batch")
    disable_tqdm: bool = _borrowed("disable_tqdm")
    use_cpu: bool = _borrowed("use_cpu")


@dataclass(frozen=True)
class InspectOptions(Checked):
    """Show what an adapter has learned: its targets, and the gains of each layer."""

    figure: str | None = _option(None, "also draw the gains as a heat map, .html or .png")
    distribution: str | None = _option(None, "also draw how z spreads before and after training, .png or .svg")


@dataclass(frozen=True)
class ExportOptions(Checked):
    """Write a finished adapter as a plain checkpoint, or as an adapter of one of PEFT's own methods."""

    format: str = _option(
        MERGED,
        "merged (a plain checkpoint), peft-ia3, peft-road or peft-dora (adapters for a PEFT without this package)",
        one_of(*EXPORT_FORMATS),
    )
    output: str | None = _option(None, "the folder to write; None: the adapter's, with the format behind its name")
    model_name_or_path: str | None = _borrowed(
        "model_name_or_path", default=None, text="where the base model is; None: where the adapter says"
    )
    fold_unsupported: bool = _option(
        False, "fold what the format has no place for into a copy of the base model, in the folder base of the output"
    )
    max_shard_size: str = _option("5GB", "largest size of one file of weights")
    device_map: str | None = _borrowed("device_map", text="where the weights go while the result is checked")
    tolerance: float | None = _option(
        None,
        "largest difference of an output, as a share of the largest; None: 1e-4, or what the weights' dtype explains",
        NOT_NEGATIVE,
    )


@dataclass(frozen=True)
class ImportOptions(Checked):
    """Make an adapter of Propulsion of one that another of PEFT's methods has trained."""

    format: str = _option(IA3, "what it is now: peft-ia3", one_of(IA3))
    output: str | None = _option(None, "the folder to write; None: the adapter's, with -propulsion behind its name")
    degree: int = _borrowed("degree", default=1, text="degree k of the gain z^k, of which z is taken")
    model_name_or_path: str | None = _borrowed(
        "model_name_or_path", default=None, text="where the base model is; None: where the adapter says"
    )
    device_map: str | None = _borrowed("device_map", text="where the weights go while the result is checked")
    tolerance: float | None = _option(
        None, "largest difference of an output, as a share of the largest; None: 1e-4", NOT_NEGATIVE
    )


@dataclass(frozen=True)
class ServeOptions(Checked):
    """Answer over HTTP with many adapters of one base model."""

    adapters: str = _option(".", "folder with a folder for each adapter, or that of one adapter; nothing else is read")
    model_name_or_path: str | None = _borrowed(
        "model_name_or_path", default=None, text="the base model; None: the one that all adapters name"
    )
    task_type: str | None = _option(
        None, "what is served, where adapters differ in it: SEQ_CLS, TOKEN_CLS, QUESTION_ANS, CAUSAL_LM", SERVED_TASKS
    )
    host: str = _option("127.0.0.1", "address to listen on; 0.0.0.0 for all of this machine's")
    port: int = _option(8000, "port to listen on; 0 for a free one", PORT)
    torch_dtype: str = _borrowed("torch_dtype", text="how the weights are kept: float32, bfloat16 or float16")
    capacity: int | None = _option(None, "adapters on the device at once; None: all", AT_LEAST_ONE)
    host_budget: int | None = _option(None, "bytes of host memory for the others; None: no limit", at_least(0))
    max_adapters: int = _option(10_000, "adapters that may be known", AT_LEAST_ONE)
    max_batch_size: int = _option(32, "rows that the model reads at once", AT_LEAST_ONE)
    max_wait_ms: float = _option(2.0, "how long a row waits for others to fill its batch", NOT_NEGATIVE)
    max_queue: int = _option(512, "rows that may wait; who comes then gets 429", AT_LEAST_ONE)
    max_body_bytes: int = _option(1 << 20, "longest body of a request", AT_LEAST_ONE)
    max_inputs: int = _option(64, "inputs of one request", AT_LEAST_ONE)
    max_input_tokens: int = _option(4096, "tokens of one input", AT_LEAST_ONE)
    max_new_tokens: int = _option(512, "tokens that are generated for one input", AT_LEAST_ONE)
    request_timeout: float = _option(60.0, "seconds after which an answer is given up (504)", ABOVE_ZERO)
    body_timeout: float = _option(10.0, "seconds that a client may take to send a body (408)", ABOVE_ZERO)
    use_cpu: bool = _borrowed("use_cpu")
    backend: str = _option("local", "where the model runs: local (in this process) or ray (in replicas of Ray Serve)")
    replicas: int = _option(1, "with ray: copies of the model", AT_LEAST_ONE)
    ray_address: str | None = _option(
        None, "with ray: address of a running cluster; None: $RAY_ADDRESS, or one is started on this machine"
    )
    ray_settings: str | None = _option(
        None, "with ray: YAML file of Ray Serve's settings of a deployment: autoscaling_config, ray_actor_options, ..."
    )
    ray_application: str = _option("propulsion", "with ray: name of the application in the cluster")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_backend(self.backend)
        given = [name for name in RAY_OPTIONS if getattr(self, name) != getattr(type(self), name)]
        if given and self.backend != "ray":
            raise OptionError(f"{given[0]} goes with --backend ray.")


@dataclass(frozen=True)
class RecipesOptions(Checked):
    """List the rows of the paper's tables that can be run, or print one as a YAML file."""

    table: int | None = _option(None, "only those of this table: 1, 2, 3 or 9 to 23")
    model: str | None = _option(None, "only those of this model, by the paper's name, for example roberta-base")
    task: str | None = _option(None, "only those of this task; see `propulsion tasks`")
    method: str | None = _option(None, "only those of this method; see `propulsion methods`")
    print: bool = _option(False, "write the recipe as YAML, with the origin of each value, for `train --config`")


@dataclass(frozen=True)
class MethodsOptions(Checked):
    """List the ways to fine-tune, or count what each of them trains in a model."""

    counts: str | None = _option(None, "count parameters in this model: roberta-base, ..., a folder or a hub id")


@dataclass(frozen=True)
class DemoOptions(Checked):
    """Train the head alone and Propulsion on the docstrings of installed packages, and compare them."""

    output_dir: str = _borrowed("output_dir", default="runs/demo", text="where both runs go")
    seed: int = _borrowed("seed", text="seed of both runs")
    max_train_samples: int | None = _borrowed("max_train_samples")
    max_eval_samples: int | None = _borrowed("max_eval_samples", text="use at most this many validation rows")
    num_train_epochs: float = _borrowed("num_train_epochs", default=1.0)
    disable_tqdm: bool = _borrowed("disable_tqdm")


@dataclass(frozen=True)
class StudyOptions(Checked):
    """What the studies of the theory share: a model, a task, a method, and the samples to look at."""

    model_name_or_path: str = _borrowed("model_name_or_path")
    task: str | None = _borrowed("task")
    data_dir: str | None = _borrowed("data_dir")
    dataset_name: str | None = _borrowed("dataset_name")
    dataset_config_name: str | None = _borrowed("dataset_config_name")
    text_column: str | None = _borrowed("text_column")
    text_pair_column: str | None = _borrowed("text_pair_column")
    label_column: str | None = _borrowed("label_column")
    max_length: int | None = _borrowed("max_length", text="truncate to this many tokens; None: the task's")
    method: str = _borrowed("method", text="the method beside full fine-tuning; see `propulsion methods`")
    target_modules: str | tuple[str, ...] | None = _borrowed("target_modules")
    degree: int = _borrowed("degree", text="degree k of the gain z^k")
    learning_rate: float | None = _borrowed("learning_rate", text="step size of the method; None: the method's own")
    per_device_train_batch_size: int = _borrowed("per_device_train_batch_size", text="rows per training step")
    seed: int = _borrowed("seed", text="seed of the head, the adapter, the samples and the order of the data")
    split: str = _option("train", "the samples are of this split")
    num_samples: int = _option(64, "how many samples, evenly spaced in the order of their labels", AT_LEAST_ONE)
    output: str | None = _option(
        None, "what is differentiated: difference (of two logits), sum, classes, or loss; None: what suits the task"
    )
    memory: float = _option(2.0, "GiB for the gradients that are kept at once; less means more passes", ABOVE_ZERO)
    output_dir: str | None = _borrowed(
        "output_dir", text="where results go; None: runs/<command>-<task>-<method>-<model>"
    )
    overwrite_output_dir: bool = _borrowed(
        "overwrite_output_dir", text="replace the results of an earlier study that are in output_dir"
    )
    disable_tqdm: bool = _borrowed("disable_tqdm")
    use_cpu: bool = _borrowed("use_cpu")

    @property
    def training_steps(self) -> int:
        """How many steps are trained before the last look."""
        return 0


@dataclass(frozen=True)
class NtkOptions(StudyOptions):
    """The tangent kernels of full fine-tuning and of a method, beside each other (figure 6)."""

    num_samples: int = _option(64, "how many samples, evenly spaced in the order of their labels", at_least(2))
    steps: int = _option(0, "also train both for this many steps, and compare the kernels there", at_least(0))

    @property
    def training_steps(self) -> int:
        """`steps`."""
        return self.steps


@dataclass(frozen=True)
class JacobianOptions(StudyOptions):
    """The Jacobian before and after training, and how well the model is linear in what is trained (figure 7)."""

    num_samples: int = _option(32, "how many samples, evenly spaced in the order of their labels", AT_LEAST_ONE)
    steps: int = _option(100, "train for this many steps", AT_LEAST_ONE)

    @property
    def training_steps(self) -> int:
        """`steps`."""
        return self.steps


@dataclass(frozen=True)
class BoundOptions(StudyOptions):
    """The Johnson-Lindenstrauss bound at the model's own weights, and at random ones of growing width (theorem 1)."""

    target_modules: str | tuple[str, ...] | None = _borrowed(
        "target_modules", default="all", text="layers whose weights are looked at"
    )


@dataclass(frozen=True)
class RegressionOptions(Checked):
    """Predict by kernel regression with a finished run's tangent kernel at its start, beside the trained adapter."""

    output: str | None = _option(None, "what is differentiated, as for `propulsion ntk`, but not the loss")
    model_name_or_path: str | None = _borrowed("model_name_or_path", default=None, text=BASE_MODEL)
    data_dir: str | None = _borrowed("data_dir", text="where the data is, if it is not where the run says")
    dataset_name: str | None = _borrowed("dataset_name", text="the same data on the hub")
    dataset_config_name: str | None = _borrowed("dataset_config_name")
    max_eval_samples: int | None = _borrowed("max_eval_samples")
    result: str | None = _option(None, "also write the scores to this JSON file")
    disable_tqdm: bool = _borrowed("disable_tqdm")
    use_cpu: bool = _borrowed("use_cpu")


@dataclass(frozen=True)
class CompareOptions(Checked):
    """Run a grid, and write its report."""

    jobs: int | None = _option(
        None, "runs at once (default: half the cores; with ray: one for each core)", AT_LEAST_ONE
    )
    backend: str = _option("local", "where runs run: local (processes of this machine) or ray")
    ray_address: str | None = _option(None, "address of a running Ray cluster; None: one is started on this machine")
    output_dir: str | None = _option(None, "where runs and report go (default: what the grid says, or runs/<name>)")
    data_root: str | None = _option(None, "folder with a folder of data for each task, named like the task")
    retry_failed: bool = _option(False, "run again what failed before")
    report_only: bool = _option(False, "run nothing, write the report of what there is")
    joint: bool | str = _borrowed(
        "joint",
        text="train runs on one base model in one batch (true, false or auto): with auto those that choose a learning "
        "rate, where some steps at the start say that it is faster; with true also those that count, whose time and "
        "memory are then those of the batch",
    )
    archive: bool = _option(False, "also write runs.tar.xz, from which a report can be made without the runs' folders")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_backend(self.backend)
        if self.joint is True and self.backend == "ray":
            raise OptionError("joint true goes with --backend local: the tasks of Ray are one run each.")
        if self.ray_address is not None and self.backend != "ray":
            raise OptionError("ray_address goes with --backend ray.")


@dataclass(frozen=True)
class AblateOptions(CompareOptions):
    """Run one of the paper's ablations on any task and model, and write its report."""

    joint: bool | str = _borrowed(
        "joint",
        text="train runs on one base model in one batch: true, false, or auto (where some steps at the start say that "
        "it is faster)",
    )
    task: str | tuple[str, ...] = _option("docstrings", "one task or a list; see `propulsion tasks`")
    model_name_or_path: str = _borrowed("model_name_or_path", text="a folder, a hub id, or 'minilm'")
    seeds: tuple[int, ...] = _option((42,), "seeds of every row")
    learning_rate: float | str | None = _borrowed(
        "learning_rate", text="of every row (default: propulsion's at its usual degree, 1e-3)"
    )
    scale_rate: bool = _option(False, "divide the learning rate by the degree instead of one for every row")
    max_length: int | None = _borrowed("max_length", text="truncate to this many tokens (default: the task's)")
    max_train_samples: int | None = _borrowed("max_train_samples")
    max_eval_samples: int | None = _borrowed("max_eval_samples")
    num_train_epochs: float = _borrowed("num_train_epochs", default=1.0)
    max_steps: int = _borrowed("max_steps", text="stop after this many steps")
    per_device_train_batch_size: int = _borrowed("per_device_train_batch_size")
    use_cpu: bool = _borrowed("use_cpu")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scale_rate and self.learning_rate is not None:
            raise OptionError("learning_rate is one for every row, and scale_rate one for each: give one of them.")

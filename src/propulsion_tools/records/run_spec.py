"""What goes into a run: `RunSpec`, and all that is known about each of its fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

from propulsion_tools.errors import OptionError
from propulsion_tools.records.fields import (
    ABOVE_ZERO,
    ABOVE_ZERO_OR_AUTO,
    ANY,
    AT_LEAST_ONE,
    AUTO,
    FINITE,
    NOT_NEGATIVE,
    NOW,
    SEED,
    SHARE,
    SHARE_OR_MODEL,
    STEPS_OR_SHARE,
    Argument,
    Checked,
    at_most,
    facts_of,
    one_of,
    refuse_unknown,
    run_option,
    set_to,
)

EVALUATE, PREDICT, REGRESS = "evaluate", "predict", "regress"
SMOKE_LENGTH = 64
"""The longest input of a trial of two steps, in tokens."""

NONE, SAME, DERIVED = Argument.NONE, Argument.SAME, Argument.DERIVED
# What holds for every field of a kind is said here once, all else at the field, and nothing is said by default.
_fixed = partial(run_option, identity=True, argument=NONE, override=())
_model = partial(_fixed, group="model")
_method = partial(_fixed, group="method")
_propulsion = partial(_method, method="propulsion")
_data = partial(run_option, group="data", identity=True, argument=NONE)
_training_rows = partial(_data, may_change=False, override=())
_scored_rows = partial(_data, may_change=False, override=(EVALUATE,))
_source = partial(_data, may_change=False, override=(EVALUATE, REGRESS))
_any_rows = partial(_data, may_change=False, override=(EVALUATE, PREDICT))
_answer = partial(_data, may_change=True, override=(EVALUATE, PREDICT))
_update = partial(run_option, group="optimization", identity=True, may_change=False, override=())
_length = partial(run_option, group="length and size", identity=True, override=())
_schedule = partial(run_option, group="logging and saving", identity=True, may_change=True, argument=SAME, override=())
_folder = partial(run_option, group="logging and saving", identity=False, may_change=True, override=())
_save = partial(run_option, group="logging and saving")


@dataclass(frozen=True)
class RunSpec(Checked):
    """Everything that decides one training run, under the names of `TrainingArguments` and PEFT."""

    model_name_or_path: str = _model(
        "minilm",
        "a folder, a hub id, or 'minilm' (weights from the package index)",
        ANY,
        may_change=False,
        override=(EVALUATE, PREDICT, REGRESS),
    )
    torch_dtype: str = _model(
        "float32",
        "dtype of the base model: float32, bfloat16 or float16",
        one_of("float32", "bfloat16", "float16"),
        may_change=False,
    )
    load_in_8bit: bool = _model(
        False, "keep the frozen weights in 8 bits (bitsandbytes)", ANY, may_change=False, smoke=set_to(False)
    )
    load_in_4bit: bool = _model(
        False, "keep the frozen weights in 4 bits, NF4 (bitsandbytes)", ANY, may_change=False, smoke=set_to(False)
    )
    device_map: str | None = _model(
        None, "where the weights go, for example auto; None: one device", ANY, may_change=True, smoke=set_to(None)
    )
    dropout: float | str | None = _model(
        None,
        "dropout of hidden layers and attention, or model (its own); None: the method's",
        SHARE_OR_MODEL,
        may_change=False,
        before="model",
    )
    attn_implementation: str | None = _model(
        None, "eager, sdpa, flash_attention_2 and so on; None: the model's", ANY, may_change=True
    )

    task: str | None = _scored_rows(
        None, "see `propulsion tasks`; text-classification if data is named, else docstrings", ANY
    )
    data_dir: str | None = _source(
        None,
        "folder with train and validation files: .jsonl, .json, .csv, .tsv (also .gz) or .parquet",
        ANY,
        smoke=set_to(None),
    )
    dataset_name: str | None = _source(None, "data set id on the hub", ANY, smoke=set_to(None))
    dataset_config_name: str | None = _source(None, "configuration of the hub's data set", ANY, smoke=set_to(None))
    text_column: str | None = _any_rows(None, "column with the text (guessed and shown if not given)", ANY)
    text_pair_column: str | None = _any_rows(None, "column with the second text, for pairs", ANY)
    label_column: str | None = _scored_rows(None, "column with the label (guessed and shown if not given)", ANY)
    max_train_samples: int | None = _training_rows(None, "use at most this many training rows", AT_LEAST_ONE)
    max_eval_samples: int | None = _data(
        None,
        "use at most this many rows of each other split",
        AT_LEAST_ONE,
        may_change=True,
        override=(EVALUATE, REGRESS),
    )
    selection_fraction: float = _training_rows(
        0.0,
        "above 0: score on this share of the training rows, set aside, and on no other split (to choose settings)",
        SHARE,
        elsewhere="say it with selection",
        smoke=set_to(0.0),
    )
    forgetting_text: str | None = _data(
        None,
        "measure forgetting too: the loss of a causal model, before and after, on the first texts of this file (column "
        "text) or of this data set on the hub",
        ANY,
        may_change=True,
        override=(),
        smoke=set_to(None),
    )
    max_length: int | None = _any_rows(
        None,
        "longest input in tokens, for decoders with the target; None: the task's",
        AT_LEAST_ONE,
        smoke=at_most(SMOKE_LENGTH),
    )
    max_target_length: int | None = _training_rows(
        None,
        "longest target of an encoder-decoder in tokens; None: the task's",
        AT_LEAST_ONE,
        smoke=at_most(SMOKE_LENGTH),
    )
    doc_stride: int | None = _training_rows(
        None, "tokens that the windows of a long context share; None: the task's", NOT_NEGATIVE, smoke=at_most(8)
    )
    null_score_diff_threshold: float = _answer(
        0.0, "leave a question unanswered if no answer scores better by more", FINITE
    )
    max_new_tokens: int | None = _answer(
        None, "longest answer that is generated, in tokens; None: the task's", AT_LEAST_ONE, smoke=at_most(8)
    )
    num_beams: int | None = _answer(None, "beams of the generation; None: the task's", AT_LEAST_ONE, smoke=at_most(2))

    method: str = _method("propulsion", "how to fine-tune; see `propulsion methods`", ANY, may_change=False)
    target_modules: str | tuple[str, ...] | None = _method(
        None, "preset, list, regex or all-linear; None: the method's", ANY, may_change=False
    )
    exclude_modules: str | tuple[str, ...] | None = _method(
        None, "list or regex of modules to leave alone", ANY, may_change=False
    )
    degree: int | tuple[int, ...] = _propulsion(
        15, "degree k of the gain z^k, or one per vector", ANY, may_change=False
    )
    degree_pattern: dict[str, int | list[int]] | None = _propulsion(  # noqa: RUF009
        None, "degree per module name, for example {query: 5}", ANY, may_change=False
    )
    num_vectors: int = _propulsion(1, "vectors per layer (multi-propulsion)", AT_LEAST_ONE, may_change=False)
    pooling: str = _propulsion(
        "mean",
        "how the outputs of several vectors are pooled: mean, max, min or l2",
        one_of("mean", "max", "min", "l2"),
        may_change=False,
    )
    init_weights: bool | str = _propulsion(
        True,
        "true (the identity), false, or zeros, normal, uniform, xavier",
        one_of(True, False, "ones", "zeros", "normal", "uniform", "xavier"),
        may_change=False,
    )
    init_noise: float = _propulsion(
        0.0, "standard deviation of the noise that tells the vectors apart", NOT_NEGATIVE, may_change=False
    )
    train_bias: bool = _propulsion(False, "also train the biases of the steered layers", ANY, may_change=False)
    method_args: dict[str, Any] | None = _method(  # noqa: RUF009
        None, "fields of the method's own configuration, for example {r: 4}", ANY, may_change=False
    )
    # Training adds the head to these where its weights are new.
    modules_to_save: tuple[str, ...] | None = _method(
        None, "modules trained in full beside the task's head", ANY, may_change=True
    )
    layers_to_transform: int | tuple[int, ...] | None = _method(
        None, "indices of the blocks to steer (default: all)", ANY, may_change=False, smoke=set_to(None)
    )

    learning_rate: float | str | None = _update(
        None,
        "step size at the peak, or auto (chosen on training rows set aside, for the price of one more run); None: the "
        "method's (propulsion: 0.015 / degree)",
        ABOVE_ZERO_OR_AUTO,
        argument=SAME,
        elsewhere="say it with learning_rates",
        smoke=lambda rate: None if rate == AUTO else rate,
    )
    head_learning_rate: float | None = _update(
        None, "step size of the head; None: the method's (most: 5e-3)", ABOVE_ZERO, argument=NONE
    )
    weight_decay: float = _update(
        0.0, "decay of the weights; pulls gains towards the identity", NOT_NEGATIVE, argument=SAME
    )
    max_grad_norm: float = _update(1.0, "clip the norm of the gradient to this", NOT_NEGATIVE, argument=SAME)
    optim: str = _update("adamw_torch", "optimizer, by its name in TrainingArguments", ANY, argument=SAME)
    adam_beta1: float | None = _update(
        None,
        "AdamW's β1, its momentum; None: the method's (propulsion, lora, ia3: 0; the others, and other optimizers: "
        "0.9)",
        SHARE,
        argument=SAME,
        before=0.9,
    )
    adam_beta2: float = _update(0.999, "AdamW's β2, the memory of its squared gradients", SHARE, argument=SAME)
    adam_epsilon: float = _update(
        1e-8, "AdamW's ε, added to the root of the squared gradients", ABOVE_ZERO, argument=SAME
    )
    lr_scheduler_type: str = _update(
        "linear",
        "schedule, by its name in TrainingArguments",
        ANY,
        argument=SAME,
    )
    lr_scheduler_kwargs: dict[str, Any] | None = _update(  # noqa: RUF009
        None, "what the schedule takes beside the steps, for example {min_lr_rate: 0.1}", ANY, argument=SAME
    )
    warmup_steps: float = _update(0.06, "warm-up steps; below 1, a share of all steps", NOT_NEGATIVE, argument=SAME)
    head_start: str = _update(
        "labels",
        "where a fresh head begins: labels (the mean of the training labels, or the log of their shares) or random",
        one_of("labels", "random"),
        argument=NONE,
        before="random",
    )
    head_first: float = _update(
        0.1,
        "share of the steps in which a fresh head trains alone; then the rest joins with a warm-up of its own",
        SHARE,
        argument=NONE,
        before=0.0,
    )
    on_collapse: str = _update(
        "recover",
        "when a run can learn nothing any more: recover (go back, and on at a third of the rate), stop or ignore",
        one_of("recover", "stop", "ignore"),
        argument=NONE,
        before="ignore",
    )
    bf16: bool = _update(False, "compute in bfloat16 by autocast; trained weights stay float32", ANY, argument=DERIVED)
    gradient_checkpointing: bool = run_option(
        False,
        "recompute activations to save memory",
        ANY,
        group="optimization",
        identity=True,
        may_change=True,
        argument=DERIVED,
        override=(),
    )
    seed: int = _update(
        42,
        "seed of the head, the adapter, the order of the data and dropout",
        SEED,
        argument=SAME,
        elsewhere="say it with seeds",
    )

    num_train_epochs: float = _length(3.0, "passes over the training data", ABOVE_ZERO, may_change=True, argument=SAME)
    max_steps: int = _length(
        -1,
        "stop after this many steps; overrides num_train_epochs if positive",
        FINITE,
        may_change=True,
        argument=SAME,
        smoke=set_to(2),
    )
    # The rows of a step go with the number of devices, which may be another one when a run is resumed.
    per_device_train_batch_size: int = _length(
        8, "rows per step and device", AT_LEAST_ONE, may_change=True, argument=SAME, smoke=set_to(2), before=16
    )
    group_by_length: bool = _length(
        False, "put rows of about the same length into a batch", ANY, may_change=False, argument=DERIVED
    )
    per_device_eval_batch_size: int = run_option(
        64,
        "rows per evaluation batch and device",
        AT_LEAST_ONE,
        group="length and size",
        identity=True,
        may_change=True,
        argument=SAME,
        override=(EVALUATE, PREDICT),
    )
    gradient_accumulation_steps: int = _length(
        1, "batches per step", AT_LEAST_ONE, may_change=True, argument=SAME, smoke=set_to(1)
    )
    early_stopping_patience: int | None = _length(
        None,
        "stop after this many evaluations without a better metric",
        AT_LEAST_ONE,
        may_change=True,
        argument=NONE,
        smoke=set_to(None),
    )

    output_dir: str | None = _folder(
        None,
        "where results go; None: runs/<task>-<method>-<model>-seed<seed>",
        ANY,
        argument=DERIVED,
        elsewhere="say it with the output_dir of the grid",
    )
    overwrite_output_dir: bool = _folder(
        False,
        "replace the run that is in output_dir",
        ANY,
        argument=NONE,
        elsewhere="finished runs are kept, and others replaced",
    )
    resume_from_checkpoint: bool | str | None = _folder(
        None,
        "true: the last checkpoint in output_dir, or its path",
        ANY,
        argument=DERIVED,
        elsewhere="a grid goes on by itself where it was killed",
        smoke=set_to(None),
    )
    logging_steps: float = _schedule(
        10, "record the loss every so many steps; below 1, a share of all steps", STEPS_OR_SHARE
    )
    eval_strategy: str = _schedule("epoch", "when to evaluate: no, steps or epoch", one_of("no", "steps", "epoch"))
    eval_steps: float | None = _schedule(
        None,
        "steps between evaluations when eval_strategy is steps; below 1, a share of all steps; None: logging_steps",
        STEPS_OR_SHARE,
    )
    save_strategy: str = _schedule(
        "epoch",
        "when to write a checkpoint: no, steps, epoch or best",
        one_of("no", "steps", "epoch", "best"),
        smoke=set_to("no"),
    )
    save_steps: float = _schedule(
        500, "steps between checkpoints when save_strategy is steps; below 1, a share of all steps", STEPS_OR_SHARE
    )
    save_total_limit: int | None = _schedule(2, "keep at most this many checkpoints", AT_LEAST_ONE)
    load_best_model_at_end: bool = _schedule(
        False, "end with the best checkpoint instead of the last weights", ANY, smoke=set_to(False)
    )
    report_to: str | tuple[str, ...] = _folder(
        "none", "trackers: none, all, tensorboard, wandb and so on", ANY, argument=DERIVED, smoke=set_to("none")
    )
    disable_tqdm: bool = _save(
        False,
        "no progress bars",
        ANY,
        identity=False,
        may_change=True,
        argument=SAME,
        override=(EVALUATE, REGRESS),
        smoke=set_to(True),
    )
    joint: bool | str = _save(
        AUTO,
        "train the tries of --learning_rate auto in one batch: true, false, or auto (where some steps at the start say "
        "that it is faster)",
        one_of(True, False, AUTO),
        identity=False,
        may_change=True,
        argument=NONE,
        override=(),
        elsewhere="say it with --joint",
    )
    use_cpu: bool = _save(
        False,
        "stay on the CPU even if there is an accelerator",
        ANY,
        identity=True,
        may_change=True,
        argument=DERIVED,
        override=(EVALUATE, PREDICT, REGRESS),
    )
    smoke: bool = _save(
        False,
        "try two steps offline: a tiny random model of this architecture, made-up rows",
        ANY,
        identity=True,
        may_change=False,
        argument=NONE,
        override=(),
        elsewhere="try the settings with `propulsion train --smoke`",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_together(self)

    @property
    def follows_score(self) -> bool:
        """Whether the learning rate depends on evaluations, without which it cannot be scheduled."""
        return self.lr_scheduler_type == "reduce_lr_on_plateau"

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RunSpec:
        """The spec with these fields, and defaults for the others.

        Raises:
            UnknownNameError: There is a key that is not a field; names the near misses.
            OptionError: A value is out of range.
        """
        refuse_unknown(values, [item.name for item in fields(cls)], "field of a run")
        return cls(**values)

    def overridden(self, command: str, options: Any) -> RunSpec:
        """The spec of a finished run as a command is to use it, by what was given of the fields that it may override.

        Args:
            command: `EVALUATE`, `PREDICT` or `REGRESS`.
            options: The command's options; None stands for what the run had.
        """
        names = [name for name, facts in RUN_FACTS.items() if command in facts.override]
        given = {name: value for name in names if (value := getattr(options, name)) is not None}
        if "data_dir" in given or "dataset_name" in given:  # one source of data, not the run's and another
            given = {"data_dir": None, "dataset_name": None, "dataset_config_name": None} | given
        return replace(self, **given)


RUN_FACTS = facts_of(RunSpec)
"""What is known about each field, by its name."""
BEFORE = {name: facts.before for name, facts in RUN_FACTS.items() if facts.before is not NOW}
"""What runs had that said nothing of these fields, which are younger than they, or had another default."""


def _check_together(spec: RunSpec) -> None:
    if spec.load_in_8bit and spec.load_in_4bit:
        raise OptionError("load_in_8bit and load_in_4bit are both set: drop one of them.")
    needs_best = spec.load_best_model_at_end or spec.early_stopping_patience or spec.save_strategy == "best"
    if spec.follows_score and spec.eval_strategy == "no":
        raise OptionError("The schedule reduce_lr_on_plateau needs evaluations: set eval_strategy to epoch or steps.")
    if needs_best and spec.eval_strategy == "no":
        raise OptionError("Finding the best checkpoint needs evaluations: set eval_strategy to epoch or steps.")
    if spec.load_best_model_at_end and spec.save_strategy not in ("best", spec.eval_strategy):
        raise OptionError("load_best_model_at_end needs save_strategy to be best or the same as eval_strategy.")
    if spec.load_best_model_at_end and spec.save_strategy == "steps" and not _saves_what_is_scored(spec):
        raise OptionError(
            f"load_best_model_at_end needs save_steps ({spec.save_steps:g}) to be a multiple of eval_steps "
            f"({_eval_steps(spec):g}), and both to be steps or both shares."
        )


def _eval_steps(spec: RunSpec) -> float:
    return spec.eval_steps or spec.logging_steps


def _saves_what_is_scored(spec: RunSpec) -> bool:
    """Whether every checkpoint is of a step that is scored, as `Trainer` wants it, in millionths as it counts."""
    saved, scored = (max(1, round(steps * 10**6)) for steps in (spec.save_steps, _eval_steps(spec)))
    return (spec.save_steps < 1) == (_eval_steps(spec) < 1) and saved % scored == 0

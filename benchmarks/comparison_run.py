"""One run of PEFT's method comparison: its settings, its training, and what is measured on the way.

As in run.py and utils.py of method_comparison/MetaMathQA in huggingface/peft (August 2026), with the `Trainer` of
transformers in the place of its loop.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import psutil
import torch
from metamathqa import Rows, accuracy, batches, collate, encode, generated
from peft import PeftConfig, PeftModel, get_peft_model
from torch import nn
from torch.utils.data import DataLoader
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    get_constant_schedule,
    get_cosine_schedule_with_warmup,
    set_seed,
)

from propulsion_tools.training.base_models import NO_CODE, SAFELY
from propulsion_tools.training.forgetting import loss_per_token

WARM_UP = 0.1
STEPS_BETWEEN_EMPTYING = 10
MOST_BYTES_AT_START = 500 * 2**20
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
Say = Callable[[str], None]


@dataclass(frozen=True)
class TrainConfig:
    """The settings of an experiment; the defaults are those of PEFT's default_training_params.json."""

    model_id: str = "meta-llama/Llama-3.2-3B"
    dtype: str = "bfloat16"
    max_seq_length: int = 768
    batch_size: int = 4
    batch_size_eval: int = 50
    max_steps: int = 5000
    eval_steps: int = 250
    compile: bool = False
    use_gc: bool = False
    query_template: str = "Question: {query} Think step by step.\nAnswer:"
    seed: int = 0
    grad_norm_clip: float = 1.0
    optimizer_type: str = "AdamW"
    optimizer_kwargs: dict[str, Any] = field(default_factory=lambda: {"lr": 1e-4, "weight_decay": 0.1})
    lr_scheduler: str | None = "cosine"
    use_amp: bool = False
    autocast_adapter_dtype: bool = True
    generation_kwargs: dict[str, Any] = field(default_factory=lambda: {"max_length": 800, "max_new_tokens": 300})
    attn_implementation: str | None = None
    init_kv_cache_prefix: str | None = None

    def __post_init__(self) -> None:
        for name in ("compile", "use_amp", "init_kv_cache_prefix"):
            if getattr(self, name):
                raise SystemExit(f"{name} is not followed here: leave it out, or use PEFT's own script.")
        if self.dtype not in DTYPES or not hasattr(torch.optim, self.optimizer_type):
            raise SystemExit(
                f"dtype {self.dtype} or optimizer_type {self.optimizer_type} is not followed here: use "
                f"{', '.join(DTYPES)} and an optimizer of torch, or PEFT's own script."
            )
        if self.lr_scheduler not in ("cosine", None) or "{query}" not in self.query_template:
            raise SystemExit("lr_scheduler must be cosine or null, and query_template must hold {query}.")


class Memory:
    """Bytes that the accelerator has reserved since the start; of this process, where there is none."""

    def __init__(self) -> None:
        self.on_gpu = torch.cuda.is_available()
        self.log: list[int] = []
        self.start = 0
        first = nn.Linear(1, 1)  # draws random numbers, so adapters that begin at random begin as in the benchmark
        if self.on_gpu:
            first.to("cuda")  # what CUDA takes by itself
            torch.cuda.reset_peak_memory_stats()
        self.start = self.peak() if self.on_gpu else self.now()
        if self.on_gpu and self.start > MOST_BYTES_AT_START:
            raise SystemExit("The GPU is in use already, so its memory cannot be measured: stop what else runs on it.")

    def now(self) -> int:
        """Beyond the start."""
        held = torch.cuda.memory_reserved() if self.on_gpu else psutil.Process().memory_info().rss
        return int(held) - self.start

    def allocated(self) -> int:
        """As `now`, but what is in use of it."""
        return torch.cuda.memory_allocated() - self.start if self.on_gpu else self.now()

    def peak(self) -> int:
        """The most beyond the start: at any time on a GPU, at the end of a step elsewhere."""
        return torch.cuda.max_memory_reserved() - self.start if self.on_gpu else max(self.log, default=0)

    def empty(self) -> None:
        """Give back what is reserved and not used."""
        if self.on_gpu:
            torch.cuda.empty_cache()


def load_model(config: TrainConfig, adapter: PeftConfig, device: torch.device) -> PeftModel:
    """The base model with an adapter, whose parameters are float32 unless the settings say otherwise."""
    base = AutoModelForCausalLM.from_pretrained(
        config.model_id, dtype=DTYPES[config.dtype], attn_implementation=config.attn_implementation, **SAFELY
    ).to(device)
    if config.use_gc:
        base.enable_input_require_grads()
        base.gradient_checkpointing_enable()
    model = get_peft_model(base, adapter, autocast_adapter_dtype=config.autocast_adapter_dtype)
    if hasattr(model.base_model, "update_and_allocate"):
        raise SystemExit(
            f"{adapter.peft_type} allocates ranks as it trains, which is not followed here: use PEFT's script."
        )
    return model


def load_tokenizer(config: TrainConfig) -> Any:
    """The tokenizer, which pads with the end of a text."""
    tokenizer = AutoTokenizer.from_pretrained(config.model_id, **NO_CODE)
    tokenizer.model_max_length = config.max_seq_length
    tokenizer.padding_side = "right"
    tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


class Questions:
    """Rows that are asked.

    Args:
        rows: ``query`` and ``response``.
        tokenizer: That of the model.
        config: The settings.
    """

    def __init__(self, rows: Any, tokenizer: Any, config: TrainConfig) -> None:
        self.prompts = encode(rows, tokenizer, config.query_template, config.max_seq_length, answered=False)
        self.responses, self.tokenizer, self.config = list(rows["response"]), tokenizer, config

    def score(self, model: nn.Module) -> float:
        """The share that is answered right; the model goes on in the mode that it was in."""
        was_training, size = model.training, self.config.batch_size_eval
        model.eval()
        texts = generated(model, self.tokenizer, self.prompts, size, self.config.generation_kwargs)
        model.train(was_training)
        return accuracy(texts, self.responses)


class ComparisonTrainer(Trainer):
    """The trainer of transformers, with the batches of the benchmark and its loss.

    Args:
        config: The settings.
        end: The id of the end of a text.
        **kwargs: Those of `Trainer`.

    Attributes:
        losses: Of each step.
        tokens: Of each step, with an end for each row.
        samples: Trained on so far.
    """

    def __init__(self, *, config: TrainConfig, end: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.config, self.end = config, end
        self.losses: list[float] = []
        self.tokens: list[int] = []
        self.samples = 0

    def get_train_dataloader(self) -> DataLoader:
        """Rows in the order of the data, nothing shuffled."""
        order = batches([len(row) for row in self.train_dataset], self.config.batch_size)
        loader = DataLoader(self.train_dataset, batch_sampler=order, collate_fn=partial(collate, end=self.end))
        return self.accelerator.prepare(loader)

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """The sum over all labels, divided by the number of tokens without padding."""
        return super().compute_loss(
            model, inputs, *args, **{**kwargs, "num_items_in_batch": inputs["attention_mask"].sum()}
        )

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """A step, with what is told of it."""
        count = len(inputs["input_ids"])
        self.tokens.append(int(inputs["attention_mask"].sum()) + count)
        self.samples += count
        loss = super().training_step(model, inputs, *args, **kwargs)
        self.losses.append(loss.item())
        return loss


class Course(TrainerCallback):
    """Measures each step, and asks the validation rows every so often.

    Args:
        validation: Those rows.
        memory: What is reserved.
        config: The settings.
        said: Is told what was reached.

    Attributes:
        trainer: Set before training.
        metrics: What was reached, in the words of the benchmark.
        asking: Seconds that the validation took.
    """

    trainer: ComparisonTrainer

    def __init__(self, validation: Questions, memory: Memory, config: TrainConfig, said: Say) -> None:
        self.validation, self.memory, self.config, self.said = validation, memory, config, said
        self.metrics: list[dict[str, Any]] = []
        self.seconds: list[float] = []
        self.allocated: list[int] = []
        self.asking = 0.0
        self._begun = self._step = time.perf_counter()

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self._step = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.memory.log.append(self.memory.now())
        self.allocated.append(self.memory.allocated())
        self.seconds.append(time.perf_counter() - self._step)
        if state.global_step % self.config.eval_steps == 0:
            self._ask(state.global_step)
        if state.global_step % STEPS_BETWEEN_EMPTYING == 0:
            self.memory.empty()

    def _ask(self, step: int) -> None:
        begun, count = time.perf_counter(), self.config.eval_steps
        found = self.validation.score(self.trainer.model)
        took = time.perf_counter() - begun
        self.asking += took
        trained = sum(self.seconds[-count:])
        self.metrics.append(
            {
                "step": step,
                "valid accuracy": found,
                "train loss": self.loss,
                "train samples": self.trainer.samples,
                "train time": trained,
                "eval time": took,
                "tokens / sec": sum(self.trainer.tokens[-count:]) / trained,
                "mem allocated avg": sum(self.allocated[-count:]) / count,
                "mem reserved avg": sum(self.memory.log[-count:]) / count,
                "elapsed time": time.perf_counter() - self._begun,
            }
        )
        self.said(json.dumps(self.metrics[-1]))

    @property
    def loss(self) -> float:
        """The mean over the last steps, as many as are between two questions."""
        last = self.trainer.losses[-self.config.eval_steps :]
        return sum(last) / self.config.eval_steps


def make_trainer(
    model: PeftModel,
    tokenizer: Any,
    rows: Rows,
    config: TrainConfig,
    course: Course,
    optimizer: torch.optim.Optimizer,
    output_dir: str,
) -> ComparisonTrainer:
    """Nothing computes by autocast, nothing is saved, and every trained number decays alike."""
    if config.lr_scheduler == "cosine":
        scheduler = get_cosine_schedule_with_warmup(optimizer, int(WARM_UP * config.max_steps), config.max_steps)
    else:
        scheduler = get_constant_schedule(optimizer)
    arguments = TrainingArguments(
        output_dir=output_dir,
        max_steps=config.max_steps,
        per_device_train_batch_size=config.batch_size,
        max_grad_norm=config.grad_norm_clip,
        seed=config.seed,
        use_cpu=model.device.type == "cpu",
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=not sys.stderr.isatty(),
        remove_unused_columns=False,
    )
    trainer = ComparisonTrainer(
        config=config,
        end=tokenizer.eos_token_id,
        model=model,
        args=arguments,
        optimizers=(optimizer, scheduler),
        train_dataset=encode(rows.train, tokenizer, config.query_template, config.max_seq_length, answered=True),
        callbacks=[course],
    )
    course.trainer = trainer
    return trainer


@dataclass
class Outcome:
    """What a run gave.

    Attributes:
        status: "success", or "canceled" where it was stopped or had too little memory.
        error: Why it was.
        seconds: Of training with all around it but the validation, as the benchmark counts them.
        metrics: The entries of its course; the last has the test accuracy and the forgetting.
        memory: What was reserved.
        parameters: Those that are trained, and all.
        model: As trained.
    """

    memory: Memory
    model: PeftModel
    parameters: tuple[int, int]
    status: str = "canceled"
    error: str = ""
    seconds: float = 0.0
    metrics: list[dict[str, Any]] = field(default_factory=list)


def run(config: TrainConfig, adapter: PeftConfig, rows: Rows, texts: list[str], said: Say, output_dir: str) -> Outcome:
    """Train, ask the validation rows on the way, and at the end the test rows and the other text.

    Args:
        config: The settings.
        adapter: What is trained.
        rows: What is learned, and what is asked.
        texts: Other text, on which forgetting is measured.
        said: Is told what was reached.
        output_dir: Where `Trainer` would write, which has nothing to.
    """
    set_seed(config.seed)
    torch.manual_seed(0)
    memory = Memory()
    device = torch.device("cuda" if memory.on_gpu else "cpu")
    tokenizer = load_tokenizer(config)
    model = load_model(config, adapter, device)
    outcome = Outcome(memory, model, model.get_nb_trainable_parameters())
    begun = time.perf_counter()
    optimizer = getattr(torch.optim, config.optimizer_type)(model.parameters(), **config.optimizer_kwargs)
    with model.disable_adapter():
        before = loss_per_token(model, tokenizer, texts, config.batch_size)
    course = Course(Questions(rows.validation, tokenizer, config), memory, config, said)
    trainer = make_trainer(model, tokenizer, rows, config, course, optimizer, output_dir)
    try:
        trainer.train()
        found = Questions(rows.test, tokenizer, config).score(model.eval())
        after = loss_per_token(model, tokenizer, texts, config.batch_size)
        course.metrics.append(
            {
                "step": trainer.state.global_step,
                "test accuracy": found,
                "train loss": course.loss,
                "train samples": trainer.samples,
                "train total tokens": sum(trainer.tokens),
                "forgetting": after - before,
            }
        )
        outcome.status = "success"
    except (KeyboardInterrupt, torch.OutOfMemoryError) as error:
        outcome.error = str(error) or "interrupted"
    outcome.seconds = time.perf_counter() - begun - course.asking
    outcome.metrics = course.metrics
    return outcome

"""Forgetting: by how much the loss on other text grows while a causal model is trained.

The measure is that of PEFT's benchmark (method_comparison/MetaMathQA, `calculate_mean_per_token_loss`): the first 100
texts, each cut to 768 tokens; the mean over all their tokens of −log p of a token given those before it in its text;
after training with the adapter, less before it without.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from propulsion_tools.errors import OptionError
from propulsion_tools.records import RunSpec
from propulsion_tools.tasks import ModelKind
from propulsion_tools.tasks.completion import token_losses
from propulsion_tools.tasks.model_kinds import CAUSAL_LM
from propulsion_tools.tasks.padding import NOT_SCORED
from propulsion_tools.training.base_models import longest_input
from propulsion_tools.training.processes import from_first, gathered, len_of_round, place_in_round

if TYPE_CHECKING:
    from propulsion_tools.training.build import Job

TEXTS = 100
TOKENS = 768


def loss_per_token(
    model: nn.Module, tokenizer: Any, texts: Sequence[str], batch_size: int, max_length: int = TOKENS
) -> float:
    """The mean over all tokens of all texts of −log p, in nats; a text's first token is not predicted.

    Several processes share the batches, and all of them get the mean.

    Args:
        model: A causal language model, wrapped by PEFT or not; it is left in the mode that it is in.
        tokenizer: Its tokenizer; special tokens are added as it does by itself.
        texts: What is read.
        batch_size: How many of them at once.
        max_length: What is behind so many tokens of a text is not read.

    Raises:
        OptionError: No text has two tokens.
    """
    rows = [torch.tensor(tokenizer(text, truncation=True, max_length=max_length).input_ids) for text in texts]
    if not (count := sum(max(len(row) - 1, 0) for row in rows)):
        raise OptionError("No text of forgetting_text has two tokens, so none is predicted: name longer ones.")
    batches = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            sums = _in_turn(batches, lambda batch: [losses.sum().item() for losses in _losses(model, batch)])
    finally:
        model.train(was_training)
    return sum(sums) / count


def _in_turn(batches: Sequence[Sequence[Tensor]], read: Callable[[Sequence[Tensor]], list[float]]) -> list[float]:
    """What the rows of all batches give, in their order.

    Several processes take the batches in turn. In the last round those that have none left read one again: a model
    whose weights are sharded runs in all processes or in none.
    """
    own = []
    for turn in range(0, len(batches), len_of_round()):
        number = turn + place_in_round()
        found = read(batches[min(number, len(batches) - 1)])
        own += [found] if number < len(batches) else []
    parts = gathered(own)
    return from_first(
        lambda: [value for of_round in zip_longest(*parts, fillvalue=[]) for found in of_round for value in found]
    )


def _losses(model: nn.Module, rows: Sequence[Tensor]) -> Iterator[Tensor]:
    """−log p of the tokens of each row but its first, float32; row by row, for float32 logits are large."""
    device = next(model.parameters()).device
    labels = pad_sequence(list(rows), batch_first=True, padding_value=NOT_SCORED).to(device)
    mask = labels != NOT_SCORED
    logits = model(input_ids=labels.where(mask, 0), attention_mask=mask.long()).logits
    for row, ids in enumerate(rows):
        losses = token_losses(logits[row : row + 1], labels[row : row + 1], model.config)[0]
        yield losses[: len(ids) - 1]


def measured(job: Job, texts: Sequence[str]) -> float:
    """`loss_per_token` of a job's model, in the precision of its run and within what the model takes."""
    longest = longest_input(job.setup.config, job.tokenizer) or TOKENS
    size = job.spec.per_device_train_batch_size
    with job.autocast(next(job.model.parameters()).device):
        return loss_per_token(job.model, job.tokenizer, texts, size, min(TOKENS, longest))


def measured_before(job: Job, texts: Sequence[str]) -> float:
    """As `measured`, but without the adapter, whose start may move the model.

    Methods that PEFT does not wrap are measured as they begin.
    """
    with _base(job.model):
        return measured(job, texts)


@contextlib.contextmanager
def _base(model: nn.Module) -> Iterator[None]:
    """Without the adapter, where there is one; PEFT would make all of it trainable when it comes back."""
    if not isinstance(model, PeftModel):
        yield
        return
    trains = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        with model.disable_adapter():
            yield
    finally:
        for parameter, was in trains:
            parameter.requires_grad_(was)


def check_forgetting(spec: RunSpec, kind: ModelKind) -> None:
    """Refuse to measure what the model does not do.

    Raises:
        OptionError: It is no causal language model.
    """
    if spec.forgetting_text is not None and kind is not CAUSAL_LM:
        raise OptionError(
            f"forgetting_text is the loss of a causal language model on other text, and the task {spec.task} makes a "
            f"{kind.name} of {spec.model_name_or_path}: leave it out."
        )

"""Where a fresh head begins: at what its labels say when nothing is known of the input.

A head of zeros answers 0, or every class alike. Where labels are 2.7 in the mean, or 92 % of all tags are "O", the
first steps push every gain of the network one way to make up for it, and z^k follows at full speed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from peft import PeftModel
from peft.utils import ModulesToSaveWrapper
from torch import Tensor, nn
from transformers import PreTrainedModel

from propulsion.errors import HeadError
from propulsion.heads import head_modules

IGNORED = -100
"""What stands for no label in a row of tags."""
_LEAST_COUNT = 0.5  # of a class that no row has; the log of nothing is minus infinity


def start_head(
    model: PeftModel | PreTrainedModel, labels: Iterable[Any], batches: Iterable[Mapping[str, Any]] = ()
) -> None:
    """Let the output layer of a fresh head begin at its labels' mean (regression) or the log of their shares.

    A layer with a bias gets it as its bias, corrected by what its random weights answer to `batches` in the mean, if
    there are any. One without a bias, as decoders have, is changed along the mean of its inputs to the same end.

    Args:
        model: A model for sequence or token classification, wrapped by PEFT or not; of a wrapped one, the head that the
            active adapter trains.
        labels: Those of the training rows: a class or a number each, a list of classes for tags (-100: none), or a
            vector of 0 and 1 each for several classes at once (``problem_type="multi_label_classification"``).
        batches: Arguments of the model's forward, without padding or of one row each; a few rows are enough. The mean
            answer to them is then exactly what it should be. A layer without a bias needs them.

    Raises:
        HeadError: There is no such head, there are no labels or wrong ones, the layer has no bias and there are no
            batches, or its weights are not in memory or quantized.
    """
    layer = output_layer(model)
    answer = first_answer(labels, model.config)
    if layer.weight.is_meta:
        raise HeadError("The head's weights are offloaded, so that it cannot be started: keep the head in memory.")
    if not layer.weight.is_floating_point():
        raise HeadError("The head's weights are quantized, so that it cannot be started: leave the head unquantized.")
    mean = _mean_input(model, layer, batches)
    with torch.no_grad():
        answered = 0.0 if mean is None else layer.weight.float() @ mean
        if layer.bias is not None:
            layer.bias.copy_(answer.to(layer.bias.device) - answered)
        elif mean is None:
            raise HeadError(
                f"The last layer of this {type(model).__name__}'s head has no bias: pass a few batches of training "
                "rows, start_head(model, labels, batches)."
            )
        else:
            miss = answered - answer.to(mean.device)
            layer.weight.sub_(torch.outer(miss, mean / mean.square().sum().clamp_min(1e-12)))


def output_layer(model: PeftModel | PreTrainedModel) -> nn.Linear:
    """The last linear of the head, which has an output for each label.

    Raises:
        HeadError: There is none.
    """
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    size = getattr(base.config, "num_labels", None)
    layers = [
        layer
        for name in head_modules(base)
        for layer in _trained(base.get_submodule(name))
        if isinstance(layer, nn.Linear) and layer.out_features == size
    ]
    if not layers:
        raise HeadError(
            f"A {type(base).__name__} has no head whose last layer gives num_labels={size} numbers: start_head is for "
            "models for sequence or token classification."
        )
    return layers[-1]


def _trained(module: nn.Module) -> Iterator[nn.Module]:
    """A module of the head and all in it, of what PEFT wraps the part that it trains and not the copies beside it."""
    if isinstance(module, ModulesToSaveWrapper):
        active = [name for name in module.active_adapters if name in module.modules_to_save]
        module = module.modules_to_save[active[0]] if active else module.original_module
    yield module
    for child in module.children():
        yield from _trained(child)


def first_answer(labels: Iterable[Any], config: Any) -> Tensor:
    """What a head of this configuration should answer to any input: (num_labels,), float32.

    Args:
        labels: As for `start_head`.
        config: Of the model, with its ``num_labels`` and ``problem_type``.

    Raises:
        HeadError: There are no labels, or some that the head cannot have.
    """
    rows = [row.tolist() if hasattr(row, "tolist") else row for row in labels]
    if not rows:
        raise HeadError("There are no labels to start the head from.")
    kind, size = getattr(config, "problem_type", None), int(config.num_labels)
    if kind == "regression" or (kind is None and size == 1):
        return _numbers(rows, size).mean(0)
    if kind == "multi_label_classification":
        return torch.logit(_numbers(rows, size).mean(0), eps=_LEAST_COUNT / len(rows))
    flat = [tag for row in rows for tag in (row if isinstance(row, Sequence) else (row,)) if tag != IGNORED]
    if not flat or not all(isinstance(tag, int) and 0 <= tag < size for tag in flat):
        raise HeadError(f"The labels of this head are classes from 0 to {size - 1}, and these are not.")
    counts = torch.bincount(torch.tensor(flat, dtype=torch.long), minlength=size).float().clamp_min(_LEAST_COUNT)
    return (counts / len(flat)).log()


def _numbers(rows: list[Any], size: int) -> Tensor:
    refusal = f"Each label of this head is {size} finite number{'s' * (size > 1)}, and these are not."
    try:
        numbers = torch.tensor(rows, dtype=torch.float32).reshape(len(rows), size)
    except (TypeError, ValueError, RuntimeError) as error:
        raise HeadError(refusal) from error
    if not torch.isfinite(numbers).all():
        raise HeadError(refusal)
    return numbers


def _mean_input(model: nn.Module, layer: nn.Linear, batches: Iterable[Mapping[str, Any]]) -> Tensor | None:
    """The mean of what the layer reads where the model takes its answer from: (in_features,), float32."""
    was_training = model.training
    model.eval()
    # The model picks the answer of one token out of all: with the layer left out, it picks that token's input.
    hook = layer.register_forward_hook(lambda module, inputs, output: inputs[0])
    try:
        with torch.no_grad():
            read = [
                model(**{name: value for name, value in batch.items() if name != "labels"}).logits.float()
                for batch in batches
            ]
    finally:
        hook.remove()
        model.train(was_training)
    return torch.cat([rows.reshape(-1, layer.in_features) for rows in read]).mean(0) if read else None

"""The gradient of each output at each sample, group of parameters by group, kept as what is smaller.

The gradient of a weight is a sum over tokens, Σ_t g_t a_tᵀ, of output gradients g and inputs a. It is kept as these
factors where they are smaller than the matrix, and else as it is. Samples run one by one: whatever a layer sees then
belongs to one sample, also where it has no row for each sample (shared positions, routed tokens).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn

from propulsion_tools.errors import DataError, GradientError, OptionError
from propulsion_tools.theory.weight_uses import UsageTracer, WeightUse, names_by_id

Row = Mapping[str, Tensor]
"""The model's inputs for one sample, each with a first dimension of 1."""
Readout = Callable[[nn.Module, Row], Tensor]
"""The outputs of interest of a model for one sample, of shape (C,)."""


@dataclass(frozen=True)
class Factors:
    """The gradients Σ_t g_t a_tᵀ of one weight of shape (d_out, d_in) at one sample.

    Attributes:
        inputs: a, of shape (tokens, d_in).
        grads: g, of shape (C, tokens, d_out).
        ids: Rows that were looked up, of shape (lookups,): there g is one at the id and zero elsewhere,
        slopes: and a is the gradient of what was found there, of shape (C, lookups, d_in).
    """

    inputs: Tensor
    grads: Tensor
    ids: Tensor
    slopes: Tensor


Gradient: TypeAlias = "Factors | Tensor | None"
"""Factors, or gradients of shape (C, numel), or None where they are zero."""


@dataclass(frozen=True)
class Group:
    """Parameters whose gradients fit into the memory at once.

    Attributes:
        factored: Names of those kept as factors.
        direct: Names of those kept as they are.
    """

    factored: frozenset[str]
    direct: frozenset[str]


def split_rows(batches: Sequence[Row]) -> list[Row]:
    """The samples of batches one by one, in their order.

    Raises:
        OptionError: There is no sample.
    """
    rows: list[Row] = [
        {name: values[index : index + 1] for name, values in batch.items()}
        for batch in batches
        for index in range(len(next(iter(batch.values()))))
    ]
    if not rows:
        raise OptionError("A kernel needs at least one sample.")
    return rows


def groups(model: nn.Module, rows: Sequence[Row], readout: Readout, names: Collection[str], memory: int) -> list[Group]:
    """The parameters in the order of their first use, in groups whose gradients at all samples fit into the memory.

    Args:
        model: In evaluation mode.
        rows: The samples.
        readout: What is differentiated.
        names: Names of the parameters, as in `model.named_parameters()`.
        memory: Bytes for what is kept of one group; a parameter that needs more has a group of its own.
    """
    parameters = _parameters(model, names)
    sizes = [_tokens(row) for row in rows]
    longest = rows[sizes.index(max(sizes))]
    with torch.no_grad(), UsageTracer(names_by_id(iter(parameters.items()))) as tracer:
        outputs = len(readout(model, longest))
    split: list[Group] = []
    room, inputs = 0.0, set[int]()
    for name in dict.fromkeys([*tracer.order, *parameters]):
        parameter = parameters[name]
        uses = tracer.uses.get(name, []) if name not in tracer.otherwise else []
        factors = sum(use.input.numel() + outputs * use.output.numel() for use in uses)
        is_factored = 0 < factors < outputs * parameter.numel()
        share = sum(sizes) / max(sizes) if is_factored else len(rows)
        if is_factored:  # an input that several layers read, as q, k and v do, is kept once
            factors -= sum(use.input.numel() for use in uses if use.input.data_ptr() in inputs)
        cost = parameter.element_size() * share * (factors if is_factored else outputs * parameter.numel())
        if not split or room + cost > memory:
            split.append(Group(frozenset(), frozenset()))
            room, inputs = 0.0, set()
        room += cost
        inputs |= {use.input.data_ptr() for use in uses}
        factored, direct = ({name}, set[str]()) if is_factored else (set[str](), {name})
        split[-1] = Group(split[-1].factored | factored, split[-1].direct | direct)
    return split


def gradients(model: nn.Module, rows: Sequence[Row], readout: Readout, group: Group) -> Iterator[dict[str, Gradient]]:
    """The gradients of a group's parameters at one sample after the other.

    Args:
        model: In evaluation mode; left as it was.
        rows: The samples.
        readout: What is differentiated.
        group: As from `groups`.

    Raises:
        DataError: A weight is used in another way at some samples, or a layer's input is changed in place.
    """
    parameters = _parameters(model, group.factored | group.direct)
    names = names_by_id((name, parameters[name]) for name in group.factored)
    direct = [name for name in parameters if name in group.direct]
    with _only_these_need_gradients(model, [parameters[name] for name in direct]):
        for row in rows:
            with torch.enable_grad(), UsageTracer(names, group.factored) as tracer:
                values = readout(model, row)
            if broken := tracer.otherwise | tracer.changed():
                raise DataError(
                    f"{min(broken)} is used in another way at some samples than at the longest one, or its layer's "
                    "input is changed in place: its gradient cannot be told."
                )
            uses = [use for of_weight in tracer.uses.values() for use in of_weight]
            grads = _differentiate(values, [*(use.output for use in uses), *(parameters[name] for name in direct)])
            by_name: dict[str, Gradient] = dict(zip(direct, map(_flat, grads[len(uses) :]), strict=True))
            by_use = iter(grads[: len(uses)])
            for name, of_weight in tracer.uses.items():
                slopes = [(use, grad) for use in of_weight if (grad := next(by_use)) is not None]
                by_name[name] = _factors(slopes, parameters[name])
            yield by_name


def _parameters(model: nn.Module, names: Collection[str]) -> dict[str, nn.Parameter]:
    parameters = {name: p for name, p in model.named_parameters() if name in names}
    if not parameters:
        raise GradientError("There is no parameter to differentiate with respect to: nothing is trained there.")
    return parameters


def _tokens(row: Row) -> int:
    return max(values.numel() for values in row.values())


def _differentiate(values: Tensor, targets: Sequence[Tensor]) -> list[Tensor | None]:
    """The gradients of all C values with respect to each target: (C, *shape), or None where there is none."""
    by_value = []
    for number, value in enumerate(values):
        if value.requires_grad and targets:
            keep = number + 1 < len(values)
            by_value.append(torch.autograd.grad(value, targets, retain_graph=keep, allow_unused=True))
        else:
            by_value.append((None,) * len(targets))
    return [_stacked(grads, target) for grads, target in zip(zip(*by_value, strict=True), targets, strict=True)]


def _stacked(grads: Sequence[Tensor | None], target: Tensor) -> Tensor | None:
    if all(grad is None for grad in grads):
        return None
    return torch.stack([torch.zeros_like(target) if grad is None else grad.detach() for grad in grads])


def _flat(grad: Tensor | None) -> Tensor | None:
    return None if grad is None else _wide(grad.flatten(1))


def _wide(values: Tensor) -> Tensor:
    """In float32 at least: sums of thousands of products in bfloat16 would have two digits."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _factors(uses: Sequence[tuple[WeightUse, Tensor]], weight: Tensor) -> Factors | None:
    """Several uses of one weight add up like several tokens."""
    if not uses:
        return None
    outputs, like = len(uses[0][1]), _wide(uses[0][1])
    d_out, d_in = weight.shape if uses[0][0].kind != "transposed" else weight.T.shape
    inputs, grads = [like.new_empty(0, d_in)], [like.new_empty(outputs, 0, d_out)]
    ids, slopes = [uses[0][0].input.new_empty(0, dtype=torch.long)], [like.new_empty(outputs, 0, d_in)]
    for use, grad in uses:
        flat = _wide(grad.reshape(outputs, -1, grad.shape[-1]))
        if use.kind == "lookup":
            looked_up = use.input.flatten().long()
            counted = slice(None) if use.ignored is None else looked_up != use.ignored
            ids.append(looked_up[counted])
            slopes.append(flat[:, counted])
        else:
            inputs.append(_wide(use.input.reshape(-1, d_in)))
            grads.append(flat)
    return Factors(_joined(inputs), _joined(grads, 1), _joined(ids), _joined(slopes, 1))


def _joined(parts: Sequence[Tensor], dim: int = 0) -> Tensor:
    """The parts after the first, which is empty; without a copy where there is one only."""
    return parts[-1] if len(parts) <= 2 else torch.cat(list(parts[1:]), dim=dim)


@contextlib.contextmanager
def _only_these_need_gradients(model: nn.Module, parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    training = [module for module in model.modules() if module.training]
    try:
        model.eval()
        model.requires_grad_(False)
        for parameter in parameters:
            parameter.requires_grad_(True)
        yield
    finally:
        for parameter, needed in before:
            parameter.requires_grad_(needed)
        for module in training:
            module.training = True

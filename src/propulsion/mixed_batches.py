"""Batches whose rows each have an adapter of their own (`adapter_names` in forward and generate)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper
from torch import Tensor, nn

from propulsion.errors import AdapterNameError, LayerError, near_misses
from propulsion.upstream.transformers_private import repeats_rows

MAIN_INPUTS = ("0", "input_ids", "inputs", "inputs_embeds", "pixel_values", "input_features", "decoder_input_ids")
LISTED = 20  # adapters in an error message
BASE_MODEL = "__base__"  # PEFT's name for a row without adapter


def check_adapter_names(adapter_names: Any, known: Collection[str], inputs: Mapping[str, Any]) -> bool:
    """Refuse names that do not fit the adapters or the batch.

    Args:
        adapter_names: What the caller gave.
        known: The adapters that are loaded.
        inputs: The arguments at hand by name; they give the size of the batch.

    Returns:
        Whether there was a tensor among them.

    Raises:
        AdapterNameError: Names what is wrong.
    """
    is_list = isinstance(adapter_names, (list, tuple)) and len(adapter_names) > 0
    if not is_list or not all(isinstance(name, str) for name in adapter_names):
        raise AdapterNameError(f"adapter_names must be a list with one name for each row, not {adapter_names!r}.")
    unknown = sorted(name for name in {*adapter_names} - {BASE_MODEL} if name not in known)
    if unknown:
        some = [*known][:LISTED]
        more = f", {len(known) - LISTED} more" if len(known) > LISTED else ""
        raise AdapterNameError(
            f"Trying to infer with non-existing adapter(s): {', '.join(unknown)}. Loaded are {', '.join(some)}{more} "
            f"and {BASE_MODEL!r} for none.{near_misses(unknown[0], known)}"
        )
    shape = batch_shape(inputs)
    batch = shape[0] if shape else None
    if batch not in (None, len(adapter_names)):
        raise AdapterNameError(
            f"Length of `adapter_names` should be the same as the number of inputs, but got {len(adapter_names)} and "
            f"{batch} respectively."
        )
    return batch is not None


def batch_shape(inputs: Mapping[str, Any]) -> tuple[int, ...] | None:
    """The shape of what the model reads, which is the first of its arguments or has one of the usual names."""
    candidates = [inputs.get(name) for name in MAIN_INPUTS]
    return next((tuple(value.shape) for value in candidates if isinstance(value, Tensor) and value.dim()), None)


def by_name(args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a call in their order, those by position under their number."""
    return {**{str(number): value for number, value in enumerate(args)}, **kwargs}


@contextmanager
def steering_each_row(model: nn.Module, adapter_names: Sequence[str], repeats: bool) -> Iterator[None]:
    """Let every layer of a model steer each row of the batch by the adapter of its name.

    Args:
        model: The model with its adapters.
        adapter_names: One name for each row.
        repeats: The model may see each row several times over, as generation does for beams; otherwise the number of
            names has to be that of the model's inputs.
    """
    rows = _Rows(list(adapter_names))
    handles, replaced = [], []
    handles.append(model.register_forward_pre_hook(partial(rows.enter_model, repeats), with_kwargs=True))
    handles.append(model.register_forward_hook(rows.leave_model, always_call=True))
    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            handles.append(module.register_forward_pre_hook(rows.pass_names, with_kwargs=True))
        elif isinstance(module, ModulesToSaveWrapper):
            handles.append(module.register_forward_hook(rows.forward_head, with_kwargs=True))
        elif repeats_rows(module):  # whose rows cannot be steered one by one: it runs once for each adapter
            replaced.append((module, vars(module).get("forward")))
            module.forward = partial(rows.forward_by_adapter, module.forward)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for module, forward in replaced:
            del module.forward
            if forward is not None:
                module.forward = forward


Named = TypeVar("Named")


class NamesOfRows(list[Named]):
    """What tells the adapter of each row of the batch, and how many tokens a row has."""

    def __init__(self, names: Iterable[Named], tokens: int = 1) -> None:
        super().__init__(names)
        self.tokens = tokens


def names_of_rows(adapter_names: Sequence[Named], output: Tensor) -> list[Named]:
    """The adapter of each row of a layer's output.

    Some layers see the batch flattened into its tokens, in the order of the batch. One row stands
    for all, as with positions.

    Raises:
        AdapterNameError: The output's rows are not those of the batch.
    """
    rows, names = len(output), len(adapter_names)
    if rows == names or (rows == 1 and output.dim() > 2):
        return list(adapter_names)
    tokens = getattr(adapter_names, "tokens", 1)
    if output.dim() == 2 and rows == names * tokens:
        return [name for name in adapter_names for _ in range(tokens)]
    raise AdapterNameError(
        f"adapter_names has {names} entries, but a layer's output for this batch has the shape "
        f"{tuple(output.shape)}, in which the rows of the batch cannot be told."
    )


class _Rows:
    """The adapter of each row of the batch, as the modules of the model see it."""

    def __init__(self, adapter_names: list[str]) -> None:
        self.given_names = self.adapter_names = NamesOfRows(adapter_names)

    def enter_model(self, repeats: bool, model: nn.Module, args: Any, kwargs: Any) -> None:
        """Hook before the whole model's forward: one name for each row that it sees."""
        inputs = by_name(args, kwargs)
        shape = batch_shape(inputs) or (len(self.given_names),)
        if not repeats or shape[0] % len(self.given_names):
            check_adapter_names(self.given_names, self.given_names, inputs)
        repeated = [name for name in self.given_names for _ in range(shape[0] // len(self.given_names))]
        self.adapter_names = NamesOfRows(repeated, tokens=shape[1] if len(shape) > 1 else 1)

    def leave_model(self, model: nn.Module, args: Any, output: Any) -> None:
        """Hook after the whole model's forward."""
        self.adapter_names = self.given_names

    def pass_names(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        """Hook before a steered layer's forward."""
        return args, {**kwargs, "adapter_names": self.adapter_names}

    def forward_head(self, wrapper: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        """Hook after a whole trained module such as the head: each row by that of its adapter, or the base model's."""
        trained = wrapper.modules_to_save

        def run(name: str, *args: Any, **kwargs: Any) -> Any:
            module = trained[name] if name in trained else wrapper.original_module  # noqa: SIM401
            return module(*args, **kwargs)

        return self._split(run, args, kwargs)

    def forward_by_adapter(self, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """In the place of a module's forward: runs it for the rows of one adapter after the other."""

        def run(name: str, *args: Any, **kwargs: Any) -> Any:
            all_names, self.adapter_names = self.adapter_names, NamesOfRows([name])
            try:
                return forward(*args, **kwargs)
            finally:
                self.adapter_names = all_names

        return self._split(run, args, kwargs)

    def _split(self, run: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        names = names_of_rows(
            self.adapter_names, next(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
        )
        indices, parts = [], []
        for name in dict.fromkeys(names):
            index = torch.tensor([row for row, other in enumerate(names) if other == name])
            indices.append(index)  # grouped by adapter; the inverse permutation restores the batch's order
            rows = partial(select_rows, index=index, batch=len(names))
            parts.append(run(name, *map(rows, args), **{key: rows(value) for key, value in kwargs.items()}))
        return join_rows(parts, torch.cat(indices).argsort())


def select_rows(value: Any, index: Tensor, batch: int) -> Any:
    """Some rows of an argument, if it is a tensor with the rows of the batch; otherwise the argument itself."""
    is_batched = isinstance(value, Tensor) and value.dim() and len(value) == batch
    return value[index.to(value.device)] if is_batched else value


def join_rows(parts: list[Any], order: Tensor) -> Any:
    """The results for the rows of each adapter, put back into the batch's order."""
    first = parts[0]
    if isinstance(first, Tensor):
        return torch.cat(parts)[order.to(first.device)]
    if isinstance(first, (tuple, list)):
        return type(first)(join_rows(list(part), order) for part in zip(*parts, strict=True))
    if first is None:
        return None
    raise LayerError(f"A {type(first).__name__} cannot be split by adapter: run the adapters one by one.")

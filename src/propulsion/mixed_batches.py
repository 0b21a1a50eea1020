"""Batches whose rows each have an adapter of their own (`adapter_names` in forward and generate)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from contextvars import ContextVar
from functools import partial
from threading import Lock, RLock
from typing import Any, Generic, TypeVar

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper
from torch import Tensor, nn
from transformers import PreTrainedModel

from propulsion.errors import AdapterNameError, LayerError, near_misses
from propulsion.upstream.transformers_private import multiplies_in_order, repeats_rows

MAIN_INPUTS = (
    "0",
    "input_ids",
    "inputs",
    "inputs_embeds",
    "pixel_values",
    "input_features",
    "input_values",
    "decoder_input_ids",
)
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
    if batch is not None:
        _check_count(len(adapter_names), batch)
    return batch is not None


def _check_count(names: int, rows: int) -> None:
    if names != rows:
        raise AdapterNameError(
            f"Length of `adapter_names` should be the same as the number of inputs, but got {names} and {rows} "
            "respectively."
        )


def batch_shape(inputs: Mapping[str, Any]) -> tuple[int, ...] | None:
    """The shape of what the model reads, which is the first of its arguments or has one of the usual names."""
    candidates = [inputs.get(name) for name in MAIN_INPUTS]
    return next((tuple(value.shape) for value in candidates if isinstance(value, Tensor) and value.dim()), None)


def by_name(args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a call in their order, those by position under their number."""
    return {**{str(number): value for number, value in enumerate(args)}, **kwargs}


@contextmanager
def steering_each_row(model: nn.Module, adapter_names: Sequence[str], repeats: bool) -> Iterator[None]:
    """Let every layer of a model steer each row of the batch by the adapter of its name, in calls of this thread.

    Args:
        model: The model with its adapters.
        adapter_names: One name for each row.
        repeats: The model may see each row several times over, as generation does for beams; otherwise the number of
            names has to be that of the model's inputs.
    """
    rows = _RowsOfTuner(adapter_names, model, repeats)
    repeating = [module for module in model.modules() if repeats_rows(module)]
    with ExitStack() as undo:
        undo.enter_context(without_graphs())
        undo.callback(_ENTERED.reset, _ENTERED.set(rows))
        for entry in entries(model):
            undo.callback(entry.register_forward_pre_hook(rows.hook(rows.enter), with_kwargs=True).remove)
            undo.callback(entry.register_forward_hook(rows.hook(rows.leave), always_call=True).remove)
        for module in model.modules():
            if isinstance(module, BaseTunerLayer):
                undo.callback(module.register_forward_pre_hook(rows.hook(rows.pass_names), with_kwargs=True).remove)
            elif isinstance(module, ModulesToSaveWrapper):
                undo.callback(module.register_forward_hook(rows.hook(rows.forward_head), with_kwargs=True).remove)
        if repeating:  # their rows cannot be steered one by one: they run once for each adapter
            undo.enter_context(_REPLACING)
        for module in repeating:
            undo.callback(_put_back, module, vars(module).get("forward"))
            module.forward = partial(rows.forward_by_adapter, module.forward)
        yield


@contextmanager
def without_graphs() -> Iterator[None]:
    """Run compiled modules as they were written: a graph does not notice hooks that came or went since it was made.

    Raises:
        AdapterNameError: It is what `torch.compile` returned that was called, so that its graph runs already.
    """
    with _CHANGING:
        try:
            _STANCES.append(torch.compiler.set_stance("force_eager"))
        except RuntimeError as error:
            raise AdapterNameError(
                "adapter_names cannot be used with what torch.compile has returned: call the model that it was given."
            ) from error
    try:
        yield
    finally:
        with _CHANGING:
            stance = _STANCES.pop()
            if not _STANCES:
                stance.__exit__(None, None, None)


def _put_back(module: nn.Module, forward: Callable[..., Any] | None) -> None:
    del module.forward
    if forward is not None:
        module.forward = forward


def entries(model: nn.Module) -> list[nn.Module]:
    """The modules that are called with a batch: the model and, by generation and before it, the encoder."""
    encoder = model.get_encoder() if isinstance(model, PreTrainedModel) else model
    return [model] if encoder is model else [model, encoder]


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


def with_rows(output: Tensor, x: Tensor, adapter_names: Sequence[object]) -> Tensor:
    """A layer's output as rows of the batch, or as one row that stands for all: positions, which are looked up once.

    Args:
        output: The output.
        x: What the layer has read.
        adapter_names: What tells the adapter of each row of the batch.

    Raises:
        AdapterNameError: The layer has read a single vector or number.
    """
    if x.dim() > 1:
        return output
    if x.dim() == 1 and output.dim() == 2:
        is_row_by_row = len(x) == len(adapter_names) and getattr(adapter_names, "tokens", 1) == 1
        return output if is_row_by_row else output.unsqueeze(0)
    raise AdapterNameError(
        f"A layer's input has the shape {tuple(x.shape)}, whose rows cannot be told: run one adapter at a time."
    )


class Rows(Generic[Named]):
    """What tells the adapter of each row of the batch, as the modules of the model see it.

    Attributes:
        given: For each row of what the caller has given.
        rows: For each row of what the model is working on.
    """

    def __init__(self, given: Iterable[Named], model: nn.Module, repeats: bool) -> None:
        """
        Args:
            given: For each row.
            model: The model.
            repeats: It may see each row several times over, as generation does for beams.
        """
        self.given = self.rows = NamesOfRows(given)
        self.model, self.repeats = model, repeats
        self.depth = 0  # of entries within each other: the outermost has the batch, those within it may have parts
        self.seen: dict[nn.Module, int] = {}  # how many rows an entry had

    def enter(self, entry: nn.Module, args: Any, kwargs: Any) -> None:
        """Hook before the forward of the model or its encoder: one name for each row that it sees."""
        self.depth += 1
        if self.depth > 1:
            return
        inputs = by_name(args, kwargs)
        shape = batch_shape(inputs) or (len(self.given),)
        rows, given = shape[0], self.given
        if self.repeats and len(set(given)) == 1:
            names = given[:1] * rows
        else:
            if not self.repeats or (rows % len(given) and not self.seen):
                _check_count(len(given), rows)
            self._check_order(entry, rows)
            names = [name for name in given for _ in range(rows // len(given))]
        self.rows = NamesOfRows(names, tokens=shape[1] if len(shape) > 1 else 1)

    def _check_order(self, entry: nn.Module, rows: int) -> None:
        """Refuse rows that a model's own `generate` has put into an order of its own."""
        if rows != len(self.given) and not multiplies_in_order(self.model):
            raise AdapterNameError(
                f"adapter_names has {len(self.given)} entries, but {type(self.model).__name__} generates with "
                f"{rows} rows, in an order of its own: generate for one adapter at a time."
            )
        if rows < self.seen.get(entry, 0):
            raise AdapterNameError(
                f"{type(self.model).__name__} goes on with {rows} of {self.seen[entry]} rows, and does not say which: "
                "generate for one adapter at a time."
            )
        if entry is not self.model:
            self.seen.pop(self.model, None)  # a pass of its own begins, perhaps with fewer beams
        self.seen[entry] = rows

    def leave(self, entry: nn.Module, args: Any, output: Any) -> None:
        """Hook after that forward."""
        self.depth -= 1
        if not self.depth:
            self.rows = self.given


class _RowsOfTuner(Rows[str]):
    """The rows of a model into which adapters were put."""

    @property
    def is_entered(self) -> bool:
        """Whether it is the call with these rows that runs, and not that of another thread."""
        return _ENTERED.get() is self

    def hook(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A hook that leaves the calls of other threads alone."""
        return lambda *args: function(*args) if self.is_entered else None

    def pass_names(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        """Hook before a steered layer's forward."""
        return args, {**kwargs, "adapter_names": self.rows}

    def forward_head(self, wrapper: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        """Hook after a whole trained module such as the head: each row by that of its adapter, or the base model's."""
        trained = wrapper.modules_to_save

        def run(name: str, *args: Any, **kwargs: Any) -> Any:
            module = trained[name] if name in trained else wrapper.original_module  # noqa: SIM401
            return module(*args, **kwargs)

        return self._split(run, args, kwargs)

    def forward_by_adapter(self, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """In the place of a module's forward: runs it for the rows of one adapter after the other."""
        if not self.is_entered:
            return forward(*args, **kwargs)

        def run(name: str, *args: Any, **kwargs: Any) -> Any:
            all_names, self.rows = self.rows, NamesOfRows([name])
            try:
                return forward(*args, **kwargs)
            finally:
                self.rows = all_names

        return self._split(run, args, kwargs)

    def _split(self, run: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        names = names_of_rows(
            self.rows, next(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
        )
        return run_by_adapter(run, names, args, kwargs)


# The rows of the call that this thread is in. A server may be in several, and hooks are the model's, not a thread's.
_ENTERED: ContextVar[_RowsOfTuner | None] = ContextVar("rows of a mixed batch", default=None)
_REPLACING = RLock()  # a forward that one thread has replaced is put back before another replaces it
# The compiler has one stance for all threads: the first call to come changes it, and the last to go changes it back.
_STANCES: list[AbstractContextManager[Any]] = []
_CHANGING = Lock()


def run_by_adapter(run: Callable[..., Any], names: Sequence[Any], args: Any, kwargs: Any) -> Any:
    """Run something for the rows of one adapter after the other.

    Args:
        run: Gets what tells an adapter, and its rows of the arguments.
        names: What tells the adapter of each row.
        args: The arguments; a tensor with as many entries as there are names has rows.
        kwargs: Those by name.

    Returns:
        The results in the batch's order.
    """
    indices, parts = [], []
    for name in dict.fromkeys(names):
        index = torch.tensor([row for row, other in enumerate(names) if other == name])
        indices.append(index)  # grouped by adapter; the inverse permutation restores the batch's order
        rows = partial(_select_rows, index=index, batch=len(names))
        parts.append(run(name, *map(rows, args), **{key: rows(value) for key, value in kwargs.items()}))
    return _join_rows(parts, torch.cat(indices).argsort())


def _select_rows(value: Any, index: Tensor, batch: int) -> Any:
    """Some rows of an argument, if it is a tensor with the rows of the batch; otherwise the argument itself."""
    is_batched = isinstance(value, Tensor) and value.dim() and len(value) == batch
    return value[index.to(value.device)] if is_batched else value


def _join_rows(parts: list[Any], order: Tensor) -> Any:
    """The results for the rows of each adapter, put back into the batch's order."""
    first = parts[0]
    if isinstance(first, Tensor):
        return torch.cat(parts)[order.to(first.device)]
    if isinstance(first, (tuple, list)):
        return type(first)(_join_rows(list(part), order) for part in zip(*parts, strict=True))
    if first is None:
        return None
    raise LayerError(f"A {type(first).__name__} cannot be split by adapter: run the adapters one by one.")

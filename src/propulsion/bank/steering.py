"""How the layers and heads of a base model serve each row of a batch by its own adapter, through hooks.

The hooks stay where they are; what they do is decided by the batch that the calling thread has entered. Without one the
model is the base model.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from propulsion.bank.adapters import Heads, Part
from propulsion.bank.shelf import Entry
from propulsion.bank.table import BASE_ROW, layers_of
from propulsion.errors import AdapterNameError, LayerError
from propulsion.gain import reads_the_program
from propulsion.kernels import FEW, multiply
from propulsion.layer_kinds import kind_of
from propulsion.layers import axes_after
from propulsion.mixed_batches import Rows, entries, names_of_rows, run_by_adapter, with_rows
from propulsion.pooling import steer
from propulsion.targets import leaves_outputs_alone
from propulsion.upstream.torch_private import is_watched_by_others
from propulsion.upstream.transformers_private import repeats_rows

_Views = dict[tuple[str, int, int], tuple[Tensor | None, ...]]  # by layer, rows and dimensions of its output


class Batch(Rows[int]):
    """The adapters of one call of the model, and what its layers have gathered for them."""

    def __init__(
        self,
        model: nn.Module,
        values: Tensor,
        columns: Mapping[tuple[str, Part], tuple[int, int]],
        entries: Sequence[Entry | None],
        is_packed: bool = False,
        width: int = 1,
    ) -> None:
        """
        Args:
            model: The base model.
            values: The table's.
            columns: The table's.
            entries: The adapter of each row, or of each token of each row if packed; None for the base model.
            is_packed: Whether each token has its own.
            width: The number of tokens in a row if packed; otherwise 1.
        """
        super().__init__(map(_row, entries), model, repeats=True)
        self.values, self.columns = values, columns
        self.entries = {_row(entry): entry for entry in entries}
        self.steered = layers_of(entry.layout for entry in entries if entry is not None)
        self.is_packed, self.width = is_packed, width
        self.is_alike = len(self.entries) == 1
        self._gathered: dict[int, Tensor] = {}
        self._views: _Views = {}
        self._views_by_shape: dict[tuple[int, int], _Views] = {}

    def enter(self, entry: nn.Module, args: Any, kwargs: Any) -> None:
        """As `Rows.enter`; of a packed batch, the tokens are what they are."""
        if not self.is_packed:
            super().enter(entry, args, kwargs)
            self._find_views()

    def leave(self, entry: nn.Module, args: Any, output: Any) -> None:
        """As `Rows.leave`."""
        if not self.is_packed:
            super().leave(entry, args, output)
            self._find_views()

    def _find_views(self) -> None:
        self._views = self._views_by_shape.setdefault((len(self.rows), self.rows.tokens), {})

    def alone(self, row: int) -> Batch:
        """A batch that has only this adapter."""
        return Batch(self.model, self.values, self.columns, [self.entries[row]])

    def parts(self, layer: str, output: Tensor, after: int) -> tuple[Tensor | None, ...]:
        """The gain, the gain of outputs < 0 and the bias of a layer, for each row of its output.

        Args:
            layer: Its name.
            output: Its output.
            after: How many axes that has after its channels.
        """
        key = (layer, len(output), output.dim())
        if (found := self._views.get(key)) is not None:
            return found
        rows = self.rows if self.is_alike else self._rows_of(output)
        is_whole = self.is_alike or len(rows) == len(self.rows)
        lines = self._lines(rows) if is_whole and not self.is_packed else None
        parts = tuple(self._part(layer, part, rows, lines, output, after) for part in ("gain", "negative", "bias"))
        if lines is not None:
            self._views[key] = parts
        return parts

    def _rows_of(self, output: Tensor) -> list[int]:
        if not self.is_packed:
            return names_of_rows(self.rows, output)
        tokens, width = len(self.rows), self.width
        if output.shape[:-1] in ((tokens // width, width), (tokens,), (1, width)):
            return self.rows
        raise AdapterNameError(
            f"adapter_names has {tokens // width} × {width} entries, but a layer's output for this batch has the shape "
            f"{tuple(output.shape)}, in which the tokens cannot be told."
        )

    def _lines(self, rows: Sequence[int]) -> Tensor:
        """The lines of the table for all layers, gathered once."""
        if len(rows) not in self._gathered:
            values = self.values
            if self.is_alike:
                self._gathered[len(rows)] = values[self.given[0]]
            else:
                self._gathered[len(rows)] = values.index_select(0, torch.tensor(rows, device=values.device))
        return self._gathered[len(rows)]

    def _part(
        self, layer: str, part: Part, rows: Sequence[int], lines: Tensor | None, output: Tensor, after: int
    ) -> Tensor | None:
        if (layer, part) not in self.steered:
            return None
        span = slice(*self.columns[layer, part])
        if lines is None:
            index = torch.tensor(rows, device=self.values.device)
            values = self.values[:, span].index_select(0, index)
            if self.is_packed and output.dim() > 2:
                values = values.unflatten(0, (-1, self.width))
            return values
        if lines.dim() == 1:
            return lines[span].view(-1, *[1] * after)
        return lines[:, span].reshape(len(lines), *[1] * (output.dim() - 2 - after), -1, *[1] * after)


def _row(entry: Entry | None) -> int:
    return BASE_ROW if entry is None or entry.row is None else entry.row


_BATCH: ContextVar[tuple[object, Batch] | None] = ContextVar("batch of a bank", default=None)


class Steering:
    """The hooks of one bank in its base model."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._undo: list[Callable[[], None]] = []
        self._layers: dict[str, nn.Module] = {}
        self._heads: dict[str, nn.Module] = {}
        for module in entries(model):
            self._undo.append(module.register_forward_pre_hook(self._enter, with_kwargs=True).remove)
            self._undo.append(module.register_forward_hook(self._leave, always_call=True).remove)
        for module in model.modules():
            if repeats_rows(module):  # whose rows cannot be steered one by one: it runs once for each adapter
                self._run_by_adapter(module)

    def __deepcopy__(self, memo: Any) -> Steering:
        return self  # hooks of a copied model lead here, and see that it is a copy

    @contextmanager
    def serving(self, batch: Batch) -> Iterator[None]:
        """Serve a batch in this thread."""
        token = _BATCH.set((self, batch))
        try:
            yield
        finally:
            _BATCH.reset(token)

    def close(self) -> None:
        """Take all hooks out."""
        while self._undo:
            self._undo.pop()()

    def add_layer(self, name: str) -> None:
        """Steer the output of a layer from now on."""
        if name in self._layers:
            return
        layer = self._model.get_submodule(name)
        kind = kind_of(layer, name)
        owns_output = type(layer) is kind.base_class and leaves_outputs_alone(self._model, name)
        self._layers[name] = layer
        hook = partial(self._steer, name, kind.output_axis, owns_output)
        self._undo.append(layer.register_forward_hook(hook).remove)

    def add_head(self, name: str) -> None:
        """Let rows have modules of their own in the place of this one from now on."""
        if name in self._heads:
            return
        head = self._model.get_submodule(name)
        self._heads[name] = _without_memory(head)
        self._undo.append(head.register_forward_hook(partial(self._score, name), with_kwargs=True).remove)

    def make_heads(self, heads: Heads) -> dict[str, nn.Module]:
        """Modules like the base model's with an adapter's own values, in the base model's dtype."""
        return {name: self._make_head(name, state) for name, state in heads.items()}

    def _make_head(self, name: str, state: Mapping[str, Tensor]) -> nn.Module:
        own = self._model.get_submodule(name).state_dict()
        head = copy.deepcopy(self._heads[name])
        values = {key: tensor.to(own[key].device, own[key].dtype) for key, tensor in state.items()}
        for inner, part in head.named_modules():
            if isinstance(part, nn.Linear):
                part.out_features = len(values[f"{inner}.weight" if inner else "weight"])
        for key, value in values.items():
            prefix, _, attribute = key.rpartition(".")
            part = head.get_submodule(prefix)
            is_parameter = isinstance(getattr(part, attribute), nn.Parameter)
            setattr(part, attribute, nn.Parameter(value, requires_grad=False) if is_parameter else value)
        return head.requires_grad_(False).eval()

    def _batch(self) -> Batch | None:
        found = _BATCH.get()
        return found[1] if found is not None and found[0] is self else None

    def _enter(self, entry: nn.Module, args: Any, kwargs: Any) -> None:
        if (batch := self._batch()) is not None:
            batch.enter(entry, args, kwargs)

    def _leave(self, entry: nn.Module, args: Any, output: Any) -> None:
        if (batch := self._batch()) is not None:
            batch.leave(entry, args, output)

    def _steer(self, name: str, axis: int, owns_output: bool, layer: nn.Module, args: Any, output: Tensor) -> Any:
        found = _BATCH.get()
        if found is None or found[0] is not self or (name, "gain") not in found[1].steered:
            return None
        if self._layers[name] is not layer:
            return None
        batch = found[1]
        if args and not batch.is_alike:
            output = with_rows(output, args[0], batch.rows)
        gain, negative, bias = batch.parts(name, output, axes_after(axis, output))
        assert gain is not None
        if bias is not None:
            output = (output + bias).to(output.dtype)
        if negative is not None:
            return steer(output, torch.stack([gain, negative]))
        in_place = owns_output and output.numel() >= FEW and not is_watched_by_others(layer)
        in_place = in_place and (gain.dim() == 1 or (gain.dim() == output.dim() and len(gain) == len(output)))
        if torch.is_grad_enabled() or reads_the_program() or (in_place and not output.is_contiguous()):
            return steer(output, gain.unsqueeze(0))
        return multiply(output, gain, out=output if in_place else None)

    def _score(self, name: str, head: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        batch = self._batch()
        if batch is None or self._model.get_submodule(name) is not head:
            return None
        own = {row: e.modules[name] for row, e in batch.entries.items() if e is not None and name in e.modules}
        if not own:
            return None
        first = next(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
        rows = [batch.given[0]] * len(first) if batch.is_alike else names_of_rows(batch.rows, first)
        # Each head runs on the whole batch: on its own rows alone the products would be summed in another order.
        parts = [
            (torch.tensor([n for n, other in enumerate(rows) if other == row], device=first.device), module)
            for row, module in own.items()
        ]
        scores = [(index, module(*args, **kwargs)) for index, module in parts]
        return _scored(output, scores)

    def _run_by_adapter(self, module: nn.Module) -> None:
        before = vars(module).get("forward")
        module.forward = partial(self._by_adapter, module.forward)

        def undo() -> None:
            del module.forward
            if before is not None:
                module.forward = before

        self._undo.append(undo)

    def _by_adapter(self, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        batch = self._batch()
        if batch is None or batch.is_alike:
            return forward(*args, **kwargs)
        first = next(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
        rows = names_of_rows(batch.rows, first)

        def run(row: int, *args: Any, **kwargs: Any) -> Any:
            with self.serving(batch.alone(row)):
                return forward(*args, **kwargs)

        return run_by_adapter(run, rows, args, kwargs)


def _scored(output: Any, parts: list[tuple[Tensor, Any]]) -> Tensor:
    """The base model's scores with those of rows that have heads of their own; rows with fewer labels end in -inf.

    Args:
        output: The base model's.
        parts: For each head the rows that it is for, and its scores of all rows.
    """
    if not all(isinstance(value, Tensor) for value in (output, *(scores for _, scores in parts))):
        raise LayerError("A module that gives more than one tensor cannot be another for each row: run it alone.")
    covered = sum(len(index) for index, _ in parts) == len(output)
    widths = [scores.shape[-1] for _, scores in parts] + ([] if covered else [output.shape[-1]])
    result = output.new_full((*output.shape[:-1], max(widths)), float("-inf"))
    if not covered:
        result[..., : output.shape[-1]] = output
    for index, scores in parts:
        result[index] = float("-inf")
        result[index, ..., : scores.shape[-1]] = scores[index]
    return result


def _without_memory(head: nn.Module) -> nn.Module:
    """A copy of a module's structure, to be filled in."""
    memo: dict[int, Any] = {
        id(parameter): nn.Parameter(torch.empty_like(parameter, device="meta"), requires_grad=False)
        for parameter in head.parameters()
    }
    return copy.deepcopy(head, memo)

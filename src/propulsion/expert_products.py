"""Steering what an experts' forward multiplies with its stacked weights, without a scaled copy of the weights.

The experts of transformers' mixtures are parameters of shape (num_experts, d_out, d_in) or, transposed, (num_experts,
d_in, d_out), with which their forward multiplies tokens in one of several ways: expert by expert ("eager"), with a
gathered weight for each token ("batched_mm"), or in groups ("grouped_mm"). While such a forward runs, `SteeredProducts`
sees each of its operations. It follows the weights through indexing and transposing, and gives the result of their
product with the tokens its gains, V' = V ⊙ z^k, as for a linear layer. In any other operation a scaled copy takes the
weight's place: dearer, and as right.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from propulsion.errors import LayerError
from propulsion.expert_gains import Experts, numbers_of, scale_by_expert
from propulsion.pooling import steer
from propulsion.upstream.torch_private import PARAMETERS

GROUPED = ("grouped_mm", "grouped_mm_fallback")
# What tells something of a tensor that the gains do not change.
TELLS = {"size", "dim", "numel", "stride", "is_contiguous", "element_size", "is_floating_point", "data_ptr", "len"}
TELLS |= {"get_device", "storage_offset", "ndimension", "is_complex", "type"}


Biases = Mapping[str, Callable[[Tensor], Tensor]]


@dataclass
class Table:
    """One adapter's gains for one stacked weight.

    Attributes:
        values: z of shape (1, num_experts, d_out) or, with degree 1, the pooled gains of shape (1 or 2, ...).
        degree: k.
    """

    values: Tensor
    degree: int
    rows: tuple[Tensor, ...] = ()

    def of(self, expert: int) -> Tensor:
        """One expert's part, of shape (1 or 2, d_out)."""
        # Cut up at once, so that the backward puts the experts' gradients together at once.
        self.rows = self.rows or self.values.unbind(1)
        return self.rows[expert]

    def gains(self) -> Tensor:
        """The gains of shape (1 or 2, num_experts, d_out)."""
        return self.values if self.degree == 1 else self.values.pow(self.degree)


@dataclass
class StackedWeight:
    """A stacked weight that is to be steered in the forward that runs.

    Attributes:
        name: The experts' attribute.
        output_axis: -2 or -1, the axis of d_out.
        tables: The gains, one table after the other.
        in_place: Nobody changes the product afterwards, so that it may be overwritten with the steered one.
        used: The forward has used it.
    """

    name: str
    output_axis: int
    tables: Sequence[Table]
    in_place: bool
    used: bool = False

    def steer(self, output: Tensor, experts: int | Experts) -> Tensor:
        """The product with tokens, steered.

        Args:
            output: Of shape (rows, d_out).
            experts: The one expert of all rows, or the rows' experts.
        """
        in_place = self.in_place
        for table in self.tables:
            if isinstance(experts, int):
                output = steer(output, table.of(experts), in_place, degree=table.degree)
            elif len(table.values) == 1:
                output = scale_by_expert(output, table.values[0], experts, in_place, table.degree)
            else:
                above, below = table.values[:, numbers_of(experts, output.device)]
                output = (output * torch.where(output >= 0, above, below)).to(output.dtype)
            in_place = False  # the backward of the first product keeps its result
        return output

    def scaled(self, weight: Tensor, experts: int | Tensor | None = None, output_axis: int | None = None) -> Tensor:
        """A scaled copy of the weight, or of some experts' part of it.

        Raises:
            LayerError: The gains depend on the sign of the output.
        """
        for table in self.tables:
            if len(table.values) == 2:
                raise LayerError(
                    f"This way of running the experts hides the outputs of {self.name!r}, on whose sign max and min "
                    "pooling depend: call model.set_experts_implementation('eager'), or use pooling='mean'."
                )
            (gains,) = table.gains()
            gains = gains if experts is None else gains[experts]
            axis = self.output_axis if output_axis is None else output_axis
            weight = (weight * gains.unsqueeze(-3 - axis)).to(weight.dtype)
        return weight


@dataclass
class _View:
    """What a tensor of the forward has to do with a stacked weight."""

    weight: StackedWeight
    output_axis: int
    experts: int | Tensor | None = None  # all of them, one of them, or one for each entry
    tensor: Callable[[], Tensor | None] = field(default=lambda: None)


class SteeredProducts(TorchFunctionMode):
    """In this context the products of tokens with an experts module's stacked weights are steered."""

    def __init__(self, experts: nn.Module, weights: Sequence[StackedWeight], biases: Biases) -> None:
        """Prepare for one forward.

        Args:
            experts: The module whose forward will run.
            weights: Its weights that are steered.
            biases: What makes the steered one of each of the biases that belong to them.
        """
        super().__init__()
        self._experts, self._weights, self._biases = experts, weights, biases
        self._views: dict[int, _View] = {}
        self._steered_biases: dict[str, Tensor] = {}

    def check_all_used(self) -> None:
        """Refuse a forward in which nothing was seen of a weight, for it would not have been steered.

        Raises:
            LayerError: Says what to do.
        """
        unused = {weight.name for weight in self._weights if not weight.used}
        unused |= self._biases.keys() - self._steered_biases.keys()
        if unused:
            raise LayerError(
                f"The forward of this {type(self._experts).__name__} hides what it does with {sorted(unused)[0]!r}, so "
                "that it cannot be steered: call model.set_experts_implementation('eager'), or leave it out."
            )

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation of the forward, and steer its result if it is a product with a steered weight."""
        kwargs = kwargs or {}
        if not self._concerns(args) and not (kwargs and self._concerns(kwargs.values())):
            return func(*args, **kwargs)
        name = getattr(func, "__name__", "").strip("_")
        if name in TELLS:
            return func(*args, **kwargs)
        if name == "get":  # a tensor's attribute
            result = func(*args, **kwargs)
            if not isinstance(result, Tensor):
                return result
        view = self._view(args[0]) if args and isinstance(args[0], Tensor) else None
        if view is not None and (part := _part_of(view, name, args, kwargs)) is not None:
            result = func(*args, **kwargs)
            part.tensor = weakref.ref(result)
            self._views[id(result)] = part
            return result
        product = self._product(func, name, args, kwargs)
        return func(*self._scaled(args), **self._scaled(kwargs)) if product is None else product

    def _concerns(self, values: Any) -> bool:
        for value in values:
            if isinstance(value, Tensor):
                if self._view(value) is not None or self._bias(value) is not None:
                    return True
            elif isinstance(value, (list, tuple)) and self._concerns(value):
                return True
        return False

    def _current(self, name: str) -> Any:
        # Asked anew each time: offloaded and sharded parameters are there only while the forward runs.
        parameter = vars(self._experts)[PARAMETERS].get(name)
        return getattr(self._experts, name) if parameter is None else parameter

    def _view(self, value: Tensor) -> _View | None:
        view = self._views.get(id(value))
        if view is not None and view.tensor() is value:
            return view
        for weight in self._weights:
            if value is self._current(weight.name):
                return _View(weight, weight.output_axis)
        return None

    def _bias(self, value: Tensor) -> str | None:
        return next((name for name in self._biases if value is self._current(name)), None)

    def _product(self, func: Any, name: str, args: Any, kwargs: Any) -> Tensor | None:
        """The steered result of a product of tokens with a weight; None if it is another operation."""
        views = [self._view(value) if isinstance(value, Tensor) else None for value in args[:2]]
        if len(views) < 2 or (views[0] is None) == (views[1] is None):
            return None
        weight_first = views[0] is not None
        view = views[0] or views[1]
        assert view is not None
        experts = _experts_of_rows(view, name, weight_first, args, kwargs)
        if experts is None:
            return None
        view.weight.used = True
        output = func(*args, **kwargs)
        if name != "bmm":
            return view.weight.steer(output, experts)
        axis = -1 if weight_first else 1  # where the one token of each entry is
        return view.weight.steer(output.squeeze(axis), experts).unsqueeze(axis)

    def _scaled(self, values: Any) -> Any:
        """The arguments of any other operation, with scaled copies in the place of weights and biases."""
        if isinstance(values, dict):
            return {key: self._scaled(value) for key, value in values.items()}
        if isinstance(values, (list, tuple)):
            scaled = [self._scaled(value) for value in values]
            return type(values)(*scaled) if hasattr(values, "_fields") else type(values)(scaled)
        if not isinstance(values, Tensor):
            return values
        if (view := self._view(values)) is not None:
            view.weight.used = True
            return view.weight.scaled(values, view.experts, view.output_axis)
        if (bias := self._bias(values)) is not None:
            if bias not in self._steered_biases:
                self._steered_biases[bias] = self._biases[bias](values)
            return self._steered_biases[bias]
        return values


def _part_of(view: _View, name: str, args: Any, kwargs: Any) -> _View | None:
    """What indexing and transposing make of a weight; None if it is something else."""
    if kwargs or len(args) < 2:
        return None
    if name == "getitem" and view.experts is None:
        index = args[1]
        if isinstance(index, Tensor) and not index.dtype.is_floating_point and index.dtype != torch.bool:
            if index.dim() == 0:
                return _View(view.weight, view.output_axis, int(index))
            return _View(view.weight, view.output_axis, index) if index.dim() == 1 else None
        if isinstance(index, int) and not isinstance(index, bool):
            return _View(view.weight, view.output_axis, index)
    if name == "transpose" and len(args) == 3:
        axes = {axis if axis < 0 else axis - args[0].dim() for axis in args[1:]}
        return _View(view.weight, -3 - view.output_axis, view.experts) if axes == {-1, -2} else None
    return None


def _experts_of_rows(view: _View, name: str, weight_first: bool, args: Any, kwargs: Any) -> int | Experts | None:
    """The one expert of a product's rows, or the rows' experts; None if this is no product of tokens with a weight."""
    others = [*args[2:], *(value for key, value in kwargs.items() if key != "offs")]
    if name in GROUPED:
        offsets = kwargs.get("offs", args[2] if len(args) > 2 else None)
        is_product = not weight_first and view.experts is None and view.output_axis == -1
        others = [value for value in others if value is not offsets]
        if not is_product or args[0].dim() != 2 or any(value is not None for value in others) or offsets is None:
            return None
        if offsets.is_cpu:
            ends = [0, *offsets.tolist()]
            return tuple(end - start for start, end in itertools.pairwise(ends))
        rows = torch.arange(len(args[0]), device=args[0].device, dtype=offsets.dtype)
        return torch.searchsorted(offsets, rows, right=True)
    if any(value is not None for value in others):
        return None
    if name == "bmm" and isinstance(view.experts, Tensor):
        tokens = args[1].shape[-1] if weight_first else args[0].shape[-2]
        return view.experts if view.output_axis == (-2 if weight_first else -1) and tokens == 1 else None
    if isinstance(view.experts, int) and not weight_first and args[0].dim() == 2:
        axis = {"linear": -2, "matmul": -1, "mm": -1}.get(name)
        return view.experts if view.output_axis == axis else None
    return None

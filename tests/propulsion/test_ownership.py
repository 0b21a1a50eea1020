"""A gradient is overwritten only where nobody else can see it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from propulsion import gain, ownership
from propulsion.upstream import torch_private


class Doubled(torch.autograd.Function):
    """2 x, whose backward overwrites its gradient where it may, as steering does; `overwritten` says what it did."""

    overwritten: bool

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
        Doubled.overwritten = ownership.is_unshared(grad_outputs)
        return grad_outputs[0].mul_(2) if Doubled.overwritten else grad_outputs[0] * 2


def keep(kept: list[Tensor], view: Callable[[Tensor], Any]) -> Callable[[Tensor], None]:
    return lambda grad: kept.append(view(grad))


UNSHARED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "product": lambda y, other: y * 3,
    "view of a product": lambda y, other: y.view(2, 6) * 3,
    "other side done before": lambda y, other: y + other * 1,
    "matrix product": lambda y, other: y @ torch.ones(3, 5),
    "heads": lambda y, other: y.view(1, 4, 1, 3).transpose(1, 2).contiguous() * 3,
}
SHARED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "sum": lambda y, other: y + other,
    "views of a sum": lambda y, other: y.view(2, 6) + other.view(2, 6),
    "view on the other side": lambda y, other: y + other.view(12).view(4, 3),
    "expanded": lambda y, other: y.sum().expand(2),
    "stacked": lambda y, other: torch.stack([y, other]),
}


@pytest.mark.parametrize("name", [*UNSHARED, *SHARED])
def test_gradients_are_those_of_the_formula(name: str) -> None:
    use = (UNSHARED | SHARED)[name]
    results = []
    for double in (Doubled.apply, lambda x: 2 * x):
        x = torch.linspace(0, 1, 12).view(4, 3).requires_grad_()
        other = x * 5  # older than y, so that its backward runs after that of y
        (use(double(x), other) * torch.tensor(7.0)).pow(2).sum().backward()
        results.append(x.grad)
    assert torch.equal(*results)


@pytest.mark.parametrize("name", UNSHARED)
def test_a_gradient_of_ones_own_is_overwritten(name: str) -> None:
    x = torch.ones(4, 3, requires_grad=True)
    (UNSHARED[name](Doubled.apply(x), x) * 2).sum().backward()
    assert Doubled.overwritten


@pytest.mark.parametrize("name", SHARED)
def test_a_shared_gradient_is_left_alone(name: str) -> None:
    x = torch.ones(4, 3, requires_grad=True)
    other = x * 5
    (SHARED[name](Doubled.apply(x), other) * 2).sum().backward()
    assert not Doubled.overwritten


@pytest.mark.parametrize(
    "view", [lambda g: g, lambda g: g.view(-1), lambda g: g.detach(), lambda g: g.numpy(), lambda g: g[0]]
)
@pytest.mark.parametrize("through_view", [False, True])
def test_a_gradient_that_a_hook_has_kept_is_left_alone(view: Callable[[Tensor], Any], through_view: bool) -> None:
    kept: list[Any] = []
    y = Doubled.apply(torch.ones(4, 3, requires_grad=True))
    y.register_hook(keep(kept, view))
    ((y.view(2, 6) if through_view else y) * 3).sum().backward()
    assert (torch.as_tensor(kept[0]) == 3).all()
    assert not Doubled.overwritten


def test_what_the_gradient_is_a_view_of_may_be_kept() -> None:
    kept: list[Tensor] = []
    y = Doubled.apply(torch.ones(4, 3, requires_grad=True))
    viewed = y.view(2, 6)
    viewed.register_hook(kept.append)
    (viewed * 3).sum().backward()
    assert not Doubled.overwritten
    assert (kept[0] == 3).all()


def test_a_retained_gradient_and_one_that_the_caller_gave_are_left_alone() -> None:
    y = Doubled.apply(torch.ones(4, 3, requires_grad=True))
    y.retain_grad()
    (y * 3).sum().backward()
    assert (y.grad == 3).all()
    given = torch.ones(4, 3)
    Doubled.apply(torch.ones(4, 3, requires_grad=True)).backward(given)
    assert (given == 1).all()
    assert not Doubled.overwritten


class FromArray(torch.autograd.Function):
    """The identity, whose gradient is an array that the caller keeps."""

    array: np.ndarray

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
        FromArray.array = np.full(grad_outputs[0].shape, 3, dtype=np.float32)
        return torch.from_numpy(FromArray.array)


def test_an_array_that_is_a_gradient_is_left_alone() -> None:
    FromArray.apply(Doubled.apply(torch.ones(4, 3, requires_grad=True))).sum().backward()
    assert (FromArray.array == 3).all()
    assert not Doubled.overwritten


def test_batched_gradients_are_those_of_the_formula() -> None:
    v, s = torch.ones(2, 3, requires_grad=True), torch.tensor([0.5, 2.0, 3.0], requires_grad=True)
    each = torch.eye(6).view(6, 2, 3)
    results = [
        torch.autograd.grad(product(v * 1, s) * 2, (v, s), each, is_grads_batched=True)
        for product in (partial(gain.scale, in_place=True), gain.scale_reference)
    ]
    assert all(map(torch.equal, *results))


def test_a_debugger_that_reads_variables_while_counts_are_learnt_changes_nothing() -> None:
    def read(frame: FrameType, event: str, argument: Any) -> Any:
        frame.f_locals  # noqa: B018
        return read

    known, before = ownership.unshared_references(), sys.gettrace()
    ownership.unshared_references.cache_clear()
    try:
        sys.settrace(read)
        assert ownership.unshared_references() == known
    finally:
        sys.settrace(before)
        ownership.unshared_references.cache_clear()


def test_a_graph_that_is_retained_gives_the_same_again() -> None:
    x = torch.ones(4, 3, requires_grad=True)
    loss = (Doubled.apply(x).view(2, 6) * 3).pow(2).sum()
    first = torch.autograd.grad(loss, x, retain_graph=True)
    assert torch.equal(*first, *torch.autograd.grad(loss, x))


def test_steering_needs_no_memory_for_its_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[bool] = []
    multiply = gain.kernels.multiply

    def watched(values: Tensor, scale: Tensor, out: Tensor | None = None) -> Tensor:
        taken.append(out is values)
        return multiply(values, scale, out)

    s = torch.full((5,), 1.5, requires_grad=True)
    v = torch.ones(3, 5, requires_grad=True) * 1
    steered = gain.scale(v, s, in_place=True) * 2
    monkeypatch.setattr(gain.kernels, "multiply", watched)
    steered.sum().backward()
    assert taken == [True]


def test_nothing_is_overwritten_where_the_counts_tell_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_private, "_storage_references", None)
    ownership.unshared_references.cache_clear()
    try:
        x = torch.ones(4, 3, requires_grad=True)
        (Doubled.apply(x) * 3).sum().backward()
        assert not Doubled.overwritten
    finally:
        ownership.unshared_references.cache_clear()

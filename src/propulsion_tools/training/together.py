"""Runs that share a base model, trained in one batch: each by its own trainer, as if it were alone.

Where the backbone of a run would be run for a training step, the run waits for the others; then it runs once for the
rows of all (`propulsion.joint`), each goes on with its own head, loss and optimizer on its own rows, and the gradients
go back through the backbone together. A run that ends, stops early or fails leaves the others alone. Evaluations are
each run's own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from propulsion.errors import LayerError
from propulsion.joint import JointBackbone, JointPass, Member, share_frozen, why_apart
from propulsion.mixed_batches import by_name
from propulsion_tools.methods import get_method
from propulsion_tools.records import RunSpec
from propulsion_tools.tasks import TaskData
from propulsion_tools.training.data import SharedRows
from propulsion_tools.training.turns import Turn, take_turns

ROUNDS = 3
PAYS = 0.95
"""A joint step that is measured has to take less than this share of the time of the steps one after the other."""
Result = TypeVar("Result")
FORWARD, BACKWARD = "forward", "backward"


@dataclass(frozen=True)
class _Call:
    """A backbone that is to be run for a training step.

    Attributes:
        args: Those of its forward by position.
        kwargs: And by name.
        forward: Its own forward.
        precision: The autocast that it was called under.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    forward: Callable[..., Any]
    precision: tuple[str, torch.dtype, bool]

    def alone(self) -> list[Tensor]:
        """What its own forward gives that has a gradient."""
        output = self.forward(*self.args, **self.kwargs)
        return [value for value in output.values() if isinstance(value, Tensor) and value.requires_grad]


class Together:
    """What the runs of a group share; they take turns, and `serve` answers them.

    Args:
        measure: Whether they go on one after the other where a measured step says that it is as fast.

    Attributes:
        apart: Why they go on one after the other; None: they do not, or nobody knows yet.
        rows: Gives those of each.
        size: How many of them are trained in one batch; 0: not yet, or never.
    """

    def __init__(self, measure: bool) -> None:
        self.measure = measure
        self.apart: str | None = None
        self.rows = SharedRows()
        self._members: dict[int, Member] = {}
        self._joint: JointBackbone | None = None
        self._places: dict[int, int] = {}  # the number of a run → its place in the joint backbone
        self._pass: JointPass | None = None

    @property
    def size(self) -> int:
        return len(self._places)

    def enter(self, number: int, model: nn.Module) -> nn.Module:
        """Let a model that was just built compute with the weights of those before it, and give its backbone."""
        if self._members:
            share_frozen(model, next(iter(self._members.values())).model)
        self._members[number] = Member(model)
        return self._members[number].backbone

    def serve(self, waiting: Sequence[Turn[Any]]) -> dict[int, Any]:
        """Answer the runs that wait: those that wait for their gradients or, if there are none, all with a new step."""
        done = [turn.number for turn in waiting if turn.request[0] == BACKWARD]
        if done:
            if self._pass is not None:
                self._pass.backward()
                self._pass = None
            return dict.fromkeys(done, True)
        calls = {turn.number: turn.request[1] for turn in waiting}
        if self._joint is None and self.apart is None:
            self._decide(calls)
        if self._joint is not None and len(calls) > 1:
            try:
                return self._outputs(self._joint, calls)
            except (LayerError, torch.OutOfMemoryError) as error:
                self._joint, self.apart = None, str(error).splitlines()[0]
        return {min(calls): None}

    def _outputs(self, joint: JointBackbone, calls: Mapping[int, _Call]) -> dict[int, Any]:
        with _precision(calls):
            self._pass = joint({self._places[n]: by_name(c.args, c.kwargs) for n, c in calls.items()})
        return {number: self._pass.outputs[self._places[number]] for number in calls}

    def _decide(self, calls: Mapping[int, _Call]) -> None:
        members = [self._members[number] for number in calls]
        self.apart = why_apart(members) if len(members) > 1 else "there is only one"
        if self.apart is not None:
            return
        joint = JointBackbone([member.model for member in members])
        try:
            share = _share_of_time(joint, list(calls.values()), ROUNDS if self.measure else 1)
        except LayerError as error:
            self.apart = str(error)
            return
        if self.measure and share > PAYS:
            self.apart = f"a step in one batch takes {share:.2f} of the time of the steps one after the other"
            return
        self._joint, self._places = joint, {number: place for place, number in enumerate(calls)}


class Place:
    """One run's side of a group.

    Args:
        group: What it shares with the others.
        turn: By which it waits.
    """

    def __init__(self, group: Together, turn: Turn[Any]) -> None:
        self._group, self._turn = group, turn
        self._waits_for_gradients = False
        self._steps = 0

    @property
    def size(self) -> int:
        """How many runs it was trained with in one batch, itself included; 0: it was not."""
        return self._group.size if self._steps else 0

    @property
    def apart(self) -> str | None:
        """Why it goes on by itself, as a clause; None: it does not, or nobody knows yet."""
        return self._group.apart

    def read(self, spec: RunSpec) -> TaskData:
        """The rows of its spec; those that another of the runs has read already are not read again."""
        return self._group.rows(spec)

    def enter(self, model: nn.Module) -> None:
        """Take part with a model, which is on its device."""
        backbone = self._group.enter(self._turn.number, model)
        own = backbone.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            is_step = backbone.training and torch.is_grad_enabled() and not self._waits_for_gradients
            if not is_step or self._group.apart is not None:
                return own(*args, **kwargs)
            kind = next(backbone.parameters()).device.type
            precision = kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind)
            answer = self._turn.ask(FORWARD, _Call(args, kwargs, own, precision))
            if answer is None:
                return own(*args, **kwargs)
            self._waits_for_gradients, self._steps = True, self._steps + 1
            return answer

        backbone.forward = forward

    def backward(self) -> None:
        """After the backward of a batch, which ends where the backbone begins: bring it to an end with the others."""
        if self._waits_for_gradients:
            self._turn.ask(BACKWARD)
            self._waits_for_gradients = False


def run_together(functions: Sequence[Callable[[Place], Result]], group: Together) -> list[Turn[Result]]:
    """Train runs in turns; each function trains one of them, in its place.

    Returns:
        How each ended, in their order. One that fails leaves the others alone.

    Raises:
        BaseException: One of them was interrupted, and with it all are.
    """

    def in_place(function: Callable[[Place], Result], turn: Turn[Result]) -> Result:
        return function(Place(group, turn))

    return take_turns([partial(in_place, function) for function in functions], group.serve)


def why_alone(spec: RunSpec) -> str | None:
    """What keeps a resolved run from being one of several, as far as its spec tells, as a clause; None: nothing."""
    reasons = {
        "the method trains by another way than gains": not get_method(spec.method).is_propulsion,
        "the base model is quantized": spec.load_in_8bit or spec.load_in_4bit,
        "device_map spreads the base model": spec.device_map,
        "gradient checkpointing runs parts of the network again": spec.gradient_checkpointing,
        "dropout is drawn for a whole batch at once": spec.dropout != 0,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def _share_of_time(joint: JointBackbone, calls: Sequence[_Call], rounds: int) -> float:
    """The time of a step in one batch as a share of that of the steps one after the other, on the batches at hand.

    Raises:
        LayerError: They cannot be joined.
    """
    arguments = {place: by_name(call.args, call.kwargs) for place, call in enumerate(calls)}
    everything = [parameter for member in joint.members for parameter in member.trained]

    def at_once() -> None:
        _differentiate(joint(arguments).roots, everything)

    def in_turn() -> None:
        for call, member in zip(calls, joint.members, strict=True):
            _differentiate(call.alone(), member.trained)

    shares = []
    with _precision(dict(enumerate(calls))), _all_trainable(everything):
        for _ in range(rounds):
            shares.append(_seconds(at_once) / _seconds(in_turn))
    return median(shares)


def _differentiate(outputs: Sequence[Tensor], parameters: Sequence[nn.Parameter]) -> None:
    """A backward that leaves no trace."""
    if outputs and parameters:
        torch.autograd.grad(outputs, parameters, [torch.ones_like(o) for o in outputs], allow_unused=True)


def _seconds(function: Callable[[], None]) -> float:
    begun = time.perf_counter()
    function()
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter() - begun


def _precision(calls: Mapping[int, _Call]) -> torch.autocast:
    kind, dtype, enabled = next(iter(calls.values())).precision
    return torch.autocast(kind, dtype=dtype, enabled=enabled)


@contextmanager
def _all_trainable(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """As if no parameter waited for a head."""
    before = [parameter.requires_grad for parameter in parameters]
    for parameter in parameters:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter, trains in zip(parameters, before, strict=True):
            parameter.requires_grad_(trains)

"""The registry of methods: the modules of names.py fill it when the first method is asked for, duplicates refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from propulsion_tools.errors import OptionError, UnknownNameError, near_misses
from propulsion_tools.methods.names import METHOD_MODULES, check_method_name
from propulsion_tools.records import RUN_FACTS, RunSpec

if TYPE_CHECKING:  # so that a name that is not there is refused before these are imported
    from torch import nn
    from torch.optim import Optimizer
    from transformers import PreTrainedModel

    from propulsion_tools.methods.method_callback import MethodCallback

TARGETS = ("target_modules", "exclude_modules", "layers_to_transform")
MOMENTUM = 0.9
"""β1 of AdamW as torch and transformers have it, and what the other optimizers make of `adam_beta1`."""
OF_THE_OPTIMIZER = ("optim", "adam_beta1", "adam_beta2", "adam_epsilon")


class HasTaskType(Protocol):
    """What a method needs to know of a task."""

    @property
    def peft_task_type(self) -> str:
        """A name of `peft.TaskType`, for example SEQ_CLS."""


class Cost(NamedTuple):
    """What a method costs for one layer W of d × d: a row of the paper's table 4."""

    space: str
    time: str
    parameters: str


@dataclass(frozen=True)
class NoOptions:
    """The configuration of a method that has nothing to configure."""


@dataclass(frozen=True)
class Method:
    """One way to fine-tune a model.

    Args:
        name: What the command line calls it.
        description: One line for `propulsion methods`.
        build: Wraps the base model, or changes it in place, so that exactly what the method trains requires grad.
        learning_rate: The step size that suits the method when none is given.
        head_learning_rate: That of a new head beside it; None: the same.
        dropout: That of the network's hidden layers and attention while it trains; None: the model's own.
        adam_beta1: The momentum of AdamW that suits the method when none is given.
        delta: The reparameterisation of ΔW, as in the paper's table 6 where it has one.
        cost: Its row of the paper's table 4, if there is one.
        config_class: The dataclass whose fields `RunSpec.method_args` may set.
        defaults: Its fields that differ from the class's own defaults.
        callbacks: What has to happen at each step, for a built model.
        optimizer: The method's own optimizer, for a built model, its learning rate and its weight decay.
        fixed: Fields of the spec that the method decides, for example how the base model's weights are kept.
        refusal: Why the method cannot run on this machine, or None.
        family: The method whose own options it reads; its presets have it too.
        place: What it trains, behind its name, where it knows that itself; empty: it takes target modules.
    """

    name: str
    description: str
    build: Callable[[PreTrainedModel, RunSpec, HasTaskType], nn.Module]
    learning_rate: Callable[[RunSpec], float]
    head_learning_rate: float | None = None
    dropout: float | None = 0.0
    adam_beta1: float = MOMENTUM
    delta: str = ""
    cost: Cost | None = None
    config_class: type[Any] = NoOptions
    defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    callbacks: Callable[[nn.Module, RunSpec], list[MethodCallback]] = lambda model, spec: []
    optimizer: Callable[[nn.Module, float, float], Optimizer] | None = None
    fixed: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    refusal: Callable[[], str | None] = lambda: None
    family: str = ""
    place: str = ""

    def check(self, spec: RunSpec) -> None:
        """Refuse what can be refused before any model is loaded.

        Raises:
            OptionError: The method cannot run here, does not have an option that was given or has no use for it, or an
                argument is an option of the run itself.
            UnknownNameError: `method_args` has a key that the method does not have; names the near misses.
        """
        if reason := self.refusal():
            raise OptionError(f"The method {self.name!r} cannot run here: {reason}")
        for name in self.foreign_options(spec):
            raise OptionError(
                f"{name} is an option of the method {RUN_FACTS[name].method}, and {self.name!r} does not have it: "
                "leave it out, or choose that method."
            )
        for name, why in self.idle_options(spec):
            raise OptionError(f"{self.name} {why} and has no use for {name}.")
        elsewhere = {item.name for item in dataclasses.fields(RunSpec)}
        for key in spec.method_args or {}:
            if key in elsewhere:
                raise OptionError(f"{key} is an option of the run and none of method_args: pass --{key}.")
            if key not in self.arguments:
                rest = f" It takes the fields of {self.config_class.__name__}." if self.arguments else " It takes none."
                hint = near_misses(str(key), self.arguments) or rest
                raise UnknownNameError(f"{key!r} is no argument of the method {self.name!r}.{hint}")

    def foreign_options(self, spec: RunSpec) -> list[str]:
        """The options that are given, and are another method's own."""
        own = [name for name, facts in RUN_FACTS.items() if facts.method not in (None, self.family)]
        return [name for name in own if getattr(spec, name) != getattr(RunSpec, name)]

    def idle_options(self, spec: RunSpec) -> list[tuple[str, str]]:
        """The options that are given and would change nothing, and why, behind the method's name."""
        idle = dict.fromkeys(TARGETS if self.place else (), self.place)
        idle |= dict.fromkeys(OF_THE_OPTIMIZER if self.optimizer else (), "has an optimizer of its own")
        filled = {"adam_beta1": self.adam_beta1}  # where nothing was given, by `resolve`
        return [
            (name, why)
            for name, why in idle.items()
            if getattr(spec, name) not in (getattr(RunSpec, name), filled.get(name))
        ]

    @property
    def is_propulsion(self) -> bool:
        """Whether it trains gains, as all forms of Propulsion do."""
        return self.family == "propulsion"

    @property
    def arguments(self) -> list[str]:
        """The fields of its configuration that `RunSpec.method_args` may set."""
        from peft import PeftConfig

        elsewhere = {item.name for item in (*dataclasses.fields(RunSpec), *dataclasses.fields(PeftConfig))}
        names = [item.name for item in dataclasses.fields(self.config_class) if item.init]
        return [name for name in names if name not in elsewhere]


_METHODS: dict[str, Method] = {}


def register(method: Method) -> Method:
    """Add a method.

    Raises:
        OptionError: The name is taken.
    """
    if method.name in _METHODS:
        raise OptionError(f"There is already a method named {method.name!r}.")
    _METHODS[method.name] = method
    return method


@cache
def _load_all() -> None:
    for module in dict.fromkeys(METHOD_MODULES.values()):
        import_module(f"propulsion_tools.methods.{module}")
    if missing := [name for name in METHOD_MODULES if name not in _METHODS]:
        raise LookupError(f"methods/names.py lists {', '.join(missing)}, which no module there registers.")


def method_names() -> tuple[str, ...]:
    """The names of all methods, sorted."""
    _load_all()
    return tuple(sorted(_METHODS))


def get_method(name: str) -> Method:
    """The method of this name.

    Raises:
        UnknownNameError: There is none; names the near misses.
    """
    _load_all()
    check_method_name(name, _METHODS)
    return _METHODS[name]

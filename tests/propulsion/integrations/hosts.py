"""The smallest stand-ins for the programs that the plug-ins belong to: what a plug-in takes of one, and no more.

That each of them is like the program is tested where the program is, beside the plug-in in the program itself.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from peft import PeftModel
from torch import nn


@dataclass(frozen=True)
class AdapterCapabilities:
    """axolotl's."""

    name: str
    lora_like: bool = False
    relora: bool = False


class BasePlugin:
    """axolotl's: the hooks that ours overrides."""

    def register(self, cfg: dict[str, Any]) -> None: ...

    def get_input_args(self) -> str | None: ...

    def get_adapter_capabilities(self) -> list[AdapterCapabilities]: ...  # type: ignore[empty-body]

    def load_adapter(self, model: Any, cfg: Any, inference: bool = False, config_only: bool = False) -> Any: ...


class PeftPlugin:
    """LLaMA-Factory's: functions by name."""

    functions: ClassVar[dict[str, Callable[..., Any]]] = {}

    def __init__(self, name: str | None = None) -> None:
        self.name = str(name)

    def register(self, method_name: str = "__call__") -> Callable[..., Any]:
        def decorator(function: Callable[..., Any]) -> Callable[..., Any]:
            self.functions[self.name] = function
            return function

        return decorator

    def __call__(self, model: nn.Module, config: dict[str, Any], is_train: bool) -> Any:
        return self.functions[self.name](model, config, is_train)


def load_adapter(model: nn.Module, adapter_name_or_path: str, is_train: bool) -> nn.Module:
    """LLaMA-Factory's: a saved adapter, which is merged unless it is to be trained."""
    loaded = PeftModel.from_pretrained(model, adapter_name_or_path, is_trainable=is_train)
    return loaded if is_train else loaded.merge_and_unload()


class PeftTuner:
    """ms-swift's."""

    @staticmethod
    def prepare_model(args: Any, model: nn.Module) -> nn.Module: ...  # type: ignore[empty-body]

    @staticmethod
    def from_pretrained(model: nn.Module, model_id: str, **kwargs: Any) -> nn.Module:
        return PeftModel.from_pretrained(model, model_id, **kwargs)


HOSTS: Mapping[str, Mapping[str, Any]] = {
    "axolotl.integrations.base": {"AdapterCapabilities": AdapterCapabilities, "BasePlugin": BasePlugin},
    "llamafactory.v1.plugins.model_plugins.peft": {"PeftPlugin": PeftPlugin, "load_adapter": load_adapter},
    "swift.tuner_plugin": {"PeftTuner": PeftTuner, "tuners_map": {}},
}
"""What a plug-in imports, by the module of its program."""


def differences(module: str) -> list[str]:
    """Where a stand-in is unlike the module of the program, which has to be installed."""
    program, found = __import__(module, fromlist=["_"]), []
    for name, ours in HOSTS[module].items():
        theirs = getattr(program, name)
        if not callable(ours):
            found += [] if isinstance(theirs, type(ours)) else [name]
            continue
        pairs = {name: (ours, theirs)}
        if isinstance(ours, type):
            own = [method for method, value in vars(ours).items() if inspect.isroutine(value)]
            pairs = {f"{name}.{method}": (getattr(ours, method), getattr(theirs, method)) for method in own}
        found += [name for name, (one, other) in pairs.items() if parameters(one) != parameters(other)]
    return found


def parameters(function: Callable[..., Any]) -> list[tuple[str, Any]]:
    """Names and defaults, without what stands for any others."""
    others = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD
    return [(p.name, p.default) for p in inspect.signature(function).parameters.values() if p.kind not in others]

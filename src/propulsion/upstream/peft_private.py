"""Private names of PEFT, and places in it that are not documented, that the method needs."""

from __future__ import annotations

import functools
import operator
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import peft
import torch
from peft import PeftConfig, PeftModel, PeftType
from peft.config import PeftConfigMixin
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer, _maybe_include_all_linear_layers
from peft.utils.constants import DUMMY_TARGET_MODULES
from peft.utils.other import get_pattern_key
from peft.utils.quantization_utils import (
    Bnb4bitBackend,
    QuantizationBackend,
    TorchaoBackend,
    resolve_quantization_backend,
)
from torch import nn

# What we override, by the class of PEFT that has it. PEFT calls these by name, so that one which it renamed would be
# passed over in silence: `check_hooks` looks whether they are all still there.
HOOKS: dict[type, tuple[str, ...]] = {
    BaseTuner: (
        "_cast_adapter_dtype",
        "_check_merge_allowed",
        "_check_target_module_exists",
        "_create_and_replace",
        "_get_adapter_state_dict",
        "_inject_parameters",
        "_post_injection_hook",
        "_prepare_adapter_config",
        "_prepare_model",
        "_remap_adapter_state_dict_for_load",
        "_remove_adapter_name_from_key",
        "_replace_module",
        "_unload_and_optionally_merge",
    ),
    BaseTunerLayer: ("_get_base_layer_device_and_dtype", "_move_adapter_to_device_of_base_layer"),
    PeftModel: ("_enable_peft_forward_hooks",),  # which calls its tuner's, if that has one
}

# Which adapters are active in a tuner's layer, whether they are disabled, and which are merged: read at once, without
# the calls that PEFT's properties are, because it is asked in each forward of each layer.
state_of_layer: Callable[[BaseTunerLayer], tuple[Any, ...]] = operator.attrgetter(
    "_active_adapter", "_disable_adapters", "merged_adapters"
)

_MODEL_PREFIX = "base_model.model."


def check_hooks() -> None:
    """Refuse a PEFT that no longer calls what we override.

    Raises:
        ImportError: Names the hook.
    """
    for owner, names in HOOKS.items():
        for name in names:
            if not hasattr(owner, name):
                raise ImportError(
                    f"PEFT {peft.__version__} has no {owner.__name__}.{name}, which Propulsion overrides: install a "
                    "PEFT that Propulsion's dependencies allow."
                )


def add_peft_type(name: str) -> None:
    """Add a member to PeftType, as PEFT would by naming it in the class body.

    `peft.utils.register_peft_method` takes only methods that are in it, and Python closes enumerations.
    """
    member = str.__new__(PeftType, name)
    member._name_, member._value_ = name, name
    type.__setattr__(PeftType, name, member)
    PeftType._member_names_.append(name)
    PeftType._member_map_[name] = member
    PeftType._value2member_map_[name] = member
    if hasattr(PeftType, "_hashable_values_"):  # Python 3.13
        PeftType._hashable_values_.append(name)


def check_when_read(check: Callable[[PeftConfig, str, str | None], None]) -> None:
    """Have every configuration checked that PEFT reads, whichever way an adapter is loaded.

    It is the last place that knows the adapter's folder before the model is changed. `from_pretrained` of our own class
    would not do: PEFT and transformers call that of the base class, which then makes an object of the right one.

    Args:
        check: Gets the configuration, the folder or hub id, and the subfolder.
    """
    read: Callable[..., Any] = PeftConfigMixin.from_pretrained.__func__

    def from_pretrained(cls: Any, pretrained_model_name_or_path: Any, subfolder: str | None = None, **kw: Any) -> Any:
        config = read(cls, pretrained_model_name_or_path, subfolder=subfolder, **kw)
        check(config, pretrained_model_name_or_path, subfolder)
        return config

    checked: Callable[..., Any] = functools.wraps(read)(from_pretrained)
    PeftConfigMixin.from_pretrained = classmethod(checked)


def is_placeholder(target_modules: object) -> bool:
    """Whether these are the targets of a configuration that PEFT only uses to build a tuner around nothing."""
    return bool(target_modules == DUMMY_TARGET_MODULES)


def name_all_linear(config: PeftConfig, model: nn.Module) -> None:
    """Replace "all-linear" in a configuration by the layers' names, as PEFT does once the tuner is at work.

    We check targets before anything is changed, and so need the names earlier.
    """
    _maybe_include_all_linear_layers(config, model)


def of_pattern(patterns: Mapping[str, Any], name: str, default: Any) -> Any:
    """What a dictionary from patterns to values has for a module's name, matched as in LoRA's `rank_pattern`."""
    return patterns.get(get_pattern_key(list(patterns), name), default)


def matches_pattern(pattern: str, name: str) -> bool:
    """Whether a key of such a dictionary stands for this module."""
    return bool(get_pattern_key([pattern], name) == pattern)


def quantization_of(layer: nn.Module) -> QuantizationBackend | None:
    """How PEFT reads and writes the weights of a quantized layer; None for any other. Not in its documentation yet.

    Torchao's weights are not merged into: to quantize them again takes what only the model's configuration knows.
    """
    backend = resolve_quantization_backend(layer, get_apply_tensor_subclass=object)
    if isinstance(backend, TorchaoBackend):
        backend.supports_merge = False
    return backend


def is_four_bit(quantization: QuantizationBackend | None) -> bool:
    """Whether it is bitsandbytes' with four bits."""
    return isinstance(quantization, Bnb4bitBackend)


def device_and_dtype(layer: BaseTunerLayer) -> tuple[torch.device | None, torch.dtype | None]:
    """Those of the weights below a tuner's layer; of quantized, sharded and bare ones too, which each hide them."""
    device, dtype = layer._get_base_layer_device_and_dtype(layer.get_base_layer())
    return device, dtype


@contextmanager
def merged_without_warning() -> Iterator[None]:
    """Without the warning that unloading merges what we have merged already, which only its text tells from others."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="All adapters are already merged")
        yield


def name_in_base(name: str) -> str:
    """The name in the base model of a module or parameter of a PeftModel; others are returned as they are.

    A PeftModel holds a tuner that holds the base model, and PEFT writes both into its files, with no function for it.
    """
    return name.removeprefix(_MODEL_PREFIX)


def name_when_saved(name: str) -> str:
    """A parameter's name as PEFT saves it where a module is trained whole: without what PEFT's wrapper puts into it."""
    return re.sub(r"(^|\.)(original_module|modules_to_save\.[^.]+)\.", r"\1", name)

"""Makes Propulsion known to PEFT, without a fork of it."""

from __future__ import annotations

import enum
import functools
import os
from collections.abc import Callable
from typing import Any

from peft import PeftType
from peft.config import PeftConfigMixin
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.utils import register_peft_method

NAME = "propulsion"


def register() -> None:
    """Register the method under PeftType.PROPULSION, unless that has been done or PEFT has the method itself."""
    if NAME.upper() not in PeftType.__members__:
        _add_member(PeftType, NAME.upper())
    # The configuration reads the member, so it is imported after it is there.
    from propulsion.config import PropulsionConfig
    from propulsion.tuner import PropulsionModel

    if PeftType(NAME.upper()) not in PEFT_TYPE_TO_CONFIG_MAPPING:
        register_peft_method(name=NAME, config_cls=PropulsionConfig, model_cls=PropulsionModel)
        PeftConfigMixin.from_pretrained = classmethod(_checking_files(PeftConfigMixin.from_pretrained.__func__))


def _checking_files(from_pretrained: Callable[..., Any]) -> Callable[..., Any]:
    """PEFT's reader of configurations, which every way of loading an adapter goes through, with a check of our files.

    It is the last place that knows the folder before the model is changed; transformers' `load_adapter` has no other.
    """

    @functools.wraps(from_pretrained)
    def checked(cls: Any, pretrained_model_name_or_path: Any, subfolder: str | None = None, **kwargs: Any) -> Any:
        config = from_pretrained(cls, pretrained_model_name_or_path, subfolder=subfolder, **kwargs)
        folder = os.path.join(pretrained_model_name_or_path, subfolder or "")
        if getattr(config, "peft_type", None) == NAME.upper() and os.path.isdir(folder):
            config.check_files(folder)
        return config

    return checked


def _add_member(enumeration: type[enum.Enum], value: str) -> None:
    """Add a member to an enumeration of strings, as PEFT would by naming it in the class body."""
    member = str.__new__(enumeration, value)  # type: ignore[type-var]
    member._name_, member._value_ = value, value
    type.__setattr__(enumeration, value, member)
    enumeration._member_names_.append(value)
    enumeration._member_map_[value] = member
    enumeration._value2member_map_[value] = member
    if hasattr(enumeration, "_hashable_values_"):  # Python 3.13
        enumeration._hashable_values_.append(value)

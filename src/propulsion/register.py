"""Makes Propulsion known to PEFT, without a fork of it."""

from __future__ import annotations

import os

from peft import PEFT_TYPE_TO_CONFIG_MAPPING, PeftConfig, PeftType
from peft.utils import register_peft_method

from propulsion.upstream.peft_private import add_peft_type, check_hooks, check_when_read

NAME = "propulsion"


def register() -> None:
    """Register the method under PeftType.PROPULSION, unless that has been done or PEFT has the method itself.

    Raises:
        ImportError: This PEFT has not all that the method needs.
    """
    check_hooks()
    if NAME.upper() not in PeftType.__members__:
        add_peft_type(NAME.upper())
    # The configuration reads the member, so it is imported after it is there.
    from propulsion.config import PropulsionConfig
    from propulsion.tuner import PropulsionModel

    if PeftType(NAME.upper()) not in PEFT_TYPE_TO_CONFIG_MAPPING:
        register_peft_method(name=NAME, config_cls=PropulsionConfig, model_cls=PropulsionModel)
        check_when_read(_check_files)


def _check_files(config: PeftConfig, folder_or_id: str, subfolder: str | None) -> None:
    folder = os.path.join(folder_or_id, subfolder or "")
    # Compared as text: a PEFT that had the method itself would have its own class for it.
    if getattr(config, "peft_type", None) == NAME.upper() and os.path.isdir(folder):
        config.check_files(folder)

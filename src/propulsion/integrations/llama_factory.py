"""Propulsion in LLaMA-Factory's version 1: `peft_config: {name: propulsion}`, with options of `PropulsionConfig` in it.

    import propulsion.integrations.llama_factory
    from llamafactory.v1.trainers.sft_trainer import run_sft

    run_sft()  # reads the YAML file that the program is called with

LLaMA-Factory's own command imports no plug-ins, so that a program like this one, started by Python or torchrun, stands
in its place.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llamafactory.v1.plugins.model_plugins.peft import PeftPlugin, load_adapter
from peft import PeftModel, get_peft_model
from torch import nn

from propulsion.integrations.options import config_of, task_type_of

NAME = "propulsion"
OF_LLAMA_FACTORY = ("name", "adapter_name_or_path")


def propulsion_model(model: nn.Module, peft_config: Mapping[str, Any], is_train: bool = False) -> nn.Module | PeftModel:
    """Put the adapter into a model: a new one, or those of `adapter_name_or_path`, which are merged to answer.

    Args:
        model: The base model.
        peft_config: `name`, perhaps `adapter_name_or_path`, and options of `PropulsionConfig`.
        is_train: Whether the adapter is to be trained.

    Raises:
        ConfigError: The options are wrong.
        TargetError: The model has no such layers.
    """
    if path := peft_config.get("adapter_name_or_path"):
        return load_adapter(model, path, is_train)
    options = {name: value for name, value in peft_config.items() if name not in OF_LLAMA_FACTORY}
    return get_peft_model(model, config_of(options, task_type_of(model)))


PeftPlugin(NAME).register()(propulsion_model)

"""Propulsion in axolotl: `adapter: propulsion`, with the options of `PropulsionConfig` under `propulsion:`.

plugins:
  - propulsion.integrations.axolotl.PropulsionPlugin
adapter: propulsion
propulsion:
  target_modules: all
  degree: 15
learning_rate: 0.001
"""

from __future__ import annotations

from typing import Any

from axolotl.integrations.base import AdapterCapabilities, BasePlugin
from peft import PeftModel, get_peft_model
from pydantic import BaseModel, Field, field_validator

from propulsion.config import PropulsionConfig
from propulsion.integrations.options import config_of, task_type_of

NAME = "propulsion"


class PropulsionArgs(BaseModel):
    """What the plug-in adds to axolotl's configuration."""

    propulsion: dict[str, Any] | None = Field(
        default=None, description="Options of PropulsionConfig, for `adapter: propulsion`."
    )

    @field_validator(NAME)
    @classmethod
    def is_a_configuration(cls, options: dict[str, Any] | None) -> dict[str, Any] | None:
        """Have wrong options refused before a model is loaded; the error is a ValueError, which pydantic reports."""
        config_of(options)
        return options


class PropulsionPlugin(BasePlugin):
    """The adapter "propulsion" of axolotl."""

    def register(self, cfg: dict[str, Any]) -> None:
        """Have adapters merged by PEFT: axolotl's own way of merging computes what LoRA's matrices stand for."""
        if cfg.get("adapter") == NAME and cfg.get("merge_method") is None:
            cfg["merge_method"] = "legacy"

    def get_input_args(self) -> str:
        """Where the class of our options is."""
        return f"{PropulsionArgs.__module__}.{PropulsionArgs.__name__}"

    def get_adapter_capabilities(self) -> list[AdapterCapabilities]:
        """The adapter's name; it is none of LoRA's kind, which axolotl would build itself."""
        return [AdapterCapabilities(name=NAME)]

    def load_adapter(
        self, model: Any, cfg: Any, inference: bool = False, config_only: bool = False
    ) -> tuple[PeftModel | None, PropulsionConfig] | None:
        """Put the adapter into a model: a new one, or that of `lora_model_dir`, where axolotl keeps any adapter.

        Args:
            model: The base model.
            cfg: axolotl's configuration.
            inference: Whether nothing is to be trained.
            config_only: Leave the model alone, because the trainer makes the adapter from the configuration.

        Returns:
            The model, or None with `config_only`, and the adapter's configuration; None where another is asked for.

        Raises:
            ConfigError: The options are wrong.
            TargetError: The model has no such layers.
        """
        if cfg.adapter != NAME:
            return None
        config = config_of(cfg.propulsion, task_type_of(model))
        if config_only:
            return None, config
        if cfg.lora_model_dir:
            loaded = PeftModel.from_pretrained(model, cfg.lora_model_dir, is_trainable=not inference)
            return loaded, loaded.active_peft_config
        return get_peft_model(model, config), config

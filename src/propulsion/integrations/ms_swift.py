"""Propulsion in ms-swift: a plug-in file of two lines makes a tuner with the options of `PropulsionConfig`.

from propulsion.integrations.ms_swift import register
register("propulsion", target_modules="all", degree=15)

swift sft --external_plugins plugin.py --tuner_type propulsion --learning_rate 1e-3 --model ...
"""

from __future__ import annotations

from typing import Any

from peft import PeftModel, TaskType, get_peft_model
from swift.tuner_plugin import PeftTuner, tuners_map
from torch import nn

from propulsion.config import PropulsionConfig
from propulsion.integrations.options import config_of

TASKS = {
    "causal_lm": TaskType.CAUSAL_LM,
    "generative_reranker": TaskType.CAUSAL_LM,
    "decision": TaskType.CAUSAL_LM,
    "seq_cls": TaskType.SEQ_CLS,
    "reranker": TaskType.SEQ_CLS,
}
"""What ms-swift's tasks are for PEFT; its others are none of PEFT's, "embedding" among them."""


def register(name: str = "propulsion", **options: Any) -> type[PeftTuner]:
    """Add a tuner to those that `--tuner_type` names.

    Args:
        name: Its name; another for each set of options.
        options: Fields of `PropulsionConfig`.

    Returns:
        The tuner, a class.

    Raises:
        ConfigError: An option is unknown, or its value is wrong.
    """
    config_of(options)

    class PropulsionTuner(PeftTuner):
        """Steers a model's layers; saves and loads as PEFT's methods do."""

        @staticmethod
        def prepare_model(args: Any, model: nn.Module) -> PeftModel:
            """Put a new adapter into a model."""
            return get_peft_model(model, _config(args, options))

    tuners_map[name] = PropulsionTuner
    return PropulsionTuner


def _config(args: Any, options: dict[str, Any]) -> PropulsionConfig:
    given = {"modules_to_save": list(args.modules_to_save)} if getattr(args, "modules_to_save", None) else {}
    return config_of({**given, **options}, TASKS.get(args.task_type))

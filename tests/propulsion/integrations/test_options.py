"""Options as people write them into other programs' files."""

from __future__ import annotations

import pytest
from peft import TaskType
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoModelForTokenClassification

from propulsion.errors import ConfigError
from propulsion.integrations.options import config_of, task_type_of
from tests.tiny_models import SPECS


def test_options_are_fields_of_the_configuration() -> None:
    config = config_of({"target_modules": ["q_proj"], "degree": 5}, TaskType.CAUSAL_LM)
    assert (config.target_modules, config.degree, config.task_type) == ({"q_proj"}, 5, "CAUSAL_LM")
    assert config_of(None).target_modules is None
    assert config_of({"task_type": "SEQ_CLS"}, TaskType.CAUSAL_LM).task_type == "SEQ_CLS"


def test_an_unknown_option_is_refused_with_the_one_that_is_meant() -> None:
    with pytest.raises(ConfigError, match=r"no option 'degre'\. Did you mean 'degree'"):
        config_of({"degre": 5})
    with pytest.raises(ConfigError, match="no option 'peft_type'"):
        config_of({"peft_type": "LORA"})
    with pytest.raises(ConfigError, match="degree must be an integer"):
        config_of({"degree": -1})


def test_the_task_is_read_off_the_models_class() -> None:
    from transformers import AutoConfig

    spec = SPECS["llama"]
    config = AutoConfig.for_model(spec.model_type, **spec.config)
    for auto, task in (
        (AutoModelForCausalLM, TaskType.CAUSAL_LM),
        (AutoModelForSequenceClassification, TaskType.SEQ_CLS),
        (AutoModelForTokenClassification, TaskType.TOKEN_CLS),
    ):
        assert task_type_of(auto.from_config(config)) == task

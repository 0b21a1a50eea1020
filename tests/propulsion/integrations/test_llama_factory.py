"""The plug-in in LLaMA-Factory itself, version 1. `make integrations` has an environment with it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftModel

from propulsion.errors import ConfigError
from tests.propulsion.integrations.hosts import differences
from tests.propulsion.integrations.programs import folder, run, scores, tiny, trained

__all__ = ["folder"]
llamafactory = pytest.importorskip("llamafactory", reason="LLaMA-Factory is not installed: make integrations")


def test_it_trains_and_merges_to_answer(folder: Path) -> None:
    run(folder, "examples/llama_factory.py", "examples/llama_factory.yaml")
    adapter = folder / "runs" / "llama-factory"
    model = trained(adapter)

    from llamafactory.v1.plugins.model_plugins.peft import PeftPlugin

    import propulsion.integrations.llama_factory  # noqa: F401

    config = {"name": "propulsion", "adapter_name_or_path": str(adapter)}
    merged = PeftPlugin("propulsion")(tiny().language_model(), config, False)
    assert not isinstance(merged, PeftModel)
    torch.testing.assert_close(scores(merged), scores(model), rtol=1e-4, atol=1e-5)
    going_on = PeftPlugin("propulsion")(tiny().language_model(), config, True)
    assert torch.equal(scores(going_on), scores(model))
    assert any(p.requires_grad for p in going_on.parameters())


def test_options_of_the_yaml_file() -> None:
    from llamafactory.v1.config.arg_utils import get_plugin_config
    from llamafactory.v1.plugins.model_plugins.peft import PeftPlugin

    import propulsion.integrations.llama_factory  # noqa: F401

    config = get_plugin_config({"name": "propulsion", "target_modules": "attn", "degree": "7"})
    model = PeftPlugin(config.name)(tiny().language_model(), config, True)
    assert (model.active_peft_config.degree, model.active_peft_config.task_type) == (7, "CAUSAL_LM")
    with pytest.raises(ConfigError, match="no option 'degre'"):
        PeftPlugin("propulsion")(tiny().language_model(), {"name": "propulsion", "degre": 3}, True)


def test_the_stand_in_is_like_it() -> None:
    assert differences("llamafactory.v1.plugins.model_plugins.peft") == []

"""The plug-in in axolotl itself: options, training, merging, DPO. `make integrations` has an environment with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from propulsion import PropulsionConfig
from tests.propulsion.integrations.hosts import differences
from tests.propulsion.integrations.programs import folder, run, scores, tiny, trained

__all__ = ["folder"]
axolotl = pytest.importorskip("axolotl", reason="axolotl is not installed: make integrations")


@pytest.fixture
def settings() -> Callable[..., Any]:
    """axolotl's configuration, validated with what the plug-in adds, as its command line does it."""
    from axolotl.cli.config import prepare_plugins
    from axolotl.utils.config import validate_config
    from axolotl.utils.dict import DictDefault

    def settings(**changes: Any) -> Any:
        config = DictDefault(
            {
                "plugins": ["propulsion.integrations.axolotl.PropulsionPlugin"],
                "adapter": "propulsion",
                "propulsion": {"target_modules": "attn", "degree": 7},
                "base_model": "base",
                "datasets": [{"path": "chats.jsonl", "type": "chat_template"}],
                "micro_batch_size": 1,
                "gradient_accumulation_steps": 1,
                "learning_rate": 1e-3,
                **changes,
            }
        )
        prepare_plugins(config)
        return validate_config(config)

    return settings


def test_it_trains_and_merges(folder: Path) -> None:
    run(folder, "-m", "axolotl.cli.train", "examples/axolotl.yaml")
    adapter = folder / "runs" / "axolotl"
    run(folder, "-m", "axolotl.cli.merge_lora", "examples/axolotl.yaml", "--lora_model_dir", "runs/axolotl")
    merged = AutoModelForCausalLM.from_pretrained(adapter / "merged", dtype=torch.float32)
    torch.testing.assert_close(scores(merged), scores(trained(adapter)), rtol=1e-3, atol=1e-4)


def test_its_loader_gives_the_adapter_or_only_its_configuration(settings: Callable[..., Any], tmp_path: Path) -> None:
    from axolotl.loaders.adapter import load_adapter

    cfg = settings()
    _, config = load_adapter(tiny().language_model(), cfg, cfg.adapter, config_only=True)
    assert isinstance(config, PropulsionConfig)
    assert (config.target_modules, config.degree, config.task_type) == ("attn", 7, "CAUSAL_LM")
    model, config = load_adapter(tiny().language_model(), cfg, cfg.adapter)
    assert isinstance(model, PeftModel)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 2 * (32 + 16 + 16)
    model.save_pretrained(tmp_path)
    cfg.lora_model_dir = str(tmp_path)
    for inference in (True, False):
        model, _ = load_adapter(tiny().language_model(), cfg, cfg.adapter, inference=inference)
        assert any(p.requires_grad for p in model.parameters()) is not inference


def test_another_adapter_is_left_to_axolotl(settings: Callable[..., Any]) -> None:
    from axolotl.loaders.adapter import load_adapter

    cfg = settings(adapter="lora", propulsion=None, lora_r=2, lora_alpha=4, lora_target_modules=["q_proj"])
    assert cfg.merge_method != "legacy"
    _, config = load_adapter(tiny().language_model(), cfg, "lora", config_only=True)
    assert type(config).__name__ == "LoraConfig"


def test_wrong_options_are_refused_with_the_configuration(settings: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="no option 'degre'"):
        settings(propulsion={"degre": 3})
    with pytest.raises(ValueError, match="degree must be an integer"):
        settings(propulsion={"degree": "high"})


def test_the_stand_in_is_like_it() -> None:
    assert differences("axolotl.integrations.base") == []

"""What each plug-in does when its program calls it, by stand-ins: the programs themselves are seldom installed."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import nn

from propulsion import PropulsionConfig, integrations
from propulsion.errors import ConfigError
from tests.propulsion.integrations.hosts import HOSTS, PeftPlugin
from tests.propulsion.steered import batch, result, steered_model
from tests.tiny_models import tiny_model

OPTIONS = {"target_modules": "attn", "degree": 7}
Plugin = Callable[[str], Any]


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> Iterator[Plugin]:
    """Imports a plug-in anew, which finds the stand-ins where its program would be."""
    for name, contents in HOSTS.items():
        parts = name.split(".")
        for parent in (".".join(parts[:count]) for count in range(1, len(parts) + 1)):
            monkeypatch.setitem(sys.modules, parent, ModuleType(parent))
        vars(sys.modules[name]).update(contents)
    loaded = []

    def load(name: str) -> Any:
        loaded.append(f"{integrations.__name__}.{name}")
        monkeypatch.delitem(sys.modules, loaded[-1], raising=False)
        return importlib.import_module(loaded[-1])

    yield load
    for name in loaded:  # a test in the program itself imports the plug-in again
        del sys.modules[name]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """An adapter that has learned."""
    trained_model().save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def trained_model() -> PeftModel:
    return steered_model("llama", "lm", **OPTIONS)


def base_model() -> nn.Module:
    return tiny_model("llama", "lm")


def answers_like_it(model: nn.Module) -> bool:
    inputs = batch("llama", "lm")
    return torch.allclose(result(model.eval(), inputs), result(trained_model(), inputs), rtol=1e-4, atol=1e-5)


def trains(model: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in model.parameters())


def test_axolotl_gets_a_new_adapter_a_saved_one_or_the_configuration_alone(plugin: Plugin, saved: Path) -> None:
    hooks = plugin("axolotl").PropulsionPlugin()
    cfg = SimpleNamespace(adapter="propulsion", propulsion=OPTIONS, lora_model_dir=None)
    untouched, config = hooks.load_adapter(base_model(), cfg, config_only=True)
    assert untouched is None
    assert (config.target_modules, config.degree, config.task_type) == ("attn", 7, "CAUSAL_LM")
    model, config = hooks.load_adapter(base_model(), cfg)
    assert model.active_peft_config is config
    assert trains(model)
    cfg.lora_model_dir = str(saved)
    for inference in (True, False):
        model, config = hooks.load_adapter(base_model(), cfg, inference=inference)
        assert trains(model) is not inference
        assert answers_like_it(model)
        assert isinstance(config, PropulsionConfig)
    assert hooks.load_adapter(base_model(), SimpleNamespace(adapter="lora")) is None


def test_axolotl_learns_what_the_adapter_is_and_how_it_is_merged(plugin: Plugin) -> None:
    module = plugin("axolotl")
    hooks = module.PropulsionPlugin()
    capabilities = hooks.get_adapter_capabilities()
    assert [(one.name, one.lora_like, one.relora) for one in capabilities] == [("propulsion", False, False)]
    for cfg, way in (
        ({"adapter": "propulsion"}, "legacy"),
        ({"adapter": "propulsion", "merge_method": "memory_efficient"}, "memory_efficient"),
        ({"adapter": "lora"}, None),
    ):
        hooks.register(cfg)
        assert cfg.get("merge_method") == way


def test_axolotl_refuses_wrong_options_with_the_rest_of_its_configuration(plugin: Plugin) -> None:
    place, _, name = plugin("axolotl").PropulsionPlugin().get_input_args().rpartition(".")
    options = getattr(sys.modules[place], name)
    assert options().propulsion is None
    assert options(propulsion=OPTIONS).propulsion == OPTIONS
    with pytest.raises(ValueError, match="no option 'degre'"):
        options(propulsion={"degre": 3})


def test_llama_factory_gets_a_new_adapter_or_a_saved_one(plugin: Plugin, saved: Path) -> None:
    plugin("llama_factory")
    made = PeftPlugin("propulsion")
    model = made(base_model(), {"name": "propulsion", **OPTIONS}, True)
    assert (model.active_peft_config.degree, model.active_peft_config.task_type) == (7, "CAUSAL_LM")
    config = {"name": "propulsion", "adapter_name_or_path": str(saved)}
    for is_train in (True, False):
        model = made(base_model(), config, is_train)
        assert isinstance(model, PeftModel) is is_train
        assert answers_like_it(model)
    with pytest.raises(ConfigError, match="no option 'degre'"):
        made(base_model(), {"name": "propulsion", "degre": 3}, True)


def test_ms_swift_gets_a_tuner_for_each_set_of_options(plugin: Plugin, saved: Path) -> None:
    module = plugin("ms_swift")
    tuner = module.register("propulsion-attn", **OPTIONS)
    assert HOSTS["swift.tuner_plugin"]["tuners_map"].pop("propulsion-attn") is tuner
    for task, ours in (("causal_lm", "CAUSAL_LM"), ("seq_cls", "SEQ_CLS"), ("embedding", None)):
        config = tuner.prepare_model(SimpleNamespace(task_type=task), base_model()).active_peft_config
        assert (config.target_modules, config.degree, config.task_type) == ("attn", 7, ours)
    asked = SimpleNamespace(task_type="causal_lm", modules_to_save=["lm_head"])
    assert tuner.prepare_model(asked, base_model()).active_peft_config.modules_to_save == ["lm_head"]
    assert answers_like_it(tuner.from_pretrained(base_model(), str(saved)))
    with pytest.raises(ConfigError, match="no option 'degre'"):
        module.register(degre=3)

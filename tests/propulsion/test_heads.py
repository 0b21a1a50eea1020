"""Heads are trained as a whole, saved, and found again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from peft import PeftModel, get_peft_model
from transformers import PreTrainedModel

from propulsion.heads import head_modules, is_saved_whole
from tests.propulsion.steered import batch, config, result, train_by_chance
from tests.tiny_models import LABELS, SPECS, tiny_model

CLASSIFIERS = [name for name, spec in SPECS.items() if "cls" in spec.heads and spec.modality == "text"]
TOKEN_CLASSIFIERS = ("distilbert", "bert", "deberta-v3", "t5", "gpt2", "llama", "falcon")


def with_new_head(model: PreTrainedModel, seed: int) -> PreTrainedModel:
    """The model as `from_pretrained` gives it: the backbone of the checkpoint, and a head that is new."""
    torch.manual_seed(seed)
    for name in head_modules(model):
        for parameter in model.get_submodule(name).parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    return model


def token_classifier(name: str) -> PreTrainedModel:
    spec = SPECS[name]
    torch.manual_seed(0)
    configuration = transformers.AutoConfig.for_model(spec.model_type, **{"num_labels": LABELS, **spec.config})
    return transformers.AutoModelForTokenClassification.from_config(configuration).eval()


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_reloaded_classifier_answers_as_it_did(name: str, tmp_path: Path) -> None:
    model = get_peft_model(with_new_head(tiny_model(name, "cls"), seed=1), config()).eval()
    train_by_chance(model)
    expected = result(model, batch(name))
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(with_new_head(tiny_model(name, "cls"), seed=2), tmp_path).eval()
    assert torch.equal(result(loaded, batch(name)), expected)


@pytest.mark.parametrize("name", TOKEN_CLASSIFIERS)
def test_a_reloaded_token_classifier_answers_as_it_did(name: str, tmp_path: Path) -> None:
    model = get_peft_model(with_new_head(token_classifier(name), seed=1), config(task_type="TOKEN_CLS")).eval()
    train_by_chance(model)
    expected = result(model, batch(name, "base"))
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(with_new_head(token_classifier(name), seed=2), tmp_path).eval()
    assert torch.equal(result(loaded, batch(name, "base")), expected)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_every_part_of_a_new_head_is_trained(name: str) -> None:
    model = get_peft_model(tiny_model(name, "cls"), config())
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    for head in head_modules(model.base_model.model):
        assert any(f".{head}.modules_to_save.default." in name for name in trained), head


def test_what_was_named_is_trained_and_no_more() -> None:
    model = get_peft_model(tiny_model("deberta-v3", "cls"), config(modules_to_save=["classifier"]))
    assert not any("pooler" in name for name, parameter in model.named_parameters() if parameter.requires_grad)


@pytest.mark.parametrize(
    ("name", "saved"),
    [
        ("pre_classifier.weight", True),
        ("classifier", True),
        ("a.classifier.dense.bias", True),
        ("classifiers.0", False),
    ],
)
def test_names_match_as_they_do_in_peft(name: str, saved: bool) -> None:
    assert is_saved_whole(name, ["classifier", "score"]) is saved


def test_a_configuration_serves_one_model_after_the_other() -> None:
    shared = config()
    for name in ("bert", "bart", "deberta-v3", "t5", "distilbert"):
        model = get_peft_model(tiny_model(name, "cls"), shared)
        trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        for head in head_modules(model.base_model.model):
            assert any(f".{head}.modules_to_save.default." in name for name in trained), (name, head)

"""Heads are trained as a whole, saved, and found again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers
from peft import PeftModel, get_peft_model
from transformers import PreTrainedModel

from propulsion.heads import head_modules, is_saved_whole
from tests.propulsion.steered import batch, config, result, steered_model, train_by_chance
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


def test_an_adapter_without_a_head_keeps_that_of_the_base_model_beside_one_with(tmp_path: Path) -> None:
    with_head, without = steered_model("deberta-v3"), steered_model("deberta-v3", task_type=None)
    with_head.save_pretrained(tmp_path / "with")
    without.save_pretrained(tmp_path / "without")
    inputs = batch("deberta-v3")
    for first, second in (("with", "without"), ("without", "with")):
        model = PeftModel.from_pretrained(tiny_model("deberta-v3", "cls"), tmp_path / first, adapter_name=first)
        model.load_adapter(tmp_path / second, second)
        for name, alone in (("with", with_head), ("without", without)):
            model.set_adapter(name)
            assert torch.equal(result(model, inputs), result(alone, inputs))
    # As PEFT guesses it for the task, whatever the file has:
    loaded = PeftModel.from_pretrained(tiny_model("deberta-v3", "cls"), edited(tmp_path / "without", "SEQ_CLS"))
    assert torch.equal(result(loaded, inputs), result(without, inputs))


def edited(folder: Path, task_type: str) -> Path:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "task_type": task_type}))
    return folder


@pytest.mark.parametrize("is_trainable", [True, False])
def test_the_head_that_is_active_after_a_deletion_is_trained_if_its_adapter_is(
    is_trainable: bool, tmp_path: Path
) -> None:
    steered_model("roberta").save_pretrained(tmp_path)
    model = PeftModel.from_pretrained(tiny_model("roberta", "cls"), tmp_path, is_trainable=is_trainable)
    before = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    assert any(before.values()) is is_trainable
    model.add_adapter("other", config(task_type=None))
    model.set_adapter("other")
    model.delete_adapter("other")
    assert model.active_adapters == ["default"]
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == before


@pytest.mark.parametrize("name", sorted(name for name, spec in SPECS.items() if "cls" in spec.heads))
def test_all_linear_leaves_the_head_to_be_trained_whole(name: str, tmp_path: Path) -> None:
    model = get_peft_model(tiny_model(name, "cls"), config(task_type="SEQ_CLS", target_modules="all-linear")).eval()
    train_by_chance(model)
    model.save_pretrained(tmp_path)
    base = tiny_model(name, "cls")
    loaded = PeftModel.from_pretrained(base, tmp_path).eval()
    assert torch.equal(result(loaded, batch(name)), result(model, batch(name)))

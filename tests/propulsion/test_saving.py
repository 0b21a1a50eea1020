"""What is read from files is checked before the model is touched, and belongs to its base model."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn

from propulsion.errors import AdapterFileError
from tests.processes import WithPeftAlone
from tests.propulsion.steered import batch, config, layers, result, steered_model, train_by_chance
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


def test_the_card_says_how_to_load(tmp_path: Path) -> None:
    model = steered_model("roberta", task_type=None)
    model.add_adapter("second", config(task_type=None))
    (tmp_path / "README.md").write_text("# My project\n")
    for kept in (["default"], ["second"], ["default", "second"]):
        folder = tmp_path / kept[0]
        for _ in range(2):
            model.save_pretrained(folder, selected_adapters=kept)
        card = (folder / "README.md").read_text()
        assert card.count("import propulsion\n") == card.count("KeyError: 'PROPULSION'") == 1
        assert card.startswith("---\n")
    assert (tmp_path / "README.md").read_text() == "# My project\n"
    model.peft_config["default"].save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "# My project\n"


def test_the_card_is_needed(with_peft_alone: WithPeftAlone, tmp_path: Path) -> None:
    """Without the import PEFT's own words are no help, and there is nothing of ours that could say it."""
    steered_model("roberta", task_type=None).save_pretrained(tmp_path)
    code = f"from peft import PeftConfig; PeftConfig.from_pretrained({str(tmp_path)!r})"
    assert "KeyError: 'PROPULSION'" in with_peft_alone(code).errors


@pytest.mark.parametrize("task_type", [None, "SEQ_CLS"])
def test_a_state_without_the_adapters_vectors_is_not_saved(task_type: str | None, tmp_path: Path) -> None:
    model = steered_model("roberta", task_type=task_type)
    around = nn.DataParallel(model).state_dict()
    with pytest.raises(AdapterFileError, match=r"of the adapter 'default', and has names such as module\.base"):
        model.save_pretrained(tmp_path, state_dict=around)
    assert not (tmp_path / "adapter_model.safetensors").exists()
    model.save_pretrained(tmp_path, state_dict=model.state_dict())
    if task_type is None:  # with a head, PEFT itself takes no empty state
        model.save_pretrained(tmp_path / "rank1", state_dict={}, is_main_process=False)  # as FSDP's other processes


@pytest.mark.parametrize("name", ["0", "query", "weight", "roberta", "dense", "fine"])
def test_a_name_like_a_part_of_the_model_makes_another_adapter_lose_nothing(name: str, tmp_path: Path) -> None:
    model = steered_model("roberta", task_type=None)
    model.add_adapter(name, config(task_type=None, target_modules="attn", degree=3))
    train_by_chance(model, name, seed=2)
    for adapter in ("default", name):
        model.set_adapter(adapter)
        expected, folder = result(model, batch("roberta")), tmp_path / adapter
        if adapter == "default" and name != "fine":
            with pytest.raises(AdapterFileError, match=f"beside {name!r}, which is named like a part of the model"):
                model.save_pretrained(folder, selected_adapters=[adapter])
            assert not (folder / "adapter_model.safetensors").exists()
            continue
        model.save_pretrained(folder, selected_adapters=[adapter])
        saved = folder if adapter == "default" else folder / adapter
        loaded = PeftModel.from_pretrained(tiny_model("roberta", "cls"), saved)
        assert torch.equal(result(loaded, batch("roberta")), expected)


def test_layers_that_are_compiled_one_by_one_are_saved_by_their_own_names(tmp_path: Path) -> None:
    model = steered_model("roberta")
    expected = result(model, batch("roberta"))
    blocks = model.get_base_model().roberta.encoder.layer
    for number, block in enumerate(blocks):
        blocks[number] = torch.compile(block, backend="eager")
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(tiny_model("roberta", "cls"), tmp_path)
    assert torch.equal(result(loaded, batch("roberta")), expected)

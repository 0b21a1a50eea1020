"""A base model whose weights lie elsewhere until they are used: accelerate brings them, vectors included."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from accelerate import cpu_offload, disk_offload, dispatch_model
from peft import PeftModel, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM

from propulsion.errors import AdapterFileError
from tests.propulsion.steered import batch, config, relative_error, result, steered_model
from tests.tiny_models import tiny_model


def offloaded(model: nn.Module, where: str, folder: Path) -> nn.Module:
    if where == "cpu":
        return cpu_offload(model, execution_device=torch.device("cpu"))
    if where == "disk":
        return disk_offload(model, str(folder / "weights"), execution_device=torch.device("cpu"))
    parts = ["base_model.model." + name for name, _ in model.base_model.model.named_children()]
    device_map = dict.fromkeys(parts, "disk") | {parts[-1]: "cpu"}
    return dispatch_model(model, device_map, main_device="cpu", offload_dir=str(folder / "weights"), force_hooks=True)


@pytest.mark.parametrize("where", ["cpu", "disk", "map"])
@pytest.mark.parametrize("name", ["roberta", "llama", "bart", "distilbert", "mixtral", "qwen2_moe", "gpt_oss"])
def test_an_offloaded_model_answers_as_one_in_memory(name: str, where: str, tmp_path: Path) -> None:
    model = steered_model(name, train_bias=name in ("roberta", "bart", "gpt_oss"))
    inputs = batch(name)
    expected = result(model, inputs)
    model = offloaded(model, where, tmp_path)
    assert any(parameter.is_meta for parameter in model.parameters())
    assert torch.equal(result(model, inputs), expected)


@pytest.mark.parametrize("where", ["cpu", "disk"])
def test_an_adapter_is_loaded_onto_an_offloaded_base(where: str, tmp_path: Path) -> None:
    model, inputs = steered_model("llama", "lm"), batch("llama", "lm")
    expected = result(model, inputs)
    model.save_pretrained(tmp_path / "adapter")
    base = offloaded(tiny_model("llama", "lm"), where, tmp_path)
    loaded = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    assert torch.equal(result(loaded, inputs), expected)


def test_an_adapter_is_loaded_onto_a_base_that_does_not_fit_into_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # PEFT writes copies of the base's files below the working directory
    model, inputs = steered_model("llama", "lm"), batch("llama", "lm")
    expected = result(model, inputs)
    model.save_pretrained(tmp_path / "adapter")
    tiny_model("llama", "lm").save_pretrained(tmp_path / "base")
    base = AutoModelForCausalLM.from_pretrained(
        tmp_path / "base", device_map="auto", max_memory={"cpu": 60_000}, offload_folder=tmp_path / "one"
    )
    assert "disk" in base.hf_device_map.values()
    loaded = PeftModel.from_pretrained(
        base, tmp_path / "adapter", max_memory={"cpu": 60_000}, offload_folder=tmp_path / "two"
    ).eval()
    assert torch.equal(result(loaded, inputs), expected)


def test_an_offloaded_model_is_merged_in_place(tmp_path: Path) -> None:
    model = steered_model("llama")
    inputs = batch("llama")
    merged = copy.deepcopy(model).merge_and_unload()
    model = offloaded(model, "cpu", tmp_path)
    assert relative_error(result(model.merge_and_unload(), inputs), result(merged, inputs)) < 1e-6


@pytest.mark.parametrize("name", ["roberta", "llama", "distilbert", "mixtral", "gpt_oss"])
def test_the_laws_hold_offloaded(name: str, tmp_path: Path) -> None:
    model, inputs, names = steered_model(name, task_type=None), batch(name), ["default", "__base__", "default"]
    mixed, expected = result(model, inputs, adapter_names=names), result(model, inputs)
    model(**inputs).loss.backward()
    gradients = {key: p.grad.clone() for key, p in model.named_parameters() if "propulsion_" in key}
    model.zero_grad()
    model.save_pretrained(tmp_path / "adapter")

    base = offloaded(tiny_model(name), "cpu", tmp_path)
    unsteered = result(base, inputs)
    fresh = get_peft_model(offloaded(tiny_model(name), "cpu", tmp_path), config(task_type=None)).eval()
    assert torch.equal(result(fresh, inputs), unsteered)
    loaded = PeftModel.from_pretrained(base, tmp_path / "adapter", is_trainable=True).eval()
    assert torch.equal(result(loaded, inputs), expected)
    assert relative_error(result(loaded, inputs, adapter_names=names), mixed) < 1e-6
    with loaded.disable_adapter():
        assert torch.equal(result(loaded, inputs), unsteered)
    loaded(**inputs).loss.backward()
    for key, parameter in loaded.named_parameters():
        if "propulsion_" in key:
            torch.testing.assert_close(parameter.grad, gradients[key])
    loaded.merge_adapter()
    assert relative_error(result(loaded, inputs), expected) < 1e-5
    loaded.unmerge_adapter()
    assert torch.equal(result(loaded, inputs), expected)


@pytest.mark.parametrize("where", ["cpu", "disk"])
@pytest.mark.parametrize("name", ["roberta", "llama", "distilbert"])
def test_a_trained_head_is_not_lost_in_an_offloaded_one(name: str, where: str, tmp_path: Path) -> None:
    model = steered_model(name)
    model.save_pretrained(tmp_path / "adapter")
    base = offloaded(tiny_model(name, "cls"), where, tmp_path)
    with pytest.raises(AdapterFileError, match=r"head.*offloaded.*device_map"):
        PeftModel.from_pretrained(base, tmp_path / "adapter")
    assert not [key for key in base.state_dict() if "propulsion" in key]


def test_a_trained_head_is_loaded_beside_an_offloaded_network(tmp_path: Path) -> None:
    model, inputs = steered_model("roberta"), batch("roberta")
    expected = result(model, inputs)
    model.save_pretrained(tmp_path / "adapter")
    base = tiny_model("roberta", "cls")
    cpu_offload(base.roberta, execution_device=torch.device("cpu"))
    loaded = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    assert torch.equal(result(loaded, inputs), expected)

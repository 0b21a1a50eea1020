"""Merging beside other methods, other dtypes and other heads; the laws of merging are in test_laws."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model, inject_adapter_in_model

from propulsion import PropulsionConfig
from propulsion.errors import MergeError
from tests.propulsion.steered import batch, config, layers, relative_error, result, steered_model, train_by_chance
from tests.tiny_models import tiny_model


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


@pytest.mark.parametrize("how", ["mean", "max"])
def test_active_adapters_that_are_not_merged_are_still_applied(how: str) -> None:
    model = steered_model("roberta", task_type=None)
    model.add_adapter("other", config(task_type=None, pooling=how, num_vectors=2, init_noise=0.01, degree=2))
    train_by_chance(model, "other", seed=2)
    model.base_model.set_adapter(["default", "other"])
    inputs = batch("roberta")
    expected = result(model, inputs)
    model.merge_adapter(["default"])
    assert relative_error(result(model, inputs), expected) < 1e-5
    model.base_model.set_adapter("default")
    model.unmerge_adapter()
    alone = result(model, inputs)
    model.merge_adapter()
    assert relative_error(result(model, inputs), alone) < 1e-5
    assert relative_error(expected, alone) > 1e-3  # the test can fail

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

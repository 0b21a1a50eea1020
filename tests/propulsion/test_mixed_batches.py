"""Batches of mixed adapters in models that treat rows and positions in ways of their own."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from propulsion.errors import AdapterNameError
from tests.propulsion.steered import batch, relative_error, result, steered_model


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

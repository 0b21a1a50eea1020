"""Batches of mixed adapters in models that treat rows and positions in ways of their own."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Event, current_thread, main_thread
from typing import Any

import pytest
import torch
from peft import get_peft_model
from torch import nn

from propulsion import PropulsionConfig
from propulsion.errors import AdapterNameError
from tests.propulsion.steered import batch, layers, relative_error, result, steered_model


def test_a_patched_forward_survives_a_mixed_batch() -> None:
    model = steered_model("deberta-v3")
    (module, *_) = [m for m in model.modules() if type(m).__name__ == "DisentangledSelfAttention"]
    original = module.forward

    def patched(*args: Any, **kwargs: Any) -> Any:
        return original(*args, **kwargs)

    module.forward = patched
    result(model, batch("deberta-v3"), adapter_names=["default", "__base__", "default"])
    assert module.forward is patched


def test_graphs_without_adapter_names_do_not_serve_a_mixed_batch() -> None:
    x, names = torch.randn(2, 4), ["default", "__base__"]
    fields = {"target_modules": ["0"], "init_weights": False}
    model = get_peft_model(nn.Sequential(nn.Linear(4, 4)), PropulsionConfig(**fields)).eval()
    expected, mixed = model(x), model(x, adapter_names=names)
    model.base_model.model.compile(backend="eager")
    for _ in range(2):
        torch.testing.assert_close(model(x), expected)
        torch.testing.assert_close(model(x, adapter_names=names), mixed)
    with pytest.raises(AdapterNameError, match="call the model that it was given"):
        torch.compile(model, backend="eager")(x, adapter_names=names)


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


@pytest.mark.parametrize(("name", "others"), [("roberta", [None, ["__base__"] * 3]), ("deberta-v3", [None])])
def test_another_thread_has_rows_of_its_own(name: str, others: list[list[str] | None]) -> None:
    model, inputs, names = steered_model(name), batch(name), ["default", "__base__", "default"]
    fields = [{} if other is None else {"adapter_names": other} for other in others]
    expected, expected_here = result(model, inputs, adapter_names=names), [result(model, inputs, **f) for f in fields]
    is_inside, may_go_on = Event(), Event()

    def wait(*_: Any) -> None:
        if current_thread() is not main_thread():
            is_inside.set()
            assert may_go_on.wait(60)

    next(layers(model)).register_forward_pre_hook(wait)
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(result, model, inputs, adapter_names=names)
        assert is_inside.wait(60)
        here = [result(model, inputs, **f) for f in fields]
        may_go_on.set()
    assert torch.equal(other.result(), expected)
    assert all(map(torch.equal, here, expected_here))

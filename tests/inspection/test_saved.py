"""Laws of a saved adapter: what is read is what NumPy computes, and what a loaded model multiplies with."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import get_peft_model

from propulsion import PropulsionConfig
from propulsion.errors import AdapterFileError
from propulsion.layers import PropulsionLayer
from propulsion_tools.errors import NotFiniteError
from propulsion_tools.inspection.saved_adapter import read_adapter
from propulsion_tools.inspection.spread import spread
from tests.inspection.conftest import Save, bert_deltas
from tests.tiny_models import tiny_model


def test_one_vector_is_its_own_pool(save: Save) -> None:
    deltas = bert_deltas()
    adapter = read_adapter(save(deltas, degree=15))
    for layer in adapter.layers:
        z = 1 + deltas[layer.name].astype(np.float64)
        np.testing.assert_allclose(layer.z, z, rtol=1e-12)
        np.testing.assert_allclose(layer.gain, z**15, rtol=1e-5)
        assert layer.moved == pytest.approx(np.sqrt(np.mean((z**15 - 1) ** 2)), rel=1e-4)


@pytest.mark.parametrize("pooling", ["mean", "l2", "max", "min"])
def test_several_vectors_are_pooled_and_patterns_honoured(save: Save, pooling: str) -> None:
    deltas, pattern = bert_deltas(2, vectors=2), {"query": [55, 3]}
    adapter = read_adapter(save(deltas, degree=[5, 1], degree_pattern=pattern, num_vectors=2, pooling=pooling))
    for layer in adapter.layers:
        degree = [55, 3] if layer.name.endswith("query") else [5, 1]
        gains = (1 + deltas[layer.name].astype(np.float64)) ** np.array(degree)[:, None]
        expected = {
            "mean": gains.mean(0, keepdims=True),
            "l2": np.sqrt((gains**2).mean(0, keepdims=True)),
            "max": np.stack([gains.max(0), gains.min(0)]),
            "min": np.stack([gains.min(0), gains.max(0)]),
        }
        assert layer.degree == tuple(degree)
        np.testing.assert_allclose(layer.gain, expected[pooling], rtol=1e-5)


def test_a_model_multiplies_with_what_is_read(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = PropulsionConfig(
        task_type="SEQ_CLS", target_modules="all", init_weights=False, train_bias=True, degree_pattern={"query": 2}
    )
    model = get_peft_model(tiny_model("roberta", "cls"), config)
    model.save_pretrained(str(tmp_path))
    adapter = read_adapter(tmp_path)
    steered = {
        name: module for name, module in model.base_model.model.named_modules() if isinstance(module, PropulsionLayer)
    }
    assert {layer.name for layer in adapter.layers} == set(steered)
    for layer in adapter.layers:
        delta = steered[layer.name].propulsion_delta["default"].weight.detach().double().numpy()
        degree = steered[layer.name].propulsion_degree["default"]
        np.testing.assert_allclose(layer.gain, (1 + delta) ** degree[0], rtol=1e-5)
    trainable = sum(value.numel() for value in model.parameters() if value.requires_grad)
    assert adapter.vectors + adapter.biases + sum(adapter.heads.values()) == trainable
    assert adapter.biases > 0
    assert set(adapter.heads) == {"classifier"}


def test_layers_come_in_model_order(save: Save) -> None:
    names = [layer.name for layer in read_adapter(save(bert_deltas())).layers]
    assert names == list(bert_deltas())


def test_a_spread_is_numpys() -> None:
    values = np.random.default_rng(0).normal(1, 0.1, 1000)
    found = spread([values[:300].reshape(3, 100), values[300:]])
    assert (found.least, found.most, found.deviation) == (values.min(), values.max(), pytest.approx(values.std()))
    assert (found.low, found.median, found.high) == pytest.approx(tuple(np.quantile(values, [0.05, 0.5, 0.95])))
    assert found.moved == pytest.approx(np.sqrt(np.mean((values - 1) ** 2)))


def test_other_folders_are_refused(save: Save, tmp_path: Path) -> None:
    with pytest.raises(AdapterFileError, match="no folder"):
        read_adapter(tmp_path / "nowhere")
    with pytest.raises(AdapterFileError, match=r"has no adapter_config\.json"):
        read_adapter(tmp_path)
    folder = save(bert_deltas(1))
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    with pytest.raises(AdapterFileError, match="peft_type is 'LORA'"):
        read_adapter(folder)
    (folder / "adapter_config.json").write_text("{")
    with pytest.raises(AdapterFileError, match="cannot be read"):
        read_adapter(folder)


def test_unusable_weights_are_refused(save: Save) -> None:
    folder = save(bert_deltas(1))
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(AdapterFileError, match="damaged"):
        read_adapter(folder)
    weights.unlink()
    with pytest.raises(AdapterFileError, match=r"has no adapter_model\.safetensors"):
        read_adapter(folder)


@pytest.mark.parametrize(
    ("deltas", "fields", "error", "message"),
    [
        ({"query": [[0.0, np.nan]]}, {}, AdapterFileError, "query.* not finite"),
        ({"query": [[0.0, 1e6]]}, {"degree": 15}, NotFiniteError, "gain of query .* degree 15"),
        ({"query": [[0.0], [0.0]]}, {}, AdapterFileError, "num_vectors=1"),
        ({"query": [0.0]}, {}, AdapterFileError, "shape"),
        ({}, {}, AdapterFileError, "no vectors"),
    ],
)
def test_unusable_vectors_are_refused(
    save: Save, deltas: dict[str, list[float]], fields: dict[str, int], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        read_adapter(save(deltas, {"head.weight": [1.0]}, modules_to_save=["head"], **fields))

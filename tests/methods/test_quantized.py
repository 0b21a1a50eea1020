"""Laws of quantized methods: the frozen weights have four bits, and LoftQ starts nearer to the model than QLoRA."""

from __future__ import annotations

import inspect
from pathlib import Path

import peft.utils.loftq_utils as loftq_utils
import pytest
import torch
from peft.tuners.lora import layer as lora_layer

from propulsion_tools.methods import get_method
from propulsion_tools.records import RunSpec
from propulsion_tools.training.resolve import resolve
from propulsion_tools.training.trained_files import open_adapter, save_trained
from propulsion_tools.upstream.bitsandbytes_private import keep_packing
from tests.methods.test_methods import Classification
from tests.tiny_models import tiny_inputs, tiny_model

bitsandbytes = pytest.importorskip("bitsandbytes")


@pytest.fixture
def loftq_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """PEFT's own initialization, with the one word in it that names the device exchanged."""
    source = inspect.getsource(loftq_utils.loftq_init)
    assert '"cuda"' in source
    namespace = dict(vars(loftq_utils))
    exec("from __future__ import annotations\n" + source.replace('"cuda"', '"cpu"'), namespace)
    monkeypatch.setattr(lora_layer, "loftq_init", namespace["loftq_init"])


def test_qlora_asks_for_four_bits() -> None:
    assert resolve(RunSpec(method="qlora")).load_in_4bit
    assert not resolve(RunSpec(method="lora")).load_in_4bit


def test_a_forward_pass_does_not_repack_four_bits_on_a_cpu_with_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bitsandbytes.nn.modules, "has_avx512bf16", lambda: True)
    layer = bitsandbytes.nn.Linear4bit(128, 64, compute_dtype=torch.float32, quant_type="nf4").to("cpu").eval()
    packed = layer.weight.data.clone()
    keep_packing(layer)
    with torch.no_grad():
        layer(torch.ones(2, 128))
    assert torch.equal(layer.weight.data, packed)
    x = torch.ones(2, 128, requires_grad=True)
    layer.train()(x).sum().backward()
    weight = bitsandbytes.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    assert x.grad is not None
    assert torch.allclose(x.grad[0], weight.float().sum(0), atol=1e-5)


@torch.no_grad()
def test_loftq_starts_nearer_to_the_weights_than_their_quantization(loftq_on_the_cpu: None) -> None:
    base = tiny_model("roberta")
    name = "roberta.encoder.layer.0.intermediate.dense"
    weight = base.get_submodule(name).weight.clone()
    model = get_method("loftq").build(base, RunSpec(method="loftq"), Classification())
    layer = model.base_model.model.get_submodule(name)
    quantized = layer.base_layer.weight
    assert len(quantized.unique()) < weight.numel() / 2
    started = quantized + layer.get_delta_weight("default")
    assert (weight - started).norm() < 0.8 * (weight - quantized).norm()


def test_loftq_comes_back_on_the_same_quantized_weights(loftq_on_the_cpu: None, tmp_path: Path) -> None:
    model = get_method("loftq").build(tiny_model("roberta"), RunSpec(method="loftq"), Classification()).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.add_(0.01)
    save_trained(model, tmp_path)
    again = open_adapter(tiny_model("roberta"), tmp_path).eval()
    inputs = tiny_inputs("roberta")
    assert torch.allclose(again(**inputs).logits, model(**inputs).logits, atol=1e-5)

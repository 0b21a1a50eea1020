"""Every kind of layer: steering, merging, refusing."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from types import MethodType
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module
from torch.nn import functional
from transformers.models.llama import modeling_llama
from transformers.pytorch_utils import Conv1D

from propulsion import AdapterBank, PropulsionConfig, fixed_gains
from propulsion.errors import LayerError, MergeError
from propulsion.joint import JointBackbone
from tests.propulsion.steered import batch, layers, relative_error, result, steered_model, train_by_chance


class One(nn.Module):
    """A model that is one layer."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


def floats(*shape: int) -> torch.Tensor:
    return torch.randn(*shape)


def scaled_norm(norm: nn.Module) -> nn.Module:
    """A normalisation with a weight and a bias that are not those of its start."""
    with torch.no_grad():
        norm.weight.normal_()
        norm.bias.normal_()
    return norm.eval()


KINDS = {
    "Linear": (lambda: nn.Linear(4, 6), floats(2, 3, 4), 6, -1),
    "Linear without bias": (lambda: nn.Linear(4, 6, bias=False), floats(5, 4), 6, -1),
    "Conv1D": (lambda: Conv1D(6, 4), floats(2, 3, 4), 6, -1),
    "Embedding": (lambda: nn.Embedding(10, 6, padding_idx=1), torch.randint(10, (2, 3)), 6, -1),
    "LayerNorm": (lambda: nn.LayerNorm(6), floats(2, 3, 6), 6, -1),
    "LayerNorm of two dimensions": (lambda: nn.LayerNorm((5, 6)), floats(2, 5, 6), 6, -1),
    "Conv1d": (lambda: nn.Conv1d(4, 6, 3), floats(2, 4, 9), 6, -2),
    "Conv2d": (lambda: nn.Conv2d(4, 6, 3, groups=2), floats(2, 4, 9, 9), 6, -3),
    "Conv3d": (lambda: nn.Conv3d(4, 6, 3, bias=False), floats(2, 4, 5, 5, 5), 6, -4),
    "GroupNorm": (lambda: scaled_norm(nn.GroupNorm(2, 6)), floats(2, 6, 5, 4), 6, 1),
    "GroupNorm of a sequence": (lambda: scaled_norm(nn.GroupNorm(3, 6)), floats(3, 6, 7), 6, 1),
    "GroupNorm of vectors": (lambda: scaled_norm(nn.GroupNorm(3, 6)), floats(5, 6), 6, 1),
    "BatchNorm1d": (lambda: scaled_norm(nn.BatchNorm1d(6)), floats(5, 6), 6, 1),
    "BatchNorm1d of sequences": (lambda: scaled_norm(nn.BatchNorm1d(6)), floats(5, 6, 7), 6, 1),
    "BatchNorm2d": (lambda: scaled_norm(nn.BatchNorm2d(6)), floats(3, 6, 5, 4), 6, 1),
    "BatchNorm3d": (lambda: scaled_norm(nn.BatchNorm3d(6)), floats(3, 6, 2, 3, 4), 6, 1),
}
every_kind = pytest.mark.parametrize("kind", KINDS)
FIELDS = [{"degree": 3}, {"degree": 2, "train_bias": True}, {"num_vectors": 2, "degree": [2, 15], "pooling": "l2"}]


def steered(base: nn.Module, **fields: object) -> nn.Module:
    model = get_peft_model(One(base), PropulsionConfig(target_modules=["layer"], **fields))
    train_by_chance(model)
    return model


@every_kind
def test_output_is_scaled_by_channel(kind: str) -> None:
    build, x, size, axis = KINDS[kind]
    base = build()
    expected = base(x)
    model = steered(base, degree=3)
    (layer,) = layers(model)
    gain = (1 + layer.propulsion_delta["default"].weight[0]) ** 3
    assert gain.shape == (size,)
    expected = expected.movedim(axis, -1).mul(gain).movedim(-1, axis)
    torch.testing.assert_close(model(x), expected)


@every_kind
@pytest.mark.parametrize("fields", FIELDS)
def test_merging_and_unmerging(kind: str, fields: dict) -> None:
    build, x, *_ = KINDS[kind]
    model = steered(build(), **fields)
    (layer,) = layers(model)
    parameters = dict(layer.base_layer.named_parameters())
    expected = model(x)
    model.merge_adapter()
    assert relative_error(model(x).detach(), expected.detach()) < 1e-5
    model.unmerge_adapter()
    assert all(layer.base_layer.get_parameter(name) is parameter for name, parameter in parameters.items())
    assert torch.equal(model(x), expected)
    merged = model.merge_and_unload()
    assert type(merged.layer) is type(build())


@every_kind
def test_gains_that_are_fixed_are_the_same(kind: str) -> None:
    build, x, *_ = KINDS[kind]
    model = steered(build(), degree=3)
    with torch.no_grad():
        expected = model(x)
        with fixed_gains(model):
            assert torch.equal(model(x), expected)


@pytest.mark.parametrize("kind", ["Conv2d", "GroupNorm", "GroupNorm of a sequence", "BatchNorm1d", "BatchNorm3d"])
def test_each_row_has_the_gains_of_its_own_adapter(kind: str) -> None:
    build, x, *_ = KINDS[kind]
    fields = {"a": {"degree": 3, "train_bias": True}, "b": {"num_vectors": 2, "degree": [1, 2], "pooling": "l2"}}
    base = One(build()).eval()
    alone = {name: steered(copy.deepcopy(base.layer), **fields[name]).eval() for name in fields}
    train_by_chance(alone["b"], seed=2)
    mixed = steered(copy.deepcopy(base.layer), **fields["a"])
    mixed.add_adapter("b", PropulsionConfig(target_modules=["layer"], **fields["b"]))
    train_by_chance(mixed.eval(), "b", seed=2)
    bank = AdapterBank(copy.deepcopy(base))
    for name, model in alone.items():
        bank.add(name, model)
    names = ["b", "a", "__base__", "b", "a"][: len(x)]
    with torch.no_grad():
        expected = torch.stack([{"__base__": base, **alone}[name](x)[row] for row, name in enumerate(names)])
        torch.testing.assert_close(mixed(x, adapter_names=[{"a": "default"}.get(n, n) for n in names]), expected)
        torch.testing.assert_close(bank(x, adapter_names=names), expected)


@every_kind
def test_the_layer_speaks_for_its_base(kind: str) -> None:
    build, *_ = KINDS[kind]
    base = build()
    (layer,) = layers(steered(base))
    public = (
        "in_features",
        "out_features",
        "embedding_dim",
        "padding_idx",
        "kernel_size",
        "normalized_shape",
        "weight",
    )
    for name in public:
        if hasattr(base, name):
            assert getattr(layer, name) is getattr(base, name) or getattr(layer, name) == getattr(base, name)
    assert not hasattr(layer, "no_such_attribute")


def test_a_watched_base_layer_is_not_overwritten() -> None:
    from tests.tiny_models import tiny_inputs, tiny_model

    model = get_peft_model(tiny_model("llama", "base"), PropulsionConfig(target_modules="all"))
    train_by_chance(model)
    layer = list(layers(model))[3]
    assert layer._owns_output
    seen: list[torch.Tensor] = []
    layer.base_layer.register_forward_hook(lambda module, args, output: seen.append(output))
    inputs = tiny_inputs("llama", "base")
    with torch.no_grad():
        expected = []
        layer.base_layer.register_forward_hook(lambda module, args, output: expected.append(output.clone()))
        model(**inputs)
    assert torch.equal(seen[0], expected[0])


class GatedInPlace(torch.autograd.Function):
    """silu(a) ⊙ b as Liger's kernel has it: its backward writes the gradients over a and b, unseen by autograd."""

    @staticmethod
    def forward(ctx: Any, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(a, b)
        return functional.silu(a) * b

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        a, b = ctx.saved_tensors
        share = torch.sigmoid(a)
        of_a, of_b = grads[0] * b * share * (1 + a * (1 - share)), grads[0] * a * share
        a.data.copy_(of_a)
        b.data.copy_(of_b)
        return a, b


class RotatedInPlace(torch.autograd.Function):
    """The rotation of queries and keys as Liger's kernel has it: over what it reads, unseen by autograd."""

    @staticmethod
    def forward(ctx: Any, *args: torch.Tensor) -> tuple[torch.Tensor, ...]:
        ctx.save_for_backward(*args[2:])
        for old, new in zip(args, OWN_ROTATION(*args), strict=False):
            old.data.copy_(new)
        return args[0].data, args[1].data

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        return *OWN_ROTATION(*grads, cos, -sin), None, None


OWN_ROTATION = modeling_llama.apply_rotary_pos_emb


def use_kernels_in_place(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `Trainer(use_liger_kernel=True)` does to a model that has its adapter already."""

    def forward(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(GatedInPlace.apply(self.gate_proj(x), self.up_proj(x)))

    monkeypatch.setattr(modeling_llama, "apply_rotary_pos_emb", lambda *args: RotatedInPlace.apply(*args))
    for module in model.modules():
        if isinstance(module, modeling_llama.LlamaMLP):
            module.forward = MethodType(forward, module)


@pytest.mark.parametrize("how", ["alone", "jointly"])
def test_kernels_that_overwrite_what_they_read_change_no_gradient(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = steered_model("llama", degree=3).train()
    own = [parameter for name, parameter in model.named_parameters() if "propulsion_delta" in name]

    def gradients() -> list[torch.Tensor]:
        inputs = batch("llama")
        labels = inputs.pop("labels")
        if how == "alone":
            return list(torch.autograd.grad(model(**inputs, labels=labels).loss, own))
        joint = JointBackbone([model])({0: inputs})
        model.zero_grad()
        joint.outputs[0].last_hidden_state.square().sum().backward()
        joint.backward()
        return [parameter.grad for parameter in own]

    expected = gradients()
    use_kernels_in_place(model, monkeypatch)
    torch.testing.assert_close(gradients(), expected, rtol=1e-4, atol=1e-6)


class RMSNorm(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.MultiheadAttention(4, 2), "cannot be steered"),
        (RMSNorm(), "target the linear layers after it"),
        (nn.ReLU(), "cannot be steered"),
        (nn.ConvTranspose2d(4, 4, 3), "cannot be steered"),
        (nn.ModuleList([nn.Linear(2, 2)]), "cannot be steered"),
    ],
)
def test_layers_that_cannot_be_steered_are_refused_before_anything_changes(layer: nn.Module, message: str) -> None:
    model = nn.Module()
    model.first, model.layer = nn.Linear(2, 2), layer
    with pytest.raises(LayerError, match=message):
        get_peft_model(model, PropulsionConfig(target_modules=["first", "layer"]))
    assert type(model.first) is nn.Linear


def test_the_projection_within_multihead_attention_is_refused() -> None:
    with pytest.raises(LayerError, match="does not call its forward"):
        get_peft_model(One(nn.MultiheadAttention(4, 2)), PropulsionConfig(target_modules=["out_proj"]))


@pytest.mark.parametrize(
    ("base", "message"),
    [
        (nn.LayerNorm(6, elementwise_affine=False), "no weight to fold"),
        (nn.Embedding(10, 6, max_norm=1.0), "max_norm"),
        (nn.utils.parametrizations.weight_norm(nn.Linear(10, 6)), "computed from other tensors"),
        (nn.utils.parametrizations.spectral_norm(nn.Linear(10, 6)), "computed from other tensors"),
        (nn.utils.weight_norm(nn.Linear(10, 6)), "computed from other tensors"),
    ],
)
def test_layers_without_a_place_for_the_gain_are_not_merged(base: nn.Module, message: str) -> None:
    model = steered(base)
    with pytest.raises(MergeError, match=message):
        model.merge_adapter()
    assert all(layer.original_parameters is None for layer in layers(model))


def test_train_bias_trains_the_bias_and_warns_where_there_is_none() -> None:
    model = steered(nn.Linear(4, 6), train_bias=True)
    x = torch.randn(3, 4)
    model(x).sum().backward()
    (layer,) = layers(model)
    gain = (1 + layer.propulsion_delta["default"].weight[0]) ** 15
    torch.testing.assert_close(layer.propulsion_bias["default"].weight.grad, 3 * gain)
    with pytest.warns(UserWarning, match="no effect"):
        steered(nn.Linear(4, 6, bias=False), train_bias=True)


bitsandbytes = pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")


def quantized(kind: str) -> nn.Module:
    layer = nn.Linear(64, 128)
    if kind == "8-bit":
        result = bitsandbytes.nn.Linear8bitLt(64, 128, has_fp16_weights=False, threshold=6.0)
    else:
        result = bitsandbytes.nn.Linear4bit(64, 128, compute_dtype=torch.float32, quant_type="nf4")
    result.load_state_dict(layer.state_dict(), strict=False)
    return result.to("cpu").eval()


@pytest.mark.parametrize("kind", ["8-bit", "4-bit"])
def test_quantized_layers_are_steered_and_trained(kind: str) -> None:
    base, x = quantized(kind), torch.randn(4, 64)
    expected = base(x).detach()
    model = get_peft_model(One(base), PropulsionConfig(target_modules=["layer"], degree=2))
    assert torch.equal(model.eval()(x), expected)
    train_by_chance(model)
    (layer,) = layers(model)
    gain = (1 + layer.propulsion_delta["default"].weight[0]) ** 2
    torch.testing.assert_close(model(x), expected * gain)
    model(x).sum().backward()
    assert layer.propulsion_delta["default"].weight.grad.abs().sum() > 0


def test_8_bit_weights_are_merged_and_restored() -> None:
    base, x = quantized("8-bit"), torch.randn(4, 64)
    model = steered(base, degree=2).eval()
    expected = model(x).detach()

    model.merge_adapter()
    assert relative_error(model(x).detach(), expected) < 0.02
    model.unmerge_adapter()
    assert torch.equal(model(x), expected)


def test_4_bit_weights_on_the_cpu_are_not_merged() -> None:
    model = steered(quantized("4-bit")).eval()
    before = model(torch.ones(1, 64))
    with pytest.raises(MergeError, match="repacked"):
        model.merge_and_unload()
    assert torch.equal(model(torch.ones(1, 64)), before)


@pytest.fixture(name="group_of_one")
def _group_of_one(tmp_path: Path) -> Iterator[None]:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("group_of_one")
def test_weights_in_parts_are_refused() -> None:
    base = One(nn.Linear(4, 6))
    parallelize_module(base, init_device_mesh("cpu", (1,)), {"layer": ColwiseParallel()})
    with pytest.raises(LayerError, match=r"layer has a part of its weights in each process.*without tp_plan"):
        get_peft_model(base, PropulsionConfig(target_modules=["layer"]))
    assert not list(layers(base))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_torchao_weights_are_trained_saved_and_not_merged(tmp_path: Path) -> None:
    quantization = pytest.importorskip("torchao.quantization", reason="torchao is not installed")
    torch.manual_seed(0)
    base, x = One(nn.Linear(64, 128)), torch.randn(4, 64)
    quantization.quantize_(base, quantization.Int8WeightOnlyConfig())
    expected = base(x).detach()
    model = get_peft_model(copy.deepcopy(base), PropulsionConfig(target_modules=["layer"], degree=2))
    assert torch.equal(model.eval()(x), expected)
    train_by_chance(model)
    (layer,) = layers(model)
    gain = (1 + layer.propulsion_delta["default"].weight[0]) ** 2
    torch.testing.assert_close(model(x), expected * gain)
    model(x).sum().backward()
    assert layer.propulsion_delta["default"].weight.grad.abs().sum() > 0
    model.save_pretrained(tmp_path)
    assert torch.equal(PeftModel.from_pretrained(base, tmp_path).eval()(x), model(x))
    with pytest.raises(MergeError, match=r"torchao cannot be merged into.*leave the adapter unmerged"):
        model.merge_and_unload()
    torch.testing.assert_close(model(x), expected * gain)


def test_outputs_that_others_keep_or_change_are_not_overwritten() -> None:
    model = steered_model("llama", "base")
    layer = list(layers(model))[3]
    kept, forward = [], layer.base_layer.forward

    def keeping(x: torch.Tensor) -> torch.Tensor:
        kept.append(forward(x))
        return kept[-1]

    layer.base_layer.forward = keeping
    copies: list[torch.Tensor] = []
    layer.base_layer.register_forward_hook(lambda *arguments: copies.append(arguments[-1].clone()))
    result(model, batch("llama", "base"))
    assert torch.equal(kept[0], copies[0])
    del layer.base_layer.forward
    layer.register_forward_hook(lambda module, arguments, output: output.mul_(2))
    model(**batch("llama", "base")).last_hidden_state.sum().backward()

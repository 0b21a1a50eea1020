"""Stacked experts: the laws in every way of running them, what is targeted, and what is refused."""

from __future__ import annotations

import copy
import itertools
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import (
    LoraConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    inject_adapter_in_model,
    set_peft_model_state_dict,
)
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.func import functional_call
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS, batched_mm_experts_forward

from propulsion import PropulsionConfig, hotswap_adapter
from propulsion.errors import BaseModelError, ConfigError, LayerError, MergeError, TargetError
from propulsion.expert_gains import Experts, numbers_of, scale_by_expert, scale_by_expert_reference
from propulsion.experts import SteeredExperts
from propulsion.layers import PropulsionLayer
from tests.propulsion.steered import (
    MIXTURES,
    add_other,
    batch,
    config,
    each_alone,
    head_of,
    layers,
    relative_error,
    result,
    steered_model,
    train_by_chance,
)
from tests.tiny_models import tiny_model

IMPLEMENTATIONS = ("eager", "batched_mm", "grouped_mm")
every_way = pytest.mark.parametrize(("name", "way"), list(itertools.product(MIXTURES, IMPLEMENTATIONS)))
in_every_way = pytest.mark.parametrize("way", IMPLEMENTATIONS)


def run_by(model: nn.Module, way: str) -> nn.Module:
    for module in model.modules():
        if hasattr(module, "set_experts_implementation"):
            module.set_experts_implementation(way)
            break
    return model


def steered(name: str, way: str = "eager", **fields: Any) -> PeftModel:
    return run_by(steered_model(name, **fields), way)


def expert_vectors(model: nn.Module, adapter: str = "default") -> dict[str, nn.Parameter]:
    return {
        name: layer.propulsion_delta[adapter].weight
        for name, layer in model.named_modules()
        if isinstance(layer, PropulsionLayer) and ".experts." in name and adapter in layer.propulsion_delta
    }


def naive(model: PeftModel, name: str, way: str, inputs: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and gradients of δ with W ⊙ (1 + δ)^k and b ⊙ (1 + δ)^k in the place of each weight and bias."""
    base = run_by(tiny_model(name, head_of(name)), way).double()
    deltas: dict[str, Tensor] = {}
    scaled: dict[str, Tensor] = {}
    parameters = dict(base.named_parameters())
    for full_name, layer in model.base_model.model.named_modules():
        if not isinstance(layer, PropulsionLayer):
            continue
        delta = deltas[full_name] = layer.propulsion_delta["default"].weight.detach().clone().requires_grad_()
        gains = (1 + delta[0]) ** layer.propulsion_degree["default"][0]
        if ".experts." in full_name:
            weight = parameters[full_name]
            gains = gains.view(len(weight), -1)
            scaled[full_name] = weight * gains.unsqueeze(1 if name == "gpt_oss" else 2)
            keys = f"{full_name}_bias", None
        else:
            axis = (1, -1) if isinstance(layer.get_base_layer(), nn.Embedding) else (-1, 1)
            scaled[f"{full_name}.weight"] = parameters[f"{full_name}.weight"] * gains.view(axis)
            keys = f"{full_name}.bias", None
        if keys[0] in parameters:
            scaled[keys[0]] = parameters[keys[0]] * gains
    loss = functional_call(base, scaled, (), {**inputs, "use_cache": False}).loss
    gradients = torch.autograd.grad(loss, list(deltas.values()))
    return loss, dict(zip(deltas, gradients, strict=True))


# --------------------------------------------------------------------------------------------------------------------
# The laws
# --------------------------------------------------------------------------------------------------------------------


@every_way
def test_zero_delta_is_the_identity_bit_for_bit(name: str, way: str) -> None:
    inputs = batch(name)
    model = steered(name, way, trained=False)
    assert torch.equal(result(model, inputs), result(run_by(tiny_model(name, head_of(name)), way), inputs))


@every_way
def test_loss_and_gradients_are_those_of_scaled_weights(name: str, way: str) -> None:
    if way == "grouped_mm":
        pytest.skip("torch's grouped product takes no float64; the next test compares it")
    model, inputs = steered(name, way, degree=3, modules_to_save=None, task_type=None).double(), batch(name)
    loss = model(**inputs).loss
    loss.backward()
    expected, gradients = naive(model, name, way, inputs)
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-12)
    own = {key: layer for key, layer in model.base_model.model.named_modules() if isinstance(layer, PropulsionLayer)}
    assert own.keys() == gradients.keys()
    for key, layer in own.items():
        torch.testing.assert_close(layer.propulsion_delta["default"].weight.grad, gradients[key], rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("fields", [{}, {"num_vectors": 2, "init_noise": 0.1, "pooling": "l2"}])
@pytest.mark.parametrize("name", MIXTURES)
def test_every_way_gives_the_same_gradients(name: str, fields: dict[str, Any]) -> None:
    model, inputs = steered_model(name, **fields), batch(name)
    found = []
    for way in IMPLEMENTATIONS:
        model.zero_grad()
        run_by(model, way)(**inputs).loss.backward()
        found.append([vector.grad for vector in expert_vectors(model).values()])
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-3, atol=1e-6)
    assert all(gradient.abs().sum() > 0 for gradient in found[0])


@every_way
def test_merged_is_unmerged_and_unmerge_restores_every_bit(name: str, way: str) -> None:
    model, inputs = steered(name, way), batch(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    expected = result(model, inputs)
    model.merge_adapter()
    assert relative_error(result(model, inputs), expected) < 1e-5
    model.unmerge_adapter()
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    merged = model.merge_and_unload()
    assert not any(isinstance(module, (SteeredExperts, PropulsionLayer)) for module in merged.modules())
    assert relative_error(result(merged, inputs), expected) < 1e-5
    assert merged.state_dict().keys() == tiny_model(name, head_of(name)).state_dict().keys()


@every_way
def test_a_mixed_batch_is_each_adapter_alone(name: str, way: str) -> None:
    model = steered(name, way)
    add_other(model)
    inputs = batch(name, batch=4)
    alone = each_alone(model, inputs)
    names = ["other", "__base__", "default", "other"]
    expected = torch.stack([alone[adapter][row] for row, adapter in enumerate(names)])
    model.eval()
    assert relative_error(result(model, inputs, adapter_names=names), expected) < 1e-5
    model.merge_adapter()
    with pytest.raises(MergeError, match="while adapters are merged"):
        result(model, inputs, adapter_names=names)


@in_every_way
@pytest.mark.parametrize("how", ["max", "min"])
def test_pooling_by_sign(how: str, way: str) -> None:
    model, inputs = steered("mixtral", way, num_vectors=2, init_noise=0.1, pooling=how), batch("mixtral")
    expected = result(run_by(copy.deepcopy(model), "eager"), inputs)
    assert relative_error(result(model, inputs), expected) < 1e-6
    model(**inputs).loss.backward()
    assert all(vector.grad.abs().sum() > 0 for vector in expert_vectors(model).values())
    with pytest.raises(MergeError, match="either sign"):
        model.merge_adapter()


@in_every_way
def test_several_active_adapters_with_biases_are_one_after_the_other(way: str) -> None:
    model, inputs = steered("gpt_oss", way, train_bias=True, modules_to_save=None, task_type=None), batch("gpt_oss")
    model.add_adapter("other", PropulsionConfig(target_parameters=["experts.down_proj"], degree=3, train_bias=True))
    train_by_chance(model, "other", seed=2)
    model.base_model.set_adapter(["default", "other"])
    expected = result(model, inputs)
    assert relative_error(expected, result(steered("gpt_oss", way, train_bias=True), inputs)) > 1e-3
    model.merge_adapter()
    assert relative_error(result(model, inputs), expected) < 1e-5
    model.unmerge_adapter()
    model.delete_adapter("other")
    assert model.active_adapters == ["default"]
    model.zero_grad()
    model.base_model.set_adapter("default")
    model(**inputs).loss.backward()
    biases = [layer.propulsion_bias["default"].weight for layer in layers(model) if "default" in layer.propulsion_bias]
    assert all(bias.grad.abs().sum() > 0 for bias in biases)


@in_every_way
@pytest.mark.parametrize("name", ["mixtral", "gpt_oss"])
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_gradient_checkpointing_changes_no_gradient(name: str, way: str, use_reentrant: bool) -> None:
    model, inputs = steered(name, way).train(), batch(name)
    model(**inputs).loss.backward()
    expected = [vector.grad.clone() for vector in expert_vectors(model).values()]
    model.zero_grad()
    model.enable_input_require_grads()
    model.base_model.model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
    model(**inputs).loss.backward()
    torch.testing.assert_close([vector.grad for vector in expert_vectors(model).values()], expected)


@in_every_way
@pytest.mark.parametrize("name", ["mixtral", "gpt_oss"])
def test_a_model_of_16_bits_has_vectors_of_32(name: str, way: str) -> None:
    base = run_by(tiny_model(name, head_of(name)).bfloat16(), way)
    inputs = batch(name)
    before = result(base, inputs)
    model = get_peft_model(base, config()).eval()
    assert torch.equal(result(model, inputs), before)
    train_by_chance(model)
    assert all(vector.dtype == torch.float32 for vector in expert_vectors(model).values())
    model(**inputs).loss.backward()
    expected = result(model, inputs)
    model.merge_adapter()
    assert relative_error(result(model, inputs).float(), expected.float()) < 0.05


@in_every_way
def test_no_copy_of_the_weights_is_kept(way: str) -> None:
    model, inputs = steered("mixtral", way, modules_to_save=None, task_type=None), batch("mixtral", length=5)
    kept: list[Tensor] = []
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(**inputs).loss.backward()
    stacked = model.base_model.model.model.layers[0].mlp.experts.base_layer.gate_up_proj
    limit = (
        stacked.numel() if way != "batched_mm" else 15 * 2 * stacked[0].numel()
    )  # it gathers a weight for each token
    assert kept
    assert all(tensor.numel() <= limit and tensor.shape != stacked.shape for tensor in kept)


# --------------------------------------------------------------------------------------------------------------------
# A forward that hides what it does
# --------------------------------------------------------------------------------------------------------------------


class HiddenProduct(torch.autograd.Function):
    """As a kernel would: it takes the weights, and shows none of its operations."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return torch.einsum("ni,noi->no", x, weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        return torch.einsum("no,noi->ni", grads[0], weight), torch.einsum("no,ni->noi", grads[0], x)


def hidden_forward(self: Any, tokens: Tensor, experts: Tensor, shares: Tensor) -> Tensor:
    flat, x = experts.flatten(), tokens.repeat_interleave(experts.shape[1], 0)
    gate, up = HiddenProduct.apply(x, self.gate_up_proj[flat]).chunk(2, -1)
    out = HiddenProduct.apply(self.act_fn(gate) * up, self.down_proj[flat])
    return (out * shares.reshape(-1, 1)).view(*experts.shape, -1).sum(1)


def test_an_unknown_way_gets_scaled_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ALL_EXPERTS_FUNCTIONS._global_mapping, "hidden", hidden_forward)
    model, inputs = steered("mixtral"), batch("mixtral")
    model(**inputs).loss.backward()
    expected = result(model, inputs)
    gradients = [vector.grad.clone() for vector in expert_vectors(model).values()]
    model.zero_grad()
    run_by(model, "hidden")(**inputs).loss.backward()
    assert relative_error(result(model, inputs), expected) < 1e-5
    torch.testing.assert_close([v.grad for v in expert_vectors(model).values()], gradients, rtol=1e-3, atol=1e-6)
    by_sign = run_by(steered("mixtral", num_vectors=2, init_noise=0.1, pooling="max"), "hidden")
    with pytest.raises(LayerError, match="on whose sign"):
        by_sign(**inputs)


@pytest.mark.parametrize(("axes", "fields"), [(2, {"num_vectors": 2, "init_noise": 0.1, "pooling": "max"}), (3, {})])
def test_experts_may_be_numbered_by_integers(
    axes: int, fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def one_by_one(self: Any, tokens: Tensor, experts: Tensor, shares: Tensor) -> Tensor:
        output = torch.zeros_like(tokens)
        for expert in range(len(self.down_proj)):
            rows, place = (experts == expert).nonzero(as_tuple=True)
            x = tokens[rows].view(*[1] * (axes - 2), len(rows), -1)
            gate, up = nn.functional.linear(x, self.gate_up_proj[expert]).chunk(2, -1)
            y = nn.functional.linear(self.act_fn(gate) * up, self.down_proj[expert])
            output.index_add_(0, rows, y.view(len(rows), -1) * shares[rows, place, None])
        return output

    monkeypatch.setitem(ALL_EXPERTS_FUNCTIONS._global_mapping, "batched_mm", one_by_one)
    model, inputs = steered("mixtral", **fields), batch("mixtral")
    expected = result(model, inputs)
    assert relative_error(result(run_by(model, "batched_mm"), inputs), expected) < 1e-5


def test_weights_that_are_not_there_are_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ALL_EXPERTS_FUNCTIONS._global_mapping, "hidden", hidden_forward)
    experts = next(m for m in run_by(steered("mixtral"), "hidden").modules() if isinstance(m, SteeredExperts))
    experts.base_layer.to("meta")
    with pytest.raises(LayerError, match="offloaded, sharded or quantized"):
        experts(torch.zeros(2, 32), torch.zeros(2, 1).long(), torch.ones(2, 1))


def test_operations_that_are_not_products_get_scaled_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    def odd(self: Any, *args: Any) -> Tensor:
        weight = torch.cat([self.down_proj]).mT.contiguous()
        x = batched_mm_experts_forward(self, *args)
        return x + 0 * weight.sum() + torch.einsum("ti,eoi->o", torch.ones(1, weight.shape[1]), self.down_proj)

    monkeypatch.setitem(ALL_EXPERTS_FUNCTIONS._global_mapping, "batched_mm", odd)
    model, inputs = steered("mixtral", "batched_mm"), batch("mixtral")
    expected = result(model, inputs)
    model.merge_adapter()
    assert relative_error(result(model, inputs), expected) < 1e-5


def test_a_forward_that_never_shows_a_weight_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def blind(self: Any, tokens: Tensor, experts: Tensor, shares: Tensor) -> Tensor:
        with torch._C.DisableTorchFunction():
            return batched_mm_experts_forward(self, tokens, experts, shares)

    monkeypatch.setitem(ALL_EXPERTS_FUNCTIONS._global_mapping, "batched_mm", blind)
    model = steered("mixtral", "batched_mm")
    with pytest.raises(LayerError, match=r"hides what it does with 'down_proj'.*'eager'"):
        result(model, batch("mixtral"))


def test_experts_on_several_devices_are_refused() -> None:
    model = steered("mixtral")
    for module in model.modules():
        if isinstance(module, SteeredExperts):
            module.base_layer._is_expert_parallel = True
    with pytest.raises(LayerError, match="spread over several devices"):
        result(model, batch("mixtral"))


# --------------------------------------------------------------------------------------------------------------------
# Targets and counts
# --------------------------------------------------------------------------------------------------------------------


def names_of(model: nn.Module) -> set[str]:
    return {name.rpartition("experts.")[2] for name in expert_vectors(model)}


@pytest.mark.parametrize("preset", ["all", "mlp"])
@pytest.mark.parametrize("name", MIXTURES)
def test_presets_steer_the_experts_and_never_the_router(name: str, preset: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model = steered_model(name, target_modules=preset)
    assert names_of(model) == {"gate_up_proj", "down_proj"}
    assert not any(word in key for key in get_trained(model) for word in ("router", "mlp.gate."))
    for layer in model.modules():
        if isinstance(layer, SteeredExperts):
            count, wide, narrow = layer.num_experts, *[w.shape[1] for w in layer.weights]
            assert [w.propulsion_delta["default"].weight.numel() for w in layer.weights] == [
                count * wide,
                count * narrow,
            ]


def get_trained(model: nn.Module) -> list[str]:
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"target_modules": "attn"}, set()),
        ({"target_modules": ["experts"]}, {"gate_up_proj", "down_proj"}),
        ({"target_parameters": ["experts.down_proj"]}, {"down_proj"}),
        ({"target_parameters": ["gate_up_proj"], "target_modules": ["q_proj"]}, {"gate_up_proj"}),
        ({"target_modules": "all", "exclude_modules": ["experts"]}, set()),
    ],
)
def test_what_is_targeted_is_steered(fields: dict[str, Any], expected: set[str], tmp_path: Path) -> None:
    base = tiny_model("mixtral", "lm")
    model = get_peft_model(base, PropulsionConfig(task_type="CAUSAL_LM", **fields)).eval()
    train_by_chance(model)
    assert names_of(model) == expected
    inputs = batch("mixtral", "lm")
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(tiny_model("mixtral", "lm"), tmp_path)
    assert torch.equal(result(loaded, inputs), result(model, inputs))
    native = tiny_model("mixtral", "lm")
    native.load_adapter(str(tmp_path))
    assert torch.equal(result(native, inputs), result(model, inputs))


def test_blocks_and_degrees_are_chosen_for_experts_too() -> None:
    fields = {"layers_to_transform": [1], "degree_pattern": {"experts.down_proj": 3}}
    model = steered_model("mixtral", target_parameters=["gate_up_proj", "down_proj"], **fields)
    vectors = set(expert_vectors(model))
    assert {name.partition("layers.")[2][0] for name in vectors} == {"1"}
    degrees = {w.weight_name: w.propulsion_degree["default"] for w in layers(model) if hasattr(w, "table")}
    assert degrees["down_proj"] == (3,)
    only = get_peft_model(
        tiny_model("mixtral", "lm"), PropulsionConfig(target_parameters=["down_proj"], layers_to_transform=0)
    )
    assert list(expert_vectors(only)) == ["base_model.model.model.layers.0.mlp.experts.down_proj"]


@pytest.mark.parametrize(
    ("name", "fields", "error", "message"),
    [
        ("mixtral", {"target_parameters": ["down_prj"]}, TargetError, "Did you mean 'down_proj'"),
        ("mixtral", {"target_parameters": ["q_proj.weight"]}, TargetError, "name a layer's module in target_modules"),
        ("gpt_oss", {"target_parameters": ["down_proj_bias"]}, TargetError, "bias is steered with its weight"),
        ("mixtral", {"target_parameters": "down_proj"}, ConfigError, "target_parameters must be a list"),
        ("gpt_oss", {"pooling": "max", "num_vectors": 2, "init_noise": 0.1}, ConfigError, "depends on the sign"),
    ],
)
def test_what_cannot_be_steered_is_refused_before_anything_changes(
    name: str, fields: dict[str, Any], error: type[Exception], message: str
) -> None:
    base = tiny_model(name, "lm")
    before = list(base.state_dict())
    with pytest.raises(error, match=message):
        get_peft_model(base, PropulsionConfig(**fields))
    assert list(base.state_dict()) == before


def test_experts_of_another_method_are_refused() -> None:
    model = get_peft_model(tiny_model("mixtral", "lm"), LoraConfig(target_parameters=["experts.down_proj"], r=2))
    with pytest.raises(LayerError, match="cannot be steered"):
        inject_adapter_in_model(PropulsionConfig(target_modules=["experts"]), model.base_model.model)


# --------------------------------------------------------------------------------------------------------------------
# What stays unsteered
# --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("targets", ["all-linear", ["gate_proj"], ["shared_expert.up_proj", "q_proj"]])
def test_experts_that_are_passed_over_are_told(targets: Any) -> None:
    with pytest.warns(UserWarning, match=r"\d+% of the weights in the targeted blocks.*target_parameters=\['experts"):
        get_peft_model(tiny_model("qwen2_moe", "lm"), PropulsionConfig(target_modules=targets))


@pytest.mark.parametrize(
    "fields",
    [{"target_modules": ["q_proj"]}, {"exclude_modules": ["experts"]}, {"target_parameters": ["experts.down_proj"]}],
)
def test_experts_that_are_left_out_on_purpose_are_not(fields: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        get_peft_model(tiny_model("qwen2_moe", "lm"), PropulsionConfig(**fields))


def test_the_share_of_quantized_experts_is_told() -> None:
    model = tiny_model("mixtral", "lm")
    for block in model.model.layers:
        experts = block.mlp.experts
        experts.down_proj = nn.Parameter(experts.down_proj.data.to(torch.uint8), requires_grad=False)
    weights = [p for block in model.model.layers for p in block.parameters() if p.dim() > 1]
    stacked = sum(p.numel() for p in weights if p.dim() == 3)
    share = f"{stacked / sum(p.numel() for p in weights):.0%}"
    with pytest.warns(UserWarning, match=f"{share} of the weights.*quantized, or not of the kind"):
        steered = get_peft_model(model, PropulsionConfig(target_modules="all"))
    assert not expert_vectors(steered)


# --------------------------------------------------------------------------------------------------------------------
# Files, other bases, other adapters
# --------------------------------------------------------------------------------------------------------------------


def test_an_adapter_from_before_experts_were_steered_is_loaded(tmp_path: Path) -> None:
    model, inputs = steered_model("mixtral", exclude_modules=["experts"]), batch("mixtral")
    model.save_pretrained(tmp_path)
    saved = (tmp_path / "adapter_config.json").read_text()
    (tmp_path / "adapter_config.json").write_text(saved.replace('"experts"', ""))
    loaded = PeftModel.from_pretrained(tiny_model("mixtral"), tmp_path)
    assert not expert_vectors(loaded)
    assert torch.equal(result(loaded, inputs), result(model, inputs))


def test_an_adapter_without_a_vector_of_the_experts_is_refused(tmp_path: Path) -> None:
    steered_model("mixtral").save_pretrained(tmp_path)
    vectors = load_file(tmp_path / "adapter_model.safetensors")
    first = next(key for key in vectors if "experts.down_proj" in key)
    del vectors[first]
    save_file(vectors, tmp_path / "adapter_model.safetensors")
    with pytest.raises(ValueError, match=r"no vector for model\.layers\.\d\.mlp\.experts\.down_proj"):
        PeftModel.from_pretrained(tiny_model("mixtral"), tmp_path)


def test_another_base_and_another_number_of_experts_are_refused(tmp_path: Path) -> None:
    model = get_peft_model(tiny_model("mixtral", "lm"), PropulsionConfig(target_modules=["experts"]))
    model.save_pretrained(tmp_path)
    for other in ({"seed": 3}, {"num_local_experts": 5}):
        with pytest.raises(BaseModelError):
            PeftModel.from_pretrained(tiny_model("mixtral", "lm", **other), tmp_path)
    model.merge_adapter()
    model.load_adapter(str(tmp_path), "again")


def test_hotswap_weighted_and_disabled(tmp_path: Path) -> None:
    model, inputs = steered_model("gpt_oss", task_type=None, modules_to_save=None), batch("gpt_oss")
    with model.disable_adapter():
        base = result(model, inputs)
    assert torch.equal(base, result(tiny_model("gpt_oss"), inputs))
    other = steered_model("gpt_oss", task_type=None, modules_to_save=None)
    train_by_chance(other, seed=5)
    other.save_pretrained(tmp_path)
    model.add_adapter("second", PropulsionConfig(target_parameters=["experts.down_proj"]))
    train_by_chance(model, "second", seed=3)
    model.add_weighted_adapter(["default", "second"], [0.5, 0.5], "both")
    model.set_adapter("both")
    half = {name: 0.5 * vector for name, vector in expert_vectors(model, "default").items()}
    for name, vector in expert_vectors(model, "second").items():
        half[name] = half[name] + 0.5 * vector
    torch.testing.assert_close({name: v.data for name, v in expert_vectors(model, "both").items()}, half)
    hotswap_adapter(model, str(tmp_path))
    model.set_adapter("default")
    assert torch.equal(result(model, inputs), result(other, inputs))


def test_adapters_of_experts_come_and_go() -> None:
    model, inputs = steered("mixtral"), batch("mixtral")
    add_other(model)
    alone = each_alone(model, inputs)
    model.set_adapter("default")
    assert torch.equal(result(model, inputs, adapter_names=["default"] * 3), alone["default"])
    model.merge_adapter()
    with model.disable_adapter():
        assert torch.equal(result(model, inputs), alone["__base__"])
    model.set_adapter("other")
    model.delete_adapter("default")
    assert not expert_vectors(model)
    assert torch.equal(result(model, inputs), alone["other"])


def test_transformers_adds_and_deletes_adapters_of_experts() -> None:
    model, inputs = tiny_model("mixtral", "lm"), batch("mixtral", "lm")
    for number, name in enumerate(("one", "two")):
        model.add_adapter(PropulsionConfig(target_modules="all"), name)
        train_by_chance(model, name, seed=number)
    expected = result(model, inputs)
    stacked = [layer for name, layer in model.named_modules() if name.endswith("experts.down_proj")]
    assert stacked
    assert all(layer.in_features * layer.out_features == layer.get_base_layer().down_proj.numel() for layer in stacked)
    model.delete_adapter("one")
    assert expert_vectors(model, "two")
    assert not expert_vectors(model, "one")
    assert torch.equal(result(model, inputs), expected)


def test_the_keys_of_a_state_say_which_experts_are_steered() -> None:
    model, inputs = steered_model("mixtral", "lm"), batch("mixtral", "lm")
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    state = {key.removeprefix("base_model.model."): value for key, value in state.items()}
    bare = inject_adapter_in_model(
        PropulsionConfig(target_modules="all"), tiny_model("mixtral", "lm"), state_dict=state
    )
    set_peft_model_state_dict(bare, state)
    assert torch.equal(result(bare, inputs), result(model, inputs))


@pytest.mark.slow
def test_a_compiled_model_has_the_same_gradients() -> None:
    model, inputs = steered("gpt_oss", "batched_mm", modules_to_save=None, task_type=None), batch("gpt_oss")
    model(**inputs).loss.backward()
    expected = [vector.grad.clone() for vector in expert_vectors(model).values()]
    model.zero_grad()
    torch.compile(model, backend="eager")(**inputs).loss.backward()
    torch.testing.assert_close([v.grad for v in expert_vectors(model).values()], expected, rtol=1e-3, atol=1e-6)


def test_an_adapter_made_empty_is_filled_from_its_file(tmp_path: Path) -> None:
    model, inputs = steered_model("mixtral", target_parameters=["experts.down_proj"]), batch("mixtral")
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(tiny_model("mixtral"), tmp_path, low_cpu_mem_usage=True)
    assert torch.equal(result(loaded, inputs), result(model, inputs))


# --------------------------------------------------------------------------------------------------------------------
# The product by expert
# --------------------------------------------------------------------------------------------------------------------


def product_inputs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    output = torch.randn(6, 3, dtype=torch.float64, generator=generator, requires_grad=True)
    z = torch.randn(4, 3, dtype=torch.float64, generator=generator).abs().add(0.5).requires_grad_()
    return output, z


@pytest.mark.parametrize("degree", [0, 1, 3])
@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("experts", [torch.tensor([2, 0, 2, 3, 3, 0]), (3, 0, 1, 2)])
def test_the_product_has_the_derivatives_of_the_formula(degree: int, in_place: bool, experts: Experts) -> None:
    output, z = product_inputs()

    def product(v: Tensor, z: Tensor) -> Tensor:
        return scale_by_expert(v * 1, z, experts, in_place, degree)

    assert torch.equal(product(output, z), scale_by_expert_reference(output, z, experts, degree))
    assert torch.autograd.gradcheck(product, (output, z))
    assert torch.autograd.gradgradcheck(product, (output, z))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_in_order_and_rows_by_number_agree(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    output, grad = torch.randn(600, 64).to(dtype), torch.randn(600, 64).to(dtype)
    z, sizes = 1 + 0.1 * torch.randn(4, 64), (100, 0, 499, 1)
    found = []
    for experts in (sizes, numbers_of(sizes, z.device)):
        v, vector = output.clone().requires_grad_(), z.clone().requires_grad_()
        y = scale_by_expert(v * 1, vector, experts, True, 15)
        y.backward(grad)
        found.append((y, v.grad, vector.grad))
    torch.testing.assert_close(found[0], found[1], rtol=1e-5 if dtype == torch.float32 else 2e-2, atol=1e-3)


def test_a_gain_of_zero_has_its_gradient() -> None:
    output, z = product_inputs()
    experts = (3, 0, 1, 2)
    z = z.detach().clone()
    z[2, 1] = 0.0
    found = []
    for in_place in (False, True):
        vector = z.clone().requires_grad_()
        scale_by_expert(output.detach() * 1, vector, experts, in_place).sum().backward()
        found.append(vector.grad)
    torch.testing.assert_close(found[1], found[0])


def test_the_product_under_transformations_is_the_formula() -> None:
    output, z = (tensor.detach() for tensor in product_inputs())
    experts, tangents = (3, 0, 1, 2), (torch.ones_like(output), torch.ones_like(z))
    found = [
        torch.func.jvp(lambda v, s, product=product: product(v * 1, s, experts, degree=3), (output, z), tangents)
        for product in (scale_by_expert, scale_by_expert_reference)
    ]
    torch.testing.assert_close(found[0], found[1])
    assert found[0][1].any()

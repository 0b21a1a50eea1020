"""The laws of the method, over architectures, targets and degrees."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from peft import PeftModel

from propulsion import expert_gains, expert_products, gain, pooling
from propulsion.errors import MergeError
from tests.propulsion.steered import (
    ARCHITECTURES,
    DEGREES,
    TARGETS,
    add_other,
    batch,
    each_alone,
    head_of,
    layers,
    relative_error,
    result,
    steered_model,
    train_by_chance,
)
from tests.tiny_models import tiny_model

CASES = list(itertools.product(ARCHITECTURES, TARGETS, DEGREES))
FOLDED = [{}, {"num_vectors": 3, "degree": [1, 15, 55]}, {"num_vectors": 2, "pooling": "l2", "init_noise": 0.01}]
every_case = pytest.mark.parametrize(("name", "targets", "degree"), CASES)


def base_result(model: PeftModel, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    with model.disable_adapter():
        return result(model, inputs)


@every_case
def test_zero_delta_is_the_identity_bit_for_bit(name: str, targets: str, degree: int) -> None:
    model = steered_model(name, trained=False, target_modules=targets, degree=degree)
    inputs = batch(name)
    expected = result(tiny_model(name, head_of(name)), inputs)
    assert torch.equal(result(model, inputs), expected)
    train_by_chance(model)  # the test can fail
    assert not torch.equal(result(model, inputs), expected)


@pytest.mark.parametrize("how", ["mean", "l2", "max", "min"])
@pytest.mark.parametrize("num_vectors", [1, 2, 3, 5, 7])
def test_zero_delta_is_the_identity_for_every_pooling(how: str, num_vectors: int) -> None:
    degree = list(range(13, 13 + num_vectors))
    model = steered_model("roberta", trained=False, pooling=how, num_vectors=num_vectors, degree=degree)
    inputs = batch("roberta")
    assert torch.equal(result(model, inputs), result(tiny_model("roberta", "cls"), inputs))


@every_case
def test_merged_is_unmerged_and_unmerge_restores_every_bit(name: str, targets: str, degree: int) -> None:
    model = steered_model(name, target_modules=targets, degree=degree)
    inputs = batch(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    expected = result(model, inputs)
    model.merge_adapter()
    assert relative_error(result(model, inputs), expected) < 1e-5
    assert any(not torch.equal(before[key], value) for key, value in model.state_dict().items())
    model.unmerge_adapter()
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert torch.equal(result(model, inputs), expected)


@pytest.mark.parametrize("fields", FOLDED)
@pytest.mark.parametrize("train_bias", [False, True])
def test_merged_is_unmerged_with_several_vectors_and_trained_biases(fields: dict, train_bias: bool) -> None:
    model = steered_model("bart", train_bias=train_bias, **fields)
    inputs = batch("bart")
    expected = result(model, inputs)
    merged = model.merge_and_unload()
    assert not list(layers(merged))
    assert relative_error(result(merged, inputs), expected) < 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_ten_merge_cycles_change_no_bit(dtype: torch.dtype) -> None:
    model = steered_model("gpt2").to(dtype)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    for _ in range(10):
        model.merge_adapter()
        model.unmerge_adapter()
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize("how", ["max", "min"])
def test_pooling_by_sign_refuses_to_merge_and_changes_nothing(how: str) -> None:
    model = steered_model("llama", pooling=how, num_vectors=2, init_noise=0.01)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(MergeError, match="leave the adapter 'default' unmerged"):
        model.merge_and_unload()
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@every_case
def test_saved_and_loaded_gives_the_same_bits(name: str, targets: str, degree: int, tmp_path) -> None:
    model = steered_model(name, target_modules=targets, degree=degree)
    inputs = batch(name)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(tiny_model(name, head_of(name)), tmp_path)
    assert torch.equal(result(loaded, inputs), result(model, inputs))
    assert not torch.equal(result(loaded, inputs), base_result(model, inputs))


@every_case
def test_fast_path_has_the_gradients_of_the_formula(
    name: str, targets: str, degree: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast = steered_model(name, target_modules=targets, degree=degree).double()
    inputs = batch(name)
    plain = copy.deepcopy(fast)
    fast(**inputs).loss.backward()
    monkeypatch.setattr(
        expert_products,
        "scale_by_expert",
        lambda output, z, experts, in_place, degree: expert_gains.scale_by_expert_reference(output, z, experts, degree),
    )
    monkeypatch.setattr(
        pooling, "scale", lambda output, z, in_place, lookup, degree: gain.scale_reference(output, z, degree)
    )
    plain(**inputs).loss.backward()
    gradients = {key: p.grad for key, p in plain.named_parameters() if p.grad is not None}
    assert sum("propulsion_delta" in key for key in gradients) == len(list(layers(fast)))
    for key, parameter in fast.named_parameters():
        if key in gradients:
            torch.testing.assert_close(parameter.grad, gradients[key], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("targets", TARGETS)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_mixed_batch_is_each_adapter_alone(name: str, targets: str) -> None:
    model = steered_model(name, target_modules=targets, degree=15)
    add_other(model)
    inputs = batch(name, batch=4)
    alone = each_alone(model, inputs)
    names = ["other", "__base__", "default", "other"]
    expected = torch.stack([alone[adapter][row] for row, adapter in enumerate(names)])
    model.eval()
    assert relative_error(result(model, inputs, adapter_names=names), expected) < 1e-6
    assert relative_error(alone["default"], alone["other"]) > 1e-3  # the test can fail


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("train_bias", [False, True])
def test_merging_one_after_the_other_is_both_active(name: str, train_bias: bool) -> None:
    model = steered_model(name, train_bias=train_bias, modules_to_save=None, task_type=None)
    model.add_adapter(
        "other", model.peft_config["default"].__class__(target_modules="attn", degree=3, train_bias=train_bias)
    )
    train_by_chance(model, "other", seed=2)
    model.base_model.set_adapter(["default", "other"])
    inputs = batch(name)
    expected = result(model, inputs)
    model.merge_adapter(["default"])
    model.merge_adapter(["other"])
    assert relative_error(result(model, inputs), expected) < 1e-5

"""Gains that are computed once give the answers of gains that are computed each time."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor, nn

from propulsion import experts, fixed_gains, inference, layers
from propulsion.expert_products import Table
from propulsion.layers import PropulsionLayer
from tests.propulsion.steered import MIXTURES, batch, config, relative_error, result, steered_model, train_by_chance
from tests.tiny_models import tiny_model


def vectors(model: nn.Module, name: str = "default") -> list[Tensor]:
    return [layer.propulsion_delta[name].weight for layer in steered_layers(model)]


def steered_layers(model: nn.Module) -> list[PropulsionLayer]:
    return [module for module in model.modules() if isinstance(module, PropulsionLayer)]


def last(model: nn.Module) -> PropulsionLayer:
    return steered_layers(model)[-1]


def two_adapters(name: str = "roberta", **fields: Any) -> PeftModel:
    model = steered_model(name, **fields)
    model.add_adapter("other", config(**{k: v for k, v in fields.items() if k != "head"}))
    train_by_chance(model, "other", seed=7)
    return model.eval()


@pytest.fixture
def powers_taken(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows by one for each power that a layer takes."""
    taken: list[str] = []
    pooled_gain, steer = PropulsionLayer.pooled_gain, layers.steer

    def counted(self: PropulsionLayer, adapter_name: str) -> Tensor:
        taken.append(adapter_name)
        return pooled_gain(self, adapter_name)

    def counted_steer(output: Tensor, pooled: Tensor, in_place: bool, lookup: Any = None, degree: int = 1) -> Tensor:
        if degree != 1:
            taken.append("power")
        return steer(output, pooled, in_place, lookup, degree)

    monkeypatch.setattr(PropulsionLayer, "pooled_gain", counted)
    monkeypatch.setattr(layers, "steer", counted_steer)
    return taken


FIELDS = [
    {},
    {"degree": 1},
    {"train_bias": True},
    {"num_vectors": 2, "init_noise": 0.1, "pooling": "max"},
    {"num_vectors": 2, "init_noise": 0.1, "pooling": "l2"},
]


@pytest.mark.parametrize("fields", FIELDS, ids=str)
@pytest.mark.parametrize("name", ["roberta", "gpt2", "deberta-v3", "bart", "vit"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_answers_are_the_same_bit_for_bit(
    name: str, fields: dict[str, Any], dtype: torch.dtype, powers_taken: list[str]
) -> None:
    model = steered_model(name, **fields).to(dtype)
    inputs = {k: v.to(dtype) if v.is_floating_point() else v for k, v in batch(name).items()}
    expected = result(model.base_model.model, inputs)
    with fixed_gains(model):
        assert torch.equal(result(model, inputs), expected)
        powers_taken.clear()
        assert torch.equal(result(model.base_model.model, inputs), expected)
        assert not powers_taken


CHANGES: dict[str, Callable[[PeftModel], Any]] = {
    "another adapter": lambda model: model.set_adapter("other"),
    "several adapters": lambda model: model.base_model.set_adapter(["default", "other"]),
    "no adapter": lambda model: model.base_model.disable_adapter_layers(),
    "merged": lambda model: model.merge_adapter(),
    "merged and unmerged": lambda model: (model.merge_adapter(), model.unmerge_adapter()),
    "a new adapter of an old name": lambda model: (
        model.delete_adapter("default"),
        model.add_adapter("default", config(task_type="FEATURE_EXTRACTION")),
        train_by_chance(model, seed=9),
        model.set_adapter("default"),
    ),
    "written to": lambda model: [vector.mul_(2) for vector in vectors(model)],
    "replaced": lambda model: [
        setattr(m.propulsion_delta["default"], "weight", nn.Parameter(torch.full_like(vector, 0.01)))
        for m, vector in zip(
            (m for m in model.modules() if isinstance(m, PropulsionLayer)), vectors(model), strict=True
        )
    ],
    "in another dtype": lambda model: model.double(),
    "a hook": lambda model: model.base_model.model.encoder.layer[0].output.dense.base_layer.register_forward_hook(
        lambda module, args, output: output + 1
    ),
    "a hook around": lambda model: model.base_model.model.encoder.layer[0].output.dense.register_forward_hook(
        lambda module, args, output: output + 1
    ),
    "another base weight": lambda model: model.base_model.model.encoder.layer[0].output.dense.base_layer.weight.mul_(2),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_inside_of_the_block_is_seen(change: str) -> None:
    model, inputs = two_adapters(head="base", task_type="FEATURE_EXTRACTION"), batch("roberta", "base")
    with fixed_gains(model), torch.no_grad():
        before = result(model, inputs)
        CHANGES[change](model)
        inside = result(model, inputs)
    after = result(model.base_model.model, inputs)
    assert torch.equal(inside, after)
    assert (
        torch.equal(before, after.to(before.dtype)) == (change in ("merged and unmerged",))
        or change == "in another dtype"
    )


def test_training_inside_of_the_block_is_training(powers_taken: list[str]) -> None:
    model, inputs = steered_model("roberta").train(), batch("roberta")
    plain = copy.deepcopy(model)
    plain(**inputs).loss.backward()
    with fixed_gains(model):
        result(model, inputs)
        model(**inputs).loss.backward()
    for own, other in zip(vectors(model), vectors(plain), strict=True):
        assert torch.equal(own.grad, other.grad)
    optimizer = torch.optim.SGD(vectors(model), lr=0.1)
    with fixed_gains(model):
        before = result(model, inputs)
        optimizer.step()
        inside = result(model, inputs)
    assert torch.equal(inside, result(model, inputs))
    assert not torch.equal(inside, before)


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_recomputes_the_same(reentrant: bool) -> None:
    model, inputs = steered_model("roberta").train(), batch("roberta")
    plain = copy.deepcopy(model)
    plain(**inputs).loss.backward()
    model.enable_input_require_grads()
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    with fixed_gains(model):
        model(**inputs).loss.backward()
    for own, other in zip(vectors(model), vectors(plain), strict=True):
        assert relative_error(own.grad, other.grad) < 1e-5


def test_mixed_batches_use_them() -> None:
    model, inputs, names = two_adapters(), batch("roberta"), ["other", "__base__", "default"]
    expected = result(model, inputs, adapter_names=names)
    with fixed_gains(model):
        assert torch.equal(result(model, inputs, adapter_names=names), expected)


def test_a_copy_and_another_model_keep_their_own(powers_taken: list[str]) -> None:
    model, inputs = steered_model("roberta"), batch("roberta")
    stranger = steered_model("roberta", degree=2)
    with fixed_gains(model):
        copied = copy.deepcopy(model)
        for vector in vectors(copied):
            vector.data.mul_(3)
        expected = result(model, inputs)
        assert not torch.equal(result(copied, inputs), expected)
        powers_taken.clear()
        result(stranger.base_model.model, inputs)
        assert powers_taken  # nobody has fixed its gains
        with fixed_gains(stranger):
            powers_taken.clear()
            result(stranger.base_model.model, inputs)
            result(model.base_model.model, inputs)
            assert not powers_taken
    result(model.base_model.model, inputs)
    assert powers_taken


def test_threads_fix_for_themselves() -> None:
    model, inputs = steered_model("roberta"), batch("roberta")
    seen: list[Tensor] = []

    def elsewhere() -> None:
        for vector in vectors(model):
            vector.data.mul_(3)
        seen.append(result(model.base_model.model, inputs))

    with fixed_gains(model):
        before = result(model, inputs)
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
    assert torch.equal(seen[0], result(model, inputs))
    assert not torch.equal(seen[0], before)


def test_compiled_code_and_transforms_take_the_plain_formula() -> None:
    torch.manual_seed(0)
    model = PeftModel(
        nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3)), config(task_type=None, target_modules=["0", "1"])
    )
    train_by_chance(model.eval())
    x = torch.randn(5, 4)
    expected = result_of(model, x)
    compiled = torch.compile(model.base_model.model, backend="eager", fullgraph=True)
    with fixed_gains(model), torch.no_grad():
        torch.testing.assert_close(compiled(x), expected)
        torch.testing.assert_close(torch.func.vmap(model.base_model.model)(x), expected)
        _, tangent = torch.func.jvp(model.base_model.model, (x,), (torch.ones_like(x),))
        assert tangent.abs().sum() > 0
        assert torch.equal(result_of(model, x), expected)
        assert torch.equal(result_of(model, x[0]), result_of(copy.deepcopy(model), x[0]))


@torch.no_grad()
def result_of(model: nn.Module, x: Tensor) -> Tensor:
    return model(x)


@pytest.mark.parametrize(("name", "task_type"), [("llama", "CAUSAL_LM"), ("bart", "SEQ_2_SEQ_LM"), ("whisper", None)])
def test_generate_takes_each_power_once(name: str, task_type: str | None, powers_taken: list[str]) -> None:
    model = steered_model(name, "lm", task_type=task_type)
    inputs = {key: value for key, value in batch(name, "lm").items() if key in ("input_ids", "input_features")}
    with torch.no_grad():
        model.generate(**inputs, max_new_tokens=6, min_new_tokens=6, do_sample=False)
    assert 0 < len(powers_taken) <= len(vectors(model))


def test_an_error_leaves_nothing_behind() -> None:
    model = steered_model("roberta")
    with pytest.raises(RuntimeError, match="stop"), fixed_gains(model):
        raise RuntimeError("stop")
    assert inference.fixed_gain(last(model), "default") is None


def test_nothing_is_fixed_of_what_cannot_be_watched() -> None:
    model, inputs = steered_model("roberta"), batch("roberta")
    layer = last(model)
    layer.propulsion_delta["default"].register_forward_hook(lambda module, args, z: z * 0)
    expected = result(model.base_model.model, inputs)
    with fixed_gains(model):
        assert torch.equal(result(model, inputs), expected)
    with torch.inference_mode():
        made = steered_model("roberta")
        expected = result(made.base_model.model, inputs)
        with fixed_gains(made):
            assert torch.equal(result(made, inputs), expected)


def test_a_model_without_adapters_is_no_trouble() -> None:
    with fixed_gains(tiny_model("roberta")):
        pass


@pytest.mark.parametrize("way", ["eager", "batched_mm", "grouped_mm"])
@pytest.mark.parametrize("fields", [*FIELDS[:2], FIELDS[-1]], ids=str)
@pytest.mark.parametrize("name", MIXTURES)
def test_the_gains_of_experts_are_fixed_too(
    name: str, fields: dict[str, Any], way: str, powers_taken: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = steered_model(name, **fields)
    model.base_model.model.set_experts_implementation(way)
    inputs = batch(name)
    expected = result(model.base_model.model, inputs)
    degrees: list[int] = []
    monkeypatch.setattr(experts, "Table", lambda values, degree: degrees.append(degree) or Table(values, degree))
    with fixed_gains(model):
        result(model.base_model.model, inputs)
        powers_taken.clear(), degrees.clear()
        assert relative_error(result(model.base_model.model, inputs), expected) < 1e-6
        assert not powers_taken
        assert {*degrees} == {1}
        for vector in vectors(model):
            vector.detach().mul_(2)
        changed = result(model.base_model.model, inputs)
    assert relative_error(changed, result(model.base_model.model, inputs)) < 1e-6
    assert not torch.equal(changed, expected)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_a_trace_reads_the_vectors_and_not_their_gains() -> None:
    model = steered_model("roberta", task_type=None)
    base, ids = model.get_base_model(), batch("roberta")["input_ids"]
    with torch.no_grad(), fixed_gains(model):
        traced = torch.jit.trace(base, (ids,), strict=False, check_trace=False)
        for vector in vectors(model):
            vector.mul_(1.5)
    assert relative_error(traced(ids)["logits"], base(input_ids=ids).logits) < 1e-6

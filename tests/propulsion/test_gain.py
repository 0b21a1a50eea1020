"""The fast path of the multiplication against the formula as it is written."""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.utils.checkpoint import checkpoint

from propulsion.gain import NEARLY_ZERO, gain, scale, scale_reference, z_of
from propulsion.ownership import unshared_references
from tests.propulsion.steered import batch, layers, steered_model
from tests.tiny_models import tiny_model

DEGREES = (0, 1, 2, 3, 15, 55)
# Names of gains' shapes, with the activations' shapes that they steer.
SHAPES = {
    "linear": ((3, 4, 5), (5,)),
    "rows": ((3, 4, 5), (3, 1, 5)),
    "conv1d": ((3, 5, 4), (5, 1)),
    "conv2d": ((2, 5, 3, 2), (5, 1, 1)),
    "rows of conv1d": ((3, 5, 4), (3, 5, 1)),
    "no tokens": ((3, 0, 5), (5,)),
    "one vector": ((5,), (5,)),
}
TOLERANCE = {torch.float64: 1e-13, torch.float32: 2e-6, torch.bfloat16: 6e-3}
every_degree = pytest.mark.parametrize("degree", DEGREES)
every_shape = pytest.mark.parametrize("name", SHAPES)
both_paths = pytest.mark.parametrize("in_place", [False, True])


def random(*shape: int, seed: int = 0, **kwargs: Any) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(**kwargs)


def fresh(output: Tensor) -> Tensor:
    """Activations that the caller owns, as a layer's output: their backward does not read them."""
    return output + 0


def gradients(product: Any, output: Tensor, gains: Tensor, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    output, gains = output.detach().requires_grad_(), gains.detach().requires_grad_()
    result = product(fresh(output), gains)
    return result.detach(), *torch.autograd.grad(result, (output, gains), grad)


def assert_agrees(output: Tensor, gains: Tensor, grad: Tensor, tolerance: dict[torch.dtype, float] = TOLERANCE) -> None:
    """Both paths against the reference in float64, for the product and both gradients."""
    expected = gradients(scale_reference, output.double(), gains.double(), grad.double())
    # What the errors are measured by: a sum of few terms may cancel, so for the gains' gradient the sum of magnitudes.
    *sizes, _ = expected
    sizes.append(gradients(scale_reference, output.double().abs(), gains.double(), grad.double().abs())[2])
    for in_place in (False, True):
        actual = gradients(lambda v, s, in_place=in_place: scale(v, s, in_place), output, gains, grad)
        dtypes = (output.dtype, output.dtype, gains.dtype)
        for value, reference, size, dtype in zip(actual, expected, sizes, dtypes, strict=True):
            assert value.dtype == dtype
            assert value.shape == reference.shape
            assert (value - reference).norm() <= tolerance[output.dtype] * size.norm()


@every_degree
@every_shape
@both_paths
def test_gradients_are_those_of_the_formula(name: str, degree: int, in_place: bool) -> None:
    shape, gain_shape = SHAPES[name]
    delta = (0.2 * random(*gain_shape, seed=degree)).requires_grad_()
    with torch.no_grad():
        delta.flatten()[0] = -2.2  # z < 0
    output = random(*shape, seed=1).requires_grad_()

    def steered(output: Tensor, delta: Tensor) -> Tensor:
        return scale(fresh(output), z_of(delta), in_place, degree=degree)

    assert gradcheck(steered, (output, delta))
    assert gradgradcheck(steered, (output, delta))
    assert torch.equal(steered(output, delta), scale(fresh(output), gain(delta, [degree]), in_place))


@every_degree
@both_paths
def test_gradients_where_z_is_zero(degree: int, in_place: bool) -> None:
    delta = torch.tensor([[-1.0, 0.1, -2.0]], dtype=torch.float64, requires_grad=True)
    output, grad = random(4, 3, seed=1).requires_grad_(), random(4, 3, seed=2)
    expected = scale_reference(output, gain(delta, [degree]).squeeze(0))
    actual = scale(fresh(output), z_of(delta).squeeze(0), in_place, degree=degree)
    torch.testing.assert_close(actual, expected, atol=1e-20, rtol=1e-12)
    for value, reference in zip(
        torch.autograd.grad(actual, (output, delta), grad),
        torch.autograd.grad(expected, (output, delta), grad),
        strict=True,
    ):
        torch.testing.assert_close(value, reference, atol=1e-20, rtol=1e-12)


@both_paths
@pytest.mark.parametrize("degree", [2, 3, 15])
def test_second_derivatives_where_z_is_zero(degree: int, in_place: bool) -> None:
    output, grad = random(4, 3, seed=1), random(4, 3, seed=2)

    def second(product: Any) -> Tensor:
        z = torch.tensor([0.0, 0.5, -1.0], dtype=torch.float64, requires_grad=True)
        result = product(fresh(output.requires_grad_()), z, degree=degree)
        (first,) = torch.autograd.grad(result, z, grad, create_graph=True)
        return torch.autograd.grad(first.sum(), z)[0]

    torch.testing.assert_close(second(partial(scale, in_place=in_place)), second(scale_reference))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_many_gradients_at_once_are_those_one_by_one(dtype: torch.dtype) -> None:
    unshared_references.cache_clear()  # the process's first backward may be one of many
    output, z = random(64, 512, seed=1, dtype=dtype).requires_grad_(), (1 + 0.1 * random(512, seed=2)).float()
    grads, z = random(2, 64, 512, seed=3, dtype=dtype), z.requires_grad_()
    result = scale(fresh(output), z, True, degree=3)
    together = torch.autograd.grad(result, (output, z), grads, retain_graph=True, is_grads_batched=True)
    for row, grad in enumerate(grads):
        alone = torch.autograd.grad(result, (output, z), grad, retain_graph=True)
        for value, several in zip(alone, together, strict=True):
            tolerance = 1e-5 if value.dtype == torch.float32 else 1e-2
            torch.testing.assert_close(several[row], value, rtol=tolerance, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_where_the_gain_has_vanished(dtype: torch.dtype) -> None:
    gains = torch.tensor([0.0, 1e-30, -1e-30, 1e-12, -1.0])
    assert_agrees(random(16, 5, seed=1, dtype=dtype), gains, random(16, 5, seed=2, dtype=dtype))


@every_degree
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_degrees_lose_no_digits(degree: int, dtype: torch.dtype) -> None:
    output, grad = random(64, 32, seed=1, dtype=dtype), random(64, 32, seed=2, dtype=dtype)
    z = 1 + 0.1 * random(32, seed=degree, dtype=torch.float32)
    reference = partial(scale_reference, degree=degree)
    expected = gradients(reference, output.double(), z.double(), grad.double())
    # Of each channel: the gains of some are 1e-7 and those of others 1e4.
    sizes = [value.norm(dim=0) for value in expected[:2]]
    sizes.append(gradients(reference, output.double().abs(), z.double(), grad.double().abs())[2].abs())
    for in_place in (False, True):
        actual = gradients(partial(scale, in_place=in_place, degree=degree), output, z, grad)
        for value, wanted, size in zip(actual, expected, sizes, strict=True):
            error = (value - wanted).norm(dim=0) if value.dim() > 1 else (value - wanted).abs()
            assert (error <= TOLERANCE[dtype] * max(degree, 1) ** 0.5 * size).all()


def test_a_vanished_output_is_too_small_to_matter() -> None:
    for dtype, smallest in NEARLY_ZERO.items():
        assert smallest < 1e-6 * torch.finfo(dtype).eps
        assert smallest > 1e6 * torch.finfo(dtype).tiny


def test_the_gain_is_a_power() -> None:
    delta = random(2, 7, seed=3) * 0.3
    expected = torch.stack([(1 + delta[0]) ** 3, torch.ones(7, dtype=torch.float64)])
    torch.testing.assert_close(gain(delta, [3, 0]), expected)
    torch.testing.assert_close(gain(delta.bfloat16(), [2, 2]), (1 + delta.bfloat16().float()) ** 2)
    assert gain(delta.to("meta"), [3, 0]).is_meta


@settings(max_examples=60, deadline=None)
@given(
    shape=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float64]),
    layout=st.sampled_from(["contiguous", "transposed", "expanded", "sliced"]),
    per_row=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_random_activations(shape: list[int], dtype: torch.dtype, layout: str, per_row: bool, seed: int) -> None:
    output, grad = (laid_out(random(*shape, seed=seed + i, dtype=dtype), layout) for i in (0, 1))
    gain_shape = [shape[0], *[1] * (len(shape) - 2), shape[-1]] if per_row and len(shape) > 1 else shape[-1:]
    gains = 1 + 0.3 * random(*gain_shape, seed=seed + 2).to(torch.promote_types(dtype, torch.float32))
    assert_agrees(output, gains, grad)


def laid_out(values: Tensor, layout: str) -> Tensor:
    if layout == "transposed":
        return values.transpose(0, -1).contiguous().transpose(0, -1)
    if layout == "expanded":
        return values[:1].expand_as(values)
    if layout == "sliced":
        return torch.stack([values, values], dim=-1)[..., 0]
    return values


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["linear", "rows", "conv1d"])
def test_activations_larger_than_a_chunk(name: str, dtype: torch.dtype) -> None:
    shape, gain_shape = {
        "linear": ((7, 211, 768), (768,)),
        "rows": ((7, 211, 768), (7, 1, 768)),
        "conv1d": ((7, 768, 211), (768, 1)),
    }[name]
    gains = 1 + 0.1 * random(*gain_shape, seed=3, dtype=torch.float32)
    assert_agrees(random(*shape, seed=1, dtype=dtype), gains, random(*shape, seed=2, dtype=dtype))


def test_bfloat16_is_rounded_once() -> None:
    output, gains = random(64, 48, seed=1, dtype=torch.bfloat16), 1 + random(48, seed=2, dtype=torch.float32)
    expected = (output.double() * gains.double()).bfloat16()
    assert torch.equal(scale_reference(output, gains), (output.float() * gains).bfloat16())
    for in_place in (False, True):
        torch.testing.assert_close(scale(output.clone(), gains, in_place), expected, rtol=2**-8, atol=0)
        assert torch.equal(scale(output.clone(), gains, in_place), (output.float() * gains).bfloat16())


@both_paths
def test_a_gain_of_one_changes_no_bit(in_place: bool) -> None:
    for dtype in TOLERANCE:
        output = random(5, 6, seed=1, dtype=dtype)
        assert torch.equal(scale(output.clone(), torch.ones(6), in_place), output)


def saved_bytes(run: Any) -> int:
    """What autograd keeps of the activations."""
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        kept_alive = run()
    del kept_alive
    return sum(storages.values())


def test_in_place_keeps_only_the_result() -> None:
    output, gains = random(64, 32, seed=1, dtype=torch.float32).requires_grad_(), torch.ones(32, requires_grad=True)
    one, gain_bytes = output.numel() * 4, 32 * 4

    def steered(product: Any) -> Tensor:
        return product(fresh(output), gains).exp()  # exp keeps its result, so this is y and exp(y)

    def memory(product: Any) -> list[int]:
        kept: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t.data_ptr()), t)[1], lambda t: t):
            values = fresh(output)
            result = product(values, gains)
        return [pointer for pointer in kept if pointer not in (result.data_ptr(), gains.data_ptr())]

    assert saved_bytes(lambda: steered(lambda v, s: scale(v, s, True))) <= 2 * one + 2 * gain_bytes
    kept_beside_y = memory(lambda v, s: scale(v, s, True))
    assert len(kept_beside_y) <= 1  # the guarded gain, never v
    assert memory(scale_reference)  # v: the test can fail


@every_shape
def test_in_place_writes_over_the_output(name: str) -> None:
    shape, gain_shape = SHAPES[name]
    output = random(*shape, seed=1, dtype=torch.float32)
    result = scale(output, torch.full(gain_shape, 2.0), in_place=True)
    assert result.data_ptr() == output.data_ptr()


def test_what_the_caller_does_not_own_is_kept() -> None:
    kept = random(4, 6, seed=1, dtype=torch.float32)
    assert scale(kept, torch.full((6,), 2.0)).data_ptr() != kept.data_ptr()
    assert torch.equal(kept, random(4, 6, seed=1, dtype=torch.float32))


@pytest.mark.parametrize("output", [random(1, 6).expand(4, 6), random(6, 4).t(), random(1, 6).half()])
def test_what_cannot_be_overwritten_is_not(output: Tensor) -> None:
    before = output.clone()
    gains = torch.full((3, 1, output.shape[-1]), 2.0, dtype=torch.promote_types(output.dtype, torch.float32))
    scale(output, gains if output.dim() > 2 else gains[0, 0], in_place=True)
    assert torch.equal(output, before)


@pytest.mark.parametrize(
    ("shape", "gain_shape"),
    [((1, 4, 5), (3, 1, 5)), ((3, 1), (5,)), ((1, 5), (5, 1)), ((3, 1, 5), (1, 5, 1)), ((2, 5, 1), (5,))],
)
def test_gains_of_a_wider_shape_than_the_output_widen_it(shape: tuple[int, ...], gain_shape: tuple[int, ...]) -> None:
    output, gains = random(*shape, seed=1), random(*gain_shape, seed=2)
    assert_agrees(output, gains, random(*torch.broadcast_shapes(shape, gain_shape), seed=3))


def test_frozen_gains_keep_no_activations() -> None:
    output = random(64, 32, seed=1, dtype=torch.float32).requires_grad_()
    for in_place in (False, True):
        assert saved_bytes(lambda in_place=in_place: scale(fresh(output), torch.ones(32), in_place)) <= 32 * 4


@both_paths
@pytest.mark.parametrize("degree", [0, 1, 3])
def test_frozen_gains_hand_the_gradient_on(degree: int, in_place: bool) -> None:
    output, z, grad = random(4, 6, seed=1).requires_grad_(), random(6, seed=2), random(4, 6, seed=3)
    scale(fresh(output), z, in_place, degree=degree).backward(grad)
    torch.testing.assert_close(output.grad, grad * z**degree)


def test_backward_does_not_change_the_gradient_that_it_was_given() -> None:
    output, gains, grad = random(4, 6).requires_grad_(), 1 + random(6, seed=2), random(4, 6, seed=3)
    before = grad.clone()
    scale(fresh(output), gains.requires_grad_(), in_place=True).backward(grad)
    assert torch.equal(grad, before)


@both_paths
@pytest.mark.parametrize("degree", [1, 3])
def test_without_gradients_the_product_is_the_same(degree: int, in_place: bool) -> None:
    output, z = random(3, 4, 5, seed=1), 1 + 0.2 * random(5, seed=2)
    given = output.clone()
    with torch.no_grad():
        result = scale(given, z, in_place, degree=degree)
    torch.testing.assert_close(result, output * z**degree)
    assert torch.equal(given, result if in_place else output)
    assert (result.data_ptr() == given.data_ptr()) is in_place


# Under transformations, and in models.


def test_vmap_and_jvp_take_the_formula() -> None:
    output, gains = random(3, 4, 5, seed=1), random(3, 5, seed=2)
    expected = output * gains.unsqueeze(1) ** 3
    torch.testing.assert_close(torch.func.vmap(lambda v, s: scale(v, s, True, degree=3))(output, gains), expected)
    tangents = random(3, 4, 5, seed=3), random(3, 5, seed=4)
    for product in (scale_reference, lambda v, s: scale(v, s, True)):
        _, tangent = torch.func.jvp(lambda v, s, p=product: p(fresh(v), s.unsqueeze(1)), (output, gains), tangents)
        torch.testing.assert_close(tangent, tangents[0] * gains.unsqueeze(1) + output * tangents[1].unsqueeze(1))
    per_sample = torch.func.vmap(torch.func.grad(lambda s, v: scale(v, s, True).sum()), in_dims=(None, 0))
    torch.testing.assert_close(per_sample(gains[0], output), output.sum(1))


def test_forward_mode_takes_the_formula() -> None:
    output, gains, tangent = random(4, 5, seed=1), random(5, seed=2), random(5, seed=3)
    with forward_ad.dual_level():
        result = scale(fresh(output), forward_ad.make_dual(gains, tangent), True)
        torch.testing.assert_close(forward_ad.unpack_dual(result).tangent, output * tangent)


def loss_and_gradients(model: nn.Module, inputs: dict[str, Tensor]) -> list[Tensor]:
    model.zero_grad()
    loss = model(**inputs).loss
    loss.backward()
    return [loss.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


def assert_same(actual: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    assert len(actual) == len(expected)
    for value, reference in zip(actual, expected, strict=True):
        # Keys have no gradient but rounding where nothing tells the positions apart.
        torch.testing.assert_close(
            value, reference, rtol=tolerance, atol=tolerance * max(1e-2, float(reference.norm()))
        )


@pytest.fixture(params=["roberta", "llama", "gpt2", "t5"])
def in_place_and_not(request: pytest.FixtureRequest) -> tuple[nn.Module, nn.Module, dict[str, Tensor]]:
    model, reference = (steered_model(request.param, target_modules="all").train() for _ in range(2))
    assert any(layer._owns_output for layer in layers(model))
    for layer in layers(reference):
        layer._owns_output = False
    return model, reference, batch(request.param)


def test_models_in_place(in_place_and_not: tuple[nn.Module, nn.Module, dict[str, Tensor]]) -> None:
    model, reference, inputs = in_place_and_not
    assert_same(loss_and_gradients(model, inputs), loss_and_gradients(reference, inputs), 1e-5)


def test_models_in_place_in_bfloat16(in_place_and_not: tuple[nn.Module, nn.Module, dict[str, Tensor]]) -> None:
    model, reference, inputs = in_place_and_not
    model, reference = model.bfloat16(), reference.bfloat16()
    assert_same(loss_and_gradients(model, inputs)[:1], loss_and_gradients(reference, inputs)[:1], 2e-2)


def test_models_in_place_under_autocast(in_place_and_not: tuple[nn.Module, nn.Module, dict[str, Tensor]]) -> None:
    model, reference, inputs = in_place_and_not
    with torch.autocast("cpu", torch.bfloat16):
        assert_same(loss_and_gradients(model, inputs)[:1], loss_and_gradients(reference, inputs)[:1], 2e-2)


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_models_in_place_under_checkpointing(use_reentrant: bool) -> None:
    model, inputs = steered_model("roberta", target_modules="all").train(), batch("roberta")
    expected = loss_and_gradients(model, inputs)
    model.enable_input_require_grads()
    model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
    assert_same(loss_and_gradients(model, inputs), expected, 1e-5)


def test_scale_under_a_checkpoint() -> None:
    output, gains, grad = random(6, 5, seed=1), random(5, seed=2), random(6, 5, seed=3)
    expected = gradients(scale_reference, output, gains, grad)

    def checkpointed(v: Tensor, s: Tensor) -> Tensor:
        return checkpoint(lambda v, s: scale(fresh(v), s, True), v, s, use_reentrant=False)

    for value, reference in zip(gradients(checkpointed, output, gains, grad), expected, strict=True):
        torch.testing.assert_close(value, reference)


def compiles_lora() -> bool:
    """Whether torch.compile makes one graph of PEFT's and transformers' own code; torch 2.6 does not."""
    model = get_peft_model(tiny_model("roberta"), LoraConfig(task_type="SEQ_CLS", target_modules=["query"]))
    try:
        loss_and_gradients(torch.compile(model, fullgraph=True, backend="eager"), batch("roberta"))
    except Exception:
        return False
    return True


def test_compiled_without_graph_breaks() -> None:
    if not compiles_lora():
        pytest.skip("this torch breaks the graph in PEFT's or transformers' own code")
    model, inputs = steered_model("roberta", target_modules="all"), batch("roberta")
    expected = loss_and_gradients(model, inputs)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert_same(loss_and_gradients(compiled, inputs), expected, 1e-5)
    torch._dynamo.reset()


@pytest.mark.parametrize("kind", ["register_forward_hook", "register_full_backward_hook"])
def test_hooks_on_the_base_layer_see_the_unsteered_output(kind: str) -> None:
    model, inputs = steered_model("roberta", target_modules="attn"), batch("roberta")
    expected = loss_and_gradients(model, inputs)
    layer = next(layers(model))
    seen: list[Tensor] = []
    if kind == "register_forward_hook":
        layer.base_layer.register_forward_hook(lambda module, args, output: seen.append(output))
    else:
        layer.base_layer.register_full_backward_hook(lambda module, grad_in, grad_out: seen.append(grad_out[0]))
    steered: list[Tensor] = []
    layer.register_forward_hook(lambda module, args, output: steered.append(output))
    assert_same(loss_and_gradients(model, inputs), expected, 1e-5)
    if kind == "register_forward_hook":
        gains = layer.pooled_gain("default").squeeze(0)
        torch.testing.assert_close(steered[0], seen[0] * gains)
        assert steered[0].data_ptr() != seen[0].data_ptr()


@pytest.mark.parametrize("layer", ["embedding", "linear"])
@pytest.mark.parametrize("degree", [0, 1, 15])
def test_layers_against_the_formula(layer: str, degree: int) -> None:
    torch.manual_seed(0)
    base = nn.Embedding(11, 6) if layer == "embedding" else nn.Linear(6, 6)
    base.double().requires_grad_(False)
    x = torch.randint(11, (3, 4)) if layer == "embedding" else random(3, 4, 6, seed=1)
    delta = (0.2 * random(1, 6, seed=2)).requires_grad_()

    def steered(delta: Tensor) -> Tensor:
        lookup = (base.weight, x) if layer == "embedding" else None
        return scale(base(x), z_of(delta).squeeze(0), in_place=True, lookup=lookup, degree=degree)

    assert gradcheck(steered, (delta,))
    assert gradgradcheck(steered, (delta,))
    torch.testing.assert_close(steered(delta), base(x) * (1 + delta) ** degree)


def test_what_can_be_looked_up_is_not_kept() -> None:
    embedding = nn.Embedding(11, 32).requires_grad_(False)
    ids, delta = torch.randint(11, (16, 8)), (0.1 * random(1, 32, dtype=torch.float32)).requires_grad_()

    def steered(again: bool) -> Tensor:
        return scale(embedding(ids), z_of(delta)[0], True, (embedding.weight, ids) if again else None, degree=15)

    table = embedding.weight.nbytes  # counted, but there anyway
    assert saved_bytes(lambda: steered(True)) - table < ids.nbytes + 16 * 8 * 4 < saved_bytes(lambda: steered(False))
    for grads in zip(*(torch.autograd.grad(steered(again).sum(), delta) for again in (True, False)), strict=True):
        torch.testing.assert_close(*grads, rtol=1e-5, atol=0)
    model = steered_model("roberta", target_modules="embedding").train()
    assert all(layer._lookup(torch.zeros(1), torch.zeros(1).long()) is not None for layer in layers(model))
    next(layers(model)).base_layer.register_forward_hook(lambda module, args, output: output + 1)  # noise, say
    assert next(layers(model))._lookup(torch.zeros(1), torch.zeros(1).long()) is None


def test_ids_that_a_hook_changes_are_those_of_the_gradient() -> None:
    model = steered_model("roberta", target_modules="embedding").train()
    layer, ids = next(layers(model)), torch.tensor([[1, 2]])
    delta = layer.propulsion_delta["default"].weight
    expected = torch.autograd.grad(layer(ids + 3).sum(), delta)
    layer.base_layer.register_forward_pre_hook(lambda module, args: (args[0] + 3,))
    torch.testing.assert_close(torch.autograd.grad(layer(ids).sum(), delta), expected)


def test_ids_may_change_between_forward_and_backward() -> None:
    model = steered_model("roberta", target_modules="embedding").train()
    ids = batch("roberta")["input_ids"]
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    expected = torch.autograd.grad(model(ids).logits.square().sum(), parameters)
    loss = model(ids).logits.square().sum()
    ids.fill_(0)  # a loader with one buffer for every batch
    torch.testing.assert_close(torch.autograd.grad(loss, parameters), expected)


def test_a_table_that_has_changed_is_not_looked_up_in() -> None:
    model = steered_model("roberta", target_modules="embedding").train()
    layer = next(layers(model))
    loss = layer(torch.tensor([[1, 2]])).sum()
    with torch.no_grad():
        layer.base_layer.weight.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize(("rows", "tokens"), list(itertools.product([1, 3], [0, 1, 5])))
def test_gains_of_their_own_for_each_row(rows: int, tokens: int) -> None:
    output, gains = random(rows, tokens, 5, seed=1), 1 + 0.2 * random(rows, 1, 5, seed=2)
    result = scale(output.clone(), gains, in_place=True)
    for row in range(rows):
        torch.testing.assert_close(result[row], scale_reference(output[row], gains[row, 0]))

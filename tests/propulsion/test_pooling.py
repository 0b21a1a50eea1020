"""Pooled gains against the pool of the steered outputs, as the paper defines it (appendix F.1)."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from propulsion.gain import scale_reference
from propulsion.pooling import POOLINGS, folds_into_weights, pool, steer

every_pooling = pytest.mark.parametrize("how", POOLINGS)
POOL_OF_OUTPUTS = {
    "mean": lambda outputs, output: outputs.mean(0),
    "max": lambda outputs, output: outputs.amax(0),
    "min": lambda outputs, output: outputs.amin(0),
    "l2": lambda outputs, output: outputs.square().mean(0).sqrt() * output.sign(),
}


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def outputs_of_both_signs() -> Tensor:
    output = random(3, 4, 5, seed=1)
    output[0, 0] = 0
    return output


@every_pooling
@pytest.mark.parametrize("num_vectors", [1, 2, 3])
def test_steering_with_pooled_gains_is_the_pool_of_the_steered_outputs(how: str, num_vectors: int) -> None:
    output, gains = outputs_of_both_signs(), random(num_vectors, 5, seed=2)
    steered = torch.stack([output * row for row in gains])
    expected = POOL_OF_OUTPUTS[how](steered, output) if num_vectors > 1 else steered[0]
    pooled = pool(gains, how)
    actual = steer(output.clone(), pooled)
    torch.testing.assert_close(actual, expected)
    assert pooled.shape == (1 if folds_into_weights(how, num_vectors) else 2, 5)


@every_pooling
def test_gradients_of_pooled_gains_are_those_of_the_pool(how: str) -> None:
    output, gains = random(3, 4, 5, seed=1), random(3, 5, seed=2).requires_grad_()
    expected = POOL_OF_OUTPUTS[how](torch.stack([output * row for row in gains]), output)
    (wanted,) = torch.autograd.grad(expected.square().sum(), gains)
    (actual,) = torch.autograd.grad(steer(output.clone(), pool(gains, how)).square().sum(), gains)
    torch.testing.assert_close(actual, wanted)


@pytest.mark.parametrize("how", ["max", "min"])
def test_an_output_of_zero_takes_the_gain_of_those_above(how: str) -> None:
    output, pooled = torch.tensor([0.0, 1.0, -1.0], requires_grad=True), pool(torch.tensor([[2.0], [3.0]]), how)
    (grad,) = torch.autograd.grad(steer(output, pooled).sum(), output)
    assert grad.tolist() == [pooled[0].item(), pooled[0].item(), pooled[1].item()]


@every_pooling
def test_gains_of_one_change_no_bit(how: str) -> None:
    output = outputs_of_both_signs().float()
    for num_vectors in (1, 3):
        assert torch.equal(steer(output.clone(), pool(torch.ones(num_vectors, 5), how)), output)


@every_pooling
def test_gains_that_have_all_vanished_give_zero_and_finite_gradients(how: str) -> None:
    gains = torch.zeros(2, 5, requires_grad=True)
    steered = steer(outputs_of_both_signs().float(), pool(gains, how))
    assert torch.equal(steered.abs(), torch.zeros(3, 4, 5))
    steered.sum().backward()
    assert gains.grad is not None
    assert gains.grad.isfinite().all()


def test_the_root_mean_square_has_no_gradient_where_it_vanishes_alone() -> None:
    gains = torch.tensor([[0.0, 3.0], [0.0, 4.0]], requires_grad=True)
    pool(gains, "l2").sum().backward()
    assert gains.grad is not None
    torch.testing.assert_close(gains.grad[:, 0], torch.zeros(2))
    torch.testing.assert_close(gains.grad[:, 1], gains[:, 1].detach() / 2 / 12.5**0.5)


@every_pooling
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_pooled_steering_keeps_the_dtype_and_rounds_once(how: str, dtype: torch.dtype) -> None:
    output, gains = outputs_of_both_signs().to(dtype), 1 + 0.3 * random(2, 5, seed=2).float()
    pooled = pool(gains, how)
    picked = torch.where(output >= 0, pooled[0], pooled[-1])
    assert torch.equal(steer(output.clone(), pooled), (output.float() * picked).to(dtype))


@pytest.mark.parametrize("shape", [(5,), (4, 5), (3, 4, 5)])
@pytest.mark.parametrize("degree", [1, 3])
@pytest.mark.parametrize("in_place", [False, True])
def test_one_vector_is_its_power_whatever_the_shape(shape: tuple[int, ...], degree: int, in_place: bool) -> None:
    output, z = random(*shape, seed=1), 1 + 0.2 * random(1, 5, seed=2)
    given = output.clone()
    actual = steer(given, z, in_place, degree=degree)
    torch.testing.assert_close(actual, scale_reference(output, z[0], degree), rtol=0, atol=0)
    assert actual.shape == output.shape
    assert (actual.data_ptr() == given.data_ptr()) is in_place


def test_what_is_looked_up_is_kept_as_ids() -> None:
    table, ids = random(7, 5, seed=1), torch.tensor([[1, 2, 3, 4, 5, 6]])
    z = (1 + 0.2 * random(1, 5, seed=2)).requires_grad_()
    kept: list[tuple[int, ...]] = []

    def keep(value: Tensor) -> Tensor:
        kept.append(tuple(value.shape))
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        steered = steer(table[ids], z, True, (table, ids), 2)
    assert (1, 6, 5) not in kept
    (grad,) = torch.autograd.grad(steered.sum(), z)
    torch.testing.assert_close(grad, 2 * z.detach() * table[ids].sum((0, 1)))

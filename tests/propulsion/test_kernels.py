"""The kernels against the formula; Triton's run in its interpreter, in a process of their own, without a GPU."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode

from propulsion import kernels, triton_kernels
from tests.propulsion.steered import relative_error

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
on_triton = pytest.mark.skipif(
    not (triton_kernels.AVAILABLE and (INTERPRETED or torch.cuda.is_available())),
    reason="needs Triton with a GPU, or TRITON_INTERPRET=1",
)
DEVICE = "cuda" if torch.cuda.is_available() and not INTERPRETED else "cpu"
# Activations with their gains.
SHAPES = {
    "linear": ((2, 37, 130), (130,)),
    "one dimension in front": ((2, 37, 130), (1, 1, 130)),
    "rows": ((3, 37, 70), (3, 1, 70)),
    "many tokens": ((1, 1300, 5), (5,)),
    "no tokens": ((3, 0, 8), (8,)),
    "no tokens in rows": ((3, 0, 8), (3, 1, 8)),
    "one channel": ((4, 3, 1), (1,)),
}
CHANNELS_ELSEWHERE = {"convolution": ((2, 6, 5, 4), (6, 1, 1)), "rows of it": ((2, 6, 20), (2, 6, 1))}
OTHERS = {"one number": ((3, 4), ()), "tokens": ((3, 4, 5), (1, 4, 1)), "rows and tokens": ((3, 4, 5), (3, 4, 1))}
every_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])


def example(shape: tuple[int, ...], gain_shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(len(shape) + sum(shape))
    gains = 1 + 0.3 * torch.randn(gain_shape, generator=generator)
    values, grad = (torch.randn(shape, generator=generator).to(dtype) for _ in range(2))
    return values, grad, gains


def assert_rounded(actual: Tensor, expected: Tensor) -> None:
    # Triton's interpreter truncates to bfloat16, which the compiled kernels round to.
    truncates = INTERPRETED and actual.dtype == torch.bfloat16
    tolerance = torch.finfo(torch.bfloat16).eps if truncates else 0.0
    torch.testing.assert_close(actual.cpu(), expected.to(actual.dtype), rtol=tolerance, atol=0)


def assert_agree(values: Tensor, grad: Tensor, gains: Tensor, results: tuple[Tensor, Tensor | None, Tensor]) -> None:
    """Exact where the result is rounded once, close where it is a sum."""
    product, grad_values, total = results
    assert_rounded(product, values.float() * gains)
    if grad_values is not None:
        assert_rounded(grad_values, grad.float() * gains)
    expected = (grad.double() * values.double()).sum_to_size(gains.shape)
    assert total.shape == gains.shape
    assert total.dtype == gains.dtype
    if expected.numel() and expected.norm():
        assert relative_error(total.cpu().double(), expected) < 2e-6


@every_dtype
@pytest.mark.parametrize("name", [*SHAPES, *CHANNELS_ELSEWHERE, *OTHERS])
@pytest.mark.parametrize("needs_values", [True, False])
@pytest.mark.parametrize("few", [0, kernels.FEW])
def test_kernels_of_the_cpu(
    name: str, dtype: torch.dtype, needs_values: bool, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "FEW", few)
    values, grad, gains = example(*(SHAPES | CHANNELS_ELSEWHERE | OTHERS)[name], dtype)
    with torch.no_grad():
        product = kernels.multiply(values, gains)
        assert torch.equal(kernels.multiply(values.clone(), gains, out=torch.empty_like(values)), product)
        for overwrite in (False, True):
            before = grad.clone()
            found = kernels.multiply_backward(before, values, gains, needs_values, overwrite)
            assert_agree(values, grad, gains, (product, *found))
            assert torch.equal(before, grad) or (overwrite and found[0] is before)


def test_batch_normalisation_takes_the_shapes_of_layers() -> None:
    for shape, gain_shape in (SHAPES | CHANNELS_ELSEWHERE).values():
        values, _, gains = example(shape, gain_shape, torch.bfloat16)
        assert (kernels._by_channel(gains, values) is None) == (gains.numel() == 1)
    for shape, gain_shape in OTHERS.values():
        values, _, gains = example(shape, gain_shape, torch.bfloat16)
        if gains.numel() == 1:
            assert kernels._by_channel(gains, values) is None


def test_the_sign_of_zero_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "FEW", 0)
    zeros = torch.tensor([[0.0, -0.0, -0.0]], dtype=torch.bfloat16)
    assert torch.equal(kernels.multiply(zeros, torch.ones(3)).signbit(), zeros.signbit())


def test_a_tensor_without_numbers_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "FEW", 0)
    kernels._zeros_and_ones.cache_clear()
    kernels._minus_zeros.cache_clear()
    values, gains = torch.randn(4, 3, 977).bfloat16(), 1 + torch.rand(977)
    for dtype in (torch.bfloat16, torch.float32):
        with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True) as mode:
            fake, fake_gains = mode.from_tensor(values.to(dtype)), mode.from_tensor(gains)
            assert kernels.multiply(fake, fake_gains).shape == values.shape
            kernels.multiply_backward(fake, fake, fake_gains)
            kernels.multiply(values.to(dtype), gains, out=values.to(dtype))
            kernels.multiply_backward(values.to(dtype), values.to(dtype), gains)
        with torch.inference_mode():
            product = kernels.multiply(values.to(dtype), gains)
        with torch.no_grad():
            found = kernels.multiply_backward(values.to(dtype), values.to(dtype), gains)
        assert_agree(values.to(dtype), values.to(dtype), gains, (product, *found))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sums_over_many_tokens_stay_close(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    values = (torch.randn(100_000, 8, generator=generator) + 0.5).to(dtype)
    with torch.no_grad():
        _, total = kernels.multiply_backward(values, values, torch.ones(8), False)
    assert total is not None
    assert relative_error(total.double(), values.double().square().sum(0)) < 1e-4


@on_triton
@every_dtype
@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("needs_values", [True, False])
def test_kernels_of_triton(name: str, dtype: torch.dtype, needs_values: bool) -> None:
    values, grad, gains = example(*SHAPES[name], dtype)
    on_device = [tensor.to(DEVICE) for tensor in (values, grad, gains)]
    before, lent = on_device[1].clone(), on_device[1].clone()
    product = triton_kernels.multiply(on_device[0], on_device[2])
    grad_values, total = triton_kernels.multiply_backward(on_device[1], on_device[0], on_device[2], needs_values)
    assert (grad_values is None) != needs_values
    assert_agree(values, grad, gains, (product, grad_values, total))
    assert torch.equal(on_device[1], before)
    overwritten, total = triton_kernels.multiply_backward(lent, *on_device[::2], needs_values, overwrite=True)
    assert overwritten is (lent if needs_values else None)
    assert_agree(values, grad, gains, (product, overwritten, total))
    assert torch.equal(triton_kernels.multiply(on_device[0], on_device[2], out=on_device[0]), product)


@on_triton
@every_dtype
def test_gains_from_a_bank(dtype: torch.dtype) -> None:
    values, grad, _ = example((4, 33, 70), (70,), dtype)
    bank, index = 1 + 0.3 * torch.randn(3, 70), torch.tensor([2, 0, 2, 2])
    product = triton_kernels.multiply(values.to(DEVICE), bank.to(DEVICE), index=index.to(DEVICE))
    grad_values, total = triton_kernels.multiply_backward(
        grad.to(DEVICE), values.to(DEVICE), bank.to(DEVICE), index=index.to(DEVICE)
    )
    of_rows = bank[index].unsqueeze(1)
    sums = (grad.double() * values.double()).sum(1)
    expected = torch.zeros(3, 70, dtype=torch.float64).index_add_(0, index, sums)
    assert grad_values is not None
    assert_rounded(product, values.float() * of_rows)
    assert_rounded(grad_values, grad.float() * of_rows)
    assert relative_error(total.cpu().double(), expected) < 2e-6
    assert not total[1].any()


def test_kernels_of_triton_in_its_interpreter() -> None:
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not installed: make kernels")
    if INTERPRETED:
        pytest.skip("this is its interpreter")
    # The interpreter has to be chosen before Triton is imported.
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "triton or bank", __file__],
        env={**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-3000:]

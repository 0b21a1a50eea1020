"""The kernels against the formula; Triton's run in its interpreter, in a process of their own, without a GPU."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from importlib.metadata import version

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode

from propulsion import kernels, triton_kernels
from propulsion.gain import NEARLY_ZERO, scale, scale_reference
from propulsion.triton_launch import Launcher
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
    "few tokens in rows": ((3, 7, 70), (3, 1, 70)),
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


def take_all_on_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    if INTERPRETED:  # whose tensors are on the CPU
        monkeypatch.setattr(triton_kernels, "suits", lambda values, z: triton_kernels._fit(values, z))


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
    kernels._constants.cache_clear()
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


def test_fake_tensors_of_a_gpu_are_not_given_to_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_kernels, "AVAILABLE", True)
    with FakeTensorMode(), torch.no_grad():  # autograd looks for the GPU itself
        values, z = torch.empty(2, 3, 4, device="cuda"), torch.ones(4, device="cuda")
        assert not triton_kernels.suits(values, z)
        for in_place in (True, False):
            assert scale(values, z, in_place, None, 15).shape == values.shape


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


@pytest.mark.skipif(INTERPRETED or not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("name", ["linear", "few tokens in rows", "many tokens"])
def test_on_a_gpu_kernels_do_the_same_when_launched_without_triton(
    name: str, offset: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def place(tensor: Tensor) -> Tensor:  # with an offset, where no pointer is a multiple of 16 bytes
        memory = torch.empty(tensor.numel() + offset, dtype=tensor.dtype, device=DEVICE)
        return memory[offset:].view(tensor.shape).copy_(tensor)

    for kernel in ("_multiply", "_backward", "_derivative"):
        monkeypatch.setattr(triton_kernels, kernel, Launcher(getattr(triton_kernels, kernel).kernel))
    values, grad, z = map(place, example(*SHAPES[name], torch.bfloat16))

    def step() -> tuple[Tensor, ...]:
        out = triton_kernels.multiply(values, z, place(values), 15, True)
        return out, *triton_kernels.multiply_backward(grad, values, z, True, False, 15, True)

    by_triton = step()
    assert len(triton_kernels._multiply._compiled) == (not offset)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    graph.replay()
    for found in (step(), captured):
        for own, other in zip(found, by_triton, strict=True):
            assert torch.equal(own, other)


@on_triton
@pytest.mark.parametrize("degree", [0, 1, 2, 15, 55])
@pytest.mark.parametrize("is_divisor", [True, False])
@pytest.mark.parametrize("name", ["linear", "few tokens in rows"])
def test_kernels_of_triton_compute_the_power(name: str, degree: int, is_divisor: bool) -> None:
    values, grad, z = example(*SHAPES[name], torch.float32)
    z = 1 + (z - 1) / 10
    z.view(-1)[0] = 0.0
    on_device = [tensor.to(DEVICE) for tensor in (values, grad, z)]
    product = triton_kernels.multiply(on_device[0], on_device[2], None, degree, is_divisor)
    saved = product if is_divisor else on_device[0]
    found = triton_kernels.multiply_backward(on_device[1], saved, on_device[2], True, False, degree, is_divisor)
    exact = [tensor.double().requires_grad_() for tensor in (values, z)]
    expected = exact[0] * exact[1] ** degree
    (expected * grad).sum().backward()
    close = 2e-6 + degree * torch.finfo(torch.float32).eps / 2  # by so much a rounded z changes z^k
    assert relative_error(product.cpu().double(), expected.detach()) < close
    for own, other in zip(found, exact, strict=True):
        assert own is not None
        if degree or other is exact[0]:
            assert relative_error(own.cpu().double(), other.grad) < close
        else:
            assert not own.any()


@on_triton
@every_dtype
@pytest.mark.parametrize("trains", [True, False])
@pytest.mark.parametrize("in_place", [True, False])
def test_a_step_on_triton_is_that_of_the_formula(
    in_place: bool, trains: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    values, grad, z = (tensor.to(DEVICE) for tensor in example(*SHAPES["linear"], dtype))
    z = (1 + (z - 1) / 10).requires_grad_(trains)
    take_all_on_triton(monkeypatch)
    assert triton_kernels.suits(values, z)
    leaf = values.clone().requires_grad_()
    owned = leaf * 1
    result = scale(owned, z, in_place, None, 15)
    assert (result.data_ptr() == owned.data_ptr()) == (in_place and dtype in NEARLY_ZERO)
    result.backward(grad)
    other, z_double = values.double().requires_grad_(), z.detach().double().requires_grad_()
    expected = scale_reference(other, z_double, 15)
    expected.backward(grad.double())
    close = 2e-6 if dtype == torch.float32 else torch.finfo(dtype).eps
    pairs = [(result.detach(), expected.detach()), (leaf.grad, other.grad)]
    for own, exact in [*pairs, (z.grad, z_double.grad)] if trains else pairs:
        assert relative_error(own.double(), exact) < close
    assert trains or z.grad is None


@on_triton
@pytest.mark.parametrize("in_place", [True, False])
def test_second_derivatives_on_triton_are_those_of_the_formula(in_place: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    values, grad, z = (tensor.to(DEVICE) for tensor in example(*SHAPES["rows"], torch.float32))
    z.view(-1)[0] = 0.0
    take_all_on_triton(monkeypatch)

    def second(product: Callable[..., Tensor], dtype: torch.dtype) -> tuple[Tensor, ...]:
        v, s, dy = (tensor.to(dtype, copy=True).requires_grad_() for tensor in (values, z, grad))
        (first,) = torch.autograd.grad(product(v * 1, s, degree=2), s, dy, create_graph=True)
        return torch.autograd.grad(first.sum(), (v, s, dy))

    expected = second(scale_reference, torch.float64)
    for own, exact in zip(second(partial(scale, in_place=in_place), torch.float32), expected, strict=True):
        assert relative_error(own.double(), exact) < 1e-5


@pytest.mark.parametrize("is_all", [True, False])
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
def test_triton_compiles_the_kernels_for_a_gpu_that_is_not_there(dtype: str, capability: int, is_all: bool) -> None:
    """Triton's interpreter takes what its compiler refuses: annotations, for one, which broke every step on a GPU."""
    if not triton_kernels.AVAILABLE or INTERPRETED:
        pytest.skip("Triton is not installed, or interprets: make kernels")
    from triton import compile
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    power = {"DEGREE": 15, "BITS": 4, "IS_DIVISOR": True, "TOKENS": 32, "BLOCK": 128}
    data = f"*{dtype}"
    sizes = dict.fromkeys(("all_tokens", "tokens", "share", "parts", "channels"), "i32")
    pointers = {"values": data, "out": data, "grad": data, "saved": data, "grad_values": data}
    types = sizes | pointers | dict.fromkeys(("z", "sums", "grad_z"), "*fp32")
    for launcher in (triton_kernels._multiply, triton_kernels._backward, triton_kernels._derivative):
        kernel = launcher.kernel
        constants = {name: value for name, value in power.items() if name in kernel.arg_names}
        constants |= {n: v for n, v in (("NEEDS_VALUES", True), ("IS_ALL", is_all)) if n in kernel.arg_names}
        signature = {name: types.get(name, "constexpr") for name in kernel.arg_names}
        built = compile(ASTSource(kernel, signature, constants), target=GPUTarget("cuda", capability, 32))
        assert ".visible .entry" in built.asm["ptx"]


def test_kernels_of_triton_in_its_interpreter() -> None:
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not installed: make kernels")
    if INTERPRETED:
        pytest.skip("this is its interpreter")
    if version("triton") < "3.7" and tuple(map(int, version("numpy").split(".")[:2])) >= (2, 4):
        pytest.skip("the interpreter of Triton before 3.7 does not run with NumPy 2.4")
    # The interpreter has to be chosen before Triton is imported.
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "triton", __file__],
        env={**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-3000:]

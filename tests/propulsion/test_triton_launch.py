"""When a kernel that has been compiled is launched itself, and when Triton is asked; most of it without a GPU."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from propulsion import triton_kernels
from propulsion.triton_launch import MOST_INT32, Launcher

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
CONSTANTS = (15, True)


class Place:
    """What a launcher reads of a tensor on a GPU."""

    def __init__(self, address: int = 256, dtype: torch.dtype = torch.bfloat16, device: int = 0) -> None:
        self.address, self.dtype, self.device = address, dtype, device

    def data_ptr(self) -> int:
        return self.address

    def get_device(self) -> int:
        return self.device


class Compiled:
    """What Triton returns: it takes as many arguments as its signature has."""

    def __init__(self, arguments: int, launches: list[Any]) -> None:
        self.src = SimpleNamespace(signature=dict.fromkeys(range(arguments)))
        self.launches = launches

    def __getitem__(self, grid: tuple[int, int, int]) -> Any:
        return lambda *arguments: self.launches.append((grid, arguments))


class Kernel:
    """A kernel of `triton.jit`'s with two tensors, a count, channels and two constants."""

    def __init__(self, arguments: int = 6) -> None:
        self.arguments, self.calls, self.launches, self.devices = arguments, [], [], []

    def __getitem__(self, grid: tuple[int, int, int]) -> Any:
        def call(*arguments: Any) -> Any:
            self.calls.append(arguments)
            self.devices.append(torch.cuda.current_device())
            return Compiled(self.arguments, self.launches) if self.arguments else None

        return call


@pytest.fixture(autouse=True)
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    current = [0]

    @contextmanager
    def device(index: int) -> Iterator[None]:
        before, current[0] = current[0], index
        yield
        current[0] = before

    monkeypatch.setattr(torch.cuda, "current_device", lambda: current[0])
    monkeypatch.setattr(torch.cuda, "device", device)


def call(launcher: Launcher, first: Place, count: int = 7, channels: int = 64, constants: Any = CONSTANTS) -> None:
    launcher((1, 2, 3), (first, Place(512, torch.float32, first.device)), (count,), channels, constants)


def test_the_second_call_of_a_kind_does_not_ask_triton() -> None:
    kernel = Kernel()
    launcher = Launcher(kernel)
    for count in (7, 8, 9):
        call(launcher, Place(16 * count), count)
    assert len(kernel.calls) == 1
    assert kernel.launches == [((1, 2, 3), (16 * count, 512, count, 64, *CONSTANTS)) for count in (8, 9)]


@pytest.mark.parametrize(
    "other",
    [
        {"first": Place(dtype=torch.float16)},
        {"first": Place(device=1)},
        {"first": Place(address=8)},
        {"first": Place(), "channels": 65},
        {"first": Place(), "constants": (14, True)},
        {"first": Place(), "constants": (15, False)},
        {"first": Place(), "count": MOST_INT32 + 1},
    ],
)
def test_another_kind_asks_triton(other: dict[str, Any]) -> None:
    kernel = Kernel()
    launcher = Launcher(kernel)
    call(launcher, Place())
    call(launcher, **other)
    assert len(kernel.calls) == 2
    assert not kernel.launches
    call(launcher, Place())
    assert len(kernel.launches) == 1


def test_triton_is_asked_about_a_tensor_on_another_device() -> None:
    """It says so; an address on the CPU, launched without a question, would break all that the GPU does afterwards."""
    kernel = Kernel()
    launcher = Launcher(kernel)
    for device in (0, -1):
        launcher((1, 2, 3), (Place(), Place(512, torch.float32, device)), (7,), 64, CONSTANTS)
    assert len(kernel.calls) == 2
    assert not kernel.launches


@pytest.mark.parametrize("unusual", [{"first": Place(address=8)}, {"first": Place(), "count": MOST_INT32 + 1}])
def test_what_was_compiled_for_unusual_arguments_is_not_kept(unusual: dict[str, Any]) -> None:
    kernel = Kernel()
    launcher = Launcher(kernel)
    for _ in range(2):
        call(launcher, **unusual)
    call(launcher, Place())
    assert len(kernel.calls) == 3
    assert not kernel.launches


def test_a_kernel_runs_on_the_device_of_its_tensors() -> None:
    kernel = Kernel()
    launcher = Launcher(kernel)
    for device in (1, 0, 1):
        call(launcher, Place(device=device))
    assert kernel.devices == [1, 0]
    assert torch.cuda.current_device() == 0


def test_a_triton_that_has_taken_the_constants_is_not_given_them_again() -> None:
    kernel = Kernel(arguments=4)
    launcher = Launcher(kernel)
    for _ in range(2):
        call(launcher, Place())
    assert kernel.launches == [((1, 2, 3), (256, 512, 7, 64))]


def test_an_interpreter_and_amd_are_asked_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    for hip, arguments in ((None, 0), ("6.4", 6)):
        monkeypatch.setattr(torch.version, "hip", hip)
        kernel = Kernel(arguments)
        launcher = Launcher(kernel)
        for _ in range(2):
            call(launcher, Place())
        assert len(kernel.calls) == 2


class Launch:
    """The launcher that Triton makes for what it has compiled, which here notes what it would launch."""

    seen: ClassVar[list[tuple[Any, ...]]] = []

    def __init__(self, source: Any, metadata: Any) -> None:
        self.name = metadata.name

    def __call__(self, *arguments: Any) -> None:
        places = [each.data_ptr() if isinstance(each, Tensor) else each for each in arguments]
        # In front of the kernel's own arguments there is what Triton knows of it, in objects that are not equal.
        self.seen.append((self.name, *[each for each in places if isinstance(each, int)]))


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Triton itself, for a GPU that is not there, and kernels of which it has compiled none."""
    if not triton_kernels.AVAILABLE or INTERPRETED:
        pytest.skip("Triton is not installed, or interprets: make kernels")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import CompiledKernel
    from triton.runtime import driver

    loaded = (0, 1, 32, 0, 1024)[: 5 if "n_max_threads" in inspect.getsource(CompiledKernel) else 4]
    utils = SimpleNamespace(
        get_device_properties=lambda device: {"max_shared_mem": 1 << 20}, load_binary=lambda *arguments: loaded
    )
    gpu = SimpleNamespace(
        get_current_device=lambda: 0,
        get_current_stream=lambda device: 7,
        get_current_target=lambda: GPUTarget("cuda", 90, 32),
        launcher_cls=Launch,
        utils=utils,
    )
    monkeypatch.setattr(Launch, "seen", [])
    for name in ("_multiply", "_backward", "_derivative"):
        monkeypatch.setattr(triton_kernels, name, Launcher(getattr(triton_kernels, name).kernel))
    before = dict(vars(driver))
    driver.set_active(gpu)
    yield
    vars(driver).update(before)  # `reset_active` looks for a GPU


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("channels", [130, 1])
def test_triton_launches_the_same_in_both_ways(channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    z = 1 + torch.rand(channels)
    values, grad = (torch.rand(37, channels).bfloat16() for _ in range(2))
    out, into_z, sums = torch.empty_like(values), torch.empty_like(z), torch.empty(1, 2, channels)
    power = (15, 4, True, 32, 128)

    def launch() -> list[tuple[Any, ...]]:
        Launch.seen.clear()
        triton_kernels._multiply((2, 1, 2), (values, z, out), (37,), channels, power)
        triton_kernels._backward((1, 2, 2), (grad, out, z, grad, sums), (37, 19), channels, (True, False, *power))
        triton_kernels._derivative((1, 2, 1), (sums, z, into_z), (2,), channels, power)
        return list(Launch.seen)

    by_triton = launch()
    assert [name for name, *_ in by_triton] == ["_multiply", "_backward", "_derivative"]
    for name in ("_multiply", "_backward", "_derivative"):
        launcher = getattr(triton_kernels, name)
        assert len(launcher._compiled) == 1
        monkeypatch.setattr(launcher, "kernel", None)
    assert launch() == by_triton

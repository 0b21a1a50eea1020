"""Laws of the device: one choice for every command, whatever the accelerator is called."""

from __future__ import annotations

import pytest
import torch

from propulsion_tools.errors import OptionError
from propulsion_tools.records import RunSpec
from propulsion_tools.training import device


@pytest.mark.parametrize("kind", ["cuda", "mps", "xpu"])
def test_the_accelerator_is_taken_unless_the_cpu_is_asked_for(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device(kind))
    assert device.device_of(RunSpec()) == torch.device(kind)
    assert device.device_of(RunSpec(use_cpu=True)) == torch.device("cpu")
    assert not device.uses_cpu(RunSpec())
    device.check_device(RunSpec(torch_dtype="float16"))


def test_without_an_accelerator_all_is_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    monkeypatch.setattr(device, "is_torch_xla_available", lambda: False)
    assert device.device_of(RunSpec()) == torch.device("cpu")
    assert device.uses_cpu(RunSpec())
    with pytest.raises(OptionError, match="float16"):
        device.check_device(RunSpec(torch_dtype="float16"))


def test_on_xla_the_trainer_alone_leaves_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    monkeypatch.setattr(device, "is_torch_xla_available", lambda: True)
    assert not device.uses_cpu(RunSpec())
    assert device.device_of(RunSpec()) == torch.device("cpu")

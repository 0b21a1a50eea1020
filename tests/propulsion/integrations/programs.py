"""The programs of the examples, run as their users run them, in a folder with the examples' model and data."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch import nn

from tests.propulsion.steered import layers

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to start the commands of the examples in."""
    where = tmp_path_factory.mktemp("program")
    (where / "examples").symlink_to(ROOT / "examples")
    tiny().write(where)
    return where


def tiny() -> object:
    """The examples' model and data."""
    sys.path.insert(0, str(ROOT / "examples"))
    try:
        return importlib.import_module("tiny")
    finally:
        sys.path.pop(0)


def run(folder: Path, *command: str) -> str:
    """What a program says, started by this Python in that folder without a network."""
    quiet = {"HF_HUB_OFFLINE": "1", "USE_HF": "1", "AXOLOTL_DO_NOT_TRACK": "1", "WANDB_MODE": "disabled"}
    environment = {**os.environ, **quiet, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    return done.stdout + done.stderr


def scores(model: nn.Module) -> torch.Tensor:
    """The logits for one question."""
    questions = tiny().tokenizer()(["what is 1 plus 2"], return_tensors="pt")
    with torch.no_grad():
        return model.eval()(input_ids=questions["input_ids"]).logits


def trained(adapter: Path) -> PeftModel:
    """The examples' model with a saved adapter, which has learned."""
    model = PeftModel.from_pretrained(tiny().language_model(), adapter)
    assert any((layer.propulsion_delta["default"].weight != 0).any() for layer in layers(model))
    return model

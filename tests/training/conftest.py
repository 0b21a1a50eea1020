"""Specs of tiny runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from propulsion_tools.records import RunSpec


@pytest.fixture
def make_spec(tiny_model: Path, data_dir: Path, tmp_path: Path) -> Callable[..., RunSpec]:
    """Specs of tiny runs on the CPU; 8 steps unless told otherwise."""

    def make(**changes: Any) -> RunSpec:
        values: dict[str, Any] = {
            "model_name_or_path": str(tiny_model),
            "data_dir": str(data_dir),
            "output_dir": str(tmp_path / "run"),
            "max_length": 16,
            "per_device_train_batch_size": 8,
            "num_train_epochs": 1,
            "learning_rate": 5e-3,
            "disable_tqdm": True,
            "use_cpu": True,
        }
        return RunSpec(**{**values, **changes})

    return make

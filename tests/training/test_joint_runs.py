"""Laws of runs that are trained together: each leaves what it leaves alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from propulsion_tools.records import RunRecord, RunSpec
from propulsion_tools.training.joint_runs import train_together
from propulsion_tools.training.run import train
from tests.training.test_run import adapter_of

MakeSpec = Callable[..., RunSpec]

VARIANTS: list[dict[str, Any]] = [
    {},
    {"degree": 3, "learning_rate": 1e-2, "seed": 7, "target_modules": "attn"},
    {"num_vectors": 2, "init_noise": 0.1, "pooling": "max", "max_steps": 5, "head_first": 0.5},
    {"train_bias": True, "init_weights": "normal", "lr_scheduler_type": "cosine", "optim": "sgd"},
]


def specs_in(make_spec: MakeSpec, folder: Path, variants: list[dict[str, Any]], **common: Any) -> list[RunSpec]:
    return [
        make_spec(output_dir=str(folder / str(number)), **{**common, **own}) for number, own in enumerate(variants)
    ]


def without_time(record: RunRecord) -> dict[str, Any]:
    """A record but for what a clock, the memory and the mark say."""
    left = {"seconds", "peak_memory_bytes", "memory_bytes", "joint"}
    return {key: value for key, value in asdict(record).items() if key not in left}


def test_try(make_spec: MakeSpec, tmp_path: Path) -> None:
    alone = [train(spec) for spec in specs_in(make_spec, tmp_path / "alone", VARIANTS)]
    ended = train_together(specs_in(make_spec, tmp_path / "together", VARIANTS), measure=False)
    for e in ended:
        if e.error: raise e.error
    print([e.record.joint for e in ended], ended[0].apart)
    for n, (one, e) in enumerate(zip(alone, ended)):
        a, b = adapter_of(tmp_path/"alone"/str(n)), adapter_of(tmp_path/"together"/str(n))
        print(n, max(float((a[k]-b[k]).abs().max()) for k in a), one.metrics, e.record.metrics)
        x, y = without_time(one), without_time(e.record)
        for k in x:
            if x[k] != y[k]: print(k, x[k], y[k])
    assert 0

"""Damaged and hostile files are refused by an error of ours, or read: a small part of what benchmarks/fuzz.py does."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import fuzz

TARGETS = fuzz.targets()


@pytest.mark.parametrize("name", TARGETS)
def test_the_whole_file_is_read(name: str, tmp_path: Path) -> None:
    target, folder = TARGETS[name], tmp_path / "checkpoint-1"
    folder.mkdir()
    for seed in target.seeds:
        (folder / target.file).write_bytes(seed)
        target.read(folder)


@pytest.mark.parametrize("name", TARGETS)
def test_a_damaged_file_is_refused_or_read(name: str, tmp_path: Path) -> None:
    target, folder = TARGETS[name], tmp_path / "checkpoint-1"
    folder.mkdir()

    @settings(max_examples=100 if target.share == 1 else 10, deadline=None, database=None, derandomize=True,
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(st.sampled_from(target.seeds), st.integers(0, 2**64))
    def check(seed: bytes, number: int) -> None:
        error = fuzz.attempt(target, target.damage(seed, random.Random(number)), folder)
        if error is not None:
            raise error

    check()


@pytest.mark.parametrize("name", TARGETS)
def test_the_fuzzer_notices(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(folder: Path) -> Any:
        raise KeyError("vectors")

    target = fuzz.Target(TARGETS[name].file, TARGETS[name].seeds, careless, TARGETS[name].damage)
    found, examples = fuzz.fuzz(name, target, 20, seed=0)
    assert found.total() == 20
    assert len({fuzz.place_of(error) for error in [fuzz.attempt(target, b"", tmp_path)] if error}) == 1
    assert len(examples) == 1
    (seed, *_), draw = target.seeds, random.Random(0)
    assert len({target.damage(seed, draw) for _ in range(20)}) > 10

"""`propulsion export` and `propulsion import` on a run of `propulsion train`, as a user types them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers

from propulsion_tools.cli import main
from propulsion_tools.records import RunRecord, RunSpec
from propulsion_tools.training.run import train
from tests.training.conftest import make_spec

__all__ = ["make_spec"]


def test_a_run_is_exported_and_served_by_a_pipeline(
    make_spec: Callable[..., RunSpec], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, output = tmp_path / "run", tmp_path / "merged"
    train(make_spec(max_steps=4))
    assert main(["predict", str(run), "--input", _texts(tmp_path), "--output", str(tmp_path / "rows.jsonl")]) == 0
    assert main(["export", str(run), "--output", str(output)]) == 0
    assert "differ from the adapter's by at most" in capsys.readouterr().out
    expected = [json.loads(line)["prediction"] for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    pipe = transformers.pipeline("text-classification", str(output), device="cpu")
    for rows, answer in zip(pipe(["good film", "bad film"], top_k=None), expected, strict=True):
        assert {row["label"]: row["score"] for row in rows} == pytest.approx(answer["scores"], abs=1e-5)
    assert set(pipe.model.config.label2id) == set(RunRecord.read(run).label_names or ())


def test_an_adapter_goes_to_peft_and_back(make_spec: Callable[..., RunSpec], tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(make_spec(max_steps=2, target_modules="attn"))
    assert main(["export", str(run), "--format", "peft-ia3"]) == 0
    assert main(["import", "--format", "peft-ia3", f"{run}-peft-ia3", "--degree", "15"]) == 0
    assert (tmp_path / "run-peft-ia3-propulsion" / "adapter_model.safetensors").is_file()
    assert torch.is_grad_enabled()


def test_a_run_whose_files_have_changed_is_not_exported(
    make_spec: Callable[..., RunSpec], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    train(make_spec(max_steps=1))
    weights = run / "adapter_model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert main(["export", str(run)]) == 2
    assert "adapter_model.safetensors has changed since it was written" in capsys.readouterr().err
    assert not list(tmp_path.glob("run-*"))


def test_an_error_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(tmp_path / "none")]) == 2
    assert "There is no folder" in capsys.readouterr().err
    assert main(["export", str(tmp_path), "--format", "peft-ia4"]) == 2
    assert "Did you mean 'peft-ia3'" in capsys.readouterr().err


def _texts(folder: Path) -> str:
    file = folder / "texts.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in ("good film", "bad film")))
    return str(file)

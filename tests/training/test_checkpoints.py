"""A run goes on from its last whole checkpoint, says what it passes over, and removes nothing that may be mended."""

from __future__ import annotations

import json
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftConfig, get_peft_model
from transformers import AutoTokenizer

from propulsion import PropulsionConfig
from propulsion.errors import AdapterFileError
from propulsion_tools.errors import OptionError
from propulsion_tools.records import RunSpec
from propulsion_tools.records.options import EvaluateOptions
from propulsion_tools.training.checkpoints import checkpoints, clear, last_checkpoint, prune_checkpoints
from propulsion_tools.training.evaluate import evaluate
from propulsion_tools.training.manifest import begin, changed, fault, is_unfinished, seal, write_manifest
from propulsion_tools.training.run import train
from propulsion_tools.training.trained_files import save_trained

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from chaos import DAMAGES, damage

MakeSpec = Callable[..., RunSpec]
SAVING: dict[str, Any] = {"max_steps": 2, "save_strategy": "steps", "save_steps": 1, "eval_strategy": "no"}


def make(folder: Path, step: int, limit: int | None = None, best: str | None = None) -> Path:
    """A whole checkpoint, made as a run makes it."""
    checkpoint = folder / f"checkpoint-{step}"
    begin(checkpoint)
    (checkpoint / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    (checkpoint / "optimizer.pt").write_bytes(bytes(range(256)))
    seal(checkpoint, {})
    prune_checkpoints(checkpoint, limit, best)
    return checkpoint


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("way", DAMAGES)
def test_every_damage_to_every_file_is_seen(way: str, tmp_path: Path) -> None:
    make(tmp_path, 1)
    for file in ("trainer_state.json", "optimizer.pt", "manifest.json", "spec.json"):
        checkpoint = make(tmp_path, 2)
        assert last_checkpoint(tmp_path) == checkpoint
        damage(checkpoint / file, way, random.Random(0))
        if (file, way) == ("manifest.json", "removed"):  # as checkpoints were that are older than manifests
            assert fault(checkpoint) is None
            continue
        assert file in str(fault(checkpoint)) or file == "manifest.json"
        assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-1"


@pytest.mark.parametrize(
    "values",
    [{"global_step": "3"}, {"epoch": "1.0"}, {"max_steps": [3]}, {"stateful_callbacks": []},
     {"stateful_callbacks": {"TrainerControl": [{}]}}],
)  # fmt: skip
def test_a_state_that_no_trainer_has_written_is_seen(values: dict[str, Any], tmp_path: Path) -> None:
    checkpoint = make(tmp_path, 1)
    (checkpoint / "trainer_state.json").write_text(json.dumps({"global_step": 1, **values}))
    seal(checkpoint, {})  # by whoever put it there
    assert fault(checkpoint) == "trainer_state.json is damaged"


def test_the_newest_are_kept_and_the_best(tmp_path: Path) -> None:
    for step in range(1, 7):
        make(tmp_path, step, limit=2, best=str(tmp_path / "checkpoint-2") if step > 2 else None)
    assert names(tmp_path) == ["checkpoint-2", "checkpoint-6"]
    make(tmp_path, 4, limit=1)  # of a run that goes on from an earlier step
    assert names(tmp_path) == ["checkpoint-4", "checkpoint-6"]
    assert [path.name for path in checkpoints(tmp_path)] == ["checkpoint-4", "checkpoint-6"]


def test_what_a_kill_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    begin(tmp_path / "checkpoint-1")
    (tmp_path / "checkpoint-1" / "optimizer.pt").touch()
    (tmp_path / "checkpoint-2").mkdir()
    assert is_unfinished(tmp_path / "checkpoint-1")
    (tmp_path / ".record.json.123.tmp").touch()
    (tmp_path / ".files.123.tmp").mkdir()
    (tmp_path / "checkpoint-3").mkdir()
    (tmp_path / "checkpoint-3" / "trainer_state.json").write_text("{}")  # of another program
    clear(tmp_path, keep_checkpoints=True)
    assert names(tmp_path) == ["checkpoint-3"]


@pytest.mark.parametrize("has_record", [True, False])  # or a kill has come before it, or while it was cleared
def test_all_that_an_earlier_run_has_written_is_removed_and_nothing_else(tmp_path: Path, has_record: bool) -> None:
    folder = tmp_path / "run"
    ours = ("adapter_config.json", "spm.model", "templates/additional/tool_use.jinja")
    for name in ("record.json", *ours, "notes.txt", "../beside.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    write_manifest(folder, [folder / name for name in ours])
    hostile = json.loads((folder / "manifest.json").read_text())
    hostile["files"] |= {"../beside.txt": {}, str(tmp_path / "beside.txt"): {}, "..": {}}
    (folder / "manifest.json").write_text(json.dumps(hostile))
    if not has_record:
        (folder / "record.json").unlink()
    clear(folder, keep_checkpoints=False)
    assert names(folder) == ["notes.txt"]
    assert names(tmp_path) == ["beside.txt", "run"]


def test_a_manifest_of_others_removes_nothing(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("what no run of ours has written")
    checkpoint = tmp_path / "checkpoint-1"
    checkpoint.mkdir()
    (checkpoint / "trainer_state.json").write_text("{}")
    write_manifest(tmp_path, [checkpoint / "trainer_state.json"])
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    manifest["files"] |= {"mine.txt": {"bytes": 31, "sha256": "0" * 64}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    clear(tmp_path, keep_checkpoints=True)
    assert names(tmp_path) == ["checkpoint-1", "manifest.json", "mine.txt"]
    assert names(checkpoint) == ["trainer_state.json"]


def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(make_spec: MakeSpec, tmp_path: Path) -> None:
    train(make_spec(**SAVING))
    folder, told = tmp_path / "run", list[str]()
    whole = (folder / "adapter_model.safetensors").read_bytes()
    damage(folder / "checkpoint-2" / "optimizer.pt", "one bit", random.Random(0))
    train(make_spec(**SAVING, resume_from_checkpoint=True), told.append)
    said = "checkpoint-2 cannot be gone on from (optimizer.pt has changed since it was written)"
    assert f"{folder}/{said}: the run goes on from checkpoint-1." in told
    assert (folder / "adapter_model.safetensors").read_bytes() == whole
    for checkpoint in checkpoints(folder):
        damage(checkpoint / "scheduler.pt", "emptied", random.Random(0))
    (folder / "record.json").unlink()
    with pytest.raises(OptionError, match=r"checkpoint-1 is damaged \(scheduler\.pt has changed"):
        train(make_spec(**SAVING, resume_from_checkpoint=True))
    with pytest.raises(OptionError, match=r"checkpoint-2 is no complete checkpoint \(scheduler\.pt has changed"):
        train(make_spec(**SAVING, resume_from_checkpoint=str(folder / "checkpoint-2")))
    shutil.rmtree(folder / "checkpoint-2")
    begin(folder / "checkpoint-1")  # half-written
    train(make_spec(**SAVING, resume_from_checkpoint=True), told.append)
    said = "checkpoint-1 cannot be gone on from (it was not written to its end)"
    assert f"{folder}/{said}: the run begins anew." in told
    assert (folder / "adapter_model.safetensors").read_bytes() == whole
    damage(folder / "adapter_model.safetensors", "one bit", random.Random(1))
    with pytest.raises(AdapterFileError, match=r"adapter_model\.safetensors has changed since it was written"):
        evaluate(folder, EvaluateOptions(disable_tqdm=True, use_cpu=True))


def test_the_best_checkpoint_is_found_where_the_run_is_now(
    make_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    finding = {**SAVING, "max_steps": 3, "eval_strategy": "steps", "eval_steps": 1, "load_best_model_at_end": True}
    finding |= {"save_total_limit": 1, "learning_rate": 1.0, "on_collapse": "ignore"}
    train(make_spec(**finding, output_dir="run"))
    whole = (tmp_path / "run/adapter_model.safetensors").read_bytes()
    kept = [path.name for path in checkpoints(tmp_path / "run")]
    assert len(kept) == 2  # the best is not the last
    moved = (tmp_path / "run").rename(tmp_path / "moved")
    (moved / "record.json").unlink()
    train(make_spec(**finding, output_dir=str(moved), resume_from_checkpoint=True))
    assert (moved / "adapter_model.safetensors").read_bytes() == whole
    assert [path.name for path in checkpoints(moved)] == kept


@pytest.mark.parametrize("name", ["checkpoint-2", "kept"])
def test_a_checkpoint_of_another_folder_is_taken_up_and_its_neighbours_stay(
    name: str, make_spec: MakeSpec, tmp_path: Path
) -> None:
    train(make_spec(**SAVING))
    folder = tmp_path / "run"
    (folder / "checkpoint-2").rename(folder / name)
    before = names(folder)
    other = {"output_dir": str(tmp_path / "other"), "save_total_limit": 1}
    train(make_spec(**SAVING, **other, resume_from_checkpoint=str(folder / name)))
    assert names(folder) == before
    with pytest.raises(OptionError, match="other holds a finished run"):
        train(make_spec(**SAVING, **other, resume_from_checkpoint=str(folder / name)))
    train(make_spec(**SAVING, save_total_limit=1, overwrite_output_dir=True, resume_from_checkpoint=str(folder / name)))


def test_a_tokenizer_may_have_folders(make_spec: MakeSpec, tiny_model: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template = {"default": "{{ messages }}", "tool_use": "{{ tools }}"}
    base = shutil.copytree(tiny_model, tmp_path / "base")
    tokenizer.save_pretrained(base)
    train(make_spec(max_steps=1, model_name_or_path=str(base)))
    template = next((tmp_path / "run").rglob("tool_use.jinja"))
    assert changed(tmp_path / "run") is None
    damage(template, "one bit", random.Random(0))
    assert "tool_use.jinja has changed" in str(changed(tmp_path / "run"))


@pytest.mark.parametrize("file", ["adapter_config.json", "tokenizer.json", "tokenizer_config.json"])
def test_a_damaged_file_beside_the_weights_is_named(file: str, make_spec: MakeSpec, tmp_path: Path) -> None:
    train(make_spec(max_steps=1, method="lora"))
    for way in ("emptied", "truncated", "swapped"):
        whole = (tmp_path / "run" / file).read_bytes()
        damage(tmp_path / "run" / file, way, random.Random(0))
        with pytest.raises(AdapterFileError, match=f"{file} has changed since it was written"):
            evaluate(tmp_path / "run", EvaluateOptions(disable_tqdm=True, use_cpu=True))
        manifest = (tmp_path / "run" / "manifest.json").rename(tmp_path / "manifest.json")
        with pytest.raises((AdapterFileError, OptionError), match="run"):  # without one, as far as it can be told
            evaluate(tmp_path / "run", EvaluateOptions(disable_tqdm=True, use_cpu=True))
        (tmp_path / "run" / file).write_bytes(whole)
        manifest.rename(tmp_path / "run" / "manifest.json")


@pytest.mark.parametrize("kind", [LoraConfig, PropulsionConfig])
def test_names_in_a_configuration_have_one_order_in_all_processes(kind: type[PeftConfig], tmp_path: Path) -> None:
    layers = torch.nn.ModuleDict({name: torch.nn.Linear(2, 2) for name in "abcdefgh"})
    save_trained(get_peft_model(layers, kind(target_modules=[*"hgfedcba"])), tmp_path)  # type: ignore[arg-type,call-arg]
    values = json.loads((tmp_path / "adapter_config.json").read_text())
    assert values["target_modules"] == [*"abcdefgh"]

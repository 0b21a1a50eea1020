"""Laws of a run: it is scored as it is recorded, goes on where it was killed, and stops before it keeps nonsense."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Trainer, TrainerCallback

from propulsion.errors import AdapterFileError
from propulsion_tools.errors import NotFiniteError, OptionError, UnknownNameError
from propulsion_tools.methods import get_method, method_names
from propulsion_tools.records import RunRecord, RunSpec
from propulsion_tools.records.options import EvaluateOptions, PredictOptions
from propulsion_tools.training import trainer
from propulsion_tools.training.build import build
from propulsion_tools.training.checkpoints import checkpoints
from propulsion_tools.training.data import load_data
from propulsion_tools.training.evaluate import evaluate
from propulsion_tools.training.predict import predict
from propulsion_tools.training.resolve import resolve
from propulsion_tools.training.run import train
from propulsion_tools.training.trainer import make_trainer

MakeSpec = Callable[..., RunSpec]
# Built by the same calls as others.
THIN = {"lora-r1", "lora-r2", *(f"propulsion-{name}" for name in ("embedding", "key", "mlp", "query", "value"))}
QUIET = {"disable_tqdm": True, "use_cpu": True}


def adapter_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


def assert_equal_adapters(one: Path, other: Path) -> None:
    first, second = adapter_of(one), adapter_of(other)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


class KilledAt(TrainerCallback):
    """Raises after a step, as a kill would, with whatever was written by then."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            raise KeyboardInterrupt


def kill_at(monkeypatch: pytest.MonkeyPatch, step: int, after: int = 0) -> None:
    """The next trainers but so many die at this step; undone by `monkeypatch.undo`."""
    original, number = trainer.RunTrainer, itertools.count()

    def made(**kwargs: Any) -> Any:
        if next(number) >= after:
            kwargs["callbacks"] = [*kwargs["callbacks"], KilledAt(step)]
        return original(**kwargs)

    monkeypatch.setattr(trainer, "RunTrainer", made)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"learning_rate": 0.01, "seed": 3}, "learning_rate 0.005 and not 0.01, seed 42 and not 3"),
        ({"degree": 3}, "degree 15 and not 3"),
        ({"method": "lora"}, "method 'propulsion' and not 'lora'"),
    ],
)
def test_a_run_goes_on_as_it_began(changes: dict[str, Any], says: str, make_spec: MakeSpec) -> None:
    train(make_spec(max_steps=2, save_strategy="steps", save_steps=2))
    with pytest.raises(OptionError, match=says):
        train(make_spec(resume_from_checkpoint=True, **changes))
    data_dir = f"{make_spec().data_dir}/../{Path(str(make_spec().data_dir)).name}"  # the same folder
    train(make_spec(resume_from_checkpoint=True, max_steps=4, save_strategy="steps", save_steps=2, data_dir=data_dir))
    assert checkpoints(Path(str(make_spec().output_dir)))[-1].name == "checkpoint-4"


@pytest.mark.parametrize("shorter", [{"max_steps": 2}, {"num_train_epochs": 0.25}])
def test_a_run_does_not_go_on_beyond_its_end(shorter: dict[str, Any], make_spec: MakeSpec) -> None:
    saving: dict[str, Any] = {"save_strategy": "steps", "save_steps": 2, "eval_strategy": "no"}
    longer = train(make_spec(max_steps=4, **saving))
    with pytest.raises(OptionError, match="checkpoint-4 is of step 4"):
        train(make_spec(resume_from_checkpoint=True, **saving, **shorter))
    assert RunRecord.read(Path(str(make_spec().output_dir))) == longer


def test_a_readme_that_is_not_ours_is_not_replaced(make_spec: MakeSpec, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "README.md").write_text("mine")
    with pytest.raises(OptionError, match=r"README\.md"):
        train(make_spec(max_steps=1))
    assert (tmp_path / "run" / "README.md").read_text() == "mine"


def test_answers_that_are_all_alike_are_remarked(make_spec: MakeSpec) -> None:
    told: list[str] = []
    record = train(
        make_spec(method="head", max_steps=1, learning_rate=1e-9, head_learning_rate=1e6, head_start="random"),
        told.append,
    )
    assert len(set(np.load(Path(str(record.spec.output_dir)) / "eval_predictions.npz")["validation_answers"])) == 1
    assert "All 32 rows of validation got the same answer" in told[-1]
    assert record.notes[-1] == told[-1]
    learned = train(make_spec(overwrite_output_dir=True, num_train_epochs=3))
    assert not any("same answer" in note for note in learned.notes)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"optim": "adamw_torhc"}, "adamw_torch"),
        ({"lr_scheduler_type": "lin"}, "linear"),
        ({"lr_scheduler_type": "cosine_with_min_lr"}, "lr_scheduler_kwargs {}: .*min_lr"),
        ({"lr_scheduler_kwargs": {"min_rate": 0.1}}, "schedule linear .*min_rate"),
        ({"lr_scheduler_type": "polynomial", "lr_scheduler_kwargs": {"lr_end": 0.5}, "learning_rate": 0.1}, "lr_end"),
        ({"torch_dtype": "float16"}, "bfloat16"),
        ({"method": "head", "target_modules": "mlp"}, "no use for target_modules"),
    ],
)
def test_what_cannot_train_is_refused_before_the_data_is_read(changes: dict[str, Any], says: str) -> None:
    with pytest.raises((OptionError, UnknownNameError), match=says):
        train(RunSpec(data_dir="nowhere", use_cpu=True, **changes))


@pytest.mark.parametrize("method", [name for name in method_names() if name not in THIN])
def test_every_method_is_evaluated_as_it_was_recorded(method: str, make_spec: MakeSpec, tmp_path: Path) -> None:
    if reason := get_method(method).refusal():
        pytest.skip(reason)
    spec = make_spec(method=method)
    record = train(spec)
    folder = Path(str(spec.output_dir))
    assert RunRecord.read(folder) == record
    again = evaluate(folder, EvaluateOptions(**QUIET))["validation"]
    assert again == pytest.approx(record.metrics["validation"], rel=1e-5)
    counts = record.parameters
    assert counts["trainable"] == counts["adapter"] + counts["head"] <= counts["total"]
    assert counts["head"] == 2 * 64 + 2
    assert (counts["adapter"] == 0) == (method == "head")
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text('{"text": "a good film"}\n{"text": "a film that was really bad"}\n')
    assert predict(folder, PredictOptions(input=str(source), output=str(target), **QUIET)) == 2


def test_propulsion_learns_and_writes_everything(make_spec: MakeSpec) -> None:
    spec = make_spec(num_train_epochs=8, learning_rate=1e-2, degree=5)
    record = train(spec)
    assert record.metrics["validation"]["accuracy"] >= 0.8
    assert record.history["loss"][-1][1] < record.history["loss"][0][1]
    folder = Path(str(spec.output_dir))
    files = {path.name for path in folder.iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "README.md", "record.json", "loss_curve.png"} <= files
    card = (folder / "README.md").read_text()
    assert "propulsion" in card
    assert f"{record.metrics['validation']['accuracy']:.4f}" in card
    assert record.adapter_bytes == (folder / "adapter_model.safetensors").stat().st_size
    assert record.seconds["per_step_median"] > 0
    assert record.peak_memory_bytes > 2**20


def test_what_was_answered_is_kept_row_by_row(make_spec: MakeSpec, tmp_path: Path) -> None:
    record = train(make_spec(max_steps=2))
    rows = np.load(tmp_path / "run/eval_predictions.npz")
    assert rows["validation_labels"].tolist() == [number % 2 for number in range(32)]
    accuracy = (rows["validation_answers"] == rows["validation_labels"]).mean()
    assert accuracy == pytest.approx(record.metrics["validation"]["accuracy"])


def test_settings_are_chosen_without_the_validation_split(make_spec: MakeSpec, data_dir: Path, tmp_path: Path) -> None:
    shutil.copy(data_dir / "train.jsonl", tmp_path / "train.jsonl")
    (tmp_path / "validation.jsonl").write_text('{"text": "a", "label": "negative"}\n')
    record = train(make_spec(data_dir=str(tmp_path), selection_fraction=0.25, max_steps=2))
    assert len(load_data(replace(record.spec, max_eval_samples=5)).splits["selection"]) == 5
    assert set(record.metrics) == {"selection"}
    rows = np.load(tmp_path / "run/eval_predictions.npz")
    assert 8 <= len(rows["selection_labels"]) <= 24
    assert set(evaluate(tmp_path / "run", EvaluateOptions(**QUIET))) == {"selection"}
    (tmp_path / "other").mkdir()
    shutil.copy(data_dir / "train.jsonl", tmp_path / "other/test.jsonl")
    assert set(evaluate(tmp_path / "run", EvaluateOptions(data_dir=str(tmp_path / "other"), **QUIET))) == {"test"}


def test_seed_decides_everything(make_spec: MakeSpec, tmp_path: Path) -> None:
    for name, seed in (("one", 1), ("same", 1), ("other", 2)):
        train(make_spec(seed=seed, output_dir=str(tmp_path / name), max_steps=3))
    assert_equal_adapters(tmp_path / "one", tmp_path / "same")
    with pytest.raises(AssertionError):
        assert_equal_adapters(tmp_path / "one", tmp_path / "other")


@pytest.mark.parametrize(
    ("at", "changes"),
    [
        (5, {"save_strategy": "steps", "save_steps": 2, "num_train_epochs": 2}),
        (11, {"save_strategy": "epoch", "num_train_epochs": 2}),
        (5, {"save_strategy": "steps", "save_steps": 1, "gradient_accumulation_steps": 2, "num_train_epochs": 2}),
        (5, {"method": "head", "save_strategy": "steps", "save_steps": 3, "learning_rate": 1e-2}),
    ],
    ids=["inside an epoch", "between epochs", "accumulating", "head alone"],
)
def test_killed_and_resumed_is_as_never_killed(
    at: int, changes: dict[str, Any], make_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"logging_steps": 1, **changes}
    whole = train(make_spec(output_dir=str(tmp_path / "whole"), **changes))
    killed = make_spec(output_dir=str(tmp_path / "killed"), **changes)
    kill_at(monkeypatch, at)
    with pytest.raises(KeyboardInterrupt):
        train(killed)
    monkeypatch.undo()
    assert not (tmp_path / "killed/record.json").exists()
    with pytest.raises(OptionError, match="resume_from_checkpoint"):
        train(killed)
    resumed = train(make_spec(output_dir=str(tmp_path / "killed"), resume_from_checkpoint=True, **changes))
    assert resumed.metrics == whole.metrics
    assert resumed.history["loss"] == whole.history["loss"]
    if changes.get("method") != "head":
        assert_equal_adapters(tmp_path / "whole", tmp_path / "killed")


@pytest.mark.parametrize(
    "changes",
    [
        {"max_steps": 3, "save_strategy": "steps", "save_steps": 1, "eval_strategy": "no"},  # ends within an epoch
        {"num_train_epochs": 9, "early_stopping_patience": 1, "head_learning_rate": 1e-9, "learning_rate": 1e-9},
    ],
    ids=["by its length", "by its patience"],
)
def test_a_run_that_was_killed_behind_its_last_step_does_no_other(
    changes: dict[str, Any], make_spec: MakeSpec, tmp_path: Path
) -> None:
    whole = train(make_spec(**changes, resume_from_checkpoint=True))
    folder = tmp_path / "run"
    last = max(int(path.name.split("-")[1]) for path in folder.glob("checkpoint-*"))
    before, answers = adapter_of(folder), dict(np.load(folder / "eval_predictions.npz"))
    for name in ("record.json", "adapter_model.safetensors", "eval_predictions.npz"):  # as while it was scored
        (folder / name).unlink()
    again = train(make_spec(**changes, resume_from_checkpoint=True))
    assert max(int(path.name.split("-")[1]) for path in folder.glob("checkpoint-*")) == last
    assert all(torch.equal(value, before[name]) for name, value in adapter_of(folder).items())
    assert (again.metrics, again.history, again.notes) == (whole.metrics, whole.history, whole.notes)
    kept = np.load(folder / "eval_predictions.npz")
    assert {name: kept[name].tolist() for name in kept} == {name: rows.tolist() for name, rows in answers.items()}
    assert len(again.seconds) == len(whole.seconds)


def test_half_a_checkpoint_is_passed_over(make_spec: MakeSpec, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    train(make_spec(save_strategy="steps", save_steps=4, save_total_limit=None))
    (folder / "checkpoint-8/trainer_state.json").write_text('{"global_st')
    assert [path.name for path in checkpoints(folder)] == ["checkpoint-4"]


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(
    make_spec: MakeSpec, tmp_path: Path
) -> None:
    spec = make_spec(save_strategy="steps", save_steps=1, learning_rate=300.0, degree=55, max_grad_norm=0.0)
    with pytest.raises(NotFiniteError) as caught:
        train(spec)
    said = str(caught.value)
    assert "The gain of bert." in said
    kept = checkpoints(tmp_path / "run")
    for checkpoint in kept:
        assert all(torch.isfinite(value).all() for value in adapter_of(checkpoint).values())
    assert (str(kept[-1]) if kept else "No checkpoint") in said
    assert not (tmp_path / "run/record.json").exists()


def test_a_nan_loss_leaves_a_good_checkpoint_behind(
    make_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Trainer.training_step

    def poisoned(self: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss = original(self, *args, **kwargs)
        return loss * float("nan") if self.state.global_step == 5 else loss

    monkeypatch.setattr(Trainer, "training_step", poisoned)
    with pytest.raises(NotFiniteError, match="checkpoint-4"):
        train(make_spec(save_strategy="steps", save_steps=2, on_collapse="stop"))
    monkeypatch.undo()
    train(make_spec(save_strategy="steps", save_steps=2, on_collapse="stop", resume_from_checkpoint=True))
    assert RunRecord.read(tmp_path / "run").metrics["validation"]


def test_accumulated_batches_are_one_batch(make_spec: MakeSpec, tmp_path: Path) -> None:
    # The data has dropout only in BERT; with it off, two halves of a batch must give the gradient of the whole.
    norms = {}
    for name, changes in (("one", {"per_device_train_batch_size": 16}), ("two", {"gradient_accumulation_steps": 2})):
        spec = resolve(make_spec(output_dir=str(tmp_path / name), max_steps=1, **changes))
        made = build(spec, load_data(spec))
        for module in made.model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        run = make_trainer(made, logging_steps=1, save_strategy="no", eval_strategy="no")
        run.train()
        norms[name] = next(entry["grad_norm"] for entry in run.state.log_history if "grad_norm" in entry)
    assert norms["one"] == pytest.approx(norms["two"], rel=1e-4)


def test_early_stopping_ends_with_the_best_weights(make_spec: MakeSpec) -> None:
    spec = make_spec(
        num_train_epochs=30,
        learning_rate=1e-2,
        degree=5,
        early_stopping_patience=2,
        load_best_model_at_end=True,
    )
    record = train(spec)
    curve = [value for _, value in record.history["accuracy"]]
    assert len(curve) < 30
    assert record.metrics["validation"]["accuracy"] == max(curve)


def test_a_finished_run_is_not_overwritten_unasked(make_spec: MakeSpec, tmp_path: Path) -> None:
    train(make_spec(max_steps=2))
    before = (tmp_path / "run/record.json").read_text()
    with pytest.raises(OptionError, match="overwrite_output_dir"):
        train(make_spec(max_steps=2))
    assert (tmp_path / "run/record.json").read_text() == before
    (tmp_path / "run/notes.txt").write_text("mine")
    assert train(make_spec(max_steps=3, overwrite_output_dir=True)).spec.max_steps == 3
    assert (tmp_path / "run/notes.txt").read_text() == "mine"


def test_the_base_model_is_never_the_output_folder(make_spec: MakeSpec, tiny_model: Path) -> None:
    with pytest.raises(OptionError, match="base model"):
        train(make_spec(output_dir=str(tiny_model), overwrite_output_dir=True))


def test_nothing_is_written_when_the_target_matches_nothing(make_spec: MakeSpec, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="quary"):
        train(make_spec(target_modules=("quary",)))
    assert not (tmp_path / "run").exists()


def test_damaged_weights_are_refused(make_spec: MakeSpec, tmp_path: Path) -> None:
    train(make_spec(max_steps=1))
    (tmp_path / "run/adapter_model.safetensors").write_bytes(b"not weights")
    with pytest.raises(AdapterFileError, match="adapter_model"):
        evaluate(tmp_path / "run", EvaluateOptions(**QUIET))


@pytest.mark.parametrize("method", ["head", "bitfit", "adapter"])
def test_incomplete_weights_are_refused(method: str, make_spec: MakeSpec, tmp_path: Path) -> None:
    train(make_spec(method=method, max_steps=1))
    file = tmp_path / "run/trained.safetensors"
    tensors = load_file(file)
    save_file({name: tensor for name, tensor in tensors.items() if not name.startswith("classifier")}, file)
    with pytest.raises(AdapterFileError, match=r"trained\.safetensors has changed since it was written"):
        evaluate(tmp_path / "run", EvaluateOptions(**QUIET))
    (tmp_path / "run/manifest.json").unlink()
    with pytest.raises(AdapterFileError, match=r"lacks classifier\.bias"):
        evaluate(tmp_path / "run", EvaluateOptions(**QUIET))


def test_predict_writes_one_line_for_each_row(make_spec: MakeSpec, tmp_path: Path) -> None:
    train(make_spec(max_steps=2))
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps({"text": "a good film", "id": number}) + "\n" for number in range(7)))
    options = PredictOptions(input=str(source), output=str(target), per_device_eval_batch_size=3, **QUIET)
    assert predict(tmp_path / "run", options) == 7
    rows = [json.loads(line) for line in target.read_text().splitlines()]
    assert [row["id"] for row in rows] == list(range(7))
    assert {row["prediction"]["label"] for row in rows} <= {"positive", "negative"}


@pytest.mark.parametrize("asked", [{"torch_dtype": "bfloat16"}, {"bf16": True, "use_cpu": False}])
def test_bf16_trains_in_float32(make_spec: MakeSpec, tmp_path: Path, asked: dict[str, Any]) -> None:
    record = train(make_spec(**asked, max_steps=4))
    assert {value.dtype for value in adapter_of(tmp_path / "run").values()} == {torch.float32}
    again = evaluate(tmp_path / "run", EvaluateOptions(**QUIET))
    assert again["validation"] == pytest.approx(record.metrics["validation"], rel=1e-4)


def test_the_head_has_its_own_learning_rate_and_the_vectors_decay(make_spec: MakeSpec) -> None:
    spec = resolve(make_spec(head_learning_rate=1e-4, weight_decay=0.1))
    made = make_trainer(build(spec, load_data(spec)))
    names = {parameter: name for name, parameter in made.model.named_parameters()}
    for group in made.parameter_groups(made.model):
        for name in (names[parameter] for parameter in group["params"]):
            assert group["lr"] == (1e-4 if "classifier" in name else 5e-3)
            assert group["weight_decay"] == (0.1 if "propulsion_" in name or name.endswith("weight") else 0.0)

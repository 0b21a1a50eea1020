"""Laws of the head's phase: what is fresh trains alone, the rest joins with its own schedule, and nothing is lost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from propulsion_tools.methods import get_method, method_names
from propulsion_tools.records import RunSpec
from propulsion_tools.training import trainer as trainer_module
from propulsion_tools.training.build import build
from propulsion_tools.training.data import load_data
from propulsion_tools.training.fresh_head import start_fresh_head
from propulsion_tools.training.head_first import WAITS
from propulsion_tools.training.resolve import resolve
from propulsion_tools.training.run import train
from propulsion_tools.training.trainer import RunTrainer, make_trainer
from tests.training.test_run import THIN, kill_at

MakeSpec = Callable[..., RunSpec]


def trainer_of(spec: RunSpec) -> RunTrainer:
    spec = resolve(spec)
    return make_trainer(build(spec, load_data(spec)))


def trained(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


class Watch(TrainerCallback):
    """What trains, and how fast, at each step."""

    def __init__(self) -> None:
        self.trains: list[set[str]] = []
        self.rates: list[list[float]] = []
        self.weights: list[dict[str, torch.Tensor]] = []

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trains.append({name for name, p in kwargs["model"].named_parameters() if p.requires_grad})
        self.rates.append([group["lr"] for group in kwargs["optimizer"].param_groups if group[WAITS]])
        self.weights.append({name: p.detach().clone() for name, p in kwargs["model"].named_parameters()})


def watched(spec: RunSpec) -> Watch:
    trainer = trainer_of(spec)
    watch = Watch()
    trainer.add_callback(watch)
    trainer.train()
    return watch


@pytest.mark.parametrize("method", ["propulsion", "lora", "bitfit", "full", "adapter"])
def test_only_what_is_fresh_trains_until_the_rest_joins(method: str, make_spec: MakeSpec) -> None:
    watch = watched(make_spec(method=method, max_steps=8, head_first=0.4, warmup_steps=0.0))
    head, everything = watch.trains[0], watch.trains[-1]
    assert watch.trains == [head] * 3 + [everything] * 5  # 0.4 of 8 steps, rounded down
    assert all("classifier" in name for name in head)
    assert head < everything
    for name in everything - head:
        assert torch.equal(watch.weights[0][name], watch.weights[3][name]), name
    moved = [name for name in everything - head if not torch.equal(watch.weights[3][name], watch.weights[-1][name])]
    assert moved


def test_what_joins_goes_through_the_whole_schedule(make_spec: MakeSpec) -> None:
    late = watched(make_spec(max_steps=10, head_first=0.2, warmup_steps=0.25)).rates[2:]
    alone = watched(make_spec(max_steps=8, head_first=0.0, warmup_steps=0.25))
    assert late == alone.rates
    whole = [0.0, 0.5, 1.0, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]
    assert [rate for (rate,) in late] == pytest.approx([5e-3 * share for share in whole])


@pytest.mark.parametrize("schedule", ["cosine", "constant_with_warmup", "inverse_sqrt", "polynomial"])
def test_every_schedule_of_steps_is_begun_later(schedule: str, make_spec: MakeSpec) -> None:
    watch = watched(make_spec(max_steps=10, head_first=0.2, warmup_steps=0.25, lr_scheduler_type=schedule))
    late = [rate for (rate,) in watch.rates]
    assert late[:3] == [0.0, 0.0, 0.0]
    assert late[3] == pytest.approx(2.5e-3)
    assert late[4] == pytest.approx(5e-3)


def test_a_lowest_rate_is_the_same_for_what_waits(make_spec: MakeSpec) -> None:
    schedule = {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr": 4e-3}}
    late = watched(make_spec(max_steps=8, head_first=0.5, **schedule)).rates[4:]
    assert late == watched(make_spec(max_steps=4, head_first=0.0, **schedule)).rates
    assert min(rate for (rate,) in late[1:]) >= 4e-3


def test_nothing_waits_where_nothing_or_everything_is_fresh(make_spec: MakeSpec, tmp_path: Path) -> None:
    assert trainer_of(make_spec(method="head", head_first=0.5)).head_first.waiting == []
    spec = make_spec(max_steps=1, method="full")
    train(spec)  # a checkpoint with a head
    again = trainer_of(make_spec(model_name_or_path=str(spec.output_dir), output_dir=str(tmp_path / "again")))
    assert again.head_first.waiting == []


@pytest.mark.parametrize("method", [name for name in method_names() if name not in THIN])
def test_every_method_waits_and_is_resumed_as_never_killed(
    method: str, make_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if reason := get_method(method).refusal():
        pytest.skip(reason)
    changes = {"method": method, "head_first": 0.5, "max_steps": 6, "save_strategy": "steps", "save_steps": 2}
    train(make_spec(output_dir=str(tmp_path / "whole"), **changes))
    killed = make_spec(output_dir=str(tmp_path / "killed"), **changes)
    kill_at(monkeypatch, 3)  # the checkpoint is of the second step, when the rest still waits
    with pytest.raises(KeyboardInterrupt):
        train(killed)
    monkeypatch.undo()
    train(make_spec(output_dir=str(tmp_path / "killed"), resume_from_checkpoint=True, **changes))
    for file in (tmp_path / "whole").glob("*.safetensors"):
        one, other = load_file(file), load_file(tmp_path / "killed" / file.name)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_run_that_ends_in_the_heads_phase_saves_everything(make_spec: MakeSpec, tmp_path: Path) -> None:
    class StopAtOnce(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            control.should_training_stop = True

    trainer = trainer_of(make_spec(max_steps=8, head_first=0.5))
    everything = trained(trainer.model)
    trainer.add_callback(StopAtOnce())
    trainer.train()
    assert trained(trainer.model).keys() == everything.keys()


def test_a_fresh_head_begins_at_the_shares_and_a_checkpoints_own_does_not(make_spec: MakeSpec, tmp_path: Path) -> None:
    def answer(spec: RunSpec) -> torch.Tensor:
        spec = resolve(spec)
        job = build(spec, load_data(spec))
        start_fresh_head(job, torch.device("cpu"))
        rows = [job.task.collator(job.setup)([row]) for row in job.encoded["train"]]
        with torch.no_grad():
            return torch.cat([job.model.eval()(**row).logits for row in rows]).mean(0)

    data = tmp_path / "data"
    data.mkdir()
    rows = ['{"text": "good", "label": "positive"}'] * 3 + ['{"text": "bad", "label": "negative"}']
    (data / "train.jsonl").write_text("\n".join(rows))
    (data / "validation.jsonl").write_text("\n".join(rows))
    shares = torch.tensor([0.25, 0.75])
    torch.testing.assert_close(answer(make_spec(data_dir=str(data))).softmax(-1), shares)
    torch.testing.assert_close(answer(make_spec(data_dir=str(data), method="bitfit")).softmax(-1), shares)
    assert not torch.allclose(answer(make_spec(data_dir=str(data), head_start="random")).softmax(-1), shares)
    spec = make_spec(data_dir=str(data), max_steps=1, method="full", head_start="random")
    train(spec)
    own = answer(make_spec(data_dir=str(data), model_name_or_path=str(spec.output_dir)))
    assert not torch.allclose(own.softmax(-1), shares)


def test_the_run_starts_its_head(make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    starts = []
    monkeypatch.setattr("propulsion_tools.training.run.start_fresh_head", lambda job, device: starts.append(job))
    train(make_spec(max_steps=1))
    assert len(starts) == 1
    assert trainer_module.RunTrainer is RunTrainer

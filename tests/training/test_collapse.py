"""Laws of a collapse: it is seen and said, and the run is what it would have been from the copy at a lower rate."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Iterable
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from propulsion_tools.errors import CollapseError, NotFiniteError, OptionError
from propulsion_tools.records import RunRecord, RunSpec
from propulsion_tools.training import collapse, trainer
from propulsion_tools.training.build import build
from propulsion_tools.training.collapse import FACTOR, CollapseWatch
from propulsion_tools.training.data import load_data
from propulsion_tools.training.resolve import resolve
from propulsion_tools.training.run import train
from propulsion_tools.training.trainer import RunTrainer, make_trainer
from propulsion_tools.upstream.transformers_private import OpenTrainer
from tests.training.test_run import assert_equal_adapters, kill_at

MakeSpec = Callable[..., RunSpec]
LONG = {"max_steps": 66, "num_train_epochs": 22, "head_first": 0.1, "degree": 3, "logging_steps": 1}
JUMP = 53


class Jump(TrainerCallback):
    """Sets the vectors far off after a step, and after each one further until the last."""

    def __init__(self, step: int, value: float = 50.0, last: float = 0) -> None:
        self.step, self.value, self.last = step, value, last

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step or self.step < state.global_step <= self.last:
            for name, parameter in kwargs["model"].named_parameters():
                if "propulsion_delta" in name:
                    parameter.data.fill_(self.value)


def with_callback(monkeypatch: pytest.MonkeyPatch, made: Callable[[], TrainerCallback]) -> None:
    original = trainer.RunTrainer

    def make(**kwargs: Any) -> Any:
        kwargs["callbacks"] = [*kwargs["callbacks"], made()]
        return original(**kwargs)

    monkeypatch.setattr(trainer, "RunTrainer", make)


def trainer_of(spec: RunSpec) -> RunTrainer:
    spec = resolve(spec)
    return make_trainer(build(spec, load_data(spec)))


class GoBackByHand(TrainerCallback):
    """What a recovery should do, done from outside: all state of one step at another, and a third of the rates."""

    def __init__(self, copied: int, restored: int) -> None:
        self.copied, self.restored = copied, restored

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        model, optimizer, scheduler = kwargs["model"], kwargs["optimizer"], kwargs["lr_scheduler"]
        if state.global_step == self.copied:
            named = model.named_parameters()
            self.weights = {n: p.detach().clone() for n, p in named if p.requires_grad or "propulsion_delta" in n}
            self.optimizer = copy.deepcopy(optimizer.state_dict())
        if state.global_step == self.restored:
            for name, weight in self.weights.items():
                model.get_parameter(name).data.copy_(weight)
            for group, now in zip(self.optimizer["param_groups"], optimizer.param_groups, strict=True):
                group.update({name: now[name] / 3 for name in ("lr", "initial_lr")})
            optimizer.load_state_dict(self.optimizer)
            inner = getattr(scheduler, "scheduler", scheduler)
            inner.base_lrs = [rate / 3 for rate in inner.base_lrs]


def test_a_run_that_recovers_is_one_that_never_jumped_from_the_copy_at_the_lower_rate(
    make_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_callback(monkeypatch, lambda: Jump(JUMP))
    record = train(make_spec(output_dir=str(tmp_path / "jumped"), **LONG))
    monkeypatch.undo()
    (event,) = record.collapses
    assert (event["step"], event["back_to"], event["factor"]) == (60, 25, FACTOR)
    assert "gain of" in event["reason"]
    assert any("collapsed at step 60" in note for note in record.notes)
    with_callback(monkeypatch, lambda: GoBackByHand(25, 60))
    train(make_spec(output_dir=str(tmp_path / "by hand"), **LONG))
    monkeypatch.undo()
    assert_equal_adapters(tmp_path / "jumped", tmp_path / "by hand")
    assert RunRecord.read(tmp_path / "jumped") == record
    train(make_spec(output_dir=str(tmp_path / "smooth"), **LONG))
    with pytest.raises(AssertionError):
        assert_equal_adapters(tmp_path / "jumped", tmp_path / "smooth")


@pytest.mark.parametrize("killed_at", [56, 62])
def test_killed_before_or_after_a_recovery_and_resumed_is_as_never_killed(
    killed_at: int, make_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {**LONG, "save_strategy": "steps", "save_steps": 1}
    with_callback(monkeypatch, lambda: Jump(JUMP))
    whole = train(make_spec(output_dir=str(tmp_path / "whole"), **changes))
    monkeypatch.undo()
    with_callback(monkeypatch, lambda: Jump(JUMP))
    kill_at(monkeypatch, killed_at)
    with pytest.raises(KeyboardInterrupt):
        train(make_spec(output_dir=str(tmp_path / "killed"), **changes))
    monkeypatch.undo()
    resumed = train(make_spec(output_dir=str(tmp_path / "killed"), resume_from_checkpoint=True, **changes))
    assert resumed.collapses == whole.collapses
    assert len(whole.collapses) == 1
    assert resumed.metrics == whole.metrics
    assert resumed.history["loss"] == whole.history["loss"]
    assert_equal_adapters(tmp_path / "whole", tmp_path / "killed")


SHORT = {**LONG, "learning_rate": 1e-5, "head_learning_rate": 1e-5}
"""Nothing is learned in so few steps at such a rate."""


def look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, steps in (("WINDOW", 10), ("LOOK_EVERY", 2), ("COPY_EVERY", 5)):
        monkeypatch.setattr(collapse, name, steps)


def test_what_answers_all_rows_alike_before_it_has_learned_begins_again(
    make_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look_often(monkeypatch)
    original = trainer.RunTrainer
    with_callback(monkeypatch, lambda: Jump(30, value=-1.0, last=34))  # gains of zero: the same comes out for all rows
    record = train(make_spec(output_dir=str(tmp_path / "dead"), **SHORT))
    (event,) = record.collapses
    assert event["back_to"] == 6, "where the adapter joins"
    assert event["step"] == 35, "three of the last five looks saw no gradient"
    assert "nothing was learned" in event["reason"]
    monkeypatch.setattr(trainer, "RunTrainer", original)
    with_callback(monkeypatch, lambda: GoBackByHand(6, event["step"]))
    train(make_spec(output_dir=str(tmp_path / "by hand"), **SHORT))
    assert_equal_adapters(tmp_path / "dead", tmp_path / "by hand")
    monkeypatch.setattr(trainer, "RunTrainer", original)
    assert train(make_spec(output_dir=str(tmp_path / "smooth"), **SHORT)).collapses == ()


class LazyOptimizer(torch.optim.Optimizer):
    """Momentum whose state is made at a parameter's first step, with a constant and a None; its groups count."""

    def __init__(self, params: Iterable[Any], lr: float, **kwargs: Any) -> None:
        super().__init__(params, {"lr": lr, "count": 0, "name": "a group"})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            group["count"] += 1
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state.update(mean=torch.zeros_like(parameter), scale=torch.tensor(0.5), rest=None, steps=0)
                state["mean"].lerp_(parameter.grad, 0.1)
                state["steps"] += 1
                step = state["mean"] / state["scale"] / (1 - 0.9 ** state["steps"]) * (1 + 1 / group["count"])
                parameter.sub_(group["lr"] * step)


@pytest.mark.parametrize("learns", [False, True])
def test_optimizers_that_make_their_state_late_and_count_in_their_groups_recover_too(
    learns: bool, make_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = staticmethod(lambda args, model=None: (LazyOptimizer, {"lr": args.learning_rate}))
    monkeypatch.setattr(OpenTrainer, "get_optimizer_cls_and_kwargs", taken)
    if not learns:
        look_often(monkeypatch)
    jump = Jump(JUMP) if learns else Jump(30, value=-1.0, last=34)
    original = trainer.RunTrainer
    with_callback(monkeypatch, lambda: jump)
    record = train(make_spec(output_dir=str(tmp_path / "jumped"), **LONG if learns else SHORT))
    (event,) = record.collapses
    monkeypatch.setattr(trainer, "RunTrainer", original)
    with_callback(monkeypatch, lambda: GoBackByHand(25 if learns else 6, event["step"]))
    train(make_spec(output_dir=str(tmp_path / "by hand"), **LONG if learns else SHORT))
    assert_equal_adapters(tmp_path / "jumped", tmp_path / "by hand")


def test_state_that_came_after_the_copy_does_not_stay(make_spec: MakeSpec) -> None:
    run = trainer_of(make_spec())
    watch, optimizer = run.collapse_watch, run.create_optimizer()
    one, other = (run.model.get_parameter(name) for name in watch.names[:2])
    projector = object()
    optimizer.state[one] = {"mean": torch.zeros(2), "slow": None, "projector": projector}
    optimizer.state[other] = {"mean": torch.zeros(2), "steps": 3, "slow": torch.ones(2)}
    step, copied = watch._copy(5, optimizer)
    optimizer.state[one] = {"mean": torch.ones(2), "slow": torch.full((2,), math.nan), "projector": projector}
    optimizer.state[other] = {"mean": torch.ones(2), "steps": 4, "slow": None}
    watch._go_back(step, copied, optimizer)
    assert one not in optimizer.state
    assert optimizer.state[other]["steps"] == 3
    assert optimizer.state[other]["mean"].tolist() == [0, 0]
    assert optimizer.state[other]["slow"].tolist() == [1, 1]


def test_stop_names_no_checkpoint_where_none_has_learned(make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    look_often(monkeypatch)
    with_callback(monkeypatch, lambda: Jump(30, value=-1.0, last=34))
    with pytest.raises(CollapseError, match=r"step 35: nothing was learned, .* No checkpoint is better"):
        train(make_spec(on_collapse="stop", save_strategy="steps", save_steps=5, **SHORT))


def test_methods_that_change_more_than_they_train_do_not_begin_again(make_spec: MakeSpec) -> None:
    assert trainer_of(make_spec()).collapse_watch.adapter
    assert not trainer_of(make_spec(method="adalora")).collapse_watch.adapter


def test_a_state_from_before_gradients_were_watched_is_taken_as_it_is(make_spec: MakeSpec) -> None:
    run = trainer_of(make_spec())
    watch = run.collapse_watch
    watch.on_train_begin(run.args, run.state, run.control, optimizer=run.create_optimizer())
    tensors = watch.tensors()
    old = json.loads(bytes(tensors["state"].tolist()))
    old = {name: old[name] for name in ("losses", "loss_of_guessing", "best", "has_learned", "events")} | {"best": 0.5}
    tensors["state"] = torch.tensor(list(json.dumps(old).encode()), dtype=torch.uint8)
    again = trainer_of(make_spec()).collapse_watch
    again.load_tensors(tensors)
    assert (again.best, again.gradients, again.start) == (0.5, [], None)
    assert [step for step, _ in again.copies] == [0]


@pytest.mark.parametrize("killed_at", [20, 33, 45])
def test_killed_before_or_after_it_begins_again_and_resumed_is_as_never_killed(
    killed_at: int, make_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look_often(monkeypatch)
    with_callback(monkeypatch, lambda: Jump(30, value=-1.0, last=34))
    changes = {**SHORT, "save_strategy": "steps", "save_steps": 1}
    whole = train(make_spec(output_dir=str(tmp_path / "whole"), **changes))
    with monkeypatch.context() as killing:
        kill_at(killing, killed_at)
        with pytest.raises(KeyboardInterrupt):
            train(make_spec(output_dir=str(tmp_path / "killed"), **changes))
    resumed = train(make_spec(output_dir=str(tmp_path / "killed"), resume_from_checkpoint=True, **changes))
    assert resumed.collapses == whole.collapses
    assert len(whole.collapses) == 1
    assert_equal_adapters(tmp_path / "whole", tmp_path / "killed")


class FirstIsBest(TrainerCallback):
    """Lets a run end with its first checkpoint."""

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        state.best_model_checkpoint = str(Path(args.output_dir) / "checkpoint-6")


def test_a_run_that_ends_with_an_earlier_state_still_says_that_it_collapsed(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_callback(monkeypatch, lambda: Jump(JUMP))
    with_callback(monkeypatch, FirstIsBest)
    saving = {
        "save_strategy": "steps",
        "save_steps": 6,
        "eval_strategy": "steps",
        "eval_steps": 6,
        "save_total_limit": 20,
    }
    record = train(make_spec(load_best_model_at_end=True, **saving, **LONG))
    assert [event["step"] for event in record.collapses] == [60]
    assert any("collapsed at step 60" in note for note in record.notes)


def test_a_loss_that_is_not_finite_is_undone(make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    with_callback(monkeypatch, lambda: Jump(JUMP, value=float("nan")))
    record = train(make_spec(**LONG))
    (event,) = record.collapses
    assert (event["step"], event["back_to"]) == (JUMP, 25)
    assert "nan" in event["reason"]
    assert record.metrics["validation"]["loss"] < 10


def test_all_processes_undo_a_loss_that_is_not_finite_in_one(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def mean_with_another(value: float, device: torch.device) -> float:
        calls.append(value)
        return float("nan") if len(calls) == 2 * JUMP - 1 else value  # the first of two batches of its step

    monkeypatch.setattr(trainer, "mean_over_processes", mean_with_another)
    record = train(make_spec(gradient_accumulation_steps=2, **LONG))
    (event,) = record.collapses
    assert (event["step"], event["back_to"], event["reason"]) == (JUMP - 1, 25, "the loss became nan")


def test_recoveries_come_to_an_end(make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    with_callback(monkeypatch, lambda: Jump(JUMP, last=math.inf))
    record = train(make_spec(**{**LONG, "max_steps": 90}))
    assert [event["back_to"] is None for event in record.collapses] == [False, False, False, True]
    assert "went on as it was" in [note for note in record.notes if "collapsed at" in note][-1]
    monkeypatch.undo()
    with_callback(monkeypatch, lambda: Jump(JUMP, float("nan"), last=math.inf))
    with pytest.raises(NotFiniteError, match="Lower the learning rate"):
        train(make_spec(overwrite_output_dir=True, **LONG))


def test_stop_stops_and_ignore_goes_on(make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    with_callback(monkeypatch, lambda: Jump(JUMP))
    with pytest.raises(CollapseError, match="step 60: a gain of"):
        train(make_spec(on_collapse="stop", **LONG))
    record = train(make_spec(on_collapse="ignore", overwrite_output_dir=True, **LONG))
    assert record.collapses == ()


def test_where_much_is_trained_a_collapse_is_said_and_not_mended(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collapse, "MOST_BYTES", 1)
    with_callback(monkeypatch, lambda: Jump(JUMP))
    record = train(make_spec(**LONG))
    assert [event["back_to"] for event in record.collapses] == [None]
    assert any("went on as it was" in note for note in record.notes)


def launched_with(monkeypatch: pytest.MonkeyPatch, plugin: str) -> None:
    """`Trainer` finds that accelerate has been told to use DeepSpeed or FSDP."""
    begin = OpenTrainer.__init__

    def found(self: OpenTrainer, *args: Any, **kwargs: Any) -> None:
        begin(self, *args, **kwargs)
        setattr(self, f"is_{plugin}_enabled", True)

    monkeypatch.setattr(OpenTrainer, "__init__", found)


def test_under_deepspeed_a_collapse_is_said_and_not_mended(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec()
    alone = trainer_of(spec)
    assert alone.collapse_watch.keeps_copies
    alone.collapse_watch.on_train_begin(alone.args, alone.state, alone.control, optimizer=alone.create_optimizer())
    assert alone.collapse_watch.can_go_back()
    launched_with(monkeypatch, "deepspeed")
    watch = trainer_of(spec).collapse_watch
    watch.load_tensors(alone.collapse_watch.tensors())  # of a run that goes on under DeepSpeed
    assert not watch.keeps_copies
    assert not watch.can_go_back()


def test_fsdp_of_version_1_is_refused(make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    launched_with(monkeypatch, "fsdp")
    with pytest.raises(OptionError, match="set fsdp_version to 2"):
        trainer_of(make_spec())


def seen(
    losses: list[float], loss_of_guessing: float | None, make_spec: MakeSpec, gradients: Iterable[float] = ()
) -> list[int]:
    """The steps at which a run with these losses, and these norms of the adapter's gradient, collapses."""
    run = trainer_of(make_spec())
    adapter = [name for name, _ in run.model.named_parameters() if "propulsion_delta" in name]
    watch = CollapseWatch(run.model, "recover", loss_of_guessing, adapter)
    run.create_optimizer_and_scheduler(len(losses))
    kwargs = {"model": run.model, "optimizer": run.optimizer, "lr_scheduler": run.lr_scheduler}
    watch.on_train_begin(run.args, run.state, run.control, **kwargs)
    first = run.model.get_parameter(adapter[0])
    for step, (loss, norm) in enumerate(zip_longest(losses, gradients), 1):
        if norm is not None:
            first.grad = torch.zeros_like(first)
            first.grad[0, 0] = norm
            watch.on_pre_optimizer_step(run.args, run.state, run.control)
        run.state.global_step = step
        watch.add(loss / 2)  # two batches a step
        watch.add(loss / 2)
        watch.on_step_end(run.args, run.state, run.control, **kwargs)
    assert watch.start is None or not watch.has_learned
    return [event["step"] for event in watch.events]


def wave(level: float, steps: int, noise: float = 0.1) -> list[float]:
    """A loss as noisy as that of batches of 16."""
    torch.manual_seed(steps)
    return (level + noise * torch.randn(steps)).tolist()


def sorted_by_length(losses: list[float], slope: float) -> list[float]:
    """As `group_by_length` gives them: every 50 steps from rows with more loss to rows with less."""
    return [loss + slope * (0.5 - step % 50 / 49) for step, loss in enumerate(losses)]


@pytest.mark.parametrize(
    ("losses", "guessing", "steps"),
    [
        # learned and lost, and lost still when it had gone back
        (wave(0.69, 80) + wave(0.4, 80) + wave(0.7, 120), 0.69, 2),
        (wave(0.69, 240), 0.69, 0),  # never learned: no collapse
        (wave(0.69, 80) + wave(0.4, 160), 0.69, 0),
        (wave(0.4, 120) + [3.0] * 2 + wave(0.4, 120), 0.69, 0),  # one bad batch or two
        # a language model: its own beginning is the measure
        (wave(3.0, 60) + wave(2.0, 60) + wave(3.2, 60), None, 1),
        (wave(3.0, 60) + wave(2.0, 120), None, 0),
        (wave(2.15, 400, noise=0.6), 2.15, 0),  # a regression that learns nothing yet
        (wave(2.15, 80, noise=0.6) + wave(0.9, 80, noise=0.3) + wave(2.2, 120, noise=0.6), 2.15, 2),
        # MRPC in batches of 8, which learns late and little
        (sorted_by_length(wave(0.62, 500, 0.18) + wave(0.5, 600, 0.18), 0.3), 0.624, 0),
        (sorted_by_length(wave(0.62, 500, 0.18) + wave(0.45, 300, 0.18) + wave(0.63, 60, 0.18), 0.3), 0.624, 1),
    ],
)
def test_what_is_a_collapse(losses: list[float], guessing: float | None, steps: int, make_spec: MakeSpec) -> None:
    assert len(seen(losses, guessing, make_spec)) == steps


@pytest.mark.parametrize(
    ("losses", "gradients", "steps"),
    [
        (wave(0.69, 300), [0.5] * 120 + [0.005] * 180, 2),  # and gone still when it had begun again
        (wave(0.69, 300), [0.5] * 120 + [0.0] * 180, 2),  # gains of zero
        (wave(0.69, 300), [0.5] * 70 + [0.0] * 230, 2),  # almost at once
        (wave(3.0, 300), [0.5] * 120 + [0.005] * 180, 2),  # a language model: its own beginning is the measure
        (wave(0.69, 300), [0.5] * 120 + [0.05] * 180, 0),  # slow
        (wave(0.69, 300), [0.5] * 60 + [50.0] * 5 + [0.5] * 235, 0),  # large for a while
        (wave(0.69, 300), [0.5] * 160 + [0.005] * 20 + [0.5] * 120, 0),  # small for a while
        (wave(0.69, 120) + wave(0.3, 180), [0.5] * 120 + [0.005] * 180, 0),  # learned all there is
        ([900.0] * 100 + wave(0.69, 200), [300.0] * 100 + [0.5] * 200, 0),  # a head has found its level
        (wave(0.69, 300), [0.0] * 300, 0),  # of all of it
        (wave(0.69, 300), [], 0),  # there is no adapter, or DeepSpeed keeps the gradients to itself
        (wave(0.69, 300), [0.5] * 80 + [float("nan")] * 220, 0),  # as fp16's scaler makes them
    ],
)
def test_gradients_that_are_gone_before_anything_was_learned_are_a_collapse(
    losses: list[float], gradients: list[float], steps: int, make_spec: MakeSpec
) -> None:
    assert len(seen(losses, 0.69 if losses[0] != pytest.approx(3.0, abs=0.5) else None, make_spec, gradients)) == steps


def test_the_loss_of_guessing_is_that_of_the_shares(make_spec: MakeSpec) -> None:
    run = trainer_of(make_spec())  # as many rows of one class as of the other
    assert run.collapse_watch.loss_of_guessing == pytest.approx(0.6931, abs=1e-4)


def test_a_step_that_was_undone_has_no_loss(make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[list[float]] = []
    with_callback(monkeypatch, lambda: Jump(JUMP, value=float("nan")))
    original = CollapseWatch.on_step_end

    def watched(self: CollapseWatch, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        kept.append(self.losses)

    monkeypatch.setattr(CollapseWatch, "on_step_end", watched)
    train(make_spec(**LONG))
    assert kept[JUMP] == []  # of the step behind the jump
    assert len(kept[JUMP + 1]) == 1
    assert all(loss > 0 for losses in kept for loss in losses)

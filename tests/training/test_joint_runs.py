"""Laws of runs that are trained together: each leaves what it leaves alone."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from propulsion_tools.errors import NotFiniteError, ToolsError
from propulsion_tools.records import RunRecord, RunSpec
from propulsion_tools.tasks import DataSource
from propulsion_tools.tasks.classification import TextClassification
from propulsion_tools.training import run
from propulsion_tools.training.build import Job
from propulsion_tools.training.joint_runs import Ended, train_together
from propulsion_tools.training.run import train
from propulsion_tools.training.turns import Turn, take_turns
from tests.training.test_run import adapter_of, assert_equal_adapters, kill_at

MakeSpec = Callable[..., RunSpec]

PLACE = {"output_dir", "resume_from_checkpoint"}

VARIANTS: list[dict[str, Any]] = [
    {},
    {"degree": 3, "learning_rate": 1e-2, "seed": 7, "target_modules": "attn"},
    {"num_vectors": 2, "init_noise": 0.1, "pooling": "max", "max_steps": 5, "head_first": 0.5},
    {"train_bias": True, "init_weights": "normal", "lr_scheduler_type": "cosine", "optim": "sgd"},
]


def specs_in(make_spec: MakeSpec, folder: Path, variants: list[dict[str, Any]], **common: Any) -> list[RunSpec]:
    return [make_spec(output_dir=str(folder / str(number)), **{**common, **own}) for number, own in enumerate(variants)]


def without_time(record: RunRecord) -> dict[str, Any]:
    """A record but for what a clock, the memory and the mark say."""
    left = {"seconds", "peak_memory_bytes", "memory_bytes", "joint"}
    kept = {key: value for key, value in asdict(record).items() if key not in left}
    return {**kept, "spec": {key: value for key, value in kept["spec"].items() if key not in PLACE}}


def flat(value: Any, name: str = "") -> dict[str, Any]:
    """The leaves of nested containers by their places; text and None as their hash, which cannot be nearly equal."""
    if isinstance(value, dict):
        return {k: v for key, inner in value.items() for k, v in flat(inner, f"{name}/{key}").items()}
    if isinstance(value, (list, tuple)):
        return {k: v for key, inner in enumerate(value) for k, v in flat(inner, f"{name}/{key}").items()}
    return {name: value if isinstance(value, (int, float)) else hash(value)}


def both_ways(make_spec: MakeSpec, folder: Path, variants: list[dict[str, Any]], **common: Any) -> list[Ended]:
    """Trains runs alone, in the folder alone, and together."""
    for spec in specs_in(make_spec, folder / "alone", variants, **common):
        with contextlib.suppress(ToolsError):
            train(spec)
    return train_together(specs_in(make_spec, folder / "together", variants, **common), measure=False)


def assert_as_alone(folder: Path, number: int, runs: int, tolerance: float = 1e-5) -> None:
    """Whether a run left what it left alone, to rounding."""
    one, other = folder / "alone" / str(number), folder / "together" / str(number)
    alone, joint = RunRecord.read(one), RunRecord.read(other)
    assert (alone.joint, joint.joint) == (0, runs)
    assert flat(without_time(joint)) == pytest.approx(flat(without_time(alone)), abs=tolerance)
    wanted, found = adapter_of(one), adapter_of(other)
    assert wanted.keys() == found.keys()
    for key, value in wanted.items():
        torch.testing.assert_close(found[key], value, rtol=tolerance, atol=tolerance)


def test_runs_in_one_batch_leave_what_they_leave_alone(
    make_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[DataSource] = []
    load = TextClassification.load
    monkeypatch.setattr(TextClassification, "load", lambda task, source: read.append(source) or load(task, source))
    ended = both_ways(make_spec, tmp_path, VARIANTS, eval_strategy="steps", eval_steps=3, save_strategy="no")
    assert [one.error for one in ended] == [None] * len(VARIANTS)
    alone, together = read[: len(VARIANTS)], read[len(VARIANTS) :]
    assert together == list(dict.fromkeys(alone))  # each source once
    for number in range(len(VARIANTS)):
        assert_as_alone(tmp_path, number, len(VARIANTS))


def test_in_float64_nothing_is_left_of_the_difference(
    make_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = run.build

    def in_float64(*args: Any, **kwargs: Any) -> Job:
        job = original(*args, **kwargs)
        job.model.double()
        return job

    monkeypatch.setattr(run, "build", in_float64)
    both_ways(make_spec, tmp_path, VARIANTS[:2], eval_strategy="no", save_strategy="no", max_steps=4)
    for number in range(2):
        assert_as_alone(tmp_path, number, 2, tolerance=1e-11)


def test_a_run_that_fails_stops_early_or_recovers_leaves_the_others_alone(make_spec: MakeSpec, tmp_path: Path) -> None:
    variants: list[dict[str, Any]] = [
        {"seed": 3},
        {"learning_rate": 1e6, "on_collapse": "stop", "head_first": 0.0},
        {
            "early_stopping_patience": 1,
            "load_best_model_at_end": True,
            "learning_rate": 1e-9,
            "head_learning_rate": 1e-9,
        },
        {"learning_rate": 1.0, "head_first": 0.0},
    ]
    often = {
        "eval_strategy": "steps",
        "eval_steps": 2,
        "save_strategy": "steps",
        "save_steps": 2,
        "max_steps": 12,
        "logging_steps": 1,
    }
    ended = both_ways(make_spec, tmp_path, variants, **often)
    assert [type(one.error) for one in ended] == [type(None), NotFiniteError, type(None), type(None)]
    assert not (tmp_path / "together/1/record.json").exists()
    records = [one.record for one in ended]
    assert records[2].history["loss"][-1][0] < 12  # type: ignore[union-attr]
    assert records[3].collapses  # type: ignore[union-attr]
    for number in (0, 2):
        assert_as_alone(tmp_path, number, 4)
    alone = RunRecord.read(tmp_path / "alone/3")
    events = [(item["step"], item["back_to"]) for item in alone.collapses]
    assert events == [(item["step"], item["back_to"]) for item in records[3].collapses]  # type: ignore[union-attr]


def test_a_killed_group_goes_on_as_if_it_had_not_been(
    make_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    often = {"save_strategy": "steps", "save_steps": 2, "eval_strategy": "no", "max_steps": 6}
    whole = specs_in(make_spec, tmp_path / "alone", VARIANTS[:2], **often)
    killed = specs_in(make_spec, tmp_path / "together", VARIANTS[:2], **often)
    for spec in whole:
        train(spec)
    kill_at(monkeypatch, 3)
    with pytest.raises(KeyboardInterrupt):
        train_together(killed, measure=False)
    monkeypatch.undo()
    assert not list((tmp_path / "together").glob("*/record.json"))
    train_together([replace(spec, resume_from_checkpoint=True) for spec in killed], measure=False)
    for number in range(2):
        assert_as_alone(tmp_path, number, 2)


@pytest.mark.parametrize("variant", [{"dropout": 0.1}, {"method": "lora"}])
def test_what_does_not_go_together_is_trained_one_after_the_other_to_the_last_bit(
    variant: dict[str, Any], make_spec: MakeSpec, tmp_path: Path
) -> None:
    ended = both_ways(
        make_spec, tmp_path, [{**variant, "seed": seed} for seed in (1, 2)], max_steps=2, eval_strategy="no"
    )
    assert {one.apart for one in ended} != {None}
    for number in range(2):
        assert_equal_adapters(tmp_path / "alone" / str(number), tmp_path / "together" / str(number))
        record = RunRecord.read(tmp_path / "together" / str(number))
        assert (record.joint, record.apart) == (0, ended[number].apart)


def test_the_tries_of_a_search_are_trained_together(make_spec: MakeSpec, tmp_path: Path) -> None:
    record = train(make_spec(learning_rate="auto", max_steps=13, joint=True, save_strategy="no", eval_strategy="no"))
    tries = [RunRecord.read(path) for path in (tmp_path / "run/rate_search").glob("*/record.json")]
    assert len(tries) == len(record.rate_search)
    assert sorted(tried.joint for tried in tries) == [0, 2, 2]
    assert record.joint == 0


def test_why_the_tries_of_a_search_are_trained_one_after_the_other_is_told(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []

    def begins(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "search_rates", begins)
    with pytest.raises(KeyboardInterrupt):
        train(make_spec(learning_rate="auto", max_steps=7, joint=True, dropout=0.1), told.append)
    assert "The tries are trained one after the other: dropout is drawn for a whole batch at once." in told


def test_what_takes_turns_has_random_numbers_of_its_own() -> None:
    def draws(seed: int, turn: Turn[list[float]]) -> list[float]:
        torch.manual_seed(seed)
        return [float(torch.rand(())) for _ in range(3) if turn.ask("go on") is None]

    def alone(seed: int) -> list[float]:
        torch.manual_seed(seed)
        return [float(torch.rand(())) for _ in range(3)]

    before = torch.get_rng_state()
    turns = take_turns(
        [partial(draws, seed) for seed in (1, 2)], lambda waiting: {turn.number: None for turn in waiting}
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert [turn.value for turn in turns] == [alone(1), alone(2)]

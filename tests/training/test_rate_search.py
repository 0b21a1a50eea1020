"""Laws of the search for a rate: its price, what it chooses, and that it goes on where it was killed."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from propulsion_tools.errors import NotFiniteError, OptionError
from propulsion_tools.methods import get_method
from propulsion_tools.records import RunRecord, RunSpec
from propulsion_tools.training import rate_search, run
from propulsion_tools.training.rate_plan import BETTER_BY, FAILED, SHARE, Merit, Try, merit, plan, try_spec
from propulsion_tools.training.run import train
from tests.training.test_run import assert_equal_adapters, kill_at

MakeSpec = Callable[..., RunSpec]
RATE, HEAD = 1e-3, 5e-3


def merits(score: Callable[[Try], float], margin: float = 0.0) -> Callable[[Try], Merit | None]:
    return lambda item: Merit(score(item), 0.0, True, margin)


def best_at(rate: float) -> Callable[[Try], float]:
    """A score that falls with the distance from this rate."""
    return lambda item: -abs(math.log(item.learning_rate / rate))


@pytest.mark.parametrize("rate", [RATE / 2, RATE, RATE * 2, RATE * 4])
def test_the_best_rate_is_found_around_the_usual_one(rate: float) -> None:
    chosen = plan(RATE, HEAD, merits(best_at(rate))).chosen
    assert chosen is not None
    assert (chosen.learning_rate, chosen.head_learning_rate) == (pytest.approx(rate, rel=1e-3), HEAD)


@pytest.mark.parametrize(("bears", "chosen"), [(0.6, 0.5), (1.5, 1.0), (3.0, 2.0)])
def test_a_rate_is_not_chosen_because_short_runs_bear_more_than_long_ones(bears: float, chosen: float) -> None:
    """Where runs fail beyond a rate that falls with the root of their length, thirds choose what the whole bears."""

    def score(item: Try) -> float:
        borne = bears * RATE / math.sqrt(item.share)  # of the whole run: bears · RATE
        return item.trained_at if item.trained_at <= borne else 0.0

    found = plan(RATE, HEAD, merits(score)).chosen
    assert found is not None
    assert found.learning_rate == pytest.approx(chosen * RATE)


@pytest.mark.parametrize(("errors", "chosen"), [(0.9, 1.0), (1.1, 2.0)])
def test_a_rate_is_better_by_more_than_a_standard_error(errors: float, chosen: float) -> None:
    rows = 400
    scores = {RATE: 0.8, 2 * RATE: 0.8 + errors * 0.5 / math.sqrt(rows)}
    found = plan(
        RATE, HEAD, merits(lambda item: scores.get(item.learning_rate, 0.0), BETTER_BY / math.sqrt(rows))
    ).chosen
    assert found is not None
    assert found.learning_rate == chosen * RATE


@given(st.dictionaries(st.integers(-40, 40), st.floats(0, 1)), st.floats(0, 0.1))
def test_no_search_costs_more_than_the_run(scores: dict[int, float], margin: float) -> None:
    def score(item: Try) -> float:
        return scores.get(round(8 * math.log(item.learning_rate / RATE)), 0.5)

    found = plan(RATE, HEAD, merits(score, margin))
    assert sum(item.share for item in found.tries) <= 1.0 + 1e-9
    assert len(set(found.tries)) == len(found.tries)
    assert found.chosen in found.tries
    assert found.chosen.share == SHARE  # type: ignore[union-attr]


def test_what_is_not_better_by_more_than_chance_loses_to_the_usual() -> None:
    chosen = plan(RATE, HEAD, merits(best_at(RATE * 3), margin=100.0)).chosen
    assert chosen == Try(RATE, HEAD, SHARE)


def test_a_method_without_a_rate_for_its_head_has_none_tried() -> None:
    found = plan(RATE, None, merits(best_at(RATE)))
    assert {item.head_learning_rate for item in found.tries} == {None}


def test_what_failed_or_collapsed_is_not_chosen_while_something_trains() -> None:
    def outcome(item: Try) -> Merit:
        if item.learning_rate > RATE:
            return FAILED
        return Merit(0.9 if item.learning_rate == RATE else 0.2, 0.0, item.learning_rate < RATE, 0.0)

    chosen = plan(RATE, None, outcome).chosen
    assert chosen is not None
    assert chosen.learning_rate < RATE
    assert plan(RATE, HEAD, lambda item: FAILED).chosen is None


def record_of(accuracy: float, **more: Any) -> RunRecord:
    """Of a try that was scored on 400 rows, of which two thirds have the same label."""
    record = RunRecord(RunSpec(task="mrpc"), {"selection": {"accuracy": accuracy, "loss": 0.6}}, {}, 0, {}, 0, {})
    return replace(record, rows={"selection": 400}, majority={"selection": {"accuracy": 0.67}}, **more)


@pytest.mark.parametrize(("loss", "chosen"), [(0.562, 0.5), (0.61, 1.0)])
@pytest.mark.parametrize("task", ["svamp", "mrpc"])
def test_where_texts_are_generated_the_loss_decides_a_tie(task: str, loss: float, chosen: float) -> None:
    """SVAMP, 102 rows of which 7 and 10 were answered well: as good as equal, and the losses are not."""

    def outcome(item: Try) -> Merit:
        scores = {RATE: (0.069, 0.615), RATE / 2: (0.098, loss), 2 * RATE: (0.07, 0.699)}[item.learning_rate]
        scored = dict(zip(("accuracy", "loss"), scores, strict=True))
        record = replace(record_of(0.0), spec=RunSpec(task=task), metrics={"selection": scored})
        guessed = {"svamp": {"selection": {"accuracy": 0.08}}, "mrpc": {}}[task]  # a row better and a row worse
        return merit(replace(record, rows={"selection": 102}, majority=guessed))

    found = plan(RATE, None, outcome).chosen
    assert found is not None
    assert found.learning_rate == (chosen if task == "svamp" else 1.0) * RATE
    worse_score = replace(outcome(Try(RATE / 2, None, SHARE)), score=0.0)
    assert outcome(Try(RATE, None, SHARE)).beats(worse_score), "scores come first"


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0.1, 1)), min_size=3, max_size=3))
@example([(0.5, 0.6), (0.46, 0.58), (0.42, 0.56)])  # each as good as the one before, at a lower loss
@example([(0.5, 0.56), (0.46, 0.54), (0.53, 0.6)])
def test_no_rate_is_chosen_for_its_loss_that_loses_by_its_score(tries: list[tuple[float, float]]) -> None:
    merits = dict(zip((RATE, RATE * 2, RATE * 4), tries, strict=True))
    merits[RATE / 2] = merits[RATE * 4]

    def outcome(item: Try) -> Merit:
        score, loss = merits[item.learning_rate]
        return Merit(score, -loss, True, 0.0495, 0.02 * loss)

    found = plan(RATE, None, outcome)
    assert found.chosen is not None
    best = outcome(found.chosen)
    others = [outcome(item) for item in found.tries]
    assert not any(other.beats(best) for other in others)
    unbeaten = [one for one in others if not any(other.beats(one) for other in others)]
    assert best.loss >= max(one.loss for one in unbeaten) * 1.02 - 1e-12  # losses are below 0 here


def test_what_never_learned_is_no_better_than_what_learned_and_collapsed() -> None:
    """MRPC, whose tries at twice and four times the rate gave one answer for every row."""
    event = {"step": 280, "reason": "the loss rose", "back_to": 160, "factor": 1 / 3}
    records = {RATE: record_of(0.7, collapses=[event]), RATE / 2: record_of(0.69), 2 * RATE: record_of(0.67)}
    found = plan(RATE, HEAD, lambda item: merit(records[item.learning_rate]))
    assert [item.learning_rate for item in found.tries] == [RATE, 2 * RATE, RATE / 2]
    assert found.chosen is not None
    assert found.chosen.learning_rate == RATE / 2
    assert merit(record_of(0.9)).beats(merit(record_of(0.67)))
    assert merit(replace(record_of(0.5), majority={})).is_sound


@given(st.permutations(range(9)))
def test_a_plan_is_the_same_however_its_tries_come_in(order: list[int]) -> None:
    score = best_at(RATE * 3)
    whole = plan(RATE, HEAD, merits(score))
    done: set[Try] = set()
    while todo := (now := plan(RATE, HEAD, lambda item: merits(score)(item) if item in done else None)).todo:
        done.add(todo[order[len(done) % len(order)] % len(todo)])
    assert now == whole


def test_a_try_is_a_shorter_run_on_other_rows(make_spec: MakeSpec) -> None:
    item = Try(2e-3, 1e-2, 0.25)
    by_steps = try_spec(make_spec(max_steps=100, early_stopping_patience=2), item)
    assert (by_steps.max_steps, by_steps.learning_rate, by_steps.head_learning_rate) == (25, 4e-3, 1e-2)
    assert (by_steps.selection_fraction, by_steps.early_stopping_patience) == (0.15, None)
    assert try_spec(make_spec(num_train_epochs=2), item).num_train_epochs == pytest.approx(0.5)
    warm = try_spec(make_spec(max_steps=100, warmup_steps=40, lr_scheduler_kwargs={"num_decay_steps": 20}), item)
    assert (warm.warmup_steps, warm.lr_scheduler_kwargs) == (10, {"num_decay_steps": 5})
    assert try_spec(make_spec(max_steps=100, warmup_steps=0.1), item).warmup_steps == 0.1
    assert try_spec(make_spec(max_steps=100, warmup_steps=2), item).warmup_steps == 1
    assert 3 * try_spec(make_spec(max_steps=500), replace(item, share=SHARE)).max_steps <= 500
    assert try_spec(make_spec(lr_scheduler_type="reduce_lr_on_plateau"), item).eval_strategy == "epoch"
    assert Try(2e-3, None, 1.0).trained_at == 2e-3


def test_auto_finds_a_rate_and_says_how(make_spec: MakeSpec, tmp_path: Path) -> None:
    told: list[str] = []
    record = train(make_spec(learning_rate="auto", max_steps=30), told.append)
    usual = get_method("propulsion").learning_rate(RunSpec())
    assert len(record.rate_search) == 3
    assert record.spec.learning_rate in {item["learning_rate"] for item in record.rate_search}
    assert usual in {item["learning_rate"] for item in record.rate_search}
    assert any("best of" in note for note in record.notes)
    tries = [sentence for sentence in told if "Trying the learning rate" in sentence]
    assert len(set(tries)) == len(tries) == len(record.rate_search)
    assert RunRecord.read(tmp_path / "run") == record
    files = [path for path in (tmp_path / "run/rate_search").rglob("*") if path.is_file()]
    assert {path.name for path in files} == {"record.json", "spec.json"}
    for file in files:
        if file.name == "record.json":
            tried = RunRecord.read(file)
            assert set(tried.metrics) == {"selection"}
            assert merit(tried).margin == pytest.approx(0.5 / tried.rows["selection"] ** 0.5)


def test_a_killed_search_goes_on_and_ends_as_if_it_had_not_been(
    make_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {"learning_rate": "auto", "max_steps": 25, "save_strategy": "steps", "save_steps": 5}
    whole = train(make_spec(output_dir=str(tmp_path / "whole"), **settings))
    killed = make_spec(output_dir=str(tmp_path / "killed"), **settings)
    kill_at(monkeypatch, 3, after=2)  # the last try
    with pytest.raises(KeyboardInterrupt):
        train(killed)
    monkeypatch.undo()
    tried = list((tmp_path / "killed/rate_search").glob("*/spec.json"))
    assert tried
    kill_at(monkeypatch, 12)  # the run itself
    with pytest.raises(KeyboardInterrupt):
        train(killed)
    monkeypatch.undo()
    trained: list[RunSpec] = []
    original = run.build
    monkeypatch.setattr(run, "build", lambda spec, data: (trained.append(spec), original(spec, data))[1])
    resumed = train(make_spec(output_dir=str(tmp_path / "killed"), resume_from_checkpoint=True, **settings))
    assert len(trained) == 1  # no try again
    assert resumed.metrics == whole.metrics
    assert [item["score"] for item in resumed.rate_search] == [item["score"] for item in whole.rate_search]
    assert_equal_adapters(tmp_path / "whole", tmp_path / "killed")


def test_a_run_that_goes_on_keeps_the_rate_that_it_began_with(
    make_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {"learning_rate": "auto", "save_strategy": "steps", "save_steps": 6, "joint": False}
    begun = train(make_spec(max_steps=6, **settings))
    monkeypatch.setattr(run, "search_rates", lambda *_: pytest.fail("the optimizer keeps the rate that was found"))
    longer: dict[str, Any] = {"max_steps": 8, "per_device_eval_batch_size": 5, "resume_from_checkpoint": True}
    record = train(make_spec(**settings, **longer))
    assert record.spec.learning_rate == begun.spec.learning_rate
    assert record.rate_search == begun.rate_search != ()
    shutil.rmtree(tmp_path / "run/rate_search")
    record = train(make_spec(**settings, **longer | {"max_steps": 9}))
    assert (record.spec.learning_rate, record.rate_search) == (begun.spec.learning_rate, ())


def test_tries_of_another_run_are_not_taken(make_spec: MakeSpec, tmp_path: Path) -> None:
    train(make_spec(learning_rate="auto", max_steps=13))
    record = train(make_spec(learning_rate="auto", max_steps=13, degree=3, overwrite_output_dir=True))
    usual = get_method("propulsion").learning_rate(RunSpec(degree=3))
    assert usual in {item["learning_rate"] for item in record.rate_search}
    assert record.rate_search != ()


def test_a_search_that_begins_anew_takes_no_try_in_a_process_that_does_not_remove_them(
    make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {"learning_rate": "auto", "max_steps": 13}
    first = train(make_spec(**settings))
    monkeypatch.setattr(rate_search, "is_first", lambda: False)  # the first process may not have removed them yet
    trained: list[RunSpec] = []
    original = run.build
    monkeypatch.setattr(run, "build", lambda spec, data: (trained.append(spec), original(spec, data))[1])
    train(make_spec(overwrite_output_dir=True, **settings))
    assert len(trained) == len(first.rate_search) + 1


def test_a_search_in_which_nothing_trains_says_so(make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> None:
        raise NotFiniteError("no")

    monkeypatch.setattr(run, "make_trainer", fails)
    with pytest.raises(OptionError, match="No learning rate trains"):
        train(make_spec(learning_rate="auto"))


def test_a_word_that_is_no_rate_is_refused() -> None:
    with pytest.raises(OptionError, match="learning_rate must be a number above 0, or 'auto', and not 'atuo'"):
        RunSpec(learning_rate="atuo")

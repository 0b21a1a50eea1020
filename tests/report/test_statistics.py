"""Laws of the statistics: the fast ways agree with scikit-learn and scipy, and nothing is different from itself."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from propulsion_tools.report.front import front
from propulsion_tools.report.noise import half_width
from propulsion_tools.report.statistics import Rows, difference, mean_of, resampled
from propulsion_tools.report.summary import ranked
from propulsion_tools.tasks.metrics import streamed


def run(seed: int, quality: float, count: int = 200, classes: int = 2) -> Rows:
    """Answers that are right with probability `quality`, for labels that are the same for every seed."""
    labels = np.random.default_rng(0).integers(classes, size=count)
    random = np.random.default_rng(seed)
    other = (labels + random.integers(1, classes, size=count)) % classes
    return {"labels": labels, "answers": np.where(random.random(count) < quality, labels, other)}


@pytest.mark.parametrize(("metric", "classes"), [("accuracy", 3), ("mcc", 2), ("mcc", 3), ("pearson", 5), ("f1", 2)])
def test_resampled_scores_are_the_scores_of_the_resamples(metric: str, classes: int) -> None:
    runs = [run(1, 0.7, classes=classes), run(2, 0.8, classes=classes)]
    found = resampled(runs, metric, count=20)
    chosen = np.random.default_rng(200).integers(200, size=(20, 200))
    score = streamed((metric,)).scores[metric]
    for number, some in enumerate(chosen):
        expected = np.mean([score(rows["labels"][some], rows["answers"][some]) for rows in runs])
        assert found is not None
        assert found[number] == pytest.approx(expected, abs=1e-9)


def test_a_constant_answer_has_no_correlation() -> None:
    rows = {"labels": np.arange(9.0), "answers": np.ones(9)}
    assert resampled([rows], "pearson", count=5) == pytest.approx(np.zeros(5))


def test_answers_that_were_not_kept_and_scores_of_whole_texts_are_not_compared() -> None:
    assert resampled([{}], "accuracy") is None
    assert resampled([], "accuracy") is None
    assert resampled([run(1, 0.7)], "rougeL") is None


def test_nothing_is_different_from_itself_and_much_better_is_clear() -> None:
    weak, strong = (resampled([run(seed, quality)], "accuracy") for seed, quality in ((1, 0.6), (2, 0.9)))
    assert weak is not None
    assert strong is not None
    same = difference(weak, weak, 0.0, "itself")
    assert (same.low, same.high, same.p) == (0.0, 0.0, 1.0)
    assert not same.is_clear
    apart = difference(strong, weak, 0.3, "weak")
    assert apart.is_clear
    assert 0 < apart.low < apart.high
    assert apart.p < 0.01
    mirrored = difference(weak, strong, -0.3, "strong")
    assert (mirrored.low, mirrored.high) == pytest.approx((-apart.high, -apart.low))


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    hits = 0
    for seed in range(100):
        one, two = (resampled([run(2 * seed + side, 0.8)], "accuracy", 200) for side in (0, 1))
        assert one is not None
        assert two is not None
        gap = difference(one, two, 0.0, "equal")
        hits += not gap.is_clear
    assert 85 <= hits <= 100


def test_seeds_that_differ_widen_an_interval_and_those_that_do_not_leave_it() -> None:
    gaps = np.random.default_rng(0).normal(0.03, 0.01, 1000)
    zero = np.zeros(1000)
    rows_alone = difference(gaps, zero, 0.03, "peer")
    assert difference(gaps, zero, 0.03, "peer", [[0.53, 0.53], [0.5, 0.5]]) == rows_alone
    assert difference(gaps, zero, 0.03, "peer", [[0.53], [0.5]]) == rows_alone
    assert rows_alone.is_clear
    seeds = [[0.51, 0.55, 0.53] * 40, [0.48, 0.52, 0.5] * 40]
    as_certain = difference(gaps, zero, 0.03, "peer", seeds)  # of 120 seeds: hardly more than the rows
    assert as_certain.is_clear
    assert as_certain.high - as_certain.low > rows_alone.high - rows_alone.low
    apart = difference(gaps, zero, 0.03, "peer", [[0.51, 0.55], [0.48, 0.52]])  # 0.02² for each mean, and t has 4.3
    assert not apart.is_clear
    assert apart.high - apart.low == pytest.approx(2 * 4.3 * 0.0283, rel=0.1)
    mirrored = difference(zero, gaps, -0.03, "peer", [[0.48, 0.52], [0.51, 0.55]])
    assert (mirrored.low, mirrored.high) == pytest.approx((-apart.high, -apart.low))


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("of_rows", [0.003, 0.01])
def test_with_seeds_the_interval_covers_the_truth_as_often_as_it_says(of_rows: float, count: int) -> None:
    """Two methods that are equal, whose means differ by the rows that are in the split and by their seeds."""
    random = np.random.default_rng(count)
    zero, hits, within = np.zeros(1000), 0, 0
    for _ in range(300):
        off = random.normal(0, of_rows)
        mine, theirs = (random.normal(0.8, 0.02, count) for _ in range(2))
        observed = off + mine.mean() - theirs.mean()
        drawn = random.normal(observed, of_rows, 1000)
        hits += not difference(drawn, zero, observed, "equal", [list(mine), list(theirs)]).is_clear
        width = half_width([drawn], [list(mine), list(theirs)])
        assert width is not None
        within += abs(observed) <= width
    assert hits >= 0.91 * 300  # 95 % less three standard errors
    assert within >= 0.91 * 300


def test_one_seed_has_no_deviation() -> None:
    assert mean_of([0.5]).std is None
    assert mean_of([0.5, 0.7]).std == pytest.approx(0.1414, abs=1e-4)


def test_equals_share_a_place_and_the_smaller_may_be_better() -> None:
    assert ranked({"a": 0.5, "b": 0.9, "c": 0.9, "d": 0.1}, True) == {"b": 1, "c": 1, "a": 2}
    assert ranked({"a": 0.5, "b": 0.9, "c": 0.1}, False) == {"c": 1, "a": 2}


POINTS = st.dictionaries(st.text(min_size=1, max_size=3), st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1)


@given(POINTS)
def test_the_front_is_what_nobody_beats(points: dict[str, tuple[float, float]]) -> None:
    best = front(points)
    for name, (cost, score) in points.items():
        beaten = any(
            c <= cost and s >= score and (c, s) != (cost, score) for other, (c, s) in points.items() if other != name
        )
        assert not (name in best and beaten)
        assert name in best or beaten or any(points[other] == (cost, score) for other in best)

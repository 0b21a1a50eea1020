"""What needs no model imports nothing heavy, and Ctrl-C in the middle of an import is one sentence."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from propulsion_tools.cli.commands import COMMANDS

HEAVY = ("torch", "transformers", "peft", "datasets", "sklearn", "matplotlib", "scipy", "pandas", "numpy", "propulsion")
CHILD = f"""
import contextlib, io, json, sys
from propulsion_tools.cli import main

answers = []
for words in json.load(sys.stdin):
    before, said = set(sys.modules), io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            status = main(words)
        except Exception as error:
            status = repr(error)
    heavy = sorted((set(sys.modules) - before) & set({HEAVY}))
    answers.append({{"status": status, "heavy": heavy, "said": said.getvalue()}})
json.dump(answers, sys.stdout)
"""
HELP = [["--version"], ["--help"], [], *([command, "--help"] for command in COMMANDS)]
WRONG = {
    "trian": ["trian"],
    "learnign_rate": ["train", "--learnign_rate", "1e-3"],
    "fast": ["train", "--learning_rate", "fast"],
    "sst3": ["train", "--task", "sst3"],
    "lorra": ["train", "--method", "lorra"],
    "docstringz": ["ablate", "degree", "--task", "[docstrings, docstringz]"],
    "squadd": ["evaluate", "nowhere", "--task", "squadd"],
    "propulsoin": ["ntk", "--method", "propulsoin"],
    "degre": ["train", "--config", "unknown_key.yaml"],
    "lorra2": ["train", "--config", "unknown_method.yaml"],
    "epochs": ["train", "--epochs", "3"],
    "avg": ["train", "--pooling", "avg"],
}
PRINTED = ["recipes", "table1/roberta-base-sst2-propulsion-all", "--print"]


def run_child(code: str, *, cwd: Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(filter(None, sys.path))
    environment = {**os.environ, "PYTHONPATH": path, "COLUMNS": "100"}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=cwd, env=environment, input=stdin, check=False
    )


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What each list of words has given, and what it has imported, in a process that is asked for one after the other.

    Modules stay imported, so one that is imported by an earlier list would not be seen again: the earlier one fails.
    """
    folder = tmp_path_factory.mktemp("words")
    (folder / "unknown_key.yaml").write_text("degre: 3\n")
    (folder / "unknown_method.yaml").write_text("task: sst2\nmethod: lorra2\n")
    asked = [*HELP, *WRONG.values(), PRINTED]
    done = run_child(CHILD, cwd=folder, stdin=json.dumps(asked))
    assert done.returncode == 0, done.stderr
    return {" ".join(words): answer for words, answer in zip(asked, json.loads(done.stdout), strict=True)}


@pytest.mark.parametrize("words", HELP, ids=" ".join)
def test_help_imports_nothing_heavy(words: list[str], answers: dict[str, dict[str, Any]]) -> None:
    answer = answers[" ".join(words)]
    assert (answer["status"], answer["heavy"]) == (0, [])
    assert "propulsion" in answer["said"]


def test_printing_a_recipe_imports_nothing_heavy(answers: dict[str, dict[str, Any]]) -> None:
    answer = answers[" ".join(PRINTED)]
    assert (answer["status"], answer["heavy"]) == (0, [])
    assert "learning_rate: 1.0e-04" in answer["said"]


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_word_imports_nothing_heavy(name: str, answers: dict[str, dict[str, Any]]) -> None:
    answer = answers[" ".join(WRONG[name])]
    assert (answer["status"], answer["heavy"]) == (2, [])
    assert name in answer["said"]
    assert len(answer["said"].splitlines()) == 1


def test_what_is_imported_would_be_seen(tmp_path: Path) -> None:
    (tmp_path / "torch.py").touch()
    (tmp_path / "peft.py").write_text("import torch")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{CHILD}"
    done = run_child(code, cwd=tmp_path, stdin=json.dumps([["--version"], ["inspect", "nowhere"]]))
    version, inspected = json.loads(done.stdout)
    assert version["heavy"] == []
    assert {"torch", "peft"} <= set(inspected["heavy"])


def test_nothing_is_imported_before_ctrl_c_is_caught(tmp_path: Path) -> None:
    code = (
        "import sys; before = set(sys.modules); import propulsion_tools.cli; print(*sorted(set(sys.modules) - before))"
    )
    imported = run_child(code, cwd=tmp_path).stdout.split()
    assert set(imported) <= {"__future__", "propulsion_tools", "propulsion_tools.cli"}


@pytest.mark.parametrize(
    "module", ["propulsion_tools.cli.dispatch", "propulsion_tools.records", "jsonargparse", "torch"]
)
def test_ctrl_c_during_an_import_is_one_sentence(module: str, tmp_path: Path) -> None:
    code = f"""
import sys
from propulsion_tools.cli import main

class CtrlC:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            raise KeyboardInterrupt

sys.meta_path.insert(0, CtrlC())
sys.exit(main(["inspect", "nowhere"]))
"""
    done = run_child(code, cwd=tmp_path)
    assert done.returncode == 130, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "interrupted" in done.stderr


@pytest.mark.parametrize(("package", "words"), [("jsonargparse", ["train"]), ("rich", ["methods"])])
def test_a_missing_extra_is_one_sentence(package: str, words: list[str], tmp_path: Path) -> None:
    code = f"""
import sys
from propulsion_tools.cli import main

sys.modules[{package!r}] = None
sys.exit(main({words}))
"""
    done = run_child(code, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert repr(package) in done.stderr
    assert "pip install " in done.stderr
    assert "[train]'" in done.stderr

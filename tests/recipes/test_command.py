"""`propulsion recipes` lists and prints, `train --recipe` reads the same as the printed file, without torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from propulsion_tools.cli import main
from propulsion_tools.cli.commands import COMMANDS
from propulsion_tools.cli.parsing import parse
from propulsion_tools.cli.reference import reference
from propulsion_tools.recipes import recipe
from propulsion_tools.records import RunSpec
from tests.processes import environment

NAME = "table2/deberta-v3-base-squad-lokr"


def spec(*words: str) -> RunSpec:
    values = parse("train", COMMANDS["train"], list(words))
    assert values is not None
    return RunSpec(**values)


@pytest.fixture
def file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """What `propulsion recipes NAME --print` writes, as a file."""
    assert main(["recipes", NAME, "--print"]) == 0
    path = tmp_path / "my.yaml"
    path.write_text(capsys.readouterr().out)
    return str(path)


@pytest.mark.parametrize(
    "more",
    [
        [],
        ["--seed", "2", "--smoke"],
        ["--learning-rate=1e-3"],
        ["--method_args.r", "4"],
        ["--method_args", "{rank_dropout: 0.1}"],
    ],
)
def test_a_recipe_is_read_as_its_printed_file(more: list[str], file: str) -> None:
    assert spec("--recipe", NAME, *more) == spec("--config", file, *more)
    assert spec(f"--recipe={NAME}", *more) == spec(*more, "--recipe", NAME)
    assert (spec("--recipe", NAME, *more) == recipe(NAME).spec) is (not more)


def test_a_file_overrides_a_recipe_and_options_override_both(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("learning_rate: 0.5\nseed: 7\n")
    read = spec("--recipe", NAME, "--config", str(file), "--seed", "8")
    assert (read.learning_rate, read.seed, read.method_args) == (0.5, 8, {"r": 12})
    assert spec("--config", str(file), "--recipe", NAME, "--seed", "8") == read


def test_the_list_says_what_the_paper_reports_and_why_a_row_cannot_be_run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)  # the workers of pytest-xdist have one
    assert main(["recipes", "--table", "2", "--task", "squad"]) == 0
    printed = capsys.readouterr().out
    (row,) = [line for line in printed.splitlines() if line.split()[:1] == [NAME]]
    assert row.split() == [NAME, "squad", "lokr", "exact_match", "80.64,", "f1", "86.45"]
    assert "squad-prefix-tuning cannot be run: DeBERTa's attention" in printed
    assert "9 of 10 can be run" in printed
    assert main(["recipes", NAME]) == 0
    assert "1 of 1 can be run" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["recipes", "table2/deberta-v3-base-squad-lok"], NAME),
        (["recipes", "--print"], "recipes NAME --print"),
        (["recipes", "table2/deberta-v3-base-squad-prefix-tuning", "--print"], "DeBERTa's attention"),
        (["recipes", "--table", "two"], "table cannot be two"),
        (["recipes", "--table", "5"], "propulsion ablate"),
        (["recipes", "--table", "4"], "There are 1, 2"),
        (["recipes", "--tabel", "2"], "table"),
        (["recipes", "--model", "roberta"], "roberta-base"),
        (["recipes", "--task", "sst"], "sst2"),
        (["recipes", "--method", "docstrings"], "docstrings"),
        (["train", "--recipe"], "propulsion recipes"),
        (["train", "--recipe", "--smoke"], "propulsion recipes"),
        (["train", "--recipe", f"{NAME}r"], NAME),
        (["train", "--recipe", NAME, "--recipe", NAME], "once"),
        (["train", "--recipe", "table2/deberta-v3-base-squad_v2-prefix-tuning"], "DeBERTa's attention"),
        (["ntk", "--recipe", NAME], "'recipe' is no option"),
    ],
)
def test_bad_words_are_one_sentence(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert said in printed.err
    assert len(printed.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["recipes"], 0),
        (["recipes", NAME], 0),
        (["recipes", "--table", "1", "--model", "roberta-bas"], 2),
        (["recipes", "table2/nothing", "--print"], 2),
        (["train", "--recipe", "table2/nothing"], 2),
        (["train", "--recipe", NAME, "--learning_rate", "fast"], 2),
        (["train", "--recipe", NAME, "--help"], 0),
        (["recipes", NAME, "--print"], 0),
    ],
)
def test_no_list_of_recipes_imports_torch(words: list[str], status: int, tmp_path: Path) -> None:
    code = f"""
import sys
from propulsion_tools.cli import main

status = main({words})
heavy = {{"torch", "transformers", "peft", "datasets", "sklearn", "matplotlib"}} & set(sys.modules)
sys.exit(f"imported {{heavy}}" if heavy else status)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=environment(), check=False
    )
    assert done.returncode == status, done.stderr


def test_the_reference_says_what_may_be_left_out_and_what_a_recipe_is_to_train() -> None:
    page = reference()
    assert "```sh\npropulsion recipes [name] [options]\n```" in page
    assert page.count("`--recipe NAME`: ") == 1

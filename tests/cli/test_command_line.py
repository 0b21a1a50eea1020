"""Laws of the command line: one sentence and status 2 for what is wrong, the same names in files and in flags."""

from __future__ import annotations

from pathlib import Path

import pytest

from propulsion_tools.cli import main
from propulsion_tools.cli.commands import COMMANDS
from propulsion_tools.cli.parsing import parse
from propulsion_tools.records import RunSpec
from propulsion_tools.tasks.names import TASK_MODULES


def spec_of(*words: str) -> RunSpec:
    values = parse("train", COMMANDS["train"], list(words))
    assert values is not None
    return RunSpec(**values)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["trian"], "train"),
        (["frobnicate"], "evaluate"),
        (["train", "--learnign_rate", "1e-3"], "learning_rate"),
        (["train", "--learning_rate", "fast"], "learning_rate"),
        (["train", "--learning_rate", "-1"], "learning_rate"),
        (["train", "--degree", "1.5"], "degree"),
        (["train", "--eval_strategy", "sometimes"], "epoch"),
        (["train", "--config", "nowhere.yaml"], "nowhere.yaml"),
        (["train", "stray"], "stray"),
        (["evaluate"], "adapter_dir"),
        (["evaluate", "nowhere"], "propulsion train"),
        (["predict", "nowhere", "--inptu", "x"], "input"),
        (["train", "--method", "propulsoin"], "propulsion"),
        (["train", "--method", "lora", "--method_args", "{rr: 4}"], "'r'"),
        (["methods", "--counts", "roberta-bas"], "roberta-base"),
        (["serve", "runs"], "'runs' belongs to no option of `propulsion serve`. Did you mean --adapters runs?"),
        (["predict", "run", "my rows.jsonl"], "Did you mean --input 'my rows.jsonl'?"),
        (["train", "run.yaml"], "Did you mean --config run.yaml?"),
        (["serve", "--adapters", "runs", "more"], "'more' belongs to no option of `propulsion serve` (see"),
        (
            ["train", "--lora_r", "8"],
            "'lora_r' is no option of `propulsion train`. Arguments of the method itself go into ",
        ),
        (["train", "--num_virtual_token", "8"], 'go into method_args, by its names for them: "{r: 8}".'),
        (["train", "--rank", "8"], 'method_args, by its names for them: "{r: 8}".'),
        (["train", "--epochs", "3"], "no option of `propulsion train`. Did you mean 'num_train_epochs'?"),
        (["train", "--lr=1e-3"], "'learning_rate'"),
        (["train", "--model", "x"], "'model_name_or_path'"),
        (["predict", "run", "--model", "x"], "'model_name_or_path'"),
        (["train", "--batch-size", "3"], "'per_device_train_batch_size' or 'per_device_eval_batch_size'"),
        (["train", "--dataset", "x"], "'data_dir' or 'dataset_name'"),
        (["train", "--output", "x"], "'output_dir'"),
        (["evaluate", "run", "--output_dir", "x"], "'output'"),
        (["ablate", "degree", "--seed", "1"], "'seeds'"),
        (
            ["train", "--seed", "1,2"],
            "its type is integer. This is one run: a grid of several is for `propulsion compare`",
        ),
        (["train", "--learning_rate", "[1e-3, 2e-3]"], "a grid of several"),
        (["train", "--degree", "3,5"], 'brackets, and quotes around them: "[3, 5]"'),
        (["ablate", "degree", "--seeds", "1,2"], 'brackets, and quotes around them: "[1, 2]"'),
        (["train", "--pooling", "avg"], "pooling must be one of mean, max, min, l2, and not 'avg'"),
        (["train", "--init_weights", "xaver"], "and not 'xaver'. Did you mean 'xavier'"),
    ],
)
def test_bad_words_give_one_sentence_and_status_2(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert said in printed.err
    assert "Traceback" not in printed.err
    assert len(printed.err.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trian", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_flags_and_yaml_have_the_same_names_and_flags_win(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("learning_rate: 1e-4\ntarget_modules: [query, value]\ndegree_pattern: {query: 5}\nbf16: true\n")
    spec = spec_of("--config", str(file), "--learning_rate", "2e-3")
    assert spec == RunSpec(
        learning_rate=2e-3, target_modules=("query", "value"), degree_pattern={"query": 5}, bf16=True
    )


@pytest.mark.parametrize(
    ("words", "more"),
    [
        (["train", "--recipe", "table1/roberta-base-sst2-propulsion-all", "--target_modules", "[query, value]"], []),
        (["evaluate", "run", "--split", "test", "--null_score_diff_threshold", "1e-3"], ["run"]),
        (["recipes", "--table", "1"], []),
    ],
)
def test_what_print_config_prints_is_a_file_with_the_same_options(
    words: list[str], more: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, *rest = words
    wanted = parse(name, COMMANDS[name], rest)
    assert main([*words, "--print_config"]) == 0
    (tmp_path / "printed.yaml").write_text(capsys.readouterr().out)
    assert parse(name, COMMANDS[name], [*more, "--config", str(tmp_path / "printed.yaml")]) == wanted


def test_flags_may_have_hyphens(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--learning-rate=0.5", "--data-dir", "no-where"]) == 2
    assert "no-where" in capsys.readouterr().err
    assert main(["train", "--learnign-rate", "1"]) == 2
    assert "learning_rate" in capsys.readouterr().err
    assert main(["train", "--config"]) == 2
    assert "wants a YAML file" in capsys.readouterr().err


def test_unknown_key_in_a_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("degre: 3\n")
    assert main(["train", "--config", str(file)]) == 2
    assert "'degree'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["--degree", "[1, 15]"], {"degree": (1, 15)}),
        (["--target_modules", "all"], {"target_modules": "all"}),
        (["--target_modules", r".*\.(query|key)$"], {"target_modules": r".*\.(query|key)$"}),
        (["--target_modules=[a,b]"], {"target_modules": ("a", "b")}),
        (["--bf16"], {"bf16": True}),
        (["--bf16", "--seed", "3"], {"bf16": True, "seed": 3}),
        (["--bf16", "false"], {"bf16": False}),
        (["--resume_from_checkpoint"], {"resume_from_checkpoint": True}),
        (["--resume_from_checkpoint", "run/checkpoint-3"], {"resume_from_checkpoint": "run/checkpoint-3"}),
        (["--init_weights", "normal"], {"init_weights": "normal"}),
        (["--init_weights", "false"], {"init_weights": False}),
        (["--layers_to_transform", "[0, 1]"], {"layers_to_transform": (0, 1)}),
        (["--max_train_samples", "6400"], {"max_train_samples": 6400}),
        (["--method_args", "{r: 4}"], {"method_args": {"r": 4}}),
        (["--method_args.r", "4"], {"method_args": {"r": 4}}),
        (["--report_to", "[tensorboard, wandb]"], {"report_to": ("tensorboard", "wandb")}),
    ],
)
def test_words_become_the_spec(words: list[str], wanted: dict[str, object]) -> None:
    assert spec_of(*words) == RunSpec(**wanted)  # type: ignore[arg-type]


@pytest.mark.parametrize("command", list(COMMANDS))
def test_help_names_every_option(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    printed = capsys.readouterr().out
    assert all(f"--{name}" in printed for name in COMMANDS[command].options.__dataclass_fields__)


def test_methods_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods"]) == 0
    assert "propulsion" in capsys.readouterr().out


def test_a_pipe_cuts_no_cell(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    from propulsion_tools.training.console import show, table

    show(table("t", ["name", "text"], [["n" * 100, "t" * 100]]))
    assert "n" * 100 in (printed := capsys.readouterr().out)
    assert "t" * 100 in printed
    monkeypatch.setenv("COLUMNS", "40")
    show(table("t", ["name"], [["n" * 100]]))
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 40


def test_lists_fold_what_differs_in_its_name_alone(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert main(["methods"]) == main(["tasks"]) == 0
    printed = capsys.readouterr().out
    lines = printed.splitlines()
    assert [line.split()[0] for line in lines if line.startswith((" propulsion", " lora,"))] == [
        "propulsion",
        "propulsion-PRESET",
        "lora,",
        "propulsion",
    ]
    assert "propulsion on one preset: all, attn, embedding" in printed
    named = {line.split()[0] for line in lines if line.strip()}
    assert {name for name in TASK_MODULES if not name.endswith("_ranking")} <= named
    assert " boolq [_ranking] " in printed
    assert [line.split()[2] for line in lines if line.startswith((" sst2 ", " docstrings ", " addsub "))] == [
        "here",
        "hub",
        "yours",
    ]


def test_the_overview_has_headings(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert [line for line in printed.splitlines() if line.endswith(":") and not line.startswith(" ")][:2] == [
        "a run:",
        "many runs:",
    ]
    assert all(f"\n  {name} " in printed for name in COMMANDS)


def test_tasks_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tasks"]) == 0
    assert "text-classification" in capsys.readouterr().out

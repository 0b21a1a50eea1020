"""A full disk and Ctrl-C end in one sentence that is true of the command, and in its exit status."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from transformers import BertTokenizerFast

from propulsion_tools.cli import dispatch, main
from propulsion_tools.cli.commands import COMMANDS
from propulsion_tools.cli.disk_errors import of_disk
from propulsion_tools.records import RECORD_FILE
from propulsion_tools.training import build, trainer
from tests.processes import forked

FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="/dev/full is Linux's")
RESUME = "go on with --resume_from_checkpoint true"


def said(capsys: pytest.CaptureFixture[str]) -> str:
    printed = capsys.readouterr().err
    assert len(printed.splitlines()) == 1, printed
    return printed.strip()


@pytest.fixture
def words(tiny_model: Path, data_dir: Path, tmp_path: Path) -> list[str]:
    """A run of four steps and two checkpoints in tmp_path / "run"."""
    given = {
        "data_dir": data_dir,
        "model_name_or_path": tiny_model,
        "output_dir": tmp_path / "run",
        "max_steps": 4,
        "save_strategy": "steps",
        "save_steps": 2,
        "eval_strategy": "no",
        "max_length": 16,
        "disable_tqdm": "true",
        "use_cpu": "true",
    }
    return ["train", *(word for name, value in given.items() for word in (f"--{name}", str(value)))]


def tokenizer() -> BertTokenizerFast:
    return BertTokenizerFast(vocab={word: n for n, word in enumerate(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"))})


@needs_full
@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("tokenizer.json", lambda file: tokenizer().save_pretrained(file.parent)),
        ("tokenizer_config.json", lambda file: tokenizer().save_pretrained(file.parent)),
        ("optimizer.pt", lambda file: torch.save({"a": torch.ones(30)}, file)),
        ("predictions.npz", lambda file: np.savez_compressed(file, a=np.ones(3))),
        ("README.md", lambda file: file.write_text("x")),
    ],
)
def test_every_library_says_that_the_disk_is_full(name: str, write: Callable[[Path], Any], tmp_path: Path) -> None:
    (tmp_path / name).symlink_to(FULL)
    with pytest.raises(Exception, match=r".") as caught:
        write(tmp_path / name)
    assert of_disk(caught.value) is not None


def test_what_is_no_fault_of_the_disk_is_not_said_to_be_one() -> None:
    for error in (OSError(errno.ENOENT, "x"), ValueError("no"), RuntimeError("shapes"), Exception("(os error 2)")):
        assert of_disk(error) is None
    rust = SafetensorError("I/O error: No space left on device (os error 28)")
    assert of_disk(rust) == f"a file could not be written: {os.strerror(errno.ENOSPC)}"
    (wrapped := ValueError("while saving")).__cause__ = OSError(errno.EROFS, os.strerror(errno.EROFS), "x.json")
    assert of_disk(wrapped) == f"x.json: {os.strerror(errno.EROFS)}"


@needs_full
def test_a_disk_that_is_full_at_the_end_of_a_run(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "tokenizer.json").symlink_to(FULL)
    assert main(words) == 2
    assert said(capsys) == f"propulsion: a file could not be written: {os.strerror(errno.ENOSPC)}; {RESUME}"
    assert not (tmp_path / "run" / RECORD_FILE).exists()
    (tmp_path / "run" / "tokenizer.json").unlink()
    assert main([*words, "--resume_from_checkpoint", "true"]) == 0
    assert (tmp_path / "run" / RECORD_FILE).exists()


def fail(error: BaseException) -> Callable[..., None]:
    def run(*arguments: Any) -> None:
        raise error

    return run


ENDS = {
    "disk": (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "x"), 2, f"x: {os.strerror(errno.ENOSPC)}"),
    "ctrl-c": (KeyboardInterrupt(), 130, "interrupted"),
}
CASES = {
    "train": (["train", "--output_dir", "run"], "there is no checkpoint to go on from"),
    "evaluate": (["evaluate", "run"], ""),
    "inspect": (["inspect", "run"], ""),
    "ntk": (["ntk"], ""),
    "predict": (["predict", "run"], ""),
    "compare": (["compare", "grid.yaml"], "the same command goes on"),
    "ablate": (["ablate", "degree"], "the same command goes on"),
    "tasks": (["tasks"], ""),
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("command", CASES)
def test_only_what_can_go_on_says_so(
    end: str, command: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (error, status, sentence), (words, clause) = ENDS[end], CASES[command]
    monkeypatch.chdir(tmp_path)
    changed = {**vars(COMMANDS[command]), "run": fail(error)}
    monkeypatch.setitem(COMMANDS, command, type(COMMANDS[command])(**changed))
    assert main(words) == status
    assert said(capsys) == f"propulsion: {sentence}" + (f"; {clause}" if clause else "")
    if command == "train":
        (tmp_path / "run" / "checkpoint-3").mkdir(parents=True)
        (tmp_path / "run" / "checkpoint-3" / "trainer_state.json").write_text('{"global_step": 3}')
        (tmp_path / "run" / "checkpoint-3" / "spec.json").write_text("{}")
        assert main(words) == status
        assert said(capsys).endswith(RESUME)
    if command == "predict":
        (tmp_path / "predictions.csv.123456789abc.partial").touch()
        assert main(words) == status
        assert said(capsys).endswith("the same command goes on")


def test_a_file_that_we_forgot_is_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "prepare", fail(FileNotFoundError(errno.ENOENT, "gone", "record.json")))
    with pytest.raises(FileNotFoundError, match=r"record\.json"):
        main(["tasks"])


def interrupted_main(moment: str, words: list[str]) -> None:
    """The signal is sent from inside, so that the moment is the same on every machine."""
    owner, name, call = {
        "tokens": (build, "encode_splits", 1),
        "steps": (trainer.RunTrainer, "training_step", 4),
    }[moment]
    original, calls = getattr(owner, name), []

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == call:
            os.kill(os.getpid(), signal.SIGINT)
        return original(*args, **kwargs)

    setattr(owner, name, interrupted)
    sys.exit(main(words))


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["tokens", "steps"])
def test_ctrl_c_while_it_works(moment: str, words: list[str]) -> None:
    done = forked(interrupted_main, moment, words)
    clause = RESUME if moment == "steps" else "there is no checkpoint to go on from"
    assert done.errors.splitlines()[-1] == f"propulsion: interrupted; {clause}"
    assert "Traceback" not in done.errors
    assert done.status == 128 + signal.SIGINT

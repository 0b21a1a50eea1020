"""Settings of the whole suite: no hub, one thread for each worker, and tests that come out the same each time.

What several rooms need: a tiny BERT with its tokenizer, and two splits of sentences that it can learn, all made here.
"""

from __future__ import annotations

import errno
import gc
import json
import os
import random
import signal
import stat
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("RAY_gcs_server_port_wait_time_s", "240")  # a busy machine takes longer than Ray's 30 s

import pytest
import torch
from transformers import BertConfig, BertModel, BertTokenizerFast

from tests.processes import WithPeftAlone
from tests.sentences import BAD, FILLER, GOOD


def pytest_configure() -> None:
    """Let an interrupt reach what the tests start: a shell's background jobs ignore it, and so do their children."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first: what comes last has to be short, or one worker waits for another."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


MANY_MODULES = 100
_frozen_at = 0  # how many modules there were


def pytest_collection_finish() -> None:
    """Leave what is there for good out of all later garbage collections.

    That is a million objects of imported modules and tests, half a second each time, and every Trainer collects.
    """
    freeze()


def pytest_runtest_logfinish() -> None:
    """Also what the first run of a worker imports."""
    if len(sys.modules) > _frozen_at + MANY_MODULES:
        freeze()


def freeze() -> None:
    global _frozen_at
    gc.collect()
    gc.freeze()
    _frozen_at = len(sys.modules)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line for each reason why tests were skipped, wherever they are: what was not tested is still said."""
    reports = terminalreporter.stats.get("skipped", [])
    reasons = Counter(str(report.longrepr[2]).removeprefix("Skipped: ") for report in reports)
    for reason, count in reasons.most_common():
        terminalreporter.write_line(f"{count} skipped: {reason}")


def _refuse_streams(file: int | IO[Any]) -> None:
    """As os.fsync does, which can only ask files and folders to be on the disk."""
    mode = os.fstat(file if isinstance(file, int) else file.fileno()).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))


@pytest.fixture(autouse=True, scope="session")
def _no_waits_for_the_disk() -> Iterator[None]:
    """That a file is on the disk before it takes its place matters to a crash of the system, which no test can try."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", _refuse_streams)
        yield


@pytest.fixture(autouse=True)
def _reproducible() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def with_peft_alone() -> Iterator[WithPeftAlone]:
    """Runs programs in processes that have imported PEFT, and nothing of ours."""
    programs = WithPeftAlone()
    yield programs
    programs.close()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with random weights and a word-piece tokenizer."""
    folder = tmp_path_factory.mktemp("tiny-bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *GOOD, *BAD, *FILLER]
    vocabulary = {word: number for number, word in enumerate(words)}
    BertTokenizerFast(vocab=vocabulary, model_max_length=32).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=128,
        max_position_embeddings=64,
        initializer_range=0.1,
    )
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train.jsonl with 64 rows and validation.jsonl with 32."""
    folder = tmp_path_factory.mktemp("sentences")
    draw = random.Random(0)
    for split, count in (("train", 64), ("validation", 32)):
        lines = []
        for number in range(count):
            words = [*draw.choices(FILLER, k=4), draw.choice(GOOD if number % 2 else BAD), str(number)]
            lines.append(json.dumps({"text": " ".join(words), "label": "positive" if number % 2 else "negative"}))
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.fixture
def make_grid(tiny_model: Path, data_dir: Path, tmp_path: Path) -> Callable[..., Any]:
    """Grids of 4 steps on 64 sentences; their runs go to tmp_path."""
    from tests.grids import grids

    return grids(tiny_model, data_dir, tmp_path)

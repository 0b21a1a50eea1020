"""A server of its own process over a model with random weights and many adapters, for the benchmark and the soak test."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from propulsion import PropulsionConfig

WORD = "w{}"  # the token n
JSON = {"Content-Type": "application/json"}


def write_base(model: Any, folder: Path) -> None:
    """A base model, with a tokenizer that has a word for each of its tokens."""
    marks = {0: "<pad>", 2: "<end>", 3: "<unknown>"}
    names = {marks.get(number, WORD.format(number)): number for number in range(model.config.vocab_size)}
    backend = Tokenizer(models.WordLevel(names, unk_token=marks[3]))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokens = {"pad_token": marks[0], "eos_token": marks[2], "unk_token": marks[3]}
    PreTrainedTokenizerFast(tokenizer_object=backend, **tokens, model_max_length=512).save_pretrained(folder)
    model.save_pretrained(folder)


def write_adapters(model: Any, base: Path, folder: Path, names: list[str], task_type: str, spread: float) -> None:
    """Adapters with gains and heads of their own, the same for the same number in the list."""
    tuned = get_peft_model(model, PropulsionConfig(task_type=task_type, target_modules="all")).eval()
    tuned.peft_config["default"].base_model_name_or_path = str(base)
    for seed, name in enumerate(names):
        draw_values(tuned, seed, spread)
        tuned.save_pretrained(folder / name)


@torch.no_grad()
def draw_values(tuned: PeftModel, seed: int, spread: float) -> None:
    """Give the one adapter of a model the values of a seed."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in tuned.named_parameters():
        if "propulsion" in name or "modules_to_save" in name:
            scale = spread if "propulsion" in name else 0.5
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))


@contextlib.contextmanager
def serving(adapters: Path, log: Path, **options: Any) -> Iterator[tuple[int, int]]:
    """`propulsion serve` on a free port: the port, and the number of the process."""
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "propulsion", "serve", "--adapters", str(adapters), "--port", "0", *words]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with (
        log.open("wb") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment) as process,
    ):
        try:
            assert process.stdout is not None
            for line in iter(process.stdout.readline, ""):
                if found := re.search(r"http://127\.0\.0\.1:(\d+)", line):
                    yield int(found[1]), process.pid
                    break
            else:
                raise RuntimeError(f"The server has not started:\n{log.read_text()[-3000:]}")
        finally:
            process.terminate()


class Caller:
    """One client, with one connection that it keeps."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._connection: HTTPConnection | None = None

    def __call__(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        """Status and body of an answer."""
        if self._connection is None:
            self._connection = HTTPConnection("127.0.0.1", self._port, timeout=120)
        self._connection.request(method, path, body, JSON)
        answer = self._connection.getresponse()
        content = answer.read()
        if answer.will_close:
            self.hang_up()
        return answer.status, content

    def send(self, path: str, body: bytes) -> None:
        """A request whose answer is not awaited."""
        connection = HTTPConnection("127.0.0.1", self._port, timeout=120)
        connection.request("POST", path, body, JSON)
        connection.close()

    def hang_up(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

"""Tiny runs for benchmarks/chaos.py: each in a fork of a process that has imported everything, ended as one likes."""

from __future__ import annotations

import errno
import gc
import json
import os
import random
import re
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

DONE, BROKEN, REFUSED = 0, 1, 2
RUN = "run"
"""The folder of a run, beneath the folder of a trial: the same name for all, as it stands in their records."""
WRITES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate")
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO)
_SECONDS = re.compile(r"they took \d+ s")


@dataclass(frozen=True)
class Subject:
    """What the runs train: made once.

    Attributes:
        folder: Where.
    """

    folder: Path

    @property
    def model(self) -> Path:
        """The folder of a BERT of one layer, with random weights and its tokenizer."""
        return self.folder / "model"

    @property
    def data(self) -> Path:
        """A folder with 48 training rows and 6 of validation."""
        return self.folder / "data"

    @property
    def texts(self) -> Path:
        """A file of rows to label."""
        return self.folder / "texts.jsonl"


def make_subject(folder: Path) -> Subject:
    """Write the model and the data."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    draw, words = random.Random(0), [*"abcdefghij", "good", "bad"]
    vocabulary = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words])}
    subject = Subject(folder)
    BertTokenizerFast(vocab=vocabulary, model_max_length=16).save_pretrained(subject.model)
    torch.manual_seed(0)
    size = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = BertConfig(vocab_size=len(vocabulary), max_position_embeddings=16, initializer_range=0.1, **size)
    BertModel(config).save_pretrained(subject.model)
    subject.data.mkdir()
    for split, count in (("train", 48), ("validation", 6)):
        texts = [[*draw.choices(words[:10], k=draw.randrange(1, 5)), ("good", "bad")[row % 2]] for row in range(count)]
        rows = [{"text": " ".join(text), "label": text[-1]} for text in texts]
        (subject.data / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    subject.texts.write_text('{"text": "a b good"}\n{"text": "c d bad"}\n')
    return subject


def settings(number: int) -> dict[str, Any]:
    """The options of a run: the same number gives the same ones; one in twelve searches its rate."""
    draw = random.Random(f"settings {number}")
    steps, evaluated = draw.randrange(3, 8), draw.random() < 0.3
    chosen: dict[str, Any] = {
        "method": draw.choice(("propulsion", "propulsion", "propulsion", "lora", "head", "bitfit")),
        "max_steps": steps,
        "save_strategy": "steps",
        "save_steps": draw.randrange(1, 4),
        "save_total_limit": draw.choice((1, 1, 2, None)),
        "eval_strategy": "no",
        "dropout": draw.choice((0.0, 0.2, "model")),
        "optim": draw.choice(("adamw_torch", "adamw_torch", "sgd", "adafactor", "rmsprop")),
        "lr_scheduler_type": draw.choice(("linear", "cosine", "constant", "inverse_sqrt")),
        "head_first": draw.choice((0.0, 0.3, 0.6)),
        "gradient_accumulation_steps": draw.choice((1, 1, 2)),
        "group_by_length": draw.random() < 0.3,
        "learning_rate": draw.choice((1e-3, 1e-2)),
        "seed": draw.randrange(1000),
        "logging_steps": 1 if number % 6 == 0 else 1000,  # a plot of the loss takes as long as all the rest
    }
    if evaluated:
        chosen |= {"eval_strategy": "steps", "eval_steps": chosen["save_steps"], "load_best_model_at_end": True}
    if number % 12 == 5:  # the rate runs away, and the run goes back to its last good vectors
        chosen |= {"method": "propulsion", "degree": 55, "learning_rate": 3.0, "max_grad_norm": 0.0, "head_first": 0.0}
        chosen |= {"lr_scheduler_type": "constant", "optim": "sgd", "max_steps": 7}
    if number % 12 == 9:
        chosen["save_strategy"] = "no"
        chosen.pop("load_best_model_at_end", None)
    if number % 12 == 11:
        # By itself, tries are trained in one batch where that is faster, which depends on the moment.
        chosen |= {"learning_rate": "auto", "method": "propulsion", "max_steps": 3, "joint": False}
    return chosen


def spec_of(chosen: dict[str, Any], subject: Subject) -> Any:
    """The command of a run, which begins it, goes on with it, and is the same every time."""
    from propulsion_tools.records import RunSpec

    common = {"max_length": 8, "per_device_train_batch_size": 4, "warmup_steps": 1}
    quiet = {"disable_tqdm": True, "use_cpu": True, "output_dir": RUN, "resume_from_checkpoint": True}
    return RunSpec(model_name_or_path=str(subject.model), data_dir=str(subject.data), **common, **quiet, **chosen)


def group_of(subject: Subject) -> list[Any]:
    """Three runs that are trained in one batch."""
    from dataclasses import replace

    chosen = {"max_steps": 5, "save_strategy": "steps", "save_steps": 2, "dropout": 0.0, "optim": "sgd"}
    spec = spec_of({**chosen, "method": "propulsion", "learning_rate": 1e-2, "save_total_limit": 2}, subject)
    places = [{"seed": 1}, {"seed": 2, "degree": 3}, {"seed": 3, "head_first": 0.4}]
    return [replace(spec, output_dir=f"{RUN}/{number}", **place) for number, place in enumerate(places)]


def preload(subject: Subject) -> None:
    """Import what runs import, before they are forked, by doing one here."""
    import torch

    from propulsion_tools.compare import preload as _  # noqa: F401
    from propulsion_tools.records.options import PredictOptions
    from propulsion_tools.training.predict import predict
    from propulsion_tools.training.run import train

    torch.set_num_threads(1)
    before = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        train(spec_of({"max_steps": 2, "save_strategy": "steps", "save_steps": 1}, subject))
        options = PredictOptions(input=str(subject.texts), output="labels.jsonl", disable_tqdm=True, use_cpu=True)
        predict(Path(RUN), options)
        os.chdir(before)
    gc.collect()
    gc.freeze()  # or every collection of a run, of which there are some, goes through all that was imported


def forked(folder: Path, do: Callable[[], object], prepare: Callable[[], object] = lambda: None) -> int:
    """Do something in a process of its own.

    Args:
        folder: Where it is; what it prints goes to its log.
        do: What.
        prepare: Called before.

    Returns:
        The number of the process. Its status is `DONE`, `REFUSED` after an error of ours or of the disk, or `BROKEN`.
    """
    process = os.fork()
    if process:
        return process
    from propulsion_tools.cli.disk_errors import of_disk
    from propulsion_tools.errors import is_one_sentence

    status = BROKEN
    try:
        log = os.open(folder / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.chdir(folder)
        try:
            prepare()
            do()
            status = DONE
        except Exception as error:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            said = str(error) if is_one_sentence(error) else of_disk(error)
            status = BROKEN if said is None else REFUSED
            os.write(log, (said or traceback.format_exc()).encode())
    finally:
        os._exit(status)


def train_here(spec: Any) -> Callable[[], object]:
    """A run as the command does it, whose sentences go to the log."""

    def do() -> None:
        from propulsion_tools.training.run import train

        train(spec, lambda sentence: os.write(1, f"{sentence}\n".encode()))

    return do


def train_group(specs: list[Any]) -> Callable[[], object]:
    """Runs in one batch; the first error of one of them ends them all."""

    def do() -> None:
        from propulsion_tools.training.joint_runs import train_together

        for run in train_together(specs, measure=False):
            if run.error is not None:
                raise run.error
            print(f"{run.apart or 'in one batch'}", flush=True)

    return do


def ended(process: int, kill_after: float | None = None) -> int:
    """The status of a process at its end, minus the signal where one ended it.

    Args:
        process: Its number.
        kill_after: Seconds; None: it is left to end by itself.
    """
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(process, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def at_event(
    number: int, do: Callable[[str], object], again: bool = False, too_large: signal.Handlers = signal.SIG_IGN
) -> Callable[[], None]:
    """What a process prepares to have something done just before its nth change of the file system.

    Args:
        number: From 1.
        do: Is told what is about to change.
        again: Whether it is done before every change from there on.
        too_large: What becomes of the process where a file grows beyond a limit: it is told, or killed.
    """
    count = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if event == "open":
            mode, flags = arguments[1], arguments[2]
            is_write = any(letter in (mode or "") for letter in "wax+") or flags & (os.O_WRONLY | os.O_RDWR)
            if not is_write or str(arguments[0]).startswith(("/dev/", "/proc/")):
                return
        elif event not in WRITES:
            return
        count += 1
        if count == number or (again and count > number):
            do(f"{event} {arguments[0]}")

    def prepare() -> None:
        signal.signal(signal.SIGXFSZ, too_large)
        sys.addaudithook(hook)

    return prepare


def kill_itself(event: str) -> None:
    """As SIGKILL from outside, at this very moment."""
    os.kill(os.getpid(), signal.SIGKILL)


def note(file: Path) -> Callable[[str], object]:
    """Write a byte to a file for each change that is told, which is no change itself."""
    stream = os.open(file, os.O_WRONLY | os.O_CREAT)
    return lambda event: os.write(stream, b".")


def fail_with(number: int) -> Callable[[str], None]:
    """Every change of the file system fails from here on, with an error of the disk."""

    def fail(event: str) -> None:
        raise OSError(number, os.strerror(number), event.partition(" ")[2])

    return fail


def limit_files(size: int) -> Callable[[str], None]:
    """From here on, no file may grow beyond this size."""
    return lambda event: resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def differences(one: Path, other: Path, tolerance: float = 0.0) -> list[str]:
    """Which files of two folders of runs differ, but for times; a file that only one has differs.

    Args:
        one: A folder.
        other: Another one; what its manifests say is checked, too.
        tolerance: How far numbers may be apart; 0: everything is the same, bit for bit.
    """
    from propulsion_tools.training.manifest import MANIFEST_FILE, changed, fault

    names = [{path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()} for run in (one, other)]
    found = [f"only one has {name}" for name in sorted(names[0] ^ names[1])]
    found += [name for name in sorted(names[0] & names[1]) if not _equal(one / name, other / name, tolerance)]
    for file in sorted(other.rglob(MANIFEST_FILE)):
        said = fault(file.parent) if file.parent.name.startswith("checkpoint-") else changed(file.parent)
        found += [f"{file.relative_to(other)}: {said}"] if said else []
    return found


def _equal(one: Path, other: Path, tolerance: float) -> bool:
    if one.name == "README.md" or (
        tolerance and one.suffix == ".png"
    ):  # times, and pictures of what is nearly the same
        return True
    if one.name == "manifest.json":  # digests of files with times
        names = [json.loads(path.read_text())["files"].keys() for path in (one, other)]
        return bool(names[0] == names[1])
    has_times = one.name in ("record.json", "trainer_state.json")
    if has_times or one.suffix in (".npz", ".pt", ".pth") or (tolerance and one.suffix == ".safetensors"):
        return _near(_values(one, tolerance), _values(other, tolerance), tolerance)
    return one.read_bytes() == other.read_bytes()


def _near(one: Any, other: Any, tolerance: float) -> bool:
    """Whether values are the same, but for how far their fractions may be apart."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_near(one[key], other[key], tolerance) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(_near(*pair, tolerance) for pair in zip(one, other, strict=True))
    if isinstance(one, float) and isinstance(other, float):
        return one == other or abs(one - other) <= tolerance
    return bool(one == other)


def _values(file: Path, tolerance: float) -> Any:
    """What is in a file of JSON, NumPy, torch or safetensors, as lists and dictionaries without times."""
    import torch
    from safetensors.torch import load_file
    from transformers.trainer_pt_utils import safe_globals

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items() if not _is_measured(str(key), tolerance)}
        if isinstance(value, list | tuple):
            return [plain(item) for item in value]
        if isinstance(value, torch.Tensor | np.ndarray):
            return [str(value.dtype), value.tolist()]
        return _SECONDS.sub("", value) if isinstance(value, str) else value

    if file.suffix == ".json":
        return plain(json.loads(file.read_text()))
    if file.suffix == ".npz":
        with np.load(file) as arrays:
            return plain({name: arrays[name] for name in arrays.files})
    if file.suffix == ".safetensors":
        return plain(load_file(file))
    with safe_globals():
        return plain(torch.load(file, weights_only=True))  # equal values may be pickled in several ways


def _is_measured(key: str, tolerance: float) -> bool:
    """Whether it is a time or a size; or how many runs were in one batch, which a kill parts, and why not more."""
    names = ("seconds", "peak_memory_bytes", "memory_bytes", "StepClock", *(["joint", "apart"] if tolerance else []))
    return key in names or key.endswith(("_runtime", "_per_second"))


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[bool]:
    """A folder on a disk of its own of so many bytes, where the system allows that; says whether it does."""
    mounted = os.system(f"mount -t tmpfs -o size={size} tmpfs '{folder}' 2>/dev/null") == 0
    try:
        yield mounted
    finally:
        if mounted:
            os.system(f"umount '{folder}'")

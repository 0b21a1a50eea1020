"""Feeds damaged and hostile files to everything that reads a user's files: nothing but an error of ours may come out.

python benchmarks/fuzz.py --inputs 1000000 --output benchmarks/results/fuzz.json
python benchmarks/fuzz.py --atheris record_json -runs=100000       # guided by coverage, where atheris is installed

Inputs are whole files, changed: values of JSON and YAML by hostile ones, keys left out or doubled, the headers of
safetensors with other shapes, offsets and types, and bytes flipped, cut, doubled and put in. The same seed gives the same
inputs. Some stand for far more than their size: gzip and YAML that expand, arrays and tables that say they are huge. What
takes too much memory or time counts as a failure too.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import copy
import csv
import gzip
import io
import json
import math
import random
import resource
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

MEMORY = 6 * 2**30  # of the address space; what a damaged file of a few hundred bytes asks for beyond it is a failure
SECONDS = 20
SLOW = 0.05
BOMB = 0.0005  # a file that expands to 300 MiB takes a second

HOSTILE_NUMBERS = (0, 1, -1, 2**31, 2**63, -(2**63), 2**64, 10**30, 1e308, -1e308, 0.5, 1e-320)
HOSTILE_TEXTS = (
    "",
    "\x00",
    "../../etc/passwd",
    "/etc/passwd",
    "a" * 300,
    "\ud800",
    "((((",
    "(a+)+$",
    "é\u202e",
    "-",
    ".",
)
HOSTILE_VALUES = (None, True, False, [], {}, [[]], [None], {"": None}, *HOSTILE_NUMBERS, *HOSTILE_TEXTS)
HOSTILE_BYTES = (b"\x00", b"\xff", b"\xff\xfe", b'"', b"{", b"[" * 2000, b"NaN", b"Infinity", b"9" * 5000, b"\x1f\x8b")
HOSTILE_BYTES += (
    b"!!python/object/apply:os.system [true]",
    b"&a [*a]",
    b"\n? [a]\n: b\n",
    b"*a",
    b"- - - -",
    b"\r",
    b"\n\n",
    b",",
    b"\t",
    b": ",
)
HOSTILE_DTYPES = ("F32", "F16", "BF16", "I64", "U8", "BOOL", "F8_E4M3", "F4", "C64", "", "X")


@dataclass(frozen=True)
class Target:
    """Something that reads a file.

    Attributes:
        file: The name of the file that is damaged.
        seeds: Whole files.
        read: Reads it, in a folder that has what else is needed.
        damage: Makes another file of one.
        share: How many of the inputs it gets, beside the others.
    """

    file: str
    seeds: tuple[bytes, ...]
    read: Callable[[Path], object]
    damage: Callable[[bytes, random.Random], bytes]
    share: float = 1.0


def damage_bytes(data: bytes, draw: random.Random) -> bytes:
    """Flip, cut, double or put in a few bytes."""
    changed = bytearray(data)
    for _ in range(draw.choice((1, 1, 1, 2, 4, 8))):
        place, length = draw.randrange(len(changed) + 1), draw.choice((1, 1, 2, 4, 16, 64))
        kind = draw.randrange(6)
        if kind == 0 and place < len(changed):
            changed[place] ^= 1 << draw.randrange(8)
        elif kind == 1:
            del changed[place : place + length]
        elif kind == 2:
            changed[place:place] = changed[place : place + length]
        elif kind == 3:
            changed[place:place] = draw.choice(HOSTILE_BYTES)
        elif kind == 4:
            changed[place : place + length] = draw.randbytes(length)
        elif draw.random() < 0.3:
            del changed[place:]
    return bytes(changed)


def damage_values(values: Any, draw: random.Random) -> Any:
    """Put hostile values, keys and shapes into what JSON or YAML can hold."""
    values = copy.deepcopy(values)
    for _ in range(draw.choice((1, 1, 2, 3))):
        holders = list(_holders(values))
        if not holders:
            return draw.choice(HOSTILE_VALUES)
        holder = draw.choice(holders)
        key = draw.choice(list(holder)) if isinstance(holder, dict) else draw.randrange(len(holder))
        kind = draw.randrange(5)
        if kind == 0:
            del holder[key]
        elif kind == 1 and isinstance(holder, dict):
            holder[draw.choice((*map(str, HOSTILE_TEXTS), str(key) + "s", str(key)[1:]))] = holder[key]
        elif kind == 2:
            holder[key] = copy.deepcopy(draw.choice(holders))
        else:
            holder[key] = copy.deepcopy(draw.choice(HOSTILE_VALUES))
    return values


def _holders(values: Any) -> Iterator[Any]:
    if isinstance(values, (dict, list)) and values:
        yield values
    for value in values.values() if isinstance(values, dict) else values if isinstance(values, list) else ():
        yield from _holders(value)


def damage_json(data: bytes, draw: random.Random) -> bytes:
    """Other values, or other bytes."""
    if draw.random() < 0.4:
        return damage_bytes(data, draw)
    text = json.dumps(damage_values(json.loads(data), draw), ensure_ascii=draw.random() < 0.5)
    return text.encode("utf-8", "surrogatepass")


def damage_lines(data: bytes, draw: random.Random) -> bytes:
    """Other values in one line of JSON, or other bytes."""
    lines = data.splitlines()
    place = draw.randrange(len(lines))
    lines[place] = damage_json(lines[place], draw)
    return b"\n".join(lines)


def damage_zipped(data: bytes, draw: random.Random) -> bytes:
    """The content, or the compressed file."""
    if draw.random() < BOMB:
        return gzip.compress(bytes(2**20), 1) * 300
    if draw.random() < 0.5:
        return damage_bytes(data, draw)
    return gzip.compress(damage_lines(gzip.decompress(data), draw), 1)


def damage_arrays(data: bytes, draw: random.Random) -> bytes:
    """Other shapes, types and lengths in the headers of NumPy's arrays, zeros that expand, or other bytes."""
    if draw.random() < 0.5:
        return damage_bytes(data, draw)
    zeros, changed = 2**20 * (300 if draw.random() < BOMB else 1), io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(changed, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            shape = ", ".join(str(draw.choice((0, 1, 3, 2**31, 2**40, -1, "'a'"))) for _ in range(draw.randrange(4)))
            kind = draw.choice(("<i8", "|O", "<U1000000", "|V9", "<f8", "x"))
            header = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': ({shape},), }}".encode()
            start = b"\x93NUMPY\x01\x00" + struct.pack("<H", draw.choice((len(header), 0, 65535))) + header
            new.writestr(name, start + (bytes(zeros) if draw.random() < 0.01 else old.read(name)[-24:]))
    return changed.getvalue()


def damage_yaml(data: bytes, draw: random.Random) -> bytes:
    """Other values, or other bytes."""
    import yaml

    if draw.random() < 0.1:
        levels = range(1, draw.choice((2, 6, 12)))
        bomb = "".join(f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]\n" for level in levels)
        return b"a0: &a0 [x]\n" + bomb.encode() + data + f"\nmore: *a{max(levels)}\n".encode()
    if draw.random() < 0.5:
        return damage_bytes(data, draw)
    return yaml.safe_dump(damage_values(yaml.safe_load(data), draw), allow_unicode=draw.random() < 0.5).encode(
        "utf-8", "surrogatepass"
    )


def damage_tensors(data: bytes, draw: random.Random) -> bytes:
    """Other shapes, types, offsets and names in the header of a safetensors file, or other bytes."""
    if draw.random() < 0.3:
        return damage_bytes(data, draw)
    (length,) = struct.unpack("<Q", data[:8])
    header, content = json.loads(data[8 : 8 + length]), data[8 + length :]
    if draw.random() < 0.5:
        header = damage_values(header, draw)
    else:
        entry = header[draw.choice([name for name in header if name != "__metadata__"])]
        field = draw.choice(("dtype", "shape", "data_offsets"))
        numbers = [draw.choice((0, 1, 2, 8, 2**20, 2**40, 2**63, 2**64 - 1, -1)) for _ in range(draw.randrange(4))]
        entry[field] = draw.choice(HOSTILE_DTYPES) if field == "dtype" else numbers
    text = json.dumps(header).encode("utf-8", "surrogatepass")
    claimed = len(text) if draw.random() < 0.8 else draw.choice((0, 1, len(text) + 1, 10**8, 2**40, 2**64 - 1))
    return struct.pack("<Q", claimed) + text + content


def seed_adapter(kind: str = "PROPULSION") -> dict[str, bytes]:
    """The files of a small adapter, of ours or of (IA)³."""
    import torch
    from peft import IA3Config
    from safetensors.torch import save

    from propulsion import PropulsionConfig

    names = [
        f"base_model.model.encoder.layer.{block}.attention.{part}" for block in (0, 1) for part in ("query", "key")
    ]
    common: dict[str, Any] = {
        "task_type": "SEQ_CLS",
        "target_modules": ["query", "key"],
        "modules_to_save": ["classifier"],
    }
    head = {"base_model.model.classifier.weight": torch.zeros(2, 8)}
    if kind == "PROPULSION":
        fields = {"degree": [3, 5], "num_vectors": 2, "degree_pattern": {"query": [1, 2]}, "pooling": "l2"}
        fields |= {"base_fingerprint": {"encoder.layer.0.attention.query": [0.5, 0.25]}, "init_noise": 0.1}
        config: Any = PropulsionConfig(**common, **fields)
        tensors = {f"{name}.propulsion_delta.weight": torch.full((2, 8), 0.01) for name in names}
        tensors |= {f"{names[0]}.propulsion_bias.weight": torch.zeros(8)}
    else:
        config = IA3Config(**common, feedforward_modules=[])
        tensors = {f"{name}.ia3_l": torch.ones(8, 1) for name in names}
    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        written = (Path(folder) / "adapter_config.json").read_bytes()
    return {"adapter_config.json": written, "adapter_model.safetensors": save(tensors | head)}


def targets() -> dict[str, Target]:
    """Everything that reads a file of a user's, by name."""
    import numpy as np
    import pyarrow
    import pyarrow.parquet
    import torch
    from safetensors.torch import save

    from propulsion_tools.cli.commands import COMMANDS
    from propulsion_tools.cli.parsing import parse
    from propulsion_tools.compare.grid_file import read_grid
    from propulsion_tools.compare.run_archive import read_archive, write_archive
    from propulsion_tools.compare.run_folders import read_failure
    from propulsion_tools.export.checkpoints import open_checkpoint, weight_files
    from propulsion_tools.export.from_ia3 import read_ia3
    from propulsion_tools.inspection.saved_adapter import read_adapter
    from propulsion_tools.records import RunRecord, RunSpec
    from propulsion_tools.tasks.data_files import read_table
    from propulsion_tools.training.checkpoints import checkpoints
    from propulsion_tools.training.manifest import fault, seal

    ours, ia3 = seed_adapter(), seed_adapter("IA3")
    record = RunRecord(
        spec=RunSpec(task="sst2", degree=(1, 2), method_args={"r": 4}, num_vectors=2),
        metrics={"validation": {"accuracy": 0.5}},
        parameters=dict.fromkeys(("adapter", "head", "trainable", "total"), 8),
        adapter_bytes=100,
        seconds={"train": 1.0, "per_step_median": 0.1},
        peak_memory_bytes=1,
        environment={"versions": {"torch": "2"}, "device": "cpu", "threads": 1},
        label_names=("a", "b"),
        history={"loss": [[1, 0.5]]},
        notes=("a note",),
    ).to_json()
    grid = b"methods: [head, lora]\ntasks: {sst2: {task: sst2}}\nsettings: {max_steps: 3, degree: 5}\n"
    grid += b"learning_rates: {all: [1e-3, 0.01], lora: 0.1}\nseeds: [1, 2]\nselection: {selection_fraction: 0.1, seed: 3}\n"
    run = b"task: sst2\nlearning_rate: 1e-3\ndegree: [1, 2]\nnum_vectors: 2\nmethod_args: {r: 4}\nbf16: true\n"
    rows = [{"text": "a good film", "label": 1, "more": {"a": [1, None]}}, {"text": 'bäd, "so"', "label": 0}] * 3
    lines = "\n".join(json.dumps(row) for row in rows).encode()
    table = io.StringIO()
    writer = csv.DictWriter(table, ["text", "label"], extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    parquet, repeated, answers = io.BytesIO(), io.BytesIO(), io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a", "b"] * 9, "label": [0, 1] * 9}), parquet)
    pyarrow.parquet.write_table(
        pyarrow.table({"text": ["a" * 500] * 9, "label": [0] * 9}), repeated, compression="none"
    )
    np.savez(answers, validation_labels=np.arange(3), validation_answers=np.arange(3))
    weights = save({"a.weight": torch.zeros(4, 4), "b.bias": torch.zeros(4, dtype=torch.bfloat16)})
    index = json.dumps({"metadata": {"total_size": 72}, "weight_map": {"a.weight": "model.safetensors"}}).encode()
    with tempfile.TemporaryDirectory() as folder:
        write_archive(Path(folder) / "runs.tar.xz", {("run", "record.json"): record.encode()})
        archive = (Path(folder) / "runs.tar.xz").read_bytes()
    failure = json.dumps({"error": "x", "status": 1, "seconds": 1.0}).encode()

    def read_checkpoint(folder: Path) -> None:
        with open_checkpoint(folder) as checkpoint:
            for key in checkpoint.keys:
                checkpoint.dtype(key)
                checkpoint.shape(key)
                checkpoint.read(key)

    def named(file: str, read: Callable[[Path], object]) -> Callable[[Path], object]:
        return lambda folder: read(folder / file)

    def beside(files: dict[str, bytes], read: Callable[[Path], object], but: str) -> Callable[[Path], object]:
        def reads(folder: Path) -> object:
            for name, content in files.items():
                if name != but and not (folder / name).exists():
                    (folder / name).write_bytes(content)
            return read(folder)

        return reads

    def adapter(file: str, files: dict[str, bytes], read: Callable[[Path], object]) -> Target:
        damage = damage_tensors if file.endswith(".safetensors") else damage_json
        return Target(file, (files[file],), beside(files, read, file), damage)

    def sealed(file: str) -> Target:
        return Target(file, (seal_files[file],), beside(seal_files, fault, file), damage_json)

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "trainer_state.json").write_text('{"global_step": 3}')
        seal(Path(folder), {"degree": 3})
        seal_files = {path.name: path.read_bytes() for path in Path(folder).iterdir()}
    config, tensors = "adapter_config.json", "adapter_model.safetensors"
    data = {
        "data.jsonl": (lines, damage_lines),
        "data.json": (json.dumps(rows).encode(), damage_json),
        "data.csv": (table.getvalue().encode(), damage_bytes),
        "data.tsv": (b"text\tlabel\na good film\t1\nb\xc3\xa4d\t0\n", damage_bytes),
        "data.jsonl.gz": (gzip.compress(lines), damage_zipped),
        "data.parquet": (parquet.getvalue(), damage_bytes),
        "repeated.parquet": (repeated.getvalue(), damage_bytes),
    }
    return {
        "adapter_config": adapter(config, ours, read_adapter),
        "adapter_tensors": adapter(tensors, ours, read_adapter),
        "ia3_config": adapter(config, ia3, read_ia3),
        "ia3_tensors": adapter(tensors, ia3, read_ia3),
        "record": Target("record.json", (record.encode(),), RunRecord.read, damage_json),
        "grid": Target("grid.yaml", (grid,), named("grid.yaml", read_grid), damage_yaml, SLOW),
        "run_options": Target(
            "run.yaml",
            (run,),
            lambda folder: _options(parse("train", COMMANDS["train"], ["--config", str(folder / "run.yaml")])),
            damage_yaml,
            SLOW,
        ),
        "checkpoint": Target("model.safetensors", (weights,), read_checkpoint, damage_tensors),
        "checkpoint_index": Target(
            "model.safetensors.index.json",
            (index,),
            beside({"model.safetensors": weights}, weight_files, "model.safetensors.index.json"),
            damage_json,
        ),
        "trainer_state": Target(
            "trainer_state.json",
            (b'{"global_step": 3}',),
            beside({"spec.json": b"{}"}, lambda folder: checkpoints(folder.parent), ""),
            damage_json,
        ),
        "manifest": sealed("manifest.json"),
        "spec": sealed("spec.json"),
        "archive": Target("runs.tar.xz", (archive,), named("runs.tar.xz", read_archive), damage_bytes),
        "answers": Target("eval_predictions.npz", (answers.getvalue(),), _answers, damage_arrays),
        "failure": Target("failure.json", (failure,), read_failure, damage_json),
        "prediction_rows": Target("texts.jsonl", (lines,), _rows_to_label("texts.jsonl"), damage_lines),
        "prediction_csv": Target("texts.csv", (table.getvalue().encode(),), _rows_to_label("texts.csv"), damage_bytes),
        **{file: Target(file, (seed,), named(file, read_table), damage) for file, (seed, damage) in data.items()},
        **_bodies(),
    }


def _bodies() -> dict[str, Target]:
    """Bodies that clients send to the server."""
    from propulsion_tools.serving.schema import Chat, Complete, Load, Predict

    bodies: dict[str, tuple[Any, dict[str, Any]]] = {
        "predict": (Predict, {"adapter": "a", "inputs": [{"text": "a film"}, "another"]}),
        "complete": (Complete, {"model": "a", "prompt": ["one", "two"], "max_tokens": 3, "stop": ["."], "seed": 1}),
        "chat": (Chat, {"model": "a", "messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}]}),
        "load": (Load, {"path": "folder/adapter", "name": "a"}),
    }
    return {
        f"body_{name}": Target("body.json", (json.dumps(values).encode(),), _body(schema), damage_json, 0.25)
        for name, (schema, values) in bodies.items()
    }


def _body(schema: Any) -> Callable[[Path], object]:
    """Reads a body as the server does; an answer that blames the client is a refusal, and one that does not a failure."""
    from starlette.requests import Request

    from propulsion_tools.records.options import ServeOptions
    from propulsion_tools.serving.bodies import read
    from propulsion_tools.serving.errors import ApiError

    scope = {"type": "http", "method": "POST", "headers": [(b"content-type", b"application/json")]}
    limits = ServeOptions()

    def reads(folder: Path) -> object:
        content = (folder / "body.json").read_bytes()

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": content, "more_body": False}

        try:
            return asyncio.run(read(Request(scope, receive), schema, limits))
        except ApiError as error:
            if error.status >= 500:
                raise
            return None

    return reads


def _options(values: dict[str, Any] | None) -> object:
    from propulsion_tools.records import RunSpec

    return RunSpec(**values) if values is not None else None


def _rows_to_label(file: str) -> Callable[[Path], object]:
    from propulsion_tools.tasks.given_rows import read_given

    return lambda folder: read_given(str(folder / file))


def _answers(folder: Path) -> object:
    from propulsion_tools.compare.plan import Cell, Run
    from propulsion_tools.compare.run_store import RunStore
    from propulsion_tools.records import RunRecord, RunSpec
    from propulsion_tools.report.answers import read_answers

    record = RunRecord(RunSpec(), {"validation": {}}, {}, 0, {}, 0, {})
    run = Run(Cell("head", "docstrings", None), RunSpec(output_dir=str(folder)), True)
    return read_answers(RunStore(folder.parent), run, record)


class TooSlow(Exception):
    """A file of a few hundred bytes was not read within the time."""


def attempt(target: Target, data: bytes, folder: Path) -> Exception | None:
    """What reading a damaged file raises that is not an error of ours; None if it is refused properly, or read.

    Args:
        target: What reads it.
        data: The file.
        folder: A folder of the target's own.
    """
    from propulsion_tools.errors import is_one_sentence

    (folder / target.file).write_bytes(data)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            target.read(folder)
    except Exception as error:
        return None if is_one_sentence(error) else error
    return None


def place_of(error: BaseException) -> str:
    """Where an error was raised, in our code and at the end."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "/propulsion" in frame.filename] or frames
    return f"{type(error).__name__} in {Path(own[-1].filename).name}:{own[-1].lineno}"


def fuzz(name: str, target: Target, inputs: int, seed: int) -> tuple[Counter[str], dict[str, bytes]]:
    """Read damaged files, one after the other.

    Args:
        name: Of the target.
        target: What reads them.
        inputs: How many.
        seed: Of the damage.

    Returns:
        How often each failure came, by its place, and an input for each.
    """
    draw, found, examples = random.Random(f"{seed}:{name}"), Counter[str](), dict[str, bytes]()

    def too_slow(*args: object) -> None:
        raise TooSlow(f"not read in {SECONDS} s")

    signal.signal(signal.SIGPROF, too_slow)
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as root:
        folder = Path(root) / "checkpoint-1"
        folder.mkdir()
        for _ in range(inputs):
            data = target.damage(draw.choice(target.seeds), draw)
            signal.setitimer(signal.ITIMER_PROF, SECONDS)  # of computing, not of waiting for a core
            error = attempt(target, data, folder)
            signal.setitimer(signal.ITIMER_PROF, 0)
            if error is not None:
                place = place_of(error)
                found[place] += 1
                examples.setdefault(place, data)
    return found, examples


def guided(name: str, arguments: list[str]) -> None:
    """Search with atheris, which looks at what code an input reaches, until it finds a failure or has done its runs."""
    import atheris

    with atheris.instrument_imports(include=["propulsion", "propulsion_tools"]):
        target = targets()[name]
    root = Path(tempfile.mkdtemp()) / "checkpoint-1"
    root.mkdir()

    def one(data: bytes) -> None:
        error = attempt(target, data, root)
        if error is not None:
            raise error

    corpus = Path(tempfile.mkdtemp())
    for number, seed in enumerate(target.seeds):
        (corpus / str(number)).write_bytes(seed)
    atheris.Setup([sys.argv[0], str(corpus), *arguments], one)
    atheris.Fuzz()


def main() -> int:
    """Fuzz every target, print and keep the figures; 1 if anything was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=1_000_000, help="of all targets together")
    parser.add_argument("--only", nargs="*", help="these targets")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    parser.add_argument("--atheris", metavar="TARGET", help="search in one target, guided by coverage")
    options, rest = parser.parse_known_args()
    if options.atheris:
        guided(options.atheris, rest)
        return 0
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    chosen = {name: target for name, target in targets().items() if not options.only or name in options.only}
    rows, failed = [], False
    shares = sum(target.share for target in chosen.values())
    for name, target in chosen.items():
        start, count = time.monotonic(), math.ceil(options.inputs * target.share / shares)
        found, examples = fuzz(name, target, count, options.seed)
        rows.append({"target": name, "inputs": count, "failures": sum(found.values()), "places": dict(found)})
        print(
            f"{name:<18} {count:>9,} inputs {sum(found.values()):>7} failures {time.monotonic() - start:8.1f} s",
            flush=True,
        )
        for place, times in found.most_common(10):
            print(f"    {times:>6} × {place}\n             {examples[place][:200]!r}", flush=True)
        failed = failed or bool(found)
    total = sum(row["inputs"] for row in rows)
    print(f"{total:,} inputs, {sum(row['failures'] for row in rows)} failures")
    if options.output:
        figures = {"date": date.today().isoformat(), "inputs": total, "seed": options.seed, "rows": rows}
        options.output.write_text(json.dumps(figures, indent=2) + "\n")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())

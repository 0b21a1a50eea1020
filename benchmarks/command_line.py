"""The processor's time for what the command line answers without a model: help, the version, and wrong words.

python benchmarks/command_line.py
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from measuring import quartiles, spread, table, write

from propulsion_tools.cli.commands import COMMANDS

ENTRY = ["-c", "import sys; from propulsion_tools.cli import main; sys.exit(main())"]  # as the installed script does
PYTHON = "python -c pass"
GOAL = 0.5
WORDS = (
    ["--version"],
    ["--help"],
    *([name, "--help"] for name in COMMANDS),
    ["trian"],
    ["train", "--learnign_rate", "1e-3"],
    ["train", "--learning_rate", "fast"],
    ["train", "--task", "sst3"],
    ["train", "--method", "lorra"],
    ["train", "--config", "unknown_key.yaml"],
    ["train", "--config", "unknown_method.yaml"],
)
FILES = {"unknown_key.yaml": "degre: 3\n", "unknown_method.yaml": "task: sst2\nmethod: lorra\n"}


def times(words: list[str], folder: str) -> tuple[float, float]:
    """Seconds of the processor, user and system, and on the clock, of one process of this Python."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    begin = time.perf_counter()
    with (Path(folder) / "printed.txt").open("w+") as printed:
        process = subprocess.Popen(
            [sys.executable, *words], cwd=folder, env=environment, stdout=printed, stderr=subprocess.STDOUT
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - begin
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode not in (0, 2):
            printed.seek(0)
            raise SystemExit(f"{' '.join(words)} has ended with status {process.returncode}:\n{printed.read()}")
    return usage.ru_utime + usage.ru_stime, seconds


def measure(rounds: int) -> list[dict[str, Any]]:
    """Every list of words, in another order in each round; Python alone beside them."""
    cases = {PYTHON: ["-c", "pass"], **{f"propulsion {' '.join(words)}": [*ENTRY, *words] for words in WORDS}}
    samples: dict[str, list[tuple[float, float]]] = {name: [] for name in cases}
    order, shuffled = list(cases), random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        for name, text in FILES.items():
            (Path(folder) / name).write_text(text)
        for words in cases.values():  # once to write the compiled files
            times(words, folder)
        for _ in range(rounds):
            shuffled.shuffle(order)
            for name in order:
                samples[name].append(times(cases[name], folder))
    return [
        {"words": name, "processor_seconds": _rounded(processor), "seconds": _rounded(clock)}
        for name, pairs in samples.items()
        for processor, clock in [zip(*pairs, strict=True)]
    ]


def _rounded(values: tuple[float, ...]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in quartiles(list(values)).items()}


def main(arguments: list[str] | None = None) -> None:
    """Measure, print and write."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--rounds", type=int, default=11, help="how often each is timed")
    options.add_argument("--output", type=Path, help="where the JSON goes; a name in benchmarks/results/ if not given")
    options.set_defaults(device="cpu", clock="processor and wall")
    chosen, begin = options.parse_args(arguments), time.perf_counter()
    rows = measure(chosen.rounds)
    lines = [[row["words"], spread(row["processor_seconds"]), spread(row["seconds"])] for row in rows]
    table(f"Goal: {GOAL} s of the processor", ["words", "of the processor", "seconds"], lines)
    print("Written to", write("command_line", chosen, rows, time.perf_counter() - begin))
    if late := [row["words"] for row in rows if row["processor_seconds"]["median"] > GOAL]:
        raise SystemExit(f"Above {GOAL} s: {', '.join(late)}")


if __name__ == "__main__":
    main()

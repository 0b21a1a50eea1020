"""Eight runs in one batch against the same runs one after the other: time of a step, and memory against eight processes.

OMP_WAIT_POLICY=PASSIVE python benchmarks/joint.py

Whole runs are trained, with everything that `propulsion train` does. The time of a step is the median from the end of
one to the end of the next: of all runs one after the other, or of the one in which all are made.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

import torch
import transformers
from measuring import parser, quartiles, spread, start, table, write
from memory import MIB, peak, processes
from subjects import build

from propulsion_tools.records import RunSpec
from propulsion_tools.training.joint_runs import train_together
from propulsion_tools.training.measure import StepClock
from propulsion_tools.training.run import train

STEPS, WARM_UP = 16, 3
VARIED = ({"degree": 15}, {"degree": 5, "target_modules": "attn"}, {"degree": 1}, {"target_modules": "mlp"})


def prepare(model_name: str, length: int) -> tuple[Path, Path]:
    """A model with random weights and its tokenizer in one folder, rows of so many tokens in another."""
    folder = Path(tempfile.mkdtemp())
    base, data = folder / "base", folder / "data"
    model = build(model_name, torch.float32)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{n}" for n in range(model.config.vocab_size - 5))]
    vocabulary = {word: number for number, word in enumerate(words)}
    transformers.BertTokenizerFast(vocab=vocabulary, model_max_length=512).save_pretrained(base)
    model.base_model.save_pretrained(base)
    data.mkdir()
    draw = random.Random(0)
    for split, rows in (("train", STEPS * 8), ("validation", 8)):
        texts = [" ".join(draw.choices(words[5:], k=length - 2)) for _ in range(rows)]
        lines = [json.dumps({"text": text, "label": str(number % 2)}) for number, text in enumerate(texts)]
        (data / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    return base, data


def specs(base: Path, data: Path, rows: int, length: int, runs: int) -> list[RunSpec]:
    """Runs with degrees, targets, rates and seeds of their own."""
    common: dict[str, Any] = {"model_name_or_path": str(base), "data_dir": str(data), "max_length": length}
    common |= {"per_device_train_batch_size": rows, "eval_strategy": "no", "save_strategy": "no", "disable_tqdm": True}
    common |= {
        "use_cpu": True,
        "overwrite_output_dir": True,
        "head_first": 0.0,
        "max_eval_samples": 1,
        "max_steps": STEPS,
    }
    return [
        RunSpec(**common, **VARIED[n % len(VARIED)], learning_rate=1e-3 * (1 + n), seed=n, output_dir=f"{data}/run{n}")
        for n in range(runs)
    ]


class Cycles:
    """When the steps of every run ended, by two clocks."""

    def __init__(self) -> None:
        self.ends: dict[int, list[tuple[float, float]]] = defaultdict(list)
        ended, on_step_end = self.ends, StepClock.on_step_end

        def noted(clock: StepClock, *args: Any, **kwargs: Any) -> None:
            on_step_end(clock, *args, **kwargs)
            ended[id(clock)].append((time.perf_counter(), time.process_time()))

        StepClock.on_step_end = noted  # type: ignore[method-assign]

    def medians(self) -> list[tuple[float, float]]:
        """For each run the median seconds from one step's end to the next's, of the clock and of the processor."""
        found = []
        for times in self.ends.values():
            later = times[WARM_UP:]
            gaps = [(b[0] - a[0], b[1] - a[1]) for a, b in itertools.pairwise(later)]
            found.append((median(gap[0] for gap in gaps), median(gap[1] for gap in gaps)))
        self.ends.clear()
        return found


def one_after_the_other(runs: list[RunSpec], cycles: Cycles) -> tuple[float, float]:
    for spec in runs:
        train(spec)
    each = cycles.medians()
    return sum(wall for wall, _ in each), sum(processor for _, processor in each)


def in_one_batch(runs: list[RunSpec], cycles: Cycles) -> tuple[float, float]:
    for ended in train_together(runs, measure=False):
        assert ended.record is not None, ended.error
        assert ended.record.joint == len(runs), ended.apart
    each = cycles.medians()
    return median(wall for wall, _ in each), median(processor for _, processor in each)


WAYS = {"one after the other": one_after_the_other, "in one batch": in_one_batch}


def peak_of(way: str, runs: list[RunSpec]) -> int:
    """The most bytes that this process has held, when it has trained runs in one way."""
    WAYS[way](runs, Cycles())
    return peak("cpu")


def memory_of(runs: list[RunSpec]) -> dict[str, int]:
    """The peak of a process with all runs in one batch, and that of as many processes with a run each."""
    context = processes()
    with context.Pool(1) as pool:
        together = pool.apply(peak_of, ("in one batch", runs))
    with context.Pool(1) as pool:
        alone = pool.apply(peak_of, ("one after the other", runs[:1]))
    return {"in one batch": together // MIB, "processes": len(runs) * alone // MIB}


def measure(options: argparse.Namespace, model_name: str, length: int) -> list[dict[str, Any]]:
    """Every number of rows at one length; the ways alternate."""
    base, data = prepare(model_name, length)
    cycles, lines = Cycles(), []
    for rows in options.batches:
        runs = specs(base, data, rows, length, options.runs)
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in WAYS}
        for _ in range(options.rounds):
            for name, way in WAYS.items():
                found[name].append(way(runs, cycles))
        memory = memory_of(runs)
        where = {"model": model_name, "dtype": "float32", "batch": rows, "length": length, "runs": options.runs}
        apart, together = found.values()
        wall, processor = (
            quartiles([a[clock] / b[clock] for a, b in zip(apart, together, strict=True)]) for clock in (0, 1)
        )
        seconds = {name: quartiles([item[1] for item in items]) for name, items in found.items()}
        lines.append({**where, "wall": wall, "processor": processor, "processor_seconds": seconds, "peak_mib": memory})
    return lines


def main(arguments: list[str] | None = None) -> None:
    """Measure, print and write."""
    options = parser(__doc__.splitlines()[0], models=["minilm"], dtype=["float32"], length=[32], rounds=5)
    options.add_argument("--runs", type=int, default=8)
    options.add_argument("--batches", type=int, nargs="+", default=[1, 4], help="rows of each run in a step")
    options = options.parse_args(arguments)
    start(options)
    begin = time.perf_counter()
    rows = [row for name in options.models for length in options.length for row in measure(options, name, length)]
    lines = [
        [f"{row['batch']} × {row['length']}", spread(row["wall"], 2), spread(row["processor"], 2), str(row["peak_mib"])]
        for row in rows
    ]
    table(f"{options.runs} runs", ["tokens of each", "faster, clock", "faster, processor", "peak, MiB"], lines)
    print("Written to", write("joint", options, rows, time.perf_counter() - begin))


if __name__ == "__main__":
    main()

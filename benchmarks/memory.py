"""The memory of one training step of every method: the bytes that autograd keeps, and the peak of a process of its own.

python benchmarks/memory.py --models roberta-base llama-110m --dtype float32 --batch 8
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import sys
import time
from typing import Any

import torch
from measuring import DTYPES, chosen, parser, saved_bytes, start, table, write
from subjects import METHODS, Trainee, batch, build, share_weights

MIB = 2**20


def resident() -> int:
    """The bytes that this process holds now."""
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()


def peak(device: str) -> int:
    """The most bytes held so far: allocated on the GPU, or resident in this process."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def measure_one(options: argparse.Namespace, model_name: str, dtype: str, length: int, method: str) -> dict[str, Any]:
    """One method, in a process of its own."""
    start(options)
    model = build(model_name, DTYPES[dtype], options.device)
    trainee = Trainee(METHODS[method](share_weights(model)), batch(model_name, options.batch, length, options.device))
    before = torch.cuda.memory_allocated() if options.device == "cuda" else resident()
    del model
    trainee.step()
    trainee.step()
    most = peak(options.device)
    return {
        "trainable": trainee.parameters,
        "saved_mib": round(saved_bytes(trainee.model, trainee.loss) / MIB, 2),
        "peak_mib": round(most / MIB),
        "step_mib": round((most - before) / MIB),
    }


def measure(options: argparse.Namespace, model_name: str, dtype: str, length: int) -> list[dict[str, Any]]:
    """All methods on one model."""
    context = processes()
    rows = []
    for method in chosen(options, METHODS, "floor"):
        row = {"model": model_name, "dtype": dtype, "batch": options.batch, "length": length, "method": method}
        with context.Pool(1) as pool:
            try:
                row |= pool.apply(measure_one, (options, model_name, dtype, length, method))
            except Exception as error:  # a peer that this model, or this machine, cannot run is no reason to stop
                print(f"{model_name}, {method}: left out, {type(error).__name__}: {error}", file=sys.stderr)
                row["error"] = type(error).__name__
        rows.append(row)
    floor = rows[0]
    for row in rows:
        if "saved_mib" in row:
            row["saved_ratio"] = round(row["saved_mib"] / floor["saved_mib"], 4)
            row["peak_ratio"] = round(row["peak_mib"] / floor["peak_mib"], 4)
    return rows


def processes() -> Any:
    """Processes that start with everything imported and nothing computed."""
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [os.path.dirname(__file__), os.environ.get("PYTHONPATH")]))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["subjects", "transformers.models.auto.modeling_auto"])
    return context


def show(rows: list[dict[str, Any]]) -> None:
    """Print the table of one model."""
    first = rows[0]
    lines = [
        [row["method"], *(f"{row[key]:,}" for key in ("trainable", "saved_mib", "saved_ratio", "step_mib", "peak_mib"))]
        for row in sorted((row for row in rows if "saved_mib" in row), key=lambda row: row["saved_mib"])
    ]
    title = f"{first['model']}, {first['dtype']}, {first['batch']} × {first['length']} tokens"
    table(title, ["method", "trainable", "saved MiB", "saved / floor", "peak of the step, MiB", "peak, MiB"], lines)


def main(arguments: list[str] | None = None) -> None:
    """Measure, print and write."""
    options = parser(__doc__.splitlines()[0], models=["roberta-base", "llama-110m"], dtype=["float32"], batch=4)
    options = options.parse_args(arguments)
    rows, begin = [], time.perf_counter()
    for model_name in options.models:
        for dtype in options.dtype:
            for length in options.length:
                part = measure(options, model_name, dtype, length)
                show(part)
                rows += part
    print("Written to", write("memory", options, rows, time.perf_counter() - begin))


if __name__ == "__main__":
    main()

"""The time and memory of an exact tangent kernel of all weights, beside the Jacobian that it is the Gram matrix of.

python benchmarks/ntk.py --models minilm --samples 64
python benchmarks/ntk.py --models roberta-base --samples 100
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from measuring import RESULTS, parser, start, table, write
from memory import MIB, peak, processes, resident
from subjects import build
from torch import Tensor, nn

from propulsion_tools.theory.gradients import Row, split_rows
from propulsion_tools.theory.readout import make_readout
from propulsion_tools.theory.tangent_kernel import empirical_ntk

READOUT = make_readout("difference", 2)
GOALS = {"minilm": "≤ 60 s, ≤ 3 GB", "roberta-base": "≤ 360 s, ≤ 6 GB"}
MOST_PEER_GIB = 8  # a Jacobian that needs more is not tried


def ours(model: nn.Module, rows: Sequence[Row], memory: float) -> Tensor:
    """The kernel, accumulated by groups of parameters."""
    names = [name for name, _ in model.named_parameters()]
    kernel = empirical_ntk(model, rows, READOUT, {"all": names}, int(memory * 2**30))["all"]
    return kernel[:, 0, :, 0]


def naive(model: nn.Module, rows: Sequence[Row], memory: float) -> Tensor:
    """J row by row, and J Jᵀ."""
    parameters = [parameter.requires_grad_() for parameter in model.parameters()]
    matrix = torch.zeros(len(rows), sum(parameter.numel() for parameter in parameters))
    for line, row in zip(matrix, rows, strict=True):
        grads = torch.autograd.grad(READOUT(model, row)[0], parameters, allow_unused=True)
        pairs = zip(grads, parameters, strict=True)
        torch.cat([(torch.zeros_like(p) if grad is None else grad).flatten() for grad, p in pairs], out=line)
    return (matrix @ matrix.T).double()


WAYS: dict[str, Callable[[nn.Module, Sequence[Row], float], Tensor]] = {"by groups": ours, "naive Jacobian": naive}


def measure_one(options: argparse.Namespace, model_name: str, length: int, way: str) -> dict[str, Any]:
    """One way, in a process of its own."""
    start(options)
    model = build(model_name, torch.float32).eval()
    generator = torch.Generator().manual_seed(0)
    rows = split_rows([{"input_ids": torch.randint(5, 30000, (options.samples, length), generator=generator)}])
    before, begin, spent = resident(), time.perf_counter(), time.process_time()
    kernel = WAYS[way](model, rows, options.memory)
    seconds, processor = time.perf_counter() - begin, time.process_time() - spent
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "seconds": round(seconds, 1),
        "processor_seconds": round(processor, 1),
        "peak_mib": round(peak("cpu") / MIB),
        "before_mib": round(before / MIB),
        "load": [round(value, 1) for value in os.getloadavg()],
        "trace": float(kernel.trace()),
        "norm": float(kernel.norm()),
    }


def measure(options: argparse.Namespace, model_name: str, length: int) -> list[dict[str, Any]]:
    """Both ways; the naive one only where its Jacobian is not out of reach."""
    rows: list[dict[str, Any]] = []
    context = processes()
    for way in WAYS:
        row = {"model": model_name, "dtype": "float32", "batch": options.samples, "length": length, "way": way}
        needed = 4 * options.samples * rows[0]["parameters"] / 2**30 if rows else 0
        if needed > MOST_PEER_GIB:
            rows.append({**row, "error": f"not run: its Jacobian takes {needed:.0f} GiB"})
            continue
        with context.Pool(1) as pool:
            rows.append(row | pool.apply(measure_one, (options, model_name, length, way)))
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    """Print the table of one model."""
    first = rows[0]
    title = f"{first['model']}, {first['batch']} × {first['length']} tokens; goal {GOALS.get(first['model'], 'none')}"
    keys = ("seconds", "processor_seconds", "peak_mib", "before_mib")
    lines = [[row["way"], *(f"{row[key]:,}" if key in row else row["error"] for key in keys)] for row in rows]
    table(title, ["way", "seconds", "of both cores", "peak, MiB", "before, MiB"], lines)


def main(arguments: list[str] | None = None) -> None:
    """Measure, print and write."""
    options = parser(__doc__.splitlines()[0], models=["minilm"], length=[64])
    options.add_argument("--samples", type=int, default=64, help="n")
    options.add_argument("--memory", type=float, default=2.0, help="GiB for the gradients that are kept at once")
    options = options.parse_args(arguments)
    rows, begin = [], time.perf_counter()
    for model_name in options.models:
        for length in options.length:
            part = measure(options, model_name, length)
            show(part)
            rows += part
    options.output = options.output or RESULTS / f"{'-'.join(['ntk', *options.models])}-cpu.json"
    print("Written to", write("ntk", options, rows, time.perf_counter() - begin))


if __name__ == "__main__":
    main()

"""The time of a forward pass without gradients, unmerged, with fixed gains and merged, over that of the base model.

python benchmarks/inference.py --models minilm roberta-base --dtype float32 --length 128 1
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from measuring import DTYPES, alternate, chosen, parser, quartiles, spread, start, table, write
from peft.tuners.tuners_utils import BaseTunerLayer
from subjects import METHODS, batch, build, share_weights
from torch import Tensor, nn

from propulsion import fixed_gains

TUNED = ("lora-all", "ia3-all", "propulsion-attn", "propulsion-all")
FIXED = ", fixed gains"


def merged(name: str, model: nn.Module) -> nn.Module:
    """The plain model that is left after merging."""
    model = METHODS[name](model).merge_and_unload()
    left = [type(module).__name__ for module in model.modules() if isinstance(module, BaseTunerLayer)]
    if left:
        raise SystemExit(f"Merging {name} has left {left[0]} behind.")
    return model


CASES: dict[str, Callable[[nn.Module], nn.Module]] = {
    "base": lambda model: model,
    **{name: METHODS[name] for name in TUNED},
    **{f"{name}{FIXED}": METHODS[name] for name in TUNED if name.startswith("propulsion")},
    **{f"{name}, merged": partial(merged, name) for name in TUNED},
}


def measure(options: argparse.Namespace, model_name: str, dtype: str, length: int) -> list[dict[str, Any]]:
    """All methods on one model."""
    model = build(model_name, DTYPES[dtype], options.device)
    inputs = batch(model_name, options.batch, length, options.device)
    inputs.pop("labels")
    models = {name: CASES[name](share_weights(model)).eval() for name in chosen(options, CASES, "base")}
    minutes = options.minutes / len(options.models) / len(options.dtype) / len(options.length)
    runs = {name: partial(_forward, case, inputs) for name, case in models.items()}
    with ExitStack() as stack:
        for name, case in models.items():
            if name.endswith(FIXED):
                stack.enter_context(fixed_gains(case))
        samples = alternate(runs, options.rounds, options.device, minutes, options.clock)
    where = {"model": model_name, "dtype": dtype, "batch": options.batch, "length": length}
    rows = [{**where, "method": "base", "ratio": quartiles([1.0]), "seconds": quartiles(samples.pop("base"))}]
    for name, ratios in samples.items():
        rows.append({**where, "method": name, "ratio": quartiles(ratios), "ratios": [round(r, 4) for r in ratios]})
    return rows


@torch.inference_mode()
def _forward(model: nn.Module, inputs: dict[str, Tensor]) -> Any:
    return model(**inputs)


def main(arguments: list[str] | None = None) -> None:
    """Measure, print and write."""
    options = parser(__doc__.splitlines()[0], models=["minilm", "roberta-base"], length=[128, 1], rounds=60)
    options = options.parse_args(arguments)
    start(options)
    rows, begin = [], time.perf_counter()
    for model_name in options.models:
        for dtype in options.dtype:
            for length in options.length:
                part = measure(options, model_name, dtype, length)
                title = f"{model_name}, {dtype}, {options.batch} × {length} tokens"
                table(title, ["method", "forward / base"], [[row["method"], spread(row["ratio"])] for row in part])
                rows += part
    print("Written to", write("inference", options, rows, time.perf_counter() - begin))


if __name__ == "__main__":
    main()

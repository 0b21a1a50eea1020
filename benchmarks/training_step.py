"""The time of one training step of every method, over that of a frozen model.

    python benchmarks/training_step.py --models minilm roberta-base --dtype bfloat16 --batch 8

By default MiniLM with all methods in both dtypes. What the goals speak of, on a larger model:

    python benchmarks/training_step.py --models roberta-base --batch 4 --output benchmarks/results/roberta-base.json \\
        --methods propulsion-all propulsion-attn ia3-all ia3-attn lora-all

The floor is the same model with every weight frozen, whose gradient flows only through the activations, from the loss
to the embeddings' output: what no method that trains at every depth can beat.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from typing import Any

from measuring import DTYPES, alternate, chosen, paired, parser, quartiles, saved_bytes, spread, start, table, write
from subjects import METHODS, Trainee, batch, build, share_weights


def measure(options: argparse.Namespace, model_name: str, dtype: str, length: int) -> list[dict[str, Any]]:
    """All methods on one model."""
    model = build(model_name, DTYPES[dtype], options.device)
    inputs = batch(model_name, options.batch, length, options.device)
    where = {"model": model_name, "dtype": dtype, "batch": options.batch, "length": length}
    trainees, rows = {}, []
    for name in chosen(options, METHODS, "floor"):
        try:
            trainee = Trainee(METHODS[name](share_weights(model)), inputs)
            if options.compile:
                trainee.model.compile()
            trainee.step()
        except Exception as error:  # a peer that this model, or this machine, cannot run is no reason to stop
            print(f"{model_name}, {name}: left out, {type(error).__name__}: {str(error)[:200]}", file=sys.stderr)
            rows.append({**where, "method": name, "error": type(error).__name__})
            continue
        trainees[name] = trainee
    minutes = options.minutes / len(options.models) / len(options.dtype) / len(options.length)
    steps = {name: trainee.step for name, trainee in trainees.items()}
    samples = alternate(steps, options.rounds, options.device, minutes, options.clock)
    floor_bytes = saved_bytes(trainees["floor"].model, trainees["floor"].loss)
    for name, trainee in trainees.items():
        ratios = samples[name] if name != "floor" else [1.0] * len(samples[name])
        kept = saved_bytes(trainee.model, trainee.loss)
        row = {"method": name, "trainable": trainee.parameters, "saved_ratio": round(kept / floor_bytes, 4)}
        row |= {"ratio": quartiles(ratios), "ratios": [round(ratio, 4) for ratio in ratios]}
        rows.append({**where, **row} | ({"seconds": quartiles(samples[name])} if name == "floor" else {}))
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    """Print the table of one model."""
    rows = [row for row in rows if "ratio" in row]
    own = next((row for row in rows if row["method"] == "propulsion-all"), rows[0])
    first = rows[0]
    title = f"{first['model']}, {first['dtype']}, {first['batch']} × {first['length']} tokens"
    lines = [
        [
            row["method"],
            f"{row['trainable']:,}",
            spread(row["ratio"]),
            f"{row['saved_ratio']:.3f}",
            spread(paired(own["ratios"], row["ratios"])),
        ]
        for row in sorted(rows, key=lambda row: row["ratio"]["median"])
    ]
    table(title, ["method", "trainable", "step / floor", "saved / floor", f"{own['method']} / method"], lines)


def main(arguments: list[str] | None = None) -> None:
    """Measure, print and write."""
    options = parser(__doc__.splitlines()[0], models=["minilm"])
    options.add_argument("--compile", action="store_true", help="compile every model, the floor too")
    options = options.parse_args(arguments)
    start(options)
    rows, begin = [], time.perf_counter()
    for model_name in options.models:
        for dtype in options.dtype:
            for length in options.length:
                rows += measure(options, model_name, dtype, length)
                show(
                    [row for row in rows if (row["model"], row["dtype"], row["length"]) == (model_name, dtype, length)]
                )
                gc.collect()
    print("Written to", write("training_step", options, rows, time.perf_counter() - begin))


if __name__ == "__main__":
    main()

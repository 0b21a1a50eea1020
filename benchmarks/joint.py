"""Eight runs in one batch against the same runs one after the other: time of a step, and memory against eight processes.

python benchmarks/joint.py --clock processor

Whole runs are trained, with everything that `propulsion train` does. The time of a step is that of a longer run less
that of a shorter one, divided by the steps between them.
"""

from __future__ import annotations

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
from measuring import parser, start
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


def main(arguments: list[str] | None = None) -> None:
    options = parser(__doc__.splitlines()[0], models=["minilm"], dtype=["float32"], length=[32], rounds=5)
    options.add_argument("--runs", type=int, default=8)
    options.add_argument("--batches", type=int, nargs="+", default=[1, 4])
    options = options.parse_args(arguments)
    start(options)
    cycles = Cycles()
    for model_name in options.models:
        for length in options.length:
            base, data = prepare(model_name, length)
            for rows in options.batches:
                runs = specs(base, data, rows, length, options.runs)
                for _ in range(options.rounds):
                    for name, way in WAYS.items():
                        print(rows, name, [round(1000 * x) for x in way(runs, cycles)], flush=True)


if __name__ == "__main__":
    main()

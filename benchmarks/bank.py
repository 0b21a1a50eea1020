"""Rows with an adapter each: the time of `AdapterBank`, of PEFT's mixed batches and of loops, over the base model's.

python benchmarks/bank.py --known 1 32 1000 10000

`encoder` is one forward pass, `decode` the generation of a few tokens by a causal model. The peers are measured with
the adapters of the batch alone: to them it makes no difference how many others there are, but each takes more memory.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import peft
import torch
from measuring import CLOCKS, DTYPES, alternate, parser, quartiles, spread, start, table, write
from peft import PeftModel, get_peft_model
from subjects import METHODS, SUBJECTS, batch, build, linears, share_weights
from torch import Tensor, nn

from propulsion import AdapterBank

PEERS: dict[str, Callable[[nn.Module], peft.PeftConfig]] = {
    "lora r8": lambda model: peft.LoraConfig(r=8, target_modules=linears(model), init_lora_weights=False),
    "road": lambda model: peft.RoadConfig(target_modules=linears(model), init_weights=False),
}
DECODED = 6  # tokens
CAPACITY = 1000  # adapters on the device; the others wait in host memory and on disk
HOST_BYTES = 1 << 30


def peer(model: nn.Module, config: peft.PeftConfig, adapters: int) -> PeftModel:
    """A model of PEFT with so many adapters."""
    wrapped = get_peft_model(model, config, adapter_name="a0")
    for number in range(1, adapters):
        wrapped.add_adapter(f"a{number}", config)
    return wrapped.eval()


def propulsion_folder(model: nn.Module) -> str:
    """A saved adapter of Propulsion, off the identity."""
    folder = tempfile.mkdtemp()
    tuned = METHODS["propulsion-all"](share_weights(model))
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "propulsion" in name:
                parameter.normal_(std=0.001)
    tuned.save_pretrained(folder)
    return folder


def fill(bank: AdapterBank, folder: str, known: int, clock: str) -> list[float]:
    """Load adapters until so many are known; the seconds of each."""
    seconds = []
    while len(bank) < known:
        begin = CLOCKS[clock]()
        bank.load(folder, f"a{len(bank)}")
        seconds.append(CLOCKS[clock]() - begin)
    return seconds


def one_by_one(model: PeftModel, names: list[str], run: Callable[..., Any], inputs: dict[str, Tensor]) -> None:
    """A loop over the adapters, each with its own row."""
    for row, name in enumerate(names):
        model.set_adapter(name)
        run(model, {key: value[row : row + 1] for key, value in inputs.items()})


def loop_of_bank(bank: AdapterBank, names: list[str], run: Callable[..., Any], inputs: dict[str, Tensor]) -> None:
    """The same with a bank."""
    for row, name in enumerate(names):
        run(bank, {key: value[row : row + 1] for key, value in inputs.items()}, adapter_names=[name])


def forward(model: Any, inputs: dict[str, Tensor], **kwargs: Any) -> Any:
    return model(**inputs, **kwargs)


def decode(model: Any, inputs: dict[str, Tensor], **kwargs: Any) -> Any:
    options = {"max_new_tokens": DECODED, "min_new_tokens": DECODED, "do_sample": False, "use_cache": True}
    return model.generate(**inputs, attention_mask=torch.ones_like(inputs["input_ids"]), **options, **kwargs)


def measure(options: argparse.Namespace, task: str, model_name: str, dtype: str, length: int) -> list[dict[str, Any]]:
    """All cases of one task at each number of known adapters."""
    model = build(model_name, DTYPES[dtype], options.device)
    inputs = {"input_ids": batch(model_name, options.batch, length, options.device)["input_ids"]}
    run = decode if task == "decode" else forward
    folder = propulsion_folder(model)
    bank = AdapterBank(share_weights(model), capacity=CAPACITY, host_budget=HOST_BYTES)
    base = share_weights(model).eval()
    rows: list[dict[str, Any]] = []
    for known in options.known:
        loads = fill(bank, folder, known, options.clock)
        names = [f"a{(number * known) // options.batch % known}" for number in range(options.batch)]
        runs: dict[str, Callable[[], Any]] = {"base": partial(run, base, inputs)}
        runs["bank"] = partial(run, bank, inputs, adapter_names=names)
        if known <= options.batch:
            adapters = len(set(names))
            for name, config in PEERS.items():
                tuned = peer(share_weights(model), config(model), adapters)
                runs[f"{name}, mixed"] = partial(run, tuned, inputs, adapter_names=names)
                if known > 1:
                    runs[f"{name}, loop"] = partial(one_by_one, tuned, names, run, inputs)
            if known > 1:
                runs["bank, loop"] = partial(loop_of_bank, bank, names, run, inputs)
        with torch.no_grad():
            minutes = options.minutes / len(options.tasks) / len(options.known)
            samples = alternate(runs, options.rounds, options.device, minutes, options.clock)
        where = {"task": task, "model": model_name, "dtype": dtype, "batch": options.batch, "length": length}
        where |= {"known": known, "on_device": len(bank.resident)}
        base_seconds = quartiles(samples.pop("base"))
        rows.append({**where, "method": "base", "ratio": quartiles([1.0]), "seconds": base_seconds})
        rows += [{**where, "method": name, "ratio": quartiles(ratios)} for name, ratios in samples.items()]
        if loads:  # the growth of the table included
            rows.append({**where, "method": "load", "seconds": quartiles(loads)})
    return rows


def main(arguments: list[str] | None = None) -> None:
    """Measure, print and write."""
    options = parser(__doc__.splitlines()[0], batch=32, length=[128], dtype=["float32"], rounds=9, minutes=9)
    options.add_argument("--known", type=int, nargs="+", default=[1, 32, 1000, 10000], help="adapters of the bank")
    options.add_argument(
        "--tasks", nargs="+", choices=["encoder", "decode"], default=["encoder", "decode"], help="what"
    )
    options.add_argument("--prompt", type=int, default=4, help="tokens before what is decoded")
    options.set_defaults(models=["minilm", "llama-110m"])
    options = options.parse_args(arguments)
    start(options)
    rows, begin = [], time.perf_counter()
    for model_name in options.models:
        task = "decode" if SUBJECTS[model_name].causal else "encoder"
        if task not in options.tasks:
            continue
        for dtype in options.dtype:
            for length in options.length if task == "encoder" else [options.prompt]:
                rows += measure(options, task, model_name, dtype, length)
    for task in options.tasks:
        lines = [
            [str(row["known"]), row["method"], spread(row["ratio"]) if "ratio" in row else "", seconds(row)]
            for row in rows
            if row["task"] == task
        ]
        table(f"{task}, {options.batch} rows", ["known", "method", "time / base", "ms"], lines)
    print("Written to", write("bank", options, rows, time.perf_counter() - begin))


def seconds(row: dict[str, Any]) -> str:
    return f"{1000 * row['seconds']['median']:.1f}" if "seconds" in row else ""


if __name__ == "__main__":
    main()

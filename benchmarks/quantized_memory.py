"""The memory of one training step over a base model of four bits, and over one of bfloat16, of Propulsion and of LoRA.

python benchmarks/quantized_memory.py --models llama-110m
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import multiprocessing
import time
from collections.abc import Iterable, Iterator
from itertools import product
from typing import Any

import bitsandbytes
import peft
import torch
from measuring import DTYPES, chosen, parser, saved_bytes, start, table, write
from memory import MIB, peak, resident
from subjects import METHODS, Trainee, batch, build, linears, tuned
from torch import Tensor, nn

from propulsion_tools.training.measure import reset_peak

BASES = ("4-bit", "bfloat16")
RANKS = (8, 16)
LORA = {f"lora-all-r{r}": tuned(lambda model, r=r: peft.LoraConfig(r=r, target_modules=linears(model))) for r in RANKS}
TUNED = {name: METHODS[name] for name in ("floor", "propulsion-attn", "propulsion-all")} | LORA


def four_bit(layer: nn.Linear, dtype: torch.dtype) -> nn.Module:
    """A linear layer with its weight in NF4 with nested constants, as QLoRA has it, that computes in a dtype."""
    result = bitsandbytes.nn.Linear4bit(
        layer.in_features,
        layer.out_features,
        bias=layer.bias is not None,
        compute_dtype=dtype,
        compress_statistics=True,
        quant_type="nf4",
        device="meta",
    )
    weight, device = layer.weight.detach(), layer.weight.device
    result.weight = bitsandbytes.nn.Params4bit(
        weight.clone(), requires_grad=False, compress_statistics=True, quant_type="nf4", module=result
    ).to(device)
    result.bias = layer.bias
    return result


def quantize(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The model with all its linear layers but the output layer in four bits, changed in place."""
    output = model.get_output_embeddings()
    for name, layer in list(model.named_modules()):
        if isinstance(layer, nn.Linear) and layer is not output:
            model.set_submodule(name, four_bit(layer, dtype))
    return model


def bytes_of(tensors: Iterable[Tensor]) -> int:
    """What tensors hold."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def give_back_freed() -> None:
    """Return to the system what this process has freed, where its C library can (glibc)."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def measure_one(options: argparse.Namespace, model_name: str, base: str, length: int, method: str) -> dict[str, Any]:
    """One method on one base, in a process of its own."""
    start(options)
    model = build(model_name, DTYPES["bfloat16"], options.device).requires_grad_(False)
    if base == "4-bit":
        model = quantize(model, DTYPES["bfloat16"])
    held = bytes_of(model.parameters())
    trainee = Trainee(TUNED[method](model), batch(model_name, options.batch, length, options.device))
    give_back_freed()  # by quantizing, or the step would take it again unseen
    reset_peak()
    before = torch.cuda.memory_allocated() if options.device == "cuda" else resident()
    trainee.step()
    trainee.step()
    most = peak(options.device)
    return {
        "trainable": trainee.parameters,
        "adapter_bytes": bytes_of(p for p in trainee.model.parameters() if p.requires_grad),
        "base_mib": round(held / MIB, 1),
        "saved_mib": round(saved_bytes(trainee.model, trainee.loss) / MIB, 2),
        "peak_mib": round(most / MIB),
        "step_mib": round((most - before) / MIB),
    }


def measure(options: argparse.Namespace, model_name: str, length: int) -> Iterator[dict[str, Any]]:
    """All methods on both bases of one model, one after the other."""
    context = multiprocessing.get_context("fork")  # after the imports, and before anything is computed
    for base, method in product(BASES, chosen(options, TUNED, "floor")):
        row = {"model": model_name, "dtype": base, "batch": options.batch, "length": length, "method": method}
        with context.Pool(1) as pool:
            yield row | pool.apply(measure_one, (options, model_name, base, length, method))


def show(rows: list[dict[str, Any]]) -> None:
    """Print the table of one model."""
    columns = ("trainable", "adapter_bytes", "base_mib", "saved_mib", "step_mib", "peak_mib")
    lines = [[row["dtype"], row["method"], *(f"{row[key]:,}" for key in columns)] for row in rows]
    first = rows[0]
    title = f"{first['model']}, {first['batch']} × {first['length']} tokens"
    heads = ["trainable", "adapter, bytes", "base, MiB", "saved, MiB", "peak of the step, MiB", "peak, MiB"]
    table(title, ["base", "method", *heads], lines)


def main(arguments: list[str] | None = None) -> None:
    """Measure, print and write."""
    options = parser(__doc__.splitlines()[0], models=["llama-110m"], dtype=["bfloat16"]).parse_args(arguments)
    rows, begin = [], time.perf_counter()
    for model_name, length in product(options.models, options.length):
        part = []
        for row in measure(options, model_name, length):
            part.append(row)
            path = write("quantized_memory", options, [*rows, *part], time.perf_counter() - begin)
        show(part)
        rows += part
    print("Written to", path)


if __name__ == "__main__":
    main()

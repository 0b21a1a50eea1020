"""How the benchmarks measure: alternating runs, saved bytes, the environment, tables and JSON."""

from __future__ import annotations

import argparse
import json
import platform
import random
import statistics
import time
import warnings
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

RESULTS = Path(__file__).parent / "results"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
BETWEEN_REFERENCES = 2
FEWEST_ROUNDS = 3
CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}


def alternate(
    runs: dict[str, Callable[[], Any]],
    rounds: int,
    device: str = "cpu",
    minutes: float = float("inf"),
    clock: str = "wall",
) -> dict[str, list[float]]:
    """Time runs in turn, the first of them again and again between the others.

    Args:
        runs: What to time; the first is the reference.
        rounds: How often each is timed, if the time allows it, and at least three times.
        device: Where they run.
        minutes: When to stop.
        clock: "wall", or "processor" for the time that the process had, where others use the machine too.

    Returns:
        For each run, seconds per round divided by those of the references right before and after it; for the
        reference, the seconds themselves.
    """
    reference, *others = runs
    end = time.perf_counter() + 60 * minutes
    for run in runs.values():
        run()
    samples: dict[str, list[float]] = {name: [] for name in runs}
    shuffled = random.Random(0)
    for done in range(rounds):
        if done >= FEWEST_ROUNDS and time.perf_counter() > end:
            break
        shuffled.shuffle(others)
        before = seconds(runs[reference], device, clock)
        samples[reference].append(before)
        for start in range(0, len(others), BETWEEN_REFERENCES):
            times = {name: seconds(runs[name], device, clock) for name in others[start : start + BETWEEN_REFERENCES]}
            after = seconds(runs[reference], device, clock)
            for name, value in times.items():
                samples[name].append(2 * value / (before + after))
            before = after
    return samples


def seconds(run: Callable[[], Any], device: str = "cpu", clock: str = "wall") -> float:
    """The duration of one run."""
    now = CLOCKS[clock]
    synchronize(device)
    start = now()
    run()
    synchronize(device)
    return now() - start


def synchronize(device: str) -> None:
    """Wait until the device has done all it was asked to do."""
    if device != "cpu":
        torch.accelerator.synchronize()


def saved_bytes(model: nn.Module, forward: Callable[[], Any]) -> int:
    """The bytes that autograd keeps for the backward, each storage once and the parameters' not at all."""
    own = {tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *model.buffers()]}
    kept: dict[int, tuple[int, Tensor]] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes(), tensor  # the tensor too, so that its address is not used again
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        forward()
    return sum(size for size, _ in kept.values())


def quartiles(samples: list[float]) -> dict[str, float]:
    """The median and the quartiles around it."""
    if len(samples) < 2:
        return dict.fromkeys(("q1", "median", "q3"), samples[0])
    first, median, third = statistics.quantiles(samples, n=4, method="inclusive")
    return {"q1": first, "median": median, "q3": third}


def paired(numerator: list[float], denominator: list[float]) -> dict[str, float]:
    """The median and the quartiles of the ratio, round by round."""
    return quartiles([a / b for a, b in zip(numerator, denominator, strict=True)])


def environment(device: str, clock: str) -> dict[str, Any]:
    """What the numbers depend on beside the settings."""
    packages = {name: version(name) for name in ("torch", "transformers", "peft")}
    return {
        "python": platform.python_version(),
        **packages,
        "device": torch.cuda.get_device_name() if device == "cuda" else processor(),
        "threads": torch.get_num_threads(),
        "clock": clock,
        "date": time.strftime("%Y-%m-%d"),
    }


def processor() -> str:
    """The processor's name, as far as the system tells it."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]} ({platform.machine()})" if names else platform.machine()


def parser(description: str | None, **defaults: Any) -> argparse.ArgumentParser:
    """The options that the benchmarks share."""
    from subjects import SUBJECTS

    options = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    options.add_argument("--models", nargs="+", choices=SUBJECTS, help="architectures, with random weights")
    options.add_argument("--dtype", nargs="+", choices=DTYPES, default=["float32", "bfloat16"], help="of the weights")
    options.add_argument("--batch", type=int, default=4, help="rows")
    options.add_argument("--length", type=int, nargs="+", default=[128], help="tokens in a row")
    options.add_argument("--rounds", type=int, default=15, help="how often each method is timed, if time allows it")
    options.add_argument("--minutes", type=float, default=9, help="after which fewer rounds have to do")
    options.add_argument("--clock", choices=CLOCKS, default="wall", help="processor: where others use the machine too")
    options.add_argument("--threads", type=int, help="of the CPU; all of them if not given")
    options.add_argument("--methods", nargs="+", help="only these")
    options.add_argument("--skip", nargs="+", default=[], help="all but these")
    options.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where it runs")
    options.add_argument("--output", type=Path, help="where the JSON goes; a name in benchmarks/results/ if not given")
    options.set_defaults(**defaults)
    return options


def start(options: argparse.Namespace) -> None:
    """Apply the options that concern the whole process."""
    warnings.simplefilter("ignore")
    if options.threads:
        torch.set_num_threads(options.threads)


def chosen(options: argparse.Namespace, names: Iterable[str], reference: str) -> list[str]:
    """The methods to measure, the reference first."""
    names = list(names)
    unknown = {*(options.methods or ()), *options.skip} - set(names)
    if unknown:
        raise SystemExit(f"There is no method {', '.join(sorted(unknown))}; there are {', '.join(names)}.")
    wanted = [name for name in options.methods or names if name not in {reference, *options.skip}]
    return [reference, *wanted]


def write(benchmark: str, options: argparse.Namespace, rows: list[dict[str, Any]], duration: float) -> Path:
    """Write the JSON of one run."""
    settings = {key: value for key, value in vars(options).items() if key not in ("output",)}
    record = {
        "benchmark": benchmark,
        "environment": environment(options.device, options.clock),
        "settings": settings,
        "minutes_taken": round(duration / 60, 1),
        "rows": rows,
    }
    path = options.output or RESULTS / f"{benchmark}-{options.device}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_dumped(record))
    return path


def _dumped(record: dict[str, Any]) -> str:
    """JSON with one line for each row."""
    rows = ",\n".join(f"  {json.dumps(row)}" for row in record["rows"])
    rest = json.dumps({**record, "rows": []}, indent=1, default=str)
    return rest.replace('"rows": []', f'"rows": [\n{rows}\n ]') + "\n"


def table(title: str, columns: list[str], lines: Iterable[list[str]]) -> None:
    """Print a table."""
    result = Table(*columns, title=title, title_justify="left")
    for line in lines:
        result.add_row(*line)
    Console(width=140).print(result)


def spread(values: dict[str, float], digits: int = 3) -> str:
    """A median with its quartiles, for reading."""
    return f"{values['median']:.{digits}f} ({values['q1']:.{digits}f}–{values['q3']:.{digits}f})"

"""PEFT's method comparison on MetaMathQA, with an experiment in the form that PEFT's own script reads.

    python benchmarks/method_comparison.py method_comparison/MetaMathQA/experiments/propulsion/llama-3.2-3B-default

It needs a GPU of 32 GB or more, and access to meta-llama/Llama-3.2-3B. The result has the form of PEFT's, so PEFT's
tables and its app read it. What is done is what PEFT's run.py does; method_comparison/MetaMathQA/README.md says where
it is not the same. To try it anywhere, say --data_dir FOLDER --forgetting_text FILE --set model_id=FOLDER
max_steps=10 eval_steps=5.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import sys
from contextlib import suppress
from dataclasses import asdict, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import torch
import yaml
from comparison_run import Outcome, TrainConfig, run
from metamathqa import GSM8K, METAMATH, WIKI, load_rows, wiki_texts
from peft import PeftConfig
from peft.utils import SAFETENSORS_WEIGHTS_NAME

import propulsion  # noqa: F401  (makes the method known to PEFT)
from propulsion_tools.errors import ToolsError
from propulsion_tools.records import write_atomically

PACKAGES = ("transformers", "peft", "datasets", "bitsandbytes", "torch")


def read_experiment(folder: Path, changes: dict[str, Any]) -> tuple[str, TrainConfig, PeftConfig]:
    """The name of an experiment, its settings, and what is trained.

    Args:
        folder: experiments/METHOD/NAME, with adapter_config.json and, where settings differ, training_params.json.
        changes: Settings that go before those of the folder.
    """
    if not (folder / "adapter_config.json").is_file():
        raise SystemExit(f"{folder} has no adapter_config.json: name a folder experiments/METHOD/NAME that has one.")
    file = folder / "training_params.json"
    own = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    values = {**own, **changes}
    if unknown := values.keys() - {item.name for item in fields(TrainConfig)}:
        raise SystemExit(f"{', '.join(sorted(unknown))} in {file} or --set is no setting of the benchmark.")
    config = PeftConfig.from_pretrained(str(folder))
    return "/".join(folder.resolve().parts[-2:]), TrainConfig(**values), config


def result(
    name: str, config: TrainConfig, adapter: PeftConfig, outcome: Outcome, file_size: int, begun: datetime.datetime
) -> dict[str, Any]:
    """What PEFT's script writes, key by key; ``run_with`` is ours."""
    said = {key: sorted(value) if isinstance(value, set) else value for key, value in adapter.to_dict().items()}
    log = outcome.memory.log or [0]
    return {
        "run_info": {
            "created_at": begun.isoformat(),
            "total_time": (datetime.datetime.now(datetime.timezone.utc) - begun).total_seconds(),
            "experiment_name": name,
            "peft_branch": None,
            "peft_worktree_is_dirty": None,
            "train_config": asdict(config),
            "peft_config": said,
            "error_msg": outcome.error,
            "run_with": "benchmarks/method_comparison.py of propulsion",
        },
        "train_info": {
            "accelerator_memory_reserved_avg": int(np.mean(log)),
            "accelerator_memory_max": outcome.memory.peak(),
            "accelerator_memory_reserved_99th": int(np.percentile(log, 99)),
            "train_time": outcome.seconds,
            "file_size": file_size,
            "num_trainable_params": outcome.parameters[0],
            "num_total_params": outcome.parameters[1],
            "status": outcome.status,
            "metrics": outcome.metrics,
        },
        "meta_info": _meta_info(config.model_id),
    }


def _meta_info(model_id: str) -> dict[str, Any]:
    """What a result depends on beside its settings."""
    packages: dict[str, str | None] = {}
    for name in PACKAGES:
        packages |= {f"{name}-version": _version(name), f"{name}-commit-hash": None}
    on_gpu = torch.cuda.is_available()
    system = {key: getattr(platform, key)() for key in ("system", "release", "version", "machine", "processor")}
    hub = huggingface_hub.HfApi()
    return {
        "model_info": _published(hub.model_info, model_id),
        "dataset_info": {
            "metamath": _published(hub.dataset_info, METAMATH),
            "gsm8k": _published(hub.dataset_info, GSM8K),
        },
        "package_info": {**packages, "propulsion-version": _version("propulsion-peft")},
        "system_info": {**system, "accelerator": torch.cuda.get_device_name(0) if on_gpu else "cpu"},
        "pytorch_info": torch.__config__.show(),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _published(info: Any, name: str) -> dict[str, str | None]:
    """The revision on the hub and the day of its making; nothing for folders, or without a network."""
    with suppress(OSError, ValueError):  # what huggingface_hub raises is one of these
        found = info(name)
        return {"sha": found.sha, "created_at": found.created_at.isoformat() if found.created_at else None}
    return {"sha": None, "created_at": None}


def save(outcome: Outcome, folder: Path) -> int:
    """Write the adapter, and give the bytes of its weights."""
    outcome.model.save_pretrained(str(folder))
    return (folder / SAFETENSORS_WEIGHTS_NAME).stat().st_size


def options(arguments: list[str] | None) -> argparse.Namespace:
    """What is told on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("experiment", type=Path, help="experiments/METHOD/NAME, with adapter_config.json")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/method_comparison"), help="results and adapters")
    parser.add_argument("--data_dir", type=Path, help="folder with MetaMathQA and gsm8k; default: the hub")
    parser.add_argument("--forgetting_text", default=WIKI, help="file with a column text, or a data set on the hub")
    parser.add_argument(
        "--set", nargs="*", default=[], metavar="NAME=VALUE", help="settings beside those of the folder"
    )
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> Path:
    """Run an experiment, and give the file of its result."""
    given = options(arguments)
    changes = {name: yaml.safe_load(value) for name, _, value in (word.partition("=") for word in given.set)}
    name, config, adapter = read_experiment(given.experiment, changes)
    if torch.cuda.device_count() > 1:
        raise SystemExit("The benchmark is for one GPU: choose it with CUDA_VISIBLE_DEVICES=0.")
    begun = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)
    folder = given.output_dir / name
    texts, rows = wiki_texts(given.forgetting_text), load_rows(given.data_dir)
    outcome = run(config, adapter, rows, texts, lambda line: print(line, file=sys.stderr), str(folder))
    written = result(name, config, adapter, outcome, save(outcome, folder), begun)
    state = "results" if outcome.status == "success" else "cancelled_results"
    file = given.output_dir / state / f"{name.replace('/', '--')}.json"
    write_atomically(file, json.dumps(written, indent=2) + "\n")
    print(f"Written to {file}")
    return file


if __name__ == "__main__":
    try:
        main()
    except (ToolsError, OSError) as error:
        sys.exit(f"method_comparison: {error}")

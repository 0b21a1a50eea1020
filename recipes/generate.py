"""Writes one recipe for each row of the paper's tables 1, 2, 3 and 9–23: `python recipes/generate.py`.

The rows are those of the numbers that come with `propulsion_tools.methods`; how each is run here is in
`recipes/source.py`. What is in the folders table1 to table23 is replaced, and the README beside them is written anew.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import yaml
from refusals import refusal
from source import (
    APPENDIX_K_DEGREE,
    COUNTED,
    DATASETS,
    DEFAULTS,
    LLM_PROPULSION,
    LLM_REASONING,
    METHODS,
    MODELS,
    NO_DATASET,
    OURS,
    ROOM,
    TABLES,
    Dataset,
    Model,
    Value,
)

from propulsion_tools.methods import get_method
from propulsion_tools.methods.counts import Setting, paper_setting
from propulsion_tools.methods.paper_results import PaperResult, paper_results
from propulsion_tools.records import RunSpec

HERE = Path(__file__).parent
BATCH = 64
README_HEAD = HERE / "README.head.md"


@dataclass(frozen=True)
class Row:
    """A row of a table: everything that the paper measured of one model, data set and method."""

    table: str
    model: str
    dataset: str
    label: str
    results: tuple[PaperResult, ...]

    @property
    def setting(self) -> Setting:
        """How its method is run here."""
        return paper_setting(self.model, self.table, self.label) or Setting(METHODS[self.label])

    @property
    def data(self) -> Dataset:
        """How its data set is read here."""
        return DATASETS[self.dataset]

    @property
    def name(self) -> str:
        """Its file below `HERE`."""
        return f"table{self.table}/{self.model}-{self.data.task}-{self.setting.method}.yaml"


def plain(label: str) -> str:
    """A label without its mark-up."""
    return re.sub(r"\s*</?sup>\s*", " ", label).strip()


def rows(results: Iterable[PaperResult] | None = None) -> list[Row]:
    """The rows of the tables that have recipes, in the order of the paper."""
    grouped: dict[tuple[str, str, str, str], list[PaperResult]] = defaultdict(list)
    for result in paper_results() if results is None else results:
        if result.table in TABLES and result.dataset not in NO_DATASET:
            grouped[result.table, result.model, result.dataset, result.method].append(result)
    return [Row(*key, tuple(found)) for key, found in grouped.items()]


def options(row: Row) -> dict[str, Value]:
    """The options of a row's run, each with its origin."""
    model, data, method = MODELS[row.model], row.data, row.setting.method
    return {
        "model_name_or_path": Value(model.hub_id, model.origin),
        **({"torch_dtype": Value("bfloat16", OURS)} if model.large else {}),
        "dropout": Value(0.1, DEFAULTS if row.table != LLM_REASONING else "the paper, section 4.3"),
        "task": Value(data.task, "the paper"),
        **_length(row),
        "method": Value(method, "the paper"),
        **_method_options(row),
        "learning_rate": Value(1e-4, f"{DEFAULTS}; ours would be {_our_rate(row):.3g}"),
        "weight_decay": Value(0.02, DEFAULTS),
        **(_recomputation(method) if model.large else {}),
        "num_train_epochs": Value(data.epochs, OURS),
        **_batch(model),
        "group_by_length": Value(True, OURS),
        "load_best_model_at_end": Value(True, OURS),
    }


def _method_options(row: Row) -> dict[str, Value]:
    method = row.setting.method
    if method.startswith("propulsion"):
        if row.table == LLM_REASONING:
            return dict(LLM_PROPULSION)
        given = row.data.degree if row.table in ("1", "2") else None
        return {"degree": Value(given, "the paper, section 4.2") if given else APPENDIX_K_DEGREE}
    return {name: Value(value, COUNTED) for name, value in row.setting.spec.items()}


def _length(row: Row) -> dict[str, Value]:
    """The longest input, with room for the virtual tokens of a prompt before it."""
    longest = ROOM.get((row.model, row.setting.method), row.data.max_length)
    return {"max_length": Value(longest, OURS)} if longest else {}


def _recomputation(method: str) -> dict[str, Value]:
    if method == "prefix-tuning":
        return {"gradient_checkpointing": Value(False, f"{OURS}: it turns off the cache, which a prefix is")}
    return {"gradient_checkpointing": Value(True, OURS)}


def _our_rate(row: Row) -> float:
    fields = {name: value.value for name, value in _method_options(row).items() if name == "degree"}
    return get_method(row.setting.method).learning_rate(RunSpec(method=row.setting.method, **fields))


def _batch(model: Model) -> dict[str, Value]:
    size = {
        "per_device_train_batch_size": Value(model.batch, f"{OURS}: what fits" if model.batch < BATCH else DEFAULTS)
    }
    if model.batch < BATCH:
        size["gradient_accumulation_steps"] = Value(BATCH // model.batch, f"makes the {BATCH} rows of section 4.4")
    return {**size, "per_device_eval_batch_size": Value(min(64, 4 * model.batch), OURS)}


def recipe(row: Row) -> str:
    """The text of a row's file."""
    numbers = ", ".join(f"{result.metric} {result.value}" for result in row.results)
    unit = "%" if row.results[0].params_unit == "percent" else ""
    trained = row.results[0].trainable_params
    said = f"{numbers}{f'; {trained}{unit} of the parameters trained' if trained else ''}"
    lines = [
        f"# Table {row.table}, {row.model}, {row.dataset}, {plain(row.label)}. The paper: {said}.",
        "# Written by recipes/generate.py. Run: propulsion train --config " + f"recipes/{row.name}",
    ]
    if row.data.needs:
        lines.append(f"# Add {row.data.needs}.")
    pairs = [(f"{name}: {_scalar(value.value)}", value.origin) for name, value in options(row).items()]
    width = max(len(text) for text, _ in pairs)
    return "\n".join([*lines, *(f"{text:<{width}}  # {origin}" for text, origin in pairs)]) + "\n"


def _scalar(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.1e}" if value < 1e-3 else f"{value:g}"
    return yaml.safe_dump(value, default_flow_style=True).removesuffix("\n...\n").strip()


def readme(runnable: list[Row], refused: dict[str, list[Row]]) -> str:
    """What the recipes are, how many there are, and which rows have none."""
    counted = Counter(row.table for row in runnable)
    missing = Counter(row.table for some in refused.values() for row in some)
    lines = [
        README_HEAD.read_text(encoding="utf-8").rstrip(),
        "",
        "## How many",
        "",
        "| Table | Recipes | Rows without one |",
    ]
    lines.append("|---|---|---|")
    lines += [f"| {table} | {counted[table]} | {missing[table]} |" for table in TABLES]
    lines += [f"| all | {counted.total()} | {missing.total()} |", "", "## Rows without a recipe", ""]
    for reason, some in refused.items():
        names = ", ".join(f"`{row.name.removesuffix('.yaml')}`" for row in some)
        lines += [f"{reason} ({len(some)} rows): {names}.", ""]
    return "\n".join(lines).rstrip() + "\n"


def generate(folder: Path) -> int:
    """Write everything; returns the number of recipes.

    Args:
        folder: Replaced are its subfolders that are named after a table, and its README.md.
    """
    runnable, refused = [], defaultdict(list)
    for row in rows():
        reason = refusal(row.model, row.setting.method)
        if reason:
            refused[reason].append(row)
        else:
            runnable.append(row)
    for table in TABLES:
        shutil.rmtree(folder / f"table{table}", ignore_errors=True)
    for row in runnable:
        file = folder / row.name
        if file.exists():
            raise ValueError(f"Two rows of the paper give {file}.")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(recipe(row), encoding="utf-8")
    (folder / "README.md").write_text(readme(runnable, refused), encoding="utf-8")
    return len(runnable)


if __name__ == "__main__":
    print(f"{generate(HERE)} recipes written", file=sys.stderr)

"""The recipes: one for each row of the paper's tables, found by name or by what they have in common.

Nothing heavy is imported, except to say which learning rate would be ours (`Recipe.origins`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from propulsion_tools.errors import OptionError, UnknownNameError, check_name, near_misses
from propulsion_tools.methods.paper_results import PaperResult, paper_results
from propulsion_tools.methods.paper_settings import Setting, paper_setting
from propulsion_tools.recipes.sources import (
    APPENDIX_K_DEGREE,
    BATCH,
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
    refusal,
)
from propulsion_tools.records import RunSpec


@dataclass(frozen=True)
class Recipe:
    """A row of a table as a run.

    Args:
        table: The table's number.
        model: The paper's name of the model.
        dataset: The paper's name of the data set.
        label: The paper's name of the method, which differs between tables.
        results: All that the paper measured of the three.
    """

    table: str
    model: str
    dataset: str
    label: str
    results: tuple[PaperResult, ...]

    @property
    def name(self) -> str:
        """For example ``table1/roberta-base-sst2-propulsion-all``."""
        return f"table{self.table}/{self.model}-{self.task}-{self.method}"

    @property
    def task(self) -> str:
        """Our name of the data set."""
        return self.data.task

    @property
    def method(self) -> str:
        """Our name of the method."""
        return self.setting.method

    @property
    def data(self) -> Dataset:
        """How its data set is read here."""
        return DATASETS[self.dataset]

    @property
    def setting(self) -> Setting:
        """How its method is run here."""
        return paper_setting(self.model, self.table, self.label) or Setting(METHODS[self.label])

    @property
    def score(self) -> str:
        """What the paper reports, for example ``accuracy 85.24, f1 88.18``."""
        return ", ".join(f"{result.metric} {result.value}" for result in self.results if result.value)

    @property
    def refusal(self) -> str | None:
        """Why it cannot be run here, as a clause; None if it can."""
        return refusal(self.model, self.method)

    @property
    def values(self) -> dict[str, Any]:
        """The fields of the run that differ from their defaults, or that the paper decides."""
        return {name: value.value for name, value in _options(self).items()}

    @property
    def spec(self) -> RunSpec:
        """The run, for `propulsion_tools.training.run.train`."""
        return RunSpec.from_dict(self.values)

    @property
    def origins(self) -> dict[str, str]:
        """Where each of `values` is from."""
        return {name: value.origin for name, value in _options(self).items()}


def _options(row: Recipe) -> dict[str, Value]:
    model = MODELS[row.model]
    return {
        "model_name_or_path": Value(model.hub_id, model.origin),
        **({"torch_dtype": Value("bfloat16", OURS)} if model.large else {}),
        "dropout": Value(0.1, DEFAULTS if row.table != LLM_REASONING else "the paper, section 4.3"),
        "task": Value(row.task, "the paper"),
        **_length(row),
        "method": Value(row.method, "the paper"),
        **_method_options(row),
        "learning_rate": Value(1e-4, f"{DEFAULTS}; null is ours"),
        "weight_decay": Value(0.02, DEFAULTS),
        **(_recomputation(row.method) if model.large else {}),
        "num_train_epochs": Value(row.data.epochs, OURS),
        **_batch(model),
        "group_by_length": Value(True, OURS),
        "load_best_model_at_end": Value(True, OURS),
    }


def _method_options(row: Recipe) -> Mapping[str, Value]:
    if row.method.startswith("propulsion"):
        if row.table == LLM_REASONING:
            return LLM_PROPULSION
        given = row.data.degree if row.table in ("1", "2") else None
        return {"degree": Value(given, "the paper, section 4.2") if given else APPENDIX_K_DEGREE}
    return {name: Value(value, COUNTED) for name, value in row.setting.spec.items()}


def _length(row: Recipe) -> dict[str, Value]:
    """The longest input, with room for the virtual tokens of a prompt before it."""
    longest = ROOM.get((row.model, row.method), row.data.max_length)
    return {"max_length": Value(longest, OURS)} if longest else {}


def _recomputation(method: str) -> dict[str, Value]:
    if method == "prefix-tuning":
        return {"gradient_checkpointing": Value(False, f"{OURS}: it turns off the cache, which a prefix is")}
    return {"gradient_checkpointing": Value(True, OURS)}


def _batch(model: Model) -> dict[str, Value]:
    size = {
        "per_device_train_batch_size": Value(model.batch, f"{OURS}: what fits" if model.batch < BATCH else DEFAULTS)
    }
    if model.batch < BATCH:
        size["gradient_accumulation_steps"] = Value(BATCH // model.batch, f"makes the {BATCH} rows of section 4.4")
    return {**size, "per_device_eval_batch_size": Value(min(64, 4 * model.batch), OURS)}


@cache
def recipes() -> tuple[Recipe, ...]:
    """Every row, also those that cannot be run here, in the order of the paper."""
    grouped: dict[tuple[str, str, str, str], list[PaperResult]] = defaultdict(list)
    for result in paper_results():
        if result.table in TABLES and result.dataset not in NO_DATASET:
            grouped[result.table, result.model, result.dataset, result.method].append(result)
    return tuple(Recipe(*key, tuple(results)) for key, results in grouped.items())


def recipe(name: str) -> Recipe:
    """The recipe of this name.

    Raises:
        UnknownNameError: There is none; names the near misses.
        OptionError: No method here can run the row; says why.
    """
    (row,) = find_recipes(name=name)
    if row.refusal:
        raise OptionError(f"{name} cannot be run: {row.refusal}.")
    return row


def find_recipes(
    *,
    name: str | None = None,
    table: int | None = None,
    model: str | None = None,
    task: str | None = None,
    method: str | None = None,
) -> list[Recipe]:
    """The recipes that have all of these, also those that cannot be run here, in the order of the paper.

    Args:
        name: That of one recipe.
        table: The number of a table.
        model: The paper's name of a model.
        task: Our name of a data set.
        method: Our name of a method.

    Raises:
        UnknownNameError: No recipe has one of them; names the near misses.
        OptionError: No recipe has all of them.
    """
    asked = {"name": name, "table": table, "model": model, "task": task, "method": method}
    wanted = {attribute: str(value) for attribute, value in asked.items() if value is not None}
    for attribute, value in wanted.items():
        _check_known(attribute, value)
    rows = [row for row in recipes() if all(getattr(row, key) == value for key, value in wanted.items())]
    if not rows:
        raise OptionError(f"No recipe has {_listed([f'{key} {value}' for key, value in wanted.items()])}.")
    return rows


def _check_known(attribute: str, value: str) -> None:
    known = list(dict.fromkeys(getattr(row, attribute) for row in recipes()))
    if attribute == "name":
        check_name("recipe", value, known, "`propulsion recipes` lists them.")
    if value in known:
        return
    if (attribute, value) == ("table", "5"):
        raise UnknownNameError("Table 5 is of ablations, which have a command: propulsion ablate position.")
    near = "" if attribute == "table" else near_misses(value, known)
    raise UnknownNameError(f"No recipe has the {attribute} {value!r}.{near or f' There are {_listed(known)}.'}")


def _listed(names: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))

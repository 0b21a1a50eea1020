"""Every row of the paper is a recipe or is refused by name, its values are those of the paper, and it can be run."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from propulsion_tools.cli import main
from propulsion_tools.errors import OptionError, UnknownNameError
from propulsion_tools.methods import get_method
from propulsion_tools.methods.paper_results import paper_results
from propulsion_tools.recipes import Recipe, catalogue, find_recipes, recipe, recipes
from propulsion_tools.recipes.printing import yaml_text
from propulsion_tools.recipes.sources import DATASETS, NO_DATASET, TABLES
from propulsion_tools.records import RunSpec
from propulsion_tools.tasks import get_task

RUNNABLE = [row for row in recipes() if not row.refusal]
PRINTED = Path(__file__).with_name("printed.yaml")
DIGESTS = Path(__file__).with_name("digests.json")


@pytest.fixture(scope="module")
def specs() -> dict[str, RunSpec]:
    return {row.name: row.spec for row in RUNNABLE}


@pytest.fixture(scope="module")
def printed() -> dict[str, str]:
    return {row.name: yaml_text(row) for row in RUNNABLE}


def test_every_row_of_the_paper_is_a_recipe_or_is_refused_by_name() -> None:
    assert len({row.name for row in recipes()}) == len(recipes()) == 924
    assert [row.name for row in recipes() if row.refusal] == [
        "table2/deberta-v3-base-squad-prefix-tuning",
        "table2/deberta-v3-base-squad_v2-prefix-tuning",
    ]
    numbers = [result for row in recipes() for result in row.results]
    wanted = [r for r in paper_results() if r.table in TABLES and r.dataset not in NO_DATASET]
    assert Counter(numbers) == Counter(wanted)


def test_a_recipe_is_found_by_its_name_and_others_are_refused() -> None:
    row = recipe("table1/roberta-base-mrpc-propulsion-attn")
    assert (row.score, row.spec.task, row.spec.method) == ("accuracy 89.01, f1 85.14", "mrpc", "propulsion-attn")
    with pytest.raises(UnknownNameError, match=r"mean 'table1/roberta-base-mrpc-propulsion-attn'"):
        recipe("roberta-base-mrpc-propulsion-att")
    with pytest.raises(OptionError, match=r"squad-prefix-tuning cannot be run: DeBERTa's attention"):
        recipe("table2/deberta-v3-base-squad-prefix-tuning")


@pytest.mark.parametrize(
    ("wanted", "count"),
    [
        ({}, 924),
        ({"table": 1}, 224),
        ({"table": 2, "task": "squad"}, 10),
        ({"model": "roberta-large", "method": "propulsion-all"}, 8),
        ({"name": "table9/bloom-sst2-lora-r1", "table": 9}, 1),
    ],
)
def test_recipes_are_found_by_what_they_have_in_common(wanted: dict[str, Any], count: int) -> None:
    rows = find_recipes(**wanted)
    assert len(rows) == count
    assert all(getattr(row, key) == str(value) for row in rows for key, value in wanted.items())


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"table": 4}, "table '4'. There are 1, 2, 3, 9, 10"),
        ({"model": "roberta-bas"}, "Did you mean 'roberta-base'"),
        ({"task": "sst3"}, "Did you mean 'sst2'"),
        ({"method": "propulsion"}, "Did you mean 'propulsion-all'"),
        ({"table": 1, "model": "bloom"}, "No recipe has table 1 and model bloom."),
    ],
)
def test_what_no_recipe_has_is_refused(wanted: dict[str, Any], said: str) -> None:
    with pytest.raises((UnknownNameError, OptionError), match=re.escape(said)):
        find_recipes(**wanted)


def test_every_recipe_names_a_task_and_a_method_that_there_are(specs: dict[str, RunSpec]) -> None:
    for name, spec in specs.items():
        assert name.endswith(f"-{spec.task}-{spec.method}")
        assert get_task(str(spec.task)).name == spec.task
        get_method(spec.method).check(spec)


def test_the_degrees_are_those_of_the_paper(specs: dict[str, RunSpec]) -> None:
    by_table = {name: spec for name, spec in specs.items() if spec.method.startswith("propulsion")}
    small = {spec.task: spec.degree for name, spec in by_table.items() if name.startswith(("table1/", "table2/"))}
    assert small == {
        **dict.fromkeys(("sst2", "qqp", "rte", "stsb"), 15),
        **dict.fromkeys(("qnli", "mrpc"), 55),
        **dict.fromkeys(("cola", "mnli"), 20),
        **dict.fromkeys(("squad", "squad_v2", "xsum"), 35),
        "cnn_dailymail": 25,
    }
    large = [spec for name, spec in by_table.items() if name.startswith("table3/")]
    assert {(spec.degree, spec.num_vectors, spec.dropout) for spec in large} == {(15, 5, 0.1)}
    assert all(spec.init_noise > 0 for spec in large), "vectors that start equal stay equal"


def test_every_step_has_the_batch_of_the_paper(specs: dict[str, RunSpec]) -> None:
    for spec in specs.values():
        assert spec.per_device_train_batch_size * spec.gradient_accumulation_steps == 64
        assert (spec.learning_rate, spec.weight_decay) == (1e-4, 0.02)


def test_every_value_says_where_it_is_from(printed: dict[str, str]) -> None:
    for name, text in printed.items():
        lines = [line for line in text.splitlines() if not line.startswith("#")]
        assert all(re.search(r"\S\s+# (the paper|ours|makes|gives)", line) for line in lines), name
    assert all(set(row.origins) == set(row.values) for row in RUNNABLE)


def test_what_is_printed_reads_as_the_same_run(specs: dict[str, RunSpec], printed: dict[str, str]) -> None:
    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    read = {name: RunSpec.from_dict(yaml.load(text, loader)) for name, text in printed.items()}
    assert read == specs


def digests(rows: list[Recipe]) -> dict[str, str]:
    """For each table, a digest of the values, the origins and the paper's numbers of its recipes."""
    texts: dict[str, list[str]] = {f"table {table}": [] for table in TABLES}
    for row in rows:
        texts[f"table {row.table}"].append(yaml_text(row))
    return {table: hashlib.sha256("".join(some).encode()).hexdigest()[:16] for table, some in texts.items()}


def test_the_recipes_that_are_printed_in_full_are_those_that_were_reviewed() -> None:
    wanted = PRINTED.read_text("utf-8")
    names = re.findall(r"--recipe (\S+)", wanted)
    assert len(names) == 6
    assert "\n".join(yaml_text(recipe(name)) for name in names) == wanted


def test_all_recipes_are_those_that_were_reviewed() -> None:
    found = digests(RUNNABLE)
    assert found == json.loads(DIGESTS.read_text()), f"If the change is meant, {DIGESTS.name} is {json.dumps(found)}."


def test_a_changed_value_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DATASETS, "SST2", replace(DATASETS["SST2"], epochs=6))
    rows = [row for row in find_recipes(task="sst2") if row.table in ("1", "9")]
    assert {row.spec.num_train_epochs for row in rows} == {6}
    kept = json.loads(DIGESTS.read_text())
    changed = {table for table, value in digests(RUNNABLE).items() if value != kept[table]}
    assert changed == {f"table {row.table}" for row in find_recipes(task="sst2")}


def test_a_row_left_out_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "paper_results", lambda: paper_results()[1:])
    catalogue.recipes.cache_clear()
    try:
        with pytest.raises(AssertionError):
            test_every_row_of_the_paper_is_a_recipe_or_is_refused_by_name()
    finally:
        catalogue.recipes.cache_clear()


SMOKED = (
    "table1/roberta-base-stsb-propulsion-all",
    "table2/deberta-v3-base-squad_v2-adalora",
    "table2/bart-large-xsum-propulsion-attn",
    "table3/gpt-j-6b-gsm8k-propulsion-all",
    "table11/falcon-cola-lora-r1",
    "table14/bloom-conll2003-propulsion-all",
)


@pytest.mark.slow
@pytest.mark.parametrize("name", SMOKED)
def test_a_recipe_takes_two_steps(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--recipe", name, "--smoke", "--use_cpu", "--disable_tqdm"]) == 0
    assert list(tmp_path.iterdir()) == []

"""The recipes are what the script writes, every row of the paper is one or is refused by name, and they can be run."""

from __future__ import annotations

import filecmp
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

RECIPES = Path(__file__).parents[2] / "recipes"
sys.path.insert(0, str(RECIPES))

import generate  # noqa: E402

from propulsion_tools.cli import main  # noqa: E402
from propulsion_tools.methods import get_method  # noqa: E402
from propulsion_tools.methods.paper_results import paper_results  # noqa: E402
from propulsion_tools.records import RunSpec  # noqa: E402
from propulsion_tools.tasks import get_task  # noqa: E402

FILES = sorted(RECIPES.glob("table*/*.yaml"))


@pytest.fixture(scope="module")
def specs() -> dict[str, RunSpec]:
    """Every committed recipe by its path below the folder."""
    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    names = {path.relative_to(RECIPES).as_posix(): path for path in FILES}
    return {name: RunSpec.from_dict(yaml.load(path.read_text("utf-8"), loader)) for name, path in names.items()}


def test_what_is_committed_is_what_the_script_writes(tmp_path: Path) -> None:
    assert generate.generate(tmp_path) == len(FILES) > 900
    written = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    assert written == sorted([*(path.relative_to(RECIPES) for path in FILES), Path("README.md")])
    for name in written:
        assert filecmp.cmp(tmp_path / name, RECIPES / name, shallow=False), f"run `python recipes/generate.py`: {name}"


def test_every_row_of_the_paper_has_a_recipe_or_is_refused_by_name() -> None:
    rows = generate.rows()
    readme = (RECIPES / "README.md").read_text("utf-8")
    refused = set(re.findall(r"`(table\d+/[^`]+)`", readme.partition("## Rows without a recipe")[2]))
    for row in rows:
        assert (RECIPES / row.name).is_file() != (row.name.removesuffix(".yaml") in refused), row.name
    assert len({row.name for row in rows}) == len(rows)
    numbers = [result for row in rows for result in row.results]
    left_out = [r for r in paper_results() if r.table in generate.TABLES and r.dataset not in generate.NO_DATASET]
    assert Counter(numbers) == Counter(left_out)


def test_every_recipe_names_a_task_and_a_method_that_there_are(specs: dict[str, RunSpec]) -> None:
    for name, spec in specs.items():
        assert name.endswith(f"-{spec.task}-{spec.method}.yaml")
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


def test_every_value_says_where_it_is_from() -> None:
    for path in FILES:
        lines = [line for line in path.read_text("utf-8").splitlines() if not line.startswith("#")]
        assert all(re.search(r"\S\s+# (the paper|ours|makes|gives)", line) for line in lines), path


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
    assert main(["train", "--config", str(RECIPES / f"{name}.yaml"), "--smoke", "--use_cpu", "--disable_tqdm"]) == 0
    assert list(tmp_path.iterdir()) == []

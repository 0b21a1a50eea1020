"""The miner: the same rows whatever the order of the files, no text twice, and what each kind of row promises."""

from __future__ import annotations

import hashlib
import random
import re
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from propulsion_tools.errors import DataError
from propulsion_tools.tasks import mining
from propulsion_tools.tasks.mining import mined_rows as rows
from propulsion_tools.tasks.mining import packages
from propulsion_tools.tasks.mining.completions import completion_row
from propulsion_tools.tasks.mining.mentions import mention_row
from propulsion_tools.tasks.mining.packages import package_row
from propulsion_tools.tasks.mining.questions import question_row
from propulsion_tools.tasks.mining.source import Documented, documented_in, key_of
from propulsion_tools.tasks.mining.summaries import summary_row
from propulsion_tools.tasks.raw_tables import Table, length

WORDS = ["solve", "invert", "shuffle", "gather", "plot", "sort", "weigh", "colour", "prune", "index"]
SIZES = {"train": 40, "validation": 10}
Pools = dict[str, dict[str, dict[str, Any]]]


def _package(root: Path, name: str, files: int = 12) -> Path:
    """A package whose docstrings differ from any other's, with tests, broken files and texts that all share."""
    folder = root / name
    (folder / "tests").mkdir(parents=True)
    rng = random.Random(name)
    for number in range(files):
        functions = "\n".join(
            f"    def f{index}(self):\n        '''{' '.join(rng.choices(WORDS, k=6))} as {name} {number} {index} does."
            f"\n\n        Hidden second paragraph.\n        '''"
            for index in range(8)
        )
        first = '"""Shared by all of the packages alike."""'
        second = f'class A:\n    """The {name} class of module {WORDS[number % 10]}"""'
        (folder / f"m{number}.py").write_text(f"{first}\n{second}\n{functions}\n")
    (folder / "tests" / "test_it.py").write_text('"""Hidden text of a test that nobody should see."""')
    (folder / "broken.py").write_text('"""Hidden text of a broken file""" def')
    (folder / "binary.py").write_bytes(b'"""Hidden text of a file that is not text""" \0 \xff')
    return folder


def _candidates(name: str, root: Path, files: Any, wanted: int) -> dict[str, dict[str, Any]]:
    return rows.candidates(name, root, files, wanted, package_row)


@pytest.fixture
def pools(tmp_path: Path) -> Pools:
    """Candidates of three packages."""
    roots = {name: _package(tmp_path, name) for name in ("one", "two", "three")}
    return {name: _candidates(name, root, root.rglob("*.py"), 200) for name, root in roots.items()}


def test_the_order_of_the_files_does_not_matter(tmp_path: Path) -> None:
    root = _package(tmp_path, "one")
    files = sorted(root.rglob("*.py"))
    first = _candidates("one", root, files, 30)
    for seed in range(5):
        random.Random(seed).shuffle(files)
        assert _candidates("one", root, files, 30) == first
    assert 30 <= len(first) < len(_candidates("one", root, files, 10**6)), "reading stops once there are enough"


def test_no_text_is_in_two_splits_or_twice_in_one(pools: Pools) -> None:
    tables = rows.split(pools, SIZES, equal=True)
    keys = [key_of(text) for table in tables.values() for text in table["text"]]
    assert len(keys) == len(set(keys)) > 0


def test_the_split_of_a_text_depends_on_nothing_but_the_text(pools: Pools) -> None:
    tables = rows.split(pools, SIZES, equal=True)
    fewer = rows.split({name: pools[name] for name in ("two", "one")}, SIZES, equal=True)
    for part, other in (("train", "validation"), ("validation", "train")):
        assert not set(tables[part]["text"]) & set(fewer[other]["text"])


def test_classes_are_balanced_where_that_is_asked_for_even_if_one_package_has_few(pools: Pools) -> None:
    pools["two"] = dict(list(pools["two"].items())[:30])

    def counts(table: Table) -> Counter[str]:
        return Counter(table["label"])

    for table in rows.split(pools, SIZES, equal=True).values():
        assert len(set(counts(table).values())) == 1
        assert set(table["label"]) == set(pools)
    train = counts(rows.split(pools, SIZES, equal=False)["train"])
    assert train["two"] < train["one"] == SIZES["train"]


def test_what_packages_share_is_dropped_and_tests_and_broken_files_are_skipped(pools: Pools) -> None:
    assert all("shared by all of the packages alike" in pool for pool in pools.values())
    texts = [text for table in rows.split(pools, SIZES, equal=True).values() for text in table["text"]]
    assert not [text for text in texts if "Shared" in text or "Hidden" in text]


NAMES = (
    "torch PyTorch torch.nn torchvision transformers HuggingFace scikit-learn sklearn numpy np nx pd pandas_like NumPy"
)


@given(
    st.lists(st.sampled_from([*NAMES.split(), "hugging face", "array", "graph", "(", "`", "_", ".", "np_"]), min_size=1)
)
def test_no_name_of_a_package_is_left(parts: list[str]) -> None:
    for joint in (" ", ""):
        masked = packages.masked(joint.join(parts)).replace(packages.MASK, "").lower()
        assert not re.search("torch|sklearn|scikit|numpy|pandas|transformers|hugging ?face", masked)
        assert not re.search(r"(?<![^\W_])(np|nx|pd)(?![^\W_])", masked)


def test_words_that_only_contain_an_alias_stay() -> None:
    row = package_row("one", Documented("f", "", "Input npz for all\n  of expdp =======\n\nsecond paragraph"))
    assert row == {"text": "Input npz for all of expdp", "label": "one"}


def test_packages_are_read_not_imported_and_give_the_same_rows_on_every_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("mined_one", "mined_two"):
        (_package(tmp_path, name) / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    raw = mining.mine_packages({"mined_one": "mined-one", "mined_two": "mined-two"}, SIZES)
    assert {part: len(table["text"]) for part, table in raw.tables.items()} == {"train": 80, "validation": 20}
    assert hashlib.sha256(repr(raw.tables).encode()).hexdigest()[:16] == "231dc788949b3620"


def test_missing_packages_are_left_out_with_a_note() -> None:
    names = {"networkx": "networkx", "numpy": "numpy", "no_such_package_here": "no-such-package"}
    raw = mining.mine_packages(names, {"train": 8, "validation": 2})
    assert set(raw.tables["train"]["label"]) == {"networkx", "numpy"}
    assert any("Not installed, so not mined: no-such-package" in note for note in raw.notes)


def test_fewer_than_two_packages_are_refused() -> None:
    with pytest.raises(DataError, match=r"finds 1: .*pip install .*\[demo\]'"):
        mining.mine_packages({"networkx": "networkx", "no_such_package_here": "no-such-package"})


NUMPY = '''
def warp(points, angle, *, n_steps=3):
    """Turn all of the given points around the origin.

    The points are turned by `angle` in n_steps steps, and `angle` may be negative. No step is a large one, so that
    even a long way leaves the points where they belong, whatever the order in which they were given at first.

    Parameters
    ----------
    points : array of shape (n, 2)
        What is to be turned. It is not changed.
    angle : float
        How far to turn, in degrees.
    n_steps : int
        How many steps to take on the way
        from the start to the end.

    Returns
    -------
    array
    """
'''
GOOGLE = '''
class Warp:
    """Turns points around the origin by a `bias` of old.

    Args:
        bias (`float`): What is added to every angle that is given later on.
        unmarked (`int`): How often the points are turned before they come to rest.
    """
    def __init__(self, bias, unmarked): ...
'''


def _only(source: str) -> Documented:
    (documented,) = documented_in(source.encode())
    return documented


def test_signatures_are_those_of_the_function_or_of_init() -> None:
    assert (_only(NUMPY).name, _only(NUMPY).signature) == ("warp", "points, angle, n_steps")
    assert (_only(GOOGLE).name, _only(GOOGLE).signature) == ("Warp", "bias, unmarked")


@pytest.mark.parametrize(
    ("source", "answers"),
    [
        (
            NUMPY,
            {
                "points": "What is to be turned.",
                "angle": "How far to turn, in degrees.",
                "n_steps": "How many steps to take on the way from the start to the end.",
            },
        ),
        (
            NUMPY.replace("-", "="),
            {
                "points": "What is to be turned.",
                "angle": "How far to turn, in degrees.",
                "n_steps": "How many steps to take on the way from the start to the end.",
            },
        ),
        (
            GOOGLE,
            {
                "bias": "What is added to every angle that is given later on.",
                "unmarked": "How often the points are turned before they come to rest.",
            },
        ),
    ],
)
def test_the_answer_is_the_span_that_describes_the_parameter(source: str, answers: dict[str, str]) -> None:
    row = question_row("one", _only(source))
    assert row is not None
    name = row["question"].removeprefix("What is the parameter ").removesuffix("?")
    (text,), (start,) = row["answers"]["text"], row["answers"]["answer_start"]
    assert text == answers[name] == row["context"][start : start + len(text)]
    assert "  " not in row["context"]


def test_a_question_without_an_answer_asks_for_what_is_not_named() -> None:
    row = question_row("one", _only(NUMPY), unanswerable=1.0)
    assert row is not None
    name = row["question"].removeprefix("What is the parameter ").removesuffix("?")
    assert row["answers"] == {"text": [], "answer_start": []}
    assert name not in row["context"]


def test_marked_and_unmistakable_names_are_mentions_and_their_marks_are_gone() -> None:
    row = mention_row("one", _only(NUMPY))
    assert row is not None
    mentions = [token for token, tag in zip(row["tokens"], row["ner_tags"], strict=True) if tag == "B-PARAMETER"]
    assert mentions == ["angle", "n_steps", "angle"]  # `points` is an English word, and nobody has marked it
    assert "`" not in row["tokens"]
    assert len(row["tokens"]) == len(row["ner_tags"])
    assert mention_row("one", Documented("f", "", "Nothing is described here, not even `this` or that.")) is None


def test_the_summary_is_not_in_the_document() -> None:
    row = summary_row("one", _only(NUMPY))
    assert row is not None
    assert row["summary"] == "Turn all of the given points around the origin."
    assert row["document"].startswith("The points are turned by `angle`")
    assert row["summary"] not in row["document"]
    assert summary_row("one", _only(GOOGLE.replace("of old.", "of old"))) is None


def test_prompt_and_completion_are_the_sentence() -> None:
    row = completion_row("one", _only(NUMPY))
    assert row is not None
    sentence = "Turn all of the given points around the origin."
    assert row["prompt"] + row["completion"] == f'def warp(points, angle, n_steps):\n    """{sentence}'
    assert row["completion"] == " given points around the origin."


@pytest.mark.parametrize("extract", [summary_row, completion_row, mention_row, partial(question_row, unanswerable=0.3)])
def test_a_real_package_gives_rows_of_every_kind(extract: Any) -> None:
    raw = rows.mine(extract, "Rows", {"networkx": "networkx"}, {"train": 16, "validation": 4})
    assert length(raw.tables["train"]) == 16
    assert 1 <= length(raw.tables["validation"]) <= 4
    assert "Rows, mined from the docstrings of networkx" in raw.notes[0]

"""The miner: the same split whatever the order of the files, no text twice, no name of a package left."""

from __future__ import annotations

import hashlib
import random
import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from propulsion.errors import DataError
from propulsion.tasks import docstrings as miner

WORDS = ["solve", "invert", "shuffle", "gather", "plot", "sort", "weigh", "colour", "prune", "index"]
SIZES = {"train": 40, "validation": 10}


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


@pytest.fixture
def pools(tmp_path: Path) -> dict[str, dict[str, str]]:
    """Candidates of three packages."""
    roots = {name: _package(tmp_path, name) for name in ("one", "two", "three")}
    return {name: miner.candidates(root, root.rglob("*.py"), 200) for name, root in roots.items()}


def test_the_order_of_the_files_does_not_matter(tmp_path: Path) -> None:
    root = _package(tmp_path, "one")
    files = sorted(root.rglob("*.py"))
    first = miner.candidates(root, files, 30)
    for seed in range(5):
        random.Random(seed).shuffle(files)
        assert miner.candidates(root, files, 30) == first
    assert 30 <= len(first) < len(miner.candidates(root, files, 10**6)), "reading stops once there are enough"


def test_no_text_is_in_two_splits_or_twice_in_one(pools: dict[str, dict[str, str]]) -> None:
    tables = miner.balance(pools, SIZES)
    keys = [miner.key_of(text) for table in tables.values() for text in table["text"]]
    assert len(keys) == len(set(keys)) > 0


def test_the_split_of_a_text_depends_on_nothing_but_the_text(pools: dict[str, dict[str, str]]) -> None:
    tables = miner.balance(pools, SIZES)
    fewer = miner.balance({name: pools[name] for name in ("two", "one")}, SIZES)
    for split, other in (("train", "validation"), ("validation", "train")):
        assert not set(tables[split]["text"]) & set(fewer[other]["text"])


def test_classes_are_balanced_even_if_one_package_has_few(pools: dict[str, dict[str, str]]) -> None:
    pools["two"] = dict(list(pools["two"].items())[:30])
    for table in miner.balance(pools, SIZES).values():
        assert len(set(Counter(table["label"]).values())) == 1
        assert set(table["label"]) == set(pools)


def test_what_packages_share_is_dropped_and_tests_and_broken_files_are_skipped(
    pools: dict[str, dict[str, str]],
) -> None:
    assert all("shared by all of the packages alike" in pool for pool in pools.values())
    texts = [text for table in miner.balance(pools, SIZES).values() for text in table["text"]]
    assert not [text for text in texts if "Shared" in text or "Hidden" in text]


NAMES = (
    "torch PyTorch torch.nn torchvision transformers HuggingFace scikit-learn sklearn numpy np nx pd pandas_like NumPy"
)


@given(
    st.lists(st.sampled_from([*NAMES.split(), "hugging face", "array", "graph", "(", "`", "_", ".", "np_"]), min_size=1)
)
def test_no_name_of_a_package_is_left(parts: list[str]) -> None:
    for joint in (" ", ""):
        masked = miner.clean(joint.join(parts)).replace(miner.MASK, "").lower()
        assert not re.search("torch|sklearn|scikit|numpy|pandas|transformers|hugging ?face", masked)
        assert not re.search(r"(?<![^\W_])(np|nx|pd)(?![^\W_])", masked)


def test_words_that_only_contain_an_alias_stay() -> None:
    assert miner.clean("Input npz\n  of   expdp =======\n\nsecond paragraph") == "Input npz of expdp"


def test_packages_are_read_not_imported_and_give_the_same_rows_on_every_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("mined_one", "mined_two"):
        (_package(tmp_path, name) / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    raw = miner.mine({"mined_one": "mined-one", "mined_two": "mined-two"}, SIZES)
    assert {split: len(table["text"]) for split, table in raw.tables.items()} == {"train": 80, "validation": 20}
    assert hashlib.sha256(repr(raw.tables).encode()).hexdigest()[:16] == "231dc788949b3620"


def test_missing_packages_are_left_out_with_a_note() -> None:
    packages = {"networkx": "networkx", "numpy": "numpy", "no_such_package_here": "no-such-package"}
    raw = miner.mine(packages, {"train": 8, "validation": 2})
    assert set(raw.tables["train"]["label"]) == {"networkx", "numpy"}
    assert any("Not installed, so not a class: no-such-package" in note for note in raw.notes)


def test_fewer_than_two_packages_are_refused() -> None:
    with pytest.raises(DataError, match=r"finds 1: pip install 'propulsion-peft\[demo\]'"):
        miner.mine({"networkx": "networkx", "no_such_package_here": "no-such-package"})

"""The demo's data: which Python package is a docstring from? Mined from the installed packages, nothing is downloaded.

The first paragraphs of docstrings, read from source files with `ast` (no package is imported), with the names of the
packages masked. A text that two packages share is dropped. Which texts are taken, and which of them are for validation,
is decided by hashes of the texts: the same on every machine that has the same versions.
"""

from __future__ import annotations

import ast
import gc
import importlib.util
import inspect
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from propulsion.errors import DataError
from propulsion.tasks.tables import RawSplits, Table, unit_hash

PACKAGES = {
    "networkx": "networkx",
    "numpy": "numpy",
    "pandas": "pandas",
    "scipy": "scipy",
    "sklearn": "scikit-learn",
    "sympy": "sympy",
    "torch": "torch",
    "transformers": "transformers",
}
"""Import name → distribution name."""

PER_PACKAGE = {"train": 560, "validation": 140}
SHORTEST, LONGEST, FEWEST_WORDS = 25, 300, 4
SURPLUS = 1.4  # texts read per text kept, so that dropping the shared ones and balancing leaves enough

MASK = "[package]"
_NAMES = re.compile(
    r"\w*(?:torch|transformers|numpy|scipy|sklearn|scikit|pandas|sympy|networkx|hugging[\s_-]?face)\w*"
    r"|(?<![^\W_])(?:np|pd|nx|sp|hf|aten)(?![^\W_])",
    re.IGNORECASE,
)
_RULE = re.compile(r"([=*~#^_+`-])\1{3,}")
_TESTS = {"tests", "test", "testing", "_testing", "conftest.py"}


def mine(packages: Mapping[str, str] = PACKAGES, per_package: Mapping[str, int] = PER_PACKAGE) -> RawSplits:
    """Mine a balanced, labelled data set from the packages that are installed.

    Args:
        packages: Distribution name by import name; the import names are the labels.
        per_package: Rows per split and package; fewer of each if a package has fewer.

    Returns:
        The splits, with columns ``text`` and ``label`` (the package's import name).

    Raises:
        DataError: Fewer than two of the packages are installed.
    """
    from tqdm import tqdm

    roots = {name: root for name in packages if (root := _package_root(name)) is not None}
    if len(roots) < 2:
        raise DataError(
            f"The task docstrings needs at least two of the packages {', '.join(packages)}, and finds {len(roots)}: "
            "pip install 'propulsion-peft[demo]'"
        )
    wanted = int(sum(per_package.values()) * SURPLUS)
    pools = {}
    with tqdm(total=len(roots), desc="read docstrings", unit=" packages", disable=None) as bar, _no_collection():
        for name, root in roots.items():
            bar.set_postfix_str(name)
            pools[name] = candidates(root, sorted(root.rglob("*.py")), wanted)
            bar.update()
    tables = balance(pools, per_package)
    notes = tuple(_notes(packages, roots, tables, per_package))
    return RawSplits(tables, notes, {"label": tuple(sorted(roots))})


def candidates(root: Path, files: Iterable[Path], wanted: int) -> dict[str, str]:
    """Texts of a package by their key (see `key_of`), whole files at a time until there are `wanted`.

    The files are read in the order of a hash of their path below `root`, whatever order they are given in.
    """
    found: dict[str, str] = {}
    for path in sorted(files, key=lambda path: unit_hash(path.relative_to(root).as_posix())):
        if len(found) >= wanted:
            break
        if _is_test(path.relative_to(root)):
            continue
        for docstring in docstrings_in(path.read_bytes()):
            text = clean(docstring)
            if SHORTEST <= len(text) <= LONGEST and len(re.findall(r"[^\W\d_]+", text)) >= FEWEST_WORDS:
                # of texts with the same key, the smallest: whichever of them came first in the file
                found[key_of(text)] = min(text, found.get(key_of(text), text))
    return found


def balance(pools: Mapping[str, Mapping[str, str]], per_package: Mapping[str, int]) -> dict[str, Table]:
    """The splits: texts of one package only, equally many of each package, chosen and ordered by their hash.

    The hash of a text's key alone decides which split may have it, so that no text is ever in two.
    """
    owners = Counter(key for pool in pools.values() for key in pool)
    share = per_package["validation"] / sum(per_package.values())
    ranked: dict[str, dict[str, list[str]]] = {split: {name: [] for name in pools} for split in ("train", "validation")}
    for name, pool in pools.items():
        for key in sorted((key for key in pool if owners[key] == 1), key=unit_hash):
            split = "validation" if unit_hash(f"split:{key}") < share else "train"
            ranked[split][name].append(pool[key])
    tables = {}
    for split, texts in ranked.items():
        size = min(per_package[split], *(len(rows) for rows in texts.values()))
        rows = sorted(
            ((text, name) for name, some in texts.items() for text in some[:size]),
            key=lambda row: unit_hash(f"order:{row[0]}"),
        )
        tables[split] = {"text": [text for text, _ in rows], "label": [name for _, name in rows]}
    return tables


def docstrings_in(source: bytes) -> Iterator[str]:
    """The docstrings of a module and of every class and function in it; none if it cannot be parsed."""
    if b'"""' not in source and b"'''" not in source:
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in other people's strings
            todo: list[ast.AST] = [ast.parse(source)]
    except (SyntaxError, ValueError, RecursionError):
        return
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.get_docstring(node, clean=False)
            if docstring:
                yield docstring
        todo.extend(child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt | ast.excepthandler))


def clean(docstring: str) -> str:
    """The first paragraph on one line, without rules under headings and with every package's name masked."""
    paragraph = re.split(r"\n\s*\n", inspect.cleandoc(docstring), maxsplit=1)[0]
    return _NAMES.sub(MASK, " ".join(_RULE.sub(" ", paragraph).split()))


def key_of(text: str) -> str:
    """What two texts have in common that differ only in case, digits and punctuation."""
    return " ".join(re.findall(r"[^\W\d_]+", text.lower()))


@contextmanager
def _no_collection() -> Iterator[None]:
    """Syntax trees hold no cycles, and collecting garbage while they grow takes as long as parsing them."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _package_root(name: str) -> Path | None:
    """The folder of an installed package, found without importing it."""
    try:
        spec = importlib.util.find_spec(name)
    except ValueError:  # a module without a spec stands in for it
        return None
    folders = list(spec.submodule_search_locations or []) if spec is not None else []
    return Path(folders[0]) if folders else None


def _is_test(path: Path) -> bool:
    return any(part in _TESTS or part.startswith("test_") for part in path.parts)


def _notes(
    packages: Mapping[str, str], roots: Mapping[str, Path], tables: Mapping[str, Table], per_package: Mapping[str, int]
) -> Iterator[str]:
    found = ", ".join(f"{packages[name]} {_version(packages[name])}".strip() for name in roots)
    sizes = " and ".join(f"{len(table['text'])} for {split}" for split, table in tables.items())
    yield f"Docstrings of {found}: {sizes}, equally many of each package, whose names are masked as {MASK}."
    missing = [packages[name] for name in packages if name not in roots]
    if missing:
        yield f"Not installed, so not a class: {', '.join(missing)} (pip install 'propulsion-peft[demo]')."
    for split, table in tables.items():
        if len(table["text"]) < per_package[split] * len(roots):
            yield f"One package has too few docstrings: {split} has {len(table['text']) // len(roots)} of each."


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""

"""One way to mine, whatever the rows: the same on every machine that has the same versions of the packages.

A row is made from one docstring. What is taken, in which order, and which of it is for validation is decided by hashes
of the texts; a text that two packages share is dropped, and no text is in two splits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from propulsion_tools.errors import DataError
from propulsion_tools.installation import install_command
from propulsion_tools.tasks.mining.source import (
    PACKAGES,
    Documented,
    documented_in,
    is_test,
    key_of,
    no_collection,
    package_root,
    release,
)
from propulsion_tools.tasks.raw_tables import RawSplits, Table, from_rows, unit_hash

Row = dict[str, Any]
Extract = Callable[[str, Documented], Row | None]
"""From a package's import name and a documented object to a row, or to nothing. The first column tells rows apart."""
Pools = Mapping[str, Mapping[str, Row]]
"""Package → key of the row's first column → row."""

PER_PACKAGE = {"train": 560, "validation": 140}
SURPLUS = 1.4  # rows read per row kept, so that dropping the shared ones and balancing leaves enough


def mine(
    extract: Extract,
    what: str,
    packages: Mapping[str, str] = PACKAGES,
    per_package: Mapping[str, int] = PER_PACKAGE,
    fewest: int = 1,
    equal: bool = False,
) -> RawSplits:
    """Mine a data set from the packages that are installed.

    Args:
        extract: Makes the rows.
        what: What they are, for the notes.
        packages: Distribution name by import name.
        per_package: Rows per split and package; fewer if a package has fewer.
        fewest: Packages that have to be there.
        equal: Whether every package gives as many rows as the poorest.

    Raises:
        DataError: Too few of the packages are installed.
    """
    from tqdm import tqdm

    roots = {name: root for name in packages if (root := package_root(name)) is not None}
    if len(roots) < fewest:
        raise DataError(
            f"Mining {what} needs at least {fewest} of the packages {', '.join(packages)}, and finds {len(roots)}: "
            f"{install_command('demo')}."
        )
    wanted = int(sum(per_package.values()) * SURPLUS)
    pools = {}
    with tqdm(total=len(roots), desc="read docstrings", unit=" packages", disable=None) as bar, no_collection():
        for name, root in roots.items():
            bar.set_postfix_str(name)
            pools[name] = candidates(name, root, sorted(root.rglob("*.py")), wanted, extract)
            bar.update()
    tables = split(pools, per_package, equal)
    return RawSplits(tables, tuple(_notes(what, packages, roots, tables)))


def candidates(package: str, root: Path, files: Iterable[Path], wanted: int, extract: Extract) -> dict[str, Row]:
    """Rows of a package by their key (see `key_of`), whole files at a time until there are `wanted`.

    The files are read in the order of a hash of their path below `root`, whatever order they are given in.
    """
    rows: dict[str, Row] = {}
    for path in sorted(files, key=lambda path: unit_hash(path.relative_to(root).as_posix())):
        if len(rows) >= wanted:
            break
        if is_test(path.relative_to(root)):
            continue
        for documented in documented_in(path.read_bytes()):
            row = extract(package, documented)
            if row is not None:
                key = key_of(_text(row))
                # of rows with the same key, the smallest: whichever of them came first in the file
                rows[key] = min(row, rows.get(key, row), key=lambda some: list(map(str, some.values())))
    return rows


def split(pools: Pools, per_package: Mapping[str, int], equal: bool) -> dict[str, Table]:
    """The splits: rows of one package only, chosen and ordered by their hash.

    The hash of a row's key alone decides which split may have it, so that no text is ever in two.
    """
    owners = Counter(key for pool in pools.values() for key in pool)
    share = per_package["validation"] / sum(per_package.values())
    ranked: dict[str, dict[str, list[Row]]] = {part: {name: [] for name in pools} for part in ("train", "validation")}
    for name, pool in pools.items():
        for key in sorted((key for key in pool if owners[key] == 1), key=unit_hash):
            part = "validation" if unit_hash(f"split:{key}") < share else "train"
            ranked[part][name].append(pool[key])
    tables = {}
    for part, rows in ranked.items():
        size = min(per_package[part], *(len(some) for some in rows.values())) if equal else per_package[part]
        chosen = [row for some in rows.values() for row in some[:size]]
        tables[part] = from_rows(sorted(chosen, key=_order))
    return tables


def _order(row: Mapping[str, Any]) -> float:
    return unit_hash(f"order:{_text(row)}")


def _text(row: Mapping[str, Any]) -> str:
    first = next(iter(row.values()))
    return first if isinstance(first, str) else " ".join(first)


def _notes(
    what: str, packages: Mapping[str, str], roots: Mapping[str, Path], tables: Mapping[str, Table]
) -> Iterator[str]:
    sizes = " and ".join(f"{len(next(iter(table.values()), []))} for {part}" for part, table in tables.items())
    yield f"{what}, mined from the docstrings of {', '.join(release(packages[name]) for name in roots)}: {sizes}."
    missing = [packages[name] for name in packages if name not in roots]
    if missing:
        yield f"Not installed, so not mined: {', '.join(missing)} ({install_command('demo')})."

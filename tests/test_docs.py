"""The README and the pages of docs hold together: links, the map of the house, the numbers of the first screen."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
LINK = re.compile(r"\]\(([^)#\s]*)(#[^)\s]*)?\)")

# The rows of the first screen: what docs/results.md calls the method, and what benchmarks/subjects.py does.
ROWS = {
    "Propulsion, all layers": ("Propulsion", "propulsion-all"),
    "IA3, every linear layer": ("IA3, every linear layer", "ia3-all"),
    "LoRA, r = 8, every linear layer": ("LoRA, r = 8, every linear layer", "lora-all"),
    "BitFit": ("BitFit", "bitfit"),
}


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def section(text: str, title: str) -> str:
    """What stands under a heading of the second level."""
    return text.split(f"\n## {title}\n")[1].split("\n## ")[0]


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    for target, anchor in LINK.findall(read(page)):
        if target.startswith(("http:", "https:", "mailto:")):
            continue
        file = page.parent / target if target else page
        assert file.exists(), f"{page.name} links to {target}"
        if anchor:
            assert anchor[1:] in anchors(read(file)), f"{page.name} links to {target}{anchor}"


def test_the_readme_links_every_page() -> None:
    linked = {target for target, _ in LINK.findall(read(README))}
    assert {page.relative_to(ROOT).as_posix() for page in PAGES if page != README} <= linked


def test_the_map_names_every_room() -> None:
    layout = section(read(README), "Layout")
    method = {path.name for path in (ROOT / "src" / "propulsion").iterdir()}
    tools = {path.name.removesuffix(".py") for path in (ROOT / "src" / "propulsion_tools").iterdir()}
    for name in sorted(method | tools):
        if not name.startswith("_") and name != "py.typed":
            assert f"`{name}`" in layout, f"the README's map lacks {name}"


@pytest.mark.parametrize("page", [README, ROOT / "docs" / "index.md"], ids=lambda page: page.name)
def test_the_first_screen_gives_the_numbers_that_were_measured(page: Path) -> None:
    steps = json.loads((ROOT / "benchmarks/results/training_step-cpu.json").read_text())["rows"]
    ratios = {
        row["method"]: row["ratio"]["median"] for row in steps if (row["model"], row["dtype"]) == ("minilm", "float32")
    }
    results = read(ROOT / "docs/results.md")
    study = section(results, "Nothing named at all").splitlines()
    measured = {cells[0]: cells[1:] for line in study if (cells := _cells(line))}
    rows = {cells[0]: cells[1:] for line in read(page).splitlines() if (cells := _cells(line)) and cells[0] in ROWS}
    assert list(rows) == list(ROWS)
    for name, (parameters, step, score) in rows.items():
        label, method = ROWS[name]
        assert (parameters, score) == (measured[label][0], measured[label][-1].partition(" ± ")[0])
        assert step == f"{ratios[method]:.2f}"


def _cells(line: str) -> list[str]:
    """Those of a line of a table; none of another line."""
    return [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else []


def test_the_targets_of_make_exist() -> None:
    makefile = read(ROOT / "Makefile")
    for page in PAGES:
        for target in re.findall(r"^make ([\w-]+)", read(page), flags=re.MULTILINE):
            assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), f"{page.name} has make {target}"

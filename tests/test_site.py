"""The site holds together: its generated pages, its picture, the commands and programs on its pages, and its build."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from website.architectures import KINDS, page

from propulsion.architectures import ARCHITECTURES
from propulsion.targets import PRESETS
from propulsion_tools.cli import commands
from propulsion_tools.cli.parsing import parse
from tests.browser import chromium

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
GUIDE = ("index", "quickstart", "method", "choosing", "training", "from_ia3_and_lora", "troubleshooting")
EVIDENCE = ("results", "performance", "theory")


def read(name: str) -> str:
    return (DOCS / f"{name}.md").read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```", text, flags=re.DOTALL | re.MULTILINE)
    return [re.sub(rf"^{indent}", "", block, flags=re.MULTILINE) for indent, block in found]


def test_the_page_of_architectures_is_what_the_table_says() -> None:
    assert read("architectures") == page(), "docs/architectures.md is out of date: run `make reference`"


def test_the_page_of_architectures_names_every_one_and_every_entry() -> None:
    text = page()
    for name, layout in ARCHITECTURES.items():
        assert f"`{name}`" in text
        for field in KINDS:
            assert all(f"`{ending}`" in text for ending in getattr(layout, field))
    assert all(f"`{preset}`" in text for preset in PRESETS)
    for name in (*GUIDE, "errors"):
        assert set(re.findall(r"(\d+) architectures", read(name))) <= {str(len(ARCHITECTURES))}


@pytest.mark.parametrize("name", GUIDE)
def test_the_scores_of_a_guide_are_those_that_were_measured(name: str) -> None:
    evidence = "".join(map(read, EVIDENCE))
    for score in re.findall(r"−?\d+\.\d ± \d+\.\d", read(name)):
        assert score in evidence, f"docs/{name}.md has {score}"


@pytest.mark.parametrize("name", GUIDE)
def test_the_programs_of_a_guide_run(
    name: str, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in blocks(read(name), "python"):
        exec(block.replace("FacebookAI/roberta-base", str(tiny_model)), names)


@pytest.mark.parametrize("name", GUIDE)
def test_the_commands_of_a_guide_are_understood(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for block in blocks(read(name), "sh"):
        for command in re.findall(r"^propulsion .*$", block, flags=re.MULTILINE):
            _, command_name, *words = shlex.split(command)
            assert parse(command_name, commands.COMMANDS[command_name], words) is not None


def test_there_are_programs_and_commands_to_check() -> None:
    guide = "".join(map(read, GUIDE))
    assert len(blocks(guide, "python")) >= 5
    assert "propulsion train" in "".join(blocks(guide, "sh"))


def test_the_picture_fetches_nothing_and_has_a_title() -> None:
    for picture in (DOCS / "assets").glob("*.svg"):
        text = picture.read_text(encoding="utf-8")
        assert "href" not in text.replace('marker id="head"', "")
        assert "<script" not in text
    assert "<title" in (DOCS / "assets/method.svg").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` builds it."""
    pytest.importorskip("mkdocs", reason="the site is built where the extra `docs` is installed")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return folder


def test_the_site_fetches_nothing_from_elsewhere(site: Path) -> None:
    elsewhere = r"""[^>]*?=["']?(?:https?:)?//[^>]*"""
    fetched = re.compile(rf"<(?:script|img|iframe|source|link)\b{elsewhere}>")
    for file in site.rglob("*.html"):
        assert fetched.findall(file.read_text(encoding="utf-8")) == [], file
    for file in (site / "assets").rglob("*.css"):
        assert not re.search(r"url\(.?(?:https?:)?//|@import", file.read_text(encoding="utf-8")), file


def test_the_site_has_every_page_of_its_navigation(site: Path) -> None:
    navigation = re.findall(r"(\w+)\.md", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert len(navigation) > 15
    for name in navigation:
        assert (site / f"{name}.html").is_file()


def test_the_python_reference_shows_the_help_of_every_field(site: Path) -> None:
    import propulsion

    text = (site / "api.html").read_text(encoding="utf-8")
    for name in propulsion.__all__:
        assert f'id="propulsion.{name}"' in text
    for name, field in propulsion.PropulsionConfig.__dataclass_fields__.items():
        if name in propulsion.PropulsionConfig.__annotations__:
            assert f'id="propulsion.PropulsionConfig.{name}"' in text
            assert " ".join(re.split(r"[<>&\"']", field.metadata["help"])[0].split()[:4]) in text


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


def test_the_search_works_where_the_site_is_opened_as_a_file(site: Path, browser: Any) -> None:
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    page.goto((site / "index.html").as_uri())
    page.locator("input[name=query]").press_sequentially("adapters are merged in a mixed batch")
    found = page.locator(".md-search-result__item").first
    found.wait_for(timeout=60_000)
    assert "errors.html" in found.locator("a").first.get_attribute("href")
    page.close()


@pytest.mark.parametrize("width", [390, 1400])
def test_no_page_is_wider_than_the_screen_or_asks_for_anything_elsewhere(site: Path, browser: Any, width: int) -> None:
    page = browser.new_page(viewport={"width": width, "height": 844})
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: asked.append(str(error)))
    for file in sorted(site.glob("*.html")):
        page.goto(file.as_uri())
        beyond = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert page.evaluate(beyond) <= 0, file.name
    page.close()
    assert [what for what in asked if not what.startswith("file:")] == []


def test_pages_from_elsewhere_have_links_of_the_site() -> None:
    pytest.importorskip("mkdocs", reason="the hooks need the extra `docs`")
    from website.hooks import with_links_of_the_site

    text = "See [tasks](docs/tasks.md#how), [the code](src/x.py) and [PEFT](https://huggingface.co)."
    assert with_links_of_the_site(text, "") == "See [tasks](tasks.md#how), the code and [PEFT](https://huggingface.co)."
    assert with_links_of_the_site("[tasks](../docs/tasks.md)", "recipes") == "[tasks](tasks.md)"


def test_the_navigation_names_every_page_of_docs() -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    navigation = yaml.safe_load(text.split("\nnav:")[1].split("\nnot_in_nav")[0].replace("nav:", ""))
    pages = {path for part in navigation for entry in part.values() for path in _paths(entry)}
    assert {path.name for path in DOCS.glob("*.md")} <= pages


def _paths(entry: object) -> list[str]:
    if isinstance(entry, str):
        return [entry]
    return [path for item in entry for path in item.values()]  # type: ignore[attr-defined]

"""The page as files and headers: whole in a package, open to all, and unable to do what a text might want of it."""

from __future__ import annotations

import fnmatch
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from release.contents import PACKAGES, tracked

from tests.canaries import ROOT
from tests.serving.client import Client, running
from tests.serving.conftest import open_engine
from tests.test_versions import tomllib

FILES = ROOT / "src" / "propulsion_tools" / "serving" / "page_files"
# Each reads a text as HTML or as a program.
DANGEROUS = re.compile(
    r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|\beval\b|new Function|\bon\w+="
)


@pytest.fixture(scope="module")
def client(classifiers: Path) -> Iterator[Client]:
    with running(open_engine(classifiers, max_new_tokens=77), key="secret") as client:
        yield client


def test_the_page_is_open_and_what_it_asks_for_is_not(client: Client) -> None:
    stranger = Client(client.port)
    page = stranger("GET", "/")
    assert page.status == 200
    named = set(re.findall(r'(?:src|href)="([^"]+)"', page.text))
    modules = {f"page/{name}" for name in re.findall(r'from "\./([\w.]+)"', "".join(map(read, FILES.glob("*.js"))))}
    assert named | modules == {f"page/{path.name}" for path in FILES.iterdir() if path.suffix != ".html"} | {
        "page/look.css"
    }
    for name in named | modules:
        assert stranger("GET", f"/{name}").status == 200
    assert stranger("GET", "/v1/models").status == stranger("GET", "/metrics").status == 401
    assert 'max="77"' in page.text
    assert "{{" not in page.text


@pytest.mark.parametrize("path", ["/", "/page/main.js", "/health", "/ready"])
def test_what_is_open_can_be_asked_for_its_head_alone(client: Client, path: str) -> None:
    there, head = client("GET", path), client("HEAD", path)
    assert (head.status, head.text, head.headers["content-length"]) == (200, "", str(len(there.text.encode())))


def test_the_page_may_do_nothing_but_ask_its_own_server(client: Client) -> None:
    kinds = {"page/icon.svg": "image/svg+xml", "page/main.js": "text/javascript; charset=utf-8"}
    kinds |= {"": "text/html; charset=utf-8", "page/look.css": "text/css; charset=utf-8"}
    for path, kind in kinds.items():
        headers = client("GET", f"/{path}").headers
        policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
        sources = {name: value for name, value in policy.items() if name.endswith("-src")}
        assert sources.pop("default-src") == "'none'"
        assert set(sources.values()) == {"'self'"}
        assert policy["frame-ancestors"] == policy["form-action"] == policy["base-uri"] == "'none'"
        assert policy["require-trusted-types-for"] == "'script'"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["content-type"] == kind


@pytest.mark.parametrize(
    "path", ["/page/", "/page/index.html", "/page/page.py", "/page/..%2fpage.py", "/page/../app.py", "/page/x/main.js"]
)
def test_the_page_has_no_files_but_its_own(path: str, client: Client) -> None:
    assert client("GET", path).code == "not_found"
    assert client("POST", "/", {}).code == "method_not_allowed"


@pytest.mark.parametrize("file", sorted(FILES.iterdir()), ids=lambda file: file.name)
def test_no_file_reads_texts_as_programs_or_names_another_place(file: Path) -> None:
    text = read(file).replace("http://www.w3.org/2000/svg", "")
    assert not DANGEROUS.search(text)
    assert "://" not in text
    assert not re.search(r"<script(?! type=\"module\" src=)|<style|style=", text)


def test_the_list_says_what_an_adapter_reads_and_where_it_is(classifiers: Path, tmp_path: Path) -> None:
    folder = tmp_path / "adapters"
    shutil.copytree(classifiers, folder)
    (folder / "topic" / "record.json").unlink()
    with running(open_engine(folder, capacity=1)) as client:
        client("POST", "/v1/predict", {"adapter": "mood", "inputs": "good"})
        listed = {model["id"]: model for model in client("GET", "/v1/models").json["data"]}
        assert client("GET", "/v1/models/mood").json == listed["mood"]
    assert {name for name, model in listed.items() if model["resident"]} == {"mood"}
    pair = ["sentence1", "sentence2"]
    columns = {"mood": ["text"], "topic": None, "pairs": pair, "stars": pair}
    assert {name: model["columns"] for name, model in listed.items()} == columns
    assert {(model["task_type"], model["chat_template"]) for model in listed.values()} == {("SEQ_CLS", False)}


def read(file: Path) -> str:
    return file.read_text(encoding="utf-8")


def test_packages_carry_every_file_that_is_no_module() -> None:
    settings = tomllib.loads(read(ROOT / "pyproject.toml"))["tool"]["setuptools"]["package-data"]
    patterns = [f"{package}/{pattern}" for package in PACKAGES for pattern in settings[package]]
    data = {name for name in tracked() if not name.endswith(".py")}
    assert {name for name in data if not any(fnmatch.fnmatch(name, pattern) for pattern in patterns)} == set()
    assert "propulsion_tools/serving/page_files/index.html" in data

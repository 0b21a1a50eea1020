"""What is printed to be pasted works in this environment: commands by a name that finds them, extras from a source."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from propulsion_tools import installation
from propulsion_tools.installation import install_command, program
from propulsion_tools.training.next_commands import next_commands
from tests.test_versions import PROJECT


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone with an environment in .venv, which is not on PATH."""
    binaries = tmp_path / "clone" / ".venv" / "bin"
    binaries.mkdir(parents=True)
    for name in ("python", "propulsion", "pip"):
        (binaries / name).write_text("#!/bin/sh\n")
        (binaries / name).chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(binaries / "python"))
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    monkeypatch.chdir(tmp_path / "clone")
    return binaries


def called(monkeypatch: pytest.MonkeyPatch, name: str) -> str:
    monkeypatch.setattr(sys, "argv", [name, "demo"])
    return program()


def test_a_command_is_called_as_it_was(environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert called(monkeypatch, ".venv/bin/propulsion") == ".venv/bin/propulsion"
    assert called(monkeypatch, "somewhere/propulsion/__main__.py") == ".venv/bin/python -m propulsion"
    assert called(monkeypatch, "pytest") == ".venv/bin/python -m propulsion"
    (environment.parent / "elsewhere").mkdir()
    monkeypatch.chdir(environment.parent / "elsewhere")
    assert called(monkeypatch, str(environment / "propulsion")) == str(environment / "propulsion")
    assert called(monkeypatch, "-c") == f"{environment / 'python'} -m propulsion"


def test_an_activated_environment_needs_no_path(environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(environment))
    assert called(monkeypatch, str(environment / "propulsion")) == "propulsion"
    assert called(monkeypatch, "x/propulsion/__main__.py") == "propulsion"
    (environment / "propulsion").unlink()
    assert called(monkeypatch, "x/propulsion/__main__.py") == "python -m propulsion"


def test_another_propulsion_on_path_is_not_this_one(
    environment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "nothing"
    other.mkdir()
    (other / "propulsion").write_text("#!/bin/sh\n")
    (other / "propulsion").chmod(0o755)
    assert called(monkeypatch, ".venv/bin/propulsion") == ".venv/bin/propulsion"


def test_next_commands_begin_with_what_was_called(environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called(monkeypatch, ".venv/bin/propulsion")
    commands = next_commands(Path("run"), Path("texts.jsonl"), "run/")
    assert [command.split()[:2] for command in commands] == [
        [".venv/bin/propulsion", word] for word in ("evaluate", "predict", "inspect")
    ]


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        (None, "'propulsion-peft[report]'"),
        ({"url": "https://host/wheel.whl", "archive_info": {}}, "'propulsion-peft[report]'"),
        ({"dir_info": {"editable": True}}, "-e '.[report]'"),
        ({"dir_info": {}}, "'.[report]'"),
    ],
)
def test_an_extra_comes_from_where_the_package_came_from(
    url: dict[str, Any] | None, wanted: str, environment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Distribution:
        def read_text(self, name: str) -> str | None:
            clone = {"url": (tmp_path / "clone").as_uri()}
            return json.dumps({**clone, **url}) if url else None

    monkeypatch.setattr(installation.importlib.metadata, "distribution", lambda name: Distribution())
    installation._direct_url.cache_clear()
    assert install_command("report") == f".venv/bin/python -m pip install {wanted}"
    monkeypatch.setenv("PATH", str(environment))
    assert install_command("report") == f"pip install {wanted}"
    installation._direct_url.cache_clear()


def test_each_extra_holds_what_its_commands_need() -> None:
    extras = PROJECT["optional-dependencies"]
    for extra in ("report", "demo", "distributed"):
        needed, todo = set(), [extra]
        while todo:
            for entry in extras[todo.pop()]:
                if entry.startswith("propulsion-peft["):
                    todo += entry.partition("[")[2].rstrip("]").split(",")
                needed.add(entry.partition(">")[0])
        assert {"datasets", "plotly", "matplotlib"} <= needed

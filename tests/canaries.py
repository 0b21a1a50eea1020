"""Canaries for what we use of other libraries beyond their documented interfaces.

A canary takes one name of theirs in use. Where that fails, what is shown is a sentence: what has changed, in which
version, which of our files relies on it.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent

Break = Callable[[pytest.MonkeyPatch], None]


@dataclass(frozen=True)
class Canary:
    """One use of another library's inside.

    Attributes:
        what: The name of theirs.
        module: Our module that wraps it.
        check: Gets a fresh copy of that module, and raises if its functions do not do what they say.
        breaks: Changes the other library as a release of it might.
    """

    what: str
    module: str
    check: Callable[[Any], None]
    breaks: Break

    @property
    def file(self) -> str:
        return f"src/{self.module.replace('.', '/')}.py"

    def complaint(self) -> str | None:
        """What has changed; None if nothing has."""
        try:
            self.check(_fresh_copy(self.module, ROOT / self.file))
        except Exception as error:
            package = self.module.rpartition(".")[2].removesuffix("_private")
            return (
                f"{self.what} is not what it was in {package} {importlib.metadata.version(package)} "
                f"({type(error).__name__}: {error}). Look at {self.file}, and at the bounds in pyproject.toml."
            )
        return None


def _fresh_copy(name: str, path: Path) -> ModuleType:
    """The module read once more, under no name, so that it sees what a test has changed and nobody sees it."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def without(owner: Any, name: str, instead: Any = None) -> Break:
    """The other library with something else, or nothing, in the place of a name."""
    return lambda monkeypatch: monkeypatch.setattr(owner, name, instead, raising=False)


def assert_alive(canary: Canary) -> None:
    """Fail with the canary's sentence, if it has one."""
    complaint = canary.complaint()
    if complaint is not None:
        pytest.fail(complaint, pytrace=False)


def assert_mortal(canary: Canary, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail if the canary does not notice what it is there to notice."""
    canary.breaks(monkeypatch)
    complaint = canary.complaint()
    assert complaint is not None, f"The canary for {canary.what} survives without it."
    assert canary.what in complaint
    assert canary.file in complaint

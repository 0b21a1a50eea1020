"""How this package was installed and how its command was called, so that what is printed can be pasted."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shlex
import shutil
import sys
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlparse

DISTRIBUTION = "propulsion-peft"
COMMAND = "propulsion"


def install_command(extra: str) -> str:
    """What installs an extra into this environment, from where the package itself came from, as the end of a sentence.

    Args:
        extra: A key of ``optional-dependencies`` in pyproject.toml.
    """
    folder, editable = _source()
    wanted = f"{folder or DISTRIBUTION}[{extra}]"
    return f"{_pip()} install {'-e ' if editable else ''}{_quoted(wanted)}"


def program() -> str:
    """How to call the command again: by its name where that finds this one, or else as it was called."""
    called, found = Path(sys.argv[0]), shutil.which(COMMAND)
    beside = Path(sys.executable).with_name(COMMAND)  # not resolved: a virtual environment's Python is a link
    if found is not None and Path(found).absolute() == beside:
        return COMMAND
    if called.stem == COMMAND and called.is_file():
        return shlex.quote(sys.argv[0])
    return f"{_python()} -m {COMMAND}"


def _python() -> str:
    found = shutil.which("python")
    return "python" if found and Path(found).absolute() == Path(sys.executable) else _short(Path(sys.executable))


def _pip() -> str:
    found = shutil.which("pip")
    beside = found is not None and Path(found).absolute().parent == Path(sys.executable).parent
    return "pip" if beside else f"{_python()} -m pip"


@cache
def _direct_url() -> tuple[str, bool]:
    """The folder that the distribution was installed from, and whether editable; an empty text for the index."""
    try:
        text = importlib.metadata.distribution(DISTRIBUTION).read_text("direct_url.json")
    except importlib.metadata.PackageNotFoundError:
        return "", False
    values = json.loads(text or "{}")
    address = urlparse(values.get("url", ""))
    if address.scheme != "file":
        return "", False
    return unquote(address.path), bool(values.get("dir_info", {}).get("editable"))


def _source() -> tuple[str, bool]:
    """As `_direct_url`, where the folder is still there, and as one types it."""
    folder, editable = _direct_url()
    return (_short(Path(folder)), editable) if folder and Path(folder).is_dir() else ("", False)


def _short(path: Path) -> str:
    """A path as one would type it from here."""
    short = os.path.relpath(path)
    return str(path) if short.startswith("..") else short


def _quoted(text: str) -> str:
    return shlex.quote(text) if "'" in text else f"'{text}'"

"""Files that a reader, or a kill, never meets half of, and the names of files."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

_STREAMS = ("/dev/std", "/dev/fd/", "/proc/self/fd/")
"""How the names of a process's own streams begin; behind them may be a regular file, which is not to be replaced."""


def is_stream(path: Path) -> bool:
    """Whether a path is a stream, a pipe or a device, which is written to as it comes and never replaced."""
    return str(path).startswith(_STREAMS) or (path.exists() and not path.is_file() and not path.is_dir())


@contextmanager
def atomic(path: Path, binary: bool = False) -> Iterator[IO[Any]]:
    """A stream to write to, which becomes the file at its end, and leaves no trace after an error.

    The file's folder is made if there is none. A stream is written to as it is, behind what is there; where the path is
    a link, the file that it leads to is written.

    Args:
        path: The file; what was there stays until the end.
        binary: Whether bytes are written, and not text in UTF-8.
    """
    mode, encoding = ("wb", None) if binary else ("w", "utf-8")
    if is_stream(path):
        with path.open(mode.replace("w", "a"), encoding=encoding) as stream:
            yield stream
        return
    path = path.resolve() if path.is_symlink() else path
    path.parent.mkdir(parents=True, exist_ok=True)
    partial_file = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with partial_file.open(mode, encoding=encoding) as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())  # or a crash of the system leaves an empty file under the new name
        os.replace(partial_file, path)
    finally:
        partial_file.unlink(missing_ok=True)


@contextmanager
def files_aside(folder: Path) -> Iterator[Path]:
    """A folder to write files into, which take their places in `folder` at the end, each whole or not at all.

    A file that is there is replaced; a stream or a link is written to as by `atomic`.

    Args:
        folder: Where the files are to be; it is made if there is none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    aside = folder / f".files.{os.getpid()}.tmp"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    try:
        yield aside
        for path in sorted(path for path in aside.rglob("*") if path.is_file()):
            _take_place(path, folder / path.relative_to(aside))
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _take_place(source: Path, target: Path) -> None:
    if target.is_symlink() or is_stream(target):
        write_atomically(target, source.read_bytes())
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with source.open("rb") as stream:
        os.fsync(stream.fileno())
    os.replace(source, target)


def remove_leftovers(folder: Path) -> None:
    """Remove what writes were about to put into a folder when their processes were killed; none may be under way."""
    for path in folder.glob(".*.tmp"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all."""
    with atomic(path, binary=isinstance(content, bytes)) as stream:
        stream.write(content)


def written(path: Path) -> str:
    """Where something is about to be written, as the end of a sentence that says so when it has been."""
    return f"written to {path}{', in place of what was there' if path.is_file() else ''}"


def slug(text: str) -> str:
    """A text as part of a file's name: what is not a letter, a digit, a dot, a dash or an underscore is a dash."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text)


def model_slug(model_name_or_path: str) -> str:
    """The last part of a model's folder or hub id, as part of a file's name."""
    return slug(model_name_or_path.rstrip("/").rpartition("/")[2])

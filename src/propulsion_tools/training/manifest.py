"""What the files of a checkpoint held when it was written, so that one that is not whole, or no longer, is known."""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
from pathlib import Path
from typing import IO, Any

from propulsion_tools.records import write_atomically

MANIFEST_FILE, SPEC_FILE, STATE_FILE = "manifest.json", "spec.json", "trainer_state.json"
PICKLES = (".pt", ".pth", ".bin")
"""How the names of the files end that torch has written; it reads them without running any code in them."""
_BLOCK = 2**20


def seal(checkpoint: Path, spec: dict[str, Any]) -> None:
    """Say that a checkpoint is whole, and of what run: the spec is written last, and no checkpoint counts without it.

    Args:
        checkpoint: Everything else in it has been written.
        spec: The fields of its run.
    """
    said = json.dumps(spec, indent=2) + "\n"
    files = {path.relative_to(checkpoint).as_posix(): _written(path) for path in _files(checkpoint)}
    files[SPEC_FILE] = _digest(io.BytesIO(said.encode()))
    write_atomically(checkpoint / MANIFEST_FILE, json.dumps({"files": files}, indent=2) + "\n")
    write_atomically(checkpoint / SPEC_FILE, said)


def is_sealed(checkpoint: Path) -> bool:
    """Whether all of it was written once, whatever has become of it since."""
    return (checkpoint / SPEC_FILE).is_file()


def fault(checkpoint: Path) -> str | None:
    """What a run could not go on from a checkpoint for, as a clause; None: it is whole.

    Checkpoints that are older than manifests are taken at their word.
    """
    if not is_sealed(checkpoint):
        return "it was not written to its end"
    if _values(checkpoint / SPEC_FILE) is None:
        return f"{SPEC_FILE} is damaged"
    if (changed := _changed(checkpoint)) is not None:
        return changed
    state = _values(checkpoint / STATE_FILE)
    if state is None or not isinstance(state.get("global_step"), int):
        return f"{STATE_FILE} is damaged"
    swollen = (path.name for path in _files(checkpoint) if path.suffix in PICKLES and _is_compressed(path))
    return next((f"{name} is compressed, which torch's own files are not" for name in swollen), None)


def unseal(checkpoint: Path) -> None:
    """Say that a checkpoint is no longer whole, before it is removed or replaced."""
    (checkpoint / SPEC_FILE).unlink(missing_ok=True)


def _changed(checkpoint: Path) -> str | None:
    """Which file is not as it was written, as a clause."""
    if not (checkpoint / MANIFEST_FILE).exists():
        return None
    files = (_values(checkpoint / MANIFEST_FILE) or {}).get("files")
    if not isinstance(files, dict):
        return f"{MANIFEST_FILE} is damaged"
    there = {path.relative_to(checkpoint).as_posix(): path for path in (*_files(checkpoint), checkpoint / SPEC_FILE)}
    for name, was in files.items():
        if name not in there:
            return f"{name} is missing"
        if not isinstance(was, dict) or was.get("bytes") != there[name].stat().st_size or was != _read(there[name]):
            return f"{name} has changed since it was written"
    return None


def _files(checkpoint: Path) -> list[Path]:
    """What is sealed: all files but the seal and what a write has left aside."""
    paths = (path for path in sorted(checkpoint.rglob("*")) if path.is_file() and not path.name.startswith("."))
    return [path for path in paths if path.name not in (MANIFEST_FILE, SPEC_FILE)]


def _values(file: Path) -> dict[str, Any] | None:
    """The object in a file of JSON; None where there is none."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return values if isinstance(values, dict) else None


def _written(path: Path) -> dict[str, Any]:
    """Its digest, once it is on the disk: a crash of the system must not leave a seal without what it seals."""
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
        return _digest(stream)


def _read(path: Path) -> dict[str, Any]:
    with path.open("rb") as stream:
        return _digest(stream)


def _digest(stream: IO[bytes]) -> dict[str, Any]:
    digest = hashlib.sha256()
    while block := stream.read(_BLOCK):
        digest.update(block)
    return {"bytes": stream.tell(), "sha256": digest.hexdigest()}


def _is_compressed(path: Path) -> bool:
    """Whether a file would take more memory than its own size."""
    try:
        with zipfile.ZipFile(path) as archive:
            return sum(item.file_size for item in archive.infolist()) > path.stat().st_size
    except (OSError, ValueError, zipfile.BadZipFile):
        return False

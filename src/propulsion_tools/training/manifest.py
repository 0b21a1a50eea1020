"""What files held when they were written, so that a checkpoint or a run that is not whole, or no longer, is known."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any

from propulsion_tools.records import write_atomically

MANIFEST_FILE, SPEC_FILE, STATE_FILE = "manifest.json", "spec.json", "trainer_state.json"
UNFINISHED = "unfinished"
"""A file that is in a checkpoint until all the rest is."""
PICKLES = (".pt", ".pth", ".bin")
"""How the names of the files end that torch has written; it reads them without running any code in them."""
_BLOCK = 2**20
_STATE: dict[str, type | tuple[type, ...]] = {
    "global_step": int,
    "max_steps": int,
    "epoch": (int, float, type(None)),
    "stateful_callbacks": dict,
}
"""Of what kind is what a run reads of the state of a training, where it is there."""


def seal(checkpoint: Path, spec: dict[str, Any]) -> None:
    """Say that a checkpoint is whole, and of what run.

    Args:
        checkpoint: Everything else in it has been written.
        spec: The fields of its run.
    """
    said = json.dumps(spec, indent=2) + "\n"
    write_manifest(checkpoint, _files(checkpoint), {SPEC_FILE: _digest(io.BytesIO(said.encode()))})
    write_atomically(checkpoint / SPEC_FILE, said)
    (checkpoint / UNFINISHED).unlink(missing_ok=True)


def write_manifest(folder: Path, paths: Iterable[Path], others: Mapping[str, Any] = MappingProxyType({})) -> None:
    """Write down what files hold.

    Args:
        folder: That of the manifest.
        paths: Files in it.
        others: The digests of files that are yet to be written.
    """
    files = {path.relative_to(folder).as_posix(): _written(path) for path in paths}
    write_atomically(folder / MANIFEST_FILE, json.dumps({"files": {**files, **others}}, indent=2) + "\n")


def begin(checkpoint: Path) -> None:
    """Make the folder of a checkpoint that is to be written; what is there is removed."""
    remove(checkpoint)
    aside = _aside(checkpoint)
    aside.mkdir(parents=True)
    (aside / UNFINISHED).touch()
    os.replace(aside, checkpoint)


def remove(checkpoint: Path) -> None:
    """Remove a checkpoint, if it is there, at once: no part of one is ever seen."""
    if checkpoint.is_dir():
        os.replace(checkpoint, aside := _aside(checkpoint))
        shutil.rmtree(aside)


def _aside(checkpoint: Path) -> Path:
    return checkpoint.with_name(f".{checkpoint.name}.{os.getpid()}.tmp")


def is_unfinished(checkpoint: Path) -> bool:
    """Whether a kill left it half-written; then it is of no use to anybody."""
    return (checkpoint / UNFINISHED).is_file() or not any(checkpoint.iterdir())


def fault(checkpoint: Path) -> str | None:
    """What a run could not go on from a checkpoint for, as a clause; None: it is whole.

    Checkpoints that are older than manifests are taken at their word.
    """
    if not checkpoint.is_dir():
        return "there is no such folder"
    if is_unfinished(checkpoint):
        return "it was not written to its end"
    if _values(checkpoint / SPEC_FILE) is None:
        return f"{SPEC_FILE} is missing or damaged"
    if (said := changed(checkpoint)) is not None:
        return said
    state = _values(checkpoint / STATE_FILE)
    if state is None or not _is_state(state):
        return f"{STATE_FILE} is damaged"
    swollen = (path.name for path in _files(checkpoint) if path.suffix in PICKLES and _is_compressed(path))
    return next((f"{name} is compressed, which torch's own files are not" for name in swollen), None)


def changed(folder: Path) -> str | None:
    """Which file is not as the manifest says, as a clause; None: all are, or there is no manifest."""
    if not (folder / MANIFEST_FILE).exists():
        return None
    files = _listed(folder)
    if files is None:
        return f"{MANIFEST_FILE} is damaged"
    there = _there(folder)
    for name, was in files.items():
        if name not in there:
            return f"{name} is missing"
        if _differs(there[name], was):
            return f"{name} has changed since it was written"
    return None


def in_manifest(folder: Path, unchanged: bool) -> list[Path]:
    """The files in a folder that its manifest lists; none where there is no manifest.

    Args:
        folder: That of the manifest.
        unchanged: Only those that are as the manifest says.
    """
    files, there = _listed(folder) or {}, _there(folder)
    return [path for name, path in there.items() if name in files and not (unchanged and _differs(path, files[name]))]


def _differs(path: Path, was: Any) -> bool:
    """Whether a file is not what a manifest says of it."""
    return not isinstance(was, dict) or was.get("bytes") != path.stat().st_size or was != _read(path)


def _listed(folder: Path) -> dict[str, Any] | None:
    files = (_values(folder / MANIFEST_FILE) or {}).get("files")
    return files if isinstance(files, dict) else None


def _there(folder: Path) -> dict[str, Path]:
    return {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}


def _files(checkpoint: Path) -> list[Path]:
    """What is sealed: all files but the seal and what a write has left aside."""
    paths = (path for path in sorted(checkpoint.rglob("*")) if path.is_file() and not path.name.startswith("."))
    return [path for path in paths if path.name not in (MANIFEST_FILE, SPEC_FILE, UNFINISHED)]


def _values(file: Path) -> dict[str, Any] | None:
    """The object in a file of JSON; None where there is none."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return values if isinstance(values, dict) else None


def _is_state(values: dict[str, Any]) -> bool:
    """Whether values are what `Trainer` writes of the state of a training."""
    control = values.get("stateful_callbacks", {})
    for name in ("TrainerControl", "args"):
        control = control.get(name, {}) if isinstance(control, dict) else None
    kinds = (isinstance(values[name], kind) for name, kind in _STATE.items() if name in values)
    return "global_step" in values and isinstance(control, dict) and all(kinds)


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

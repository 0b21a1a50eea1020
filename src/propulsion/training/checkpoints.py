"""The folder of a run: what is in it, what may be replaced, where a killed run goes on."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

from propulsion.errors import ConfigError
from propulsion.records import PREDICTIONS_FILE, RECORD_FILE, RunSpec

_CHECKPOINT = re.compile(r"^checkpoint-(\d+)$")
# Everything that a run writes beside its checkpoints; nothing else in the folder is ever removed.
_OURS = (
    RECORD_FILE,
    PREDICTIONS_FILE,
    "loss_curve.png",
    "README.md",
    "adapter_config.json",
    "adapter_model.safetensors",
    "trained.safetensors",
    "config.json",
    "model.safetensors",
)


def checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints in `folder`, oldest first.

    A kill may leave half a checkpoint. `Trainer` writes trainer_state.json last, so one without it does not count.
    """
    found = [(int(match[1]), path) for path in folder.glob("checkpoint-*") if (match := _CHECKPOINT.match(path.name))]
    return [path for _, path in sorted(found) if _is_complete(path)]


def _is_complete(checkpoint: Path) -> bool:
    try:
        json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True


def last_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint in `folder`, if there is one."""
    found = checkpoints(folder)
    return found[-1] if found else None


def resume_point(spec: RunSpec, folder: Path) -> Path | None:
    """Where this run goes on, or None if it starts afresh.

    Raises:
        ConfigError: A resumption was asked for, and there is nothing to resume; or the folder holds a run already.
    """
    asked = spec.resume_from_checkpoint
    if isinstance(asked, str):
        if not _is_complete(Path(asked)):
            raise ConfigError(f"{asked} is no complete checkpoint: pass true for the last one in the output folder.")
        return Path(asked)
    last = last_checkpoint(folder)
    if asked:
        if last is None:
            raise ConfigError(f"There is no complete checkpoint in {folder} to resume from.")
        return last
    if not spec.overwrite_output_dir:
        _refuse_to_overwrite(folder, last)
    return None


def _refuse_to_overwrite(folder: Path, last: Path | None) -> None:
    if (folder / RECORD_FILE).exists():
        raise ConfigError(
            f"{folder} holds a finished run: pass --overwrite_output_dir true to replace it, or another --output_dir."
        )
    if last is not None:
        raise ConfigError(
            f"{folder} holds an unfinished run: pass --resume_from_checkpoint true to go on from {last.name}, "
            "or --overwrite_output_dir true to start again."
        )


def clear(folder: Path, keep_checkpoints: bool) -> None:
    """Remove what an earlier run has written, the record first: without one a run does not count as finished.

    A folder that shows no trace of a run of ours is left as it is.
    """
    if (folder / RECORD_FILE).exists():
        for name in _OURS:
            (folder / name).unlink(missing_ok=True)
    if not keep_checkpoints:
        for path in folder.glob("checkpoint-*"):
            if _CHECKPOINT.match(path.name) and path.is_dir():
                shutil.rmtree(path)

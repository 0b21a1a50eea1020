"""The folder of a run: what is in it, what may be replaced, where a killed run goes on."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from propulsion_tools.errors import OptionError
from propulsion_tools.records import PREDICTIONS_FILE, RECORD_FILE, RUN_FACTS, RunSpec, write_atomically
from propulsion_tools.records.fields import AUTO
from propulsion_tools.records.run_spec import BEFORE

_CHECKPOINT = re.compile(r"^checkpoint-(\d+)$")
SPEC_FILE = "spec.json"
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
    paths = [(int(match[1]), path) for path in folder.glob("checkpoint-*") if (match := _CHECKPOINT.match(path.name))]
    return [path for _, path in sorted(paths) if _is_complete(path)]


def _is_complete(checkpoint: Path) -> bool:
    try:
        json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return True


def last_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint in `folder`, if there is one."""
    return next(reversed(checkpoints(folder)), None)


def resume_point(spec: RunSpec, folder: Path) -> Path | None:
    """Where this run goes on, or None if it starts afresh.

    Raises:
        OptionError: A resumption was asked for, and there is nothing to resume; or the folder holds a run already.
    """
    asked = spec.resume_from_checkpoint
    if isinstance(asked, str):
        if not _is_complete(Path(asked)):
            raise OptionError(f"{asked} is no complete checkpoint: pass true for the last one in the output folder.")
        return _fitting(spec, Path(asked))
    last = last_checkpoint(folder)
    if asked:
        if last is None:
            raise OptionError(f"There is no complete checkpoint in {folder} to resume from.")
        return _fitting(spec, last)
    if not spec.overwrite_output_dir:
        _refuse_to_overwrite(folder, last)
    return None


def write_spec(spec: RunSpec, checkpoint: Path) -> None:
    """Keep what a checkpoint is of beside it."""
    write_atomically(checkpoint / SPEC_FILE, json.dumps(_with_whole_paths(spec), indent=2) + "\n")


def is_of(spec: RunSpec, folder: Path) -> bool:
    """Whether a folder holds what `write_spec` wrote of the same spec."""
    try:
        return bool(json.loads((folder / SPEC_FILE).read_text(encoding="utf-8")) == _with_whole_paths(spec))
    except (OSError, ValueError):
        return False


def _with_whole_paths(spec: RunSpec) -> dict[str, Any]:
    """The fields as JSON reads them; a folder is the same folder however it is written."""
    values: dict[str, Any] = json.loads(json.dumps(asdict(spec)))
    for name in ("data_dir", "model_name_or_path"):
        if values[name] is not None and Path(values[name]).is_dir():
            values[name] = str(Path(values[name]).resolve())
    return values


def _fitting(spec: RunSpec, checkpoint: Path) -> Path:
    """The checkpoint, if this run can go on from it."""
    _refuse_another_run(spec, checkpoint)
    _refuse_an_earlier_end(spec, checkpoint)
    return checkpoint


def _refuse_an_earlier_end(spec: RunSpec, checkpoint: Path) -> None:
    """A run that ends before its checkpoint would train nothing, and record a length that its weights do not have."""
    state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    name, reached = ("max_steps", "global_step") if spec.max_steps > 0 else ("num_train_epochs", "epoch")
    end = getattr(spec, name)
    if (state.get(reached) or 0) > end + 1e-6:  # an epoch is a sum of steps' shares
        raise OptionError(
            f"{checkpoint} is of step {state['global_step']}, beyond the end of this run ({name} {end}): raise {name}, "
            "or start again with --overwrite_output_dir true and without --resume_from_checkpoint."
        )


def _refuse_another_run(spec: RunSpec, checkpoint: Path) -> None:
    """Going on under other settings would train by the old ones, which the optimizer keeps, and record the new."""
    try:
        before = {**BEFORE, **json.loads((checkpoint / SPEC_FILE).read_text(encoding="utf-8"))}
    except (OSError, ValueError, RecursionError):
        return
    now = _with_whole_paths(spec)
    fixed = [name for name, facts in RUN_FACTS.items() if not facts.may_change]
    if spec.learning_rate == AUTO:  # the rates that were found then are those that are found now
        fixed = [name for name in fixed if name not in ("learning_rate", "head_learning_rate")]
    other = [name for name in fixed if name in before and before[name] != now[name]]
    if other:
        said = ", ".join(f"{name} {before[name]!r} and not {now[name]!r}" for name in other)
        raise OptionError(
            f"{checkpoint} is of a run with {said}: go on with the same, or start again with "
            "--overwrite_output_dir true and without --resume_from_checkpoint."
        )


def _refuse_to_overwrite(folder: Path, last: Path | None) -> None:
    if (folder / RECORD_FILE).exists():
        raise OptionError(
            f"{folder} holds a finished run: pass --overwrite_output_dir true to replace it, or another --output_dir."
        )
    if last is None and (folder / "README.md").exists() and not (folder / PREDICTIONS_FILE).exists():
        raise OptionError(
            f"{folder} holds a README.md, which the model card would replace: name another --output_dir, or pass "
            "--overwrite_output_dir true."
        )
    if last is not None:
        raise OptionError(
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

"""The folder of a run: what is in it, what may be replaced, where a killed run goes on."""

from __future__ import annotations

import contextlib
import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

from propulsion_tools.errors import OptionError
from propulsion_tools.records import (
    PREDICTIONS_FILE,
    RECORD_FILE,
    RUN_FACTS,
    RunSpec,
    remove_leftovers,
    write_atomically,
)
from propulsion_tools.records.fields import AUTO
from propulsion_tools.records.run_spec import BEFORE
from propulsion_tools.training.manifest import (
    MANIFEST_FILE,
    SPEC_FILE,
    STATE_FILE,
    fault,
    in_manifest,
    is_unfinished,
    remove,
    seal,
)
from propulsion_tools.training.notify import Notify, keep_quiet

_CHECKPOINT = re.compile(r"^checkpoint-(\d+)$")
_NOTHING = 1e-6
"""Of an epoch, which is a sum of the shares of steps."""
# What a run writes beside its checkpoints, and its manifest lists more; nothing else in the folder is ever removed.
_OURS = (
    RECORD_FILE,
    "README.md",
    "loss_curve.png",
    PREDICTIONS_FILE,  # after the README, which without it is taken for a user's own
    "adapter_config.json",
    "adapter_model.safetensors",
    "trained.safetensors",
    "config.json",
    "model.safetensors",
)


def checkpoints(folder: Path) -> list[Path]:
    """The whole checkpoints in `folder`, oldest first."""
    return [path for path in _found(folder) if fault(path) is None]


def last_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint in `folder`, if there is one."""
    return next((path for path in reversed(_found(folder)) if fault(path) is None), None)


def _found(folder: Path) -> list[Path]:
    """All checkpoints in `folder`, whole or not, oldest first."""
    paths = [(int(match[1]), path) for path in folder.glob("checkpoint-*") if (match := _CHECKPOINT.match(path.name))]
    return [path for _, path in sorted(paths) if path.is_dir()]


def resume_point(spec: RunSpec, folder: Path, notify: Notify = keep_quiet) -> Path | None:
    """Where this run goes on, or None if it starts afresh.

    Args:
        spec: What is to run.
        folder: Where it is to be.
        notify: Is told of a checkpoint that is passed over.

    Raises:
        OptionError: A resumption was asked for, and what there is to resume from is damaged; or the folder holds a run
            already.
    """
    asked = spec.resume_from_checkpoint
    if isinstance(asked, str):
        if said := fault(Path(asked)):
            raise OptionError(f"{asked} is no complete checkpoint ({said}): pass true for the last one in output_dir.")
        if Path(asked).resolve().parent != folder.resolve() and not spec.overwrite_output_dir:
            _refuse_to_overwrite(folder)
        return _fitting(spec, Path(asked))
    found = _found(folder) if asked else []
    last = next((path for path in reversed(found) if fault(path) is None), None)
    passed = found[found.index(last) + 1 :] if last else found
    if last is None and not spec.overwrite_output_dir:
        _refuse_to_lose(passed)
        _refuse_to_overwrite(folder)
    then = f"goes on from {last.name}" if last else "begins anew"
    for path in passed:
        notify(f"{path} cannot be gone on from ({fault(path)}): the run {then}.")
    return _fitting(spec, last) if last else None


def _refuse_to_lose(passed: list[Path]) -> None:
    """A checkpoint that was whole may be mended, and would be removed; one that never was is of no use."""
    for path in passed:
        if is_unfinished(path):
            continue
        raise OptionError(
            f"{path} is damaged ({fault(path)}), and there is no other checkpoint to go on from: bring it back from a "
            "copy, or start again with --overwrite_output_dir true."
        )


def seal_checkpoint(spec: RunSpec, checkpoint: Path, limit: int | None, best: str | None) -> None:
    """Say that a checkpoint of a run is whole, and remove those before it that are too many.

    Those of later steps, which a run leaves behind that goes on from an earlier one, stay until they are replaced.

    Args:
        spec: Of the run.
        checkpoint: All of it has been written.
        limit: How many to keep; None: all.
        best: One that stays, if it is there.
    """
    seal(checkpoint, _with_whole_paths(spec))
    prune_checkpoints(checkpoint, limit, best)


def prune_checkpoints(checkpoint: Path, limit: int | None, best: str | None) -> None:
    """Remove the checkpoints before one that are too many, as `seal_checkpoint` does; none before a renamed one."""
    found = _found(checkpoint.parent)
    found = found[: found.index(checkpoint) + 1] if checkpoint in found else []
    kept = {checkpoint, Path(best)} & set(found) if best else {checkpoint}
    room = max(limit - len(kept), 0) if limit else len(found)
    others = [path for path in found if path not in kept]
    for path in others[: len(others) - room] if room < len(others) else ():
        remove(path)


def write_spec(spec: RunSpec, folder: Path) -> None:
    """Keep in a folder what it is of."""
    write_atomically(folder / SPEC_FILE, json.dumps(_with_whole_paths(spec), indent=2) + "\n")


def is_of(spec: RunSpec, folder: Path) -> bool:
    """Whether a folder holds what `write_spec` wrote of a spec that computes the same."""
    try:
        before, now = _values_of(folder), _with_whole_paths(spec)
    except (OSError, ValueError, TypeError):  # not there, or not what it wrote
        return False
    return all(before.get(name) == now[name] for name, facts in RUN_FACTS.items() if facts.identity)


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


def is_over(spec: RunSpec, checkpoint: Path) -> bool:
    """Whether a run has ended with this checkpoint, by its length or since it grew no better: no step is left to do."""
    state = _state(checkpoint)
    control = state.get("stateful_callbacks", {}).get("TrainerControl", {}).get("args", {})
    stopped = bool(control.get("should_training_stop")) and state["global_step"] < state.get("max_steps", 0)
    is_as_patient = _values_of(checkpoint).get("early_stopping_patience") == spec.early_stopping_patience
    return _beyond_end(spec, state) > -_NOTHING or (stopped and is_as_patient)


def spec_of(checkpoint: Path) -> RunSpec:
    """The spec of the run that has written a whole checkpoint."""
    return RunSpec.from_dict(_values_of(checkpoint))


def _values_of(checkpoint: Path) -> dict[str, Any]:
    """Its fields, as JSON reads them."""
    return {**BEFORE, **json.loads((checkpoint / SPEC_FILE).read_text(encoding="utf-8"))}


def _state(checkpoint: Path) -> dict[str, Any]:
    state: dict[str, Any] = json.loads((checkpoint / STATE_FILE).read_text(encoding="utf-8"))
    return state


def _length(spec: RunSpec) -> tuple[str, str]:
    """What the length of a run is given by, and what a checkpoint has reached of it."""
    return ("max_steps", "global_step") if spec.max_steps > 0 else ("num_train_epochs", "epoch")


def _beyond_end(spec: RunSpec, state: dict[str, Any]) -> float:
    """How many steps or epochs a checkpoint is beyond the end of a run."""
    name, reached = _length(spec)
    beyond: float = (state.get(reached) or 0) - getattr(spec, name)
    return beyond


def _refuse_an_earlier_end(spec: RunSpec, checkpoint: Path) -> None:
    """A run that ends before its checkpoint would train nothing, and record a length that its weights do not have."""
    state, (name, _) = _state(checkpoint), _length(spec)
    if _beyond_end(spec, state) > _NOTHING:
        raise OptionError(
            f"{checkpoint} is of step {state['global_step']}, beyond the end of this run "
            f"({name} {getattr(spec, name)}): raise {name}, or start again with --overwrite_output_dir true and "
            "without --resume_from_checkpoint."
        )


def _refuse_another_run(spec: RunSpec, checkpoint: Path) -> None:
    """Going on under other settings would train by the old ones, which the optimizer keeps, and record the new."""
    before, now = _values_of(checkpoint), _with_whole_paths(spec)
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


def _refuse_to_overwrite(folder: Path) -> None:
    last = next((path for path in reversed(_found(folder)) if not is_unfinished(path)), None)
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
    has_record, found = (folder / RECORD_FILE).exists(), _found(folder)
    # Without a record, as where a kill has ended this, only what still is as a run of ours has written it.
    listed = in_manifest(folder, unchanged=not has_record)
    others = [path for path in listed if folder / path.relative_to(folder).parts[0] not in found]
    if others or has_record:
        # The manifest last: where a kill leaves it, the rest is found by it.
        for path in (*(folder / name for name in _OURS), *others, folder / MANIFEST_FILE):
            path.unlink(missing_ok=True)
        within = {parent for path in others for parent in path.parents if folder in parent.parents}
        for parent in sorted(within, reverse=True):  # the inner before the outer
            with contextlib.suppress(OSError):  # it holds something else
                parent.rmdir()
    for path in found:
        if not keep_checkpoints or is_unfinished(path):
            remove(path)
    remove_leftovers(folder)

"""The configuration of a saved adapter, which somebody else may have written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from peft import PeftConfig
from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME

from propulsion.errors import AdapterFileError, PropulsionError

NAMES = {"PROPULSION": "Propulsion", "IA3": "(IA)³"}


def read_config(folder: Path, kind: str) -> Any:
    """Read the configuration of an adapter of one method.

    Args:
        folder: What PEFT's `save_pretrained` wrote.
        kind: What PEFT calls the method, one of `NAMES`.

    Returns:
        The method's `PeftConfig`.

    Raises:
        AdapterFileError: It is no adapter's folder, another method's, incomplete, or no configuration of this method.
        PropulsionError: A field of a configuration of ours is wrong.
    """
    path = folder / CONFIG_NAME
    found = _values(folder, path).get("peft_type")
    if found != kind:
        raise AdapterFileError(f"{folder} is no {NAMES[kind]} adapter: its peft_type is {found!r}.")
    if not (folder / SAFETENSORS_WEIGHTS_NAME).is_file():
        raise AdapterFileError(f"{folder} has no {SAFETENSORS_WEIGHTS_NAME}: the adapter is incomplete.")
    try:
        return PeftConfig.from_pretrained(str(folder))
    except PropulsionError:
        raise
    except Exception as error:  # PEFT takes its fields as they come, and fails in as many ways as there are types
        raise AdapterFileError(f"{path} does not configure {NAMES[kind]} ({error}): get the adapter again.") from error


def _values(folder: Path, path: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise AdapterFileError(f"There is no folder {folder}.")
    if not path.is_file():
        raise AdapterFileError(f"{folder} is no adapter: it has no {CONFIG_NAME}. Pass what `save_pretrained` wrote.")
    try:
        values: Any = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise AdapterFileError(f"{path} cannot be read ({error}).") from error
    return values if isinstance(values, dict) else {}

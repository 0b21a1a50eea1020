"""Files that a reader, or a kill, never meets half of."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from propulsion.errors import ConfigError


def write_bytes(file: Path, content: bytes) -> None:
    """Write a file whole or not at all.

    Raises:
        ConfigError: It cannot be written there.
    """
    partial = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        partial.write_bytes(content)
        os.replace(partial, file)
    except OSError as error:
        raise ConfigError(f"{file} cannot be written: {error.strerror}.") from error
    finally:
        partial.unlink(missing_ok=True)


def write_npz(file: Path, arrays: Mapping[str, Any]) -> None:
    """Write arrays under their names, compressed."""
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    write_bytes(file, content.getvalue())

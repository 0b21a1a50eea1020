"""Figures and arrays as the content of files, and files that are written whole or not at all."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from propulsion_tools.errors import OptionError
from propulsion_tools.records import write_atomically


def write_bytes(file: Path, content: bytes) -> None:
    """Write a file as `write_atomically` does.

    Raises:
        OptionError: It cannot be written there.
    """
    try:
        write_atomically(file, content)
    except OSError as error:
        raise OptionError(f"{file} cannot be written: {error.strerror}.") from error


def figure_bytes(figure: Any, kind: str) -> bytes:
    """A figure of matplotlib as the content of a file.

    Args:
        figure: The figure.
        kind: "png", in 256 colours, which keeps pages with many cells small, or "svg".
    """
    content = io.BytesIO()
    figure.savefig(content, format=kind)
    return smaller(content.getvalue()) if kind == "png" else content.getvalue()


def smaller(png: bytes) -> bytes:
    """The same picture with a palette of 256 colours."""
    from PIL import Image

    content = io.BytesIO()
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    picture.quantize(256, dither=Image.Dither.NONE).save(content, format="png", optimize=True)
    return content.getvalue()


def write_npz(file: Path, arrays: Mapping[str, Any]) -> None:
    """Write arrays under their names, compressed."""
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    write_bytes(file, content.getvalue())

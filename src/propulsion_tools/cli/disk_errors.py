"""Errors of the disk, in whatever form the libraries that write to it give them."""

from __future__ import annotations

import errno
import os
import re

# Full, not ours to read or write, a file where a folder should be: nothing that a traceback would tell more of.
_NAMES = ("ENOSPC", "EDQUOT", "EFBIG", "EIO", "EACCES", "EPERM", "EROFS", "EISDIR", "ENOTDIR")
_NUMBERS = {getattr(errno, name) for name in _NAMES if hasattr(errno, name)}
_OF_RUST = re.compile(r"\(os error (\d+)\)")
"""How safetensors and tokenizers, which are written in Rust, end the message of an error that carries no number."""
_OF_TORCH = ("PytorchStreamWriter failed", "iostream error", "unexpected pos")
"""What torch.save says where it could not write; it does not say why."""


def of_disk(error: BaseException) -> str | None:
    """What failed and why, as a clause, if it was the disk; looks through the errors that were raised from it."""
    link: BaseException | None = error
    while link is not None:
        if said := _said(link):
            return said
        link = link.__cause__ or link.__context__
    return None


def _said(error: BaseException) -> str | None:
    if isinstance(error, OSError) and error.errno in _NUMBERS:
        return f"{error.filename or 'a file could not be written'}: {error.strerror}"
    if (match := _OF_RUST.search(str(error))) and int(match[1]) in _NUMBERS:
        return f"a file could not be written: {os.strerror(int(match[1]))}"
    if any(text in str(error) for text in _OF_TORCH):
        return "a file could not be written, as where the disk is full"
    return None

"""From the bytes of a file to its text, strictly: what is no text is called what it is, with the way out."""

from __future__ import annotations

import codecs
import gzip
import io
import zipfile
import zlib

from propulsion_tools.errors import DataError
from propulsion_tools.records.sizes import allowed_bytes

GZIP, PARQUET = b"\x1f\x8b", b"PAR1"
WORKBOOK = "save it as CSV (UTF-8) in the program that made it"
ARCHIVE = "unpack it first"
_ZIP = b"PK\x03\x04"
_SIGNATURES = {
    PARQUET: ("a binary file (parquet)", "end its name in .parquet"),
    b"\xd0\xcf\x11\xe0": ("an old Excel workbook", WORKBOOK),
    b"ARROW1": ("a binary file (Arrow IPC)", "write it as .parquet"),
    b"BZh": ("compressed with bzip2", ARCHIVE),
    b"\xfd7zXZ\x00": ("compressed with xz", ARCHIVE),
    b"\x28\xb5\x2f\xfd": ("compressed with zstandard", ARCHIVE),
    b"7z\xbc\xaf": ("a 7z archive", ARCHIVE),
    b"SQLite format 3": ("an SQLite database", "export its table as CSV"),
    b"%PDF-": ("a PDF document", "export its table as CSV"),
    b"version https://git-lfs": ("a pointer of Git LFS", "fetch the file itself with `git lfs pull`"),
    b"<!DOCTYPE": ("a web page", "download the file itself"),
    b"<html": ("a web page", "download the file itself"),
}
_WIDE_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, whose mark it begins with
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def decoded(data: bytes, name: str, zipped: bool) -> str:
    """The text of a file: UTF-8 with or without a byte order mark, or UTF-16 or UTF-32 with one.

    Args:
        data: Its bytes.
        name: For messages.
        zipped: Whether its name says that it is compressed with gzip.

    Raises:
        DataError: It is no text, or in another encoding; says which, and what to do.
    """
    data = _unzipped(data, name, zipped)
    encoding = next((wide for mark, wide in _WIDE_MARKS.items() if data.startswith(mark)), "utf-8-sig")
    if encoding == "utf-8-sig":
        _refuse_binary(data, name)
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].decode(encoding, "ignore").count("\n") + 1
        wanted = encoding.removesuffix("-sig").upper()
        raise DataError(f"{name}, line {line} is not {wanted}: save the file as UTF-8.") from error


def _unzipped(data: bytes, name: str, zipped: bool) -> bytes:
    if not zipped:
        if data.startswith(GZIP):
            raise DataError(f"{name} is compressed with gzip: add .gz to its name.")
        return data
    most = allowed_bytes(len(data))
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as stream:
            text = stream.read(most + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{name} is not a whole gzip file ({error}): compress it again or drop the .gz.") from error
    if len(text) > most:
        raise DataError(f"{name} holds more than {most // 2**20:,} MiB, far more than its size lets expect: {ARCHIVE}.")
    return text


def refuse_other_kinds(data: bytes, name: str, wanted: str) -> None:
    """Refuse what is known by its first bytes to be another kind of file.

    Raises:
        DataError: Says what it is, and what to do.
    """
    found = next((said for mark, said in _SIGNATURES.items() if data.startswith(mark)), None)
    if data.startswith(_ZIP):
        found = _zip_kind(data)
    if found is not None:
        raise DataError(f"{name} is {found[0]}, not {wanted} as its name says: {found[1]}.")


def _refuse_binary(data: bytes, name: str) -> None:
    refuse_other_kinds(data, name, "text")
    if b"\0" in data:
        if _has_wide_characters(data):
            raise DataError(f"{name} is UTF-16 without the mark that says so: save the file as UTF-8.")
        raise DataError(f"{name} is a binary file, not text as its name says: give it the name of what it is.")


def _zip_kind(data: bytes) -> tuple[str, str]:
    try:
        names = zipfile.ZipFile(io.BytesIO(data)).namelist()
    except zipfile.BadZipFile:
        names = []
    if any(name.startswith("xl/") for name in names):
        return "an Excel workbook", WORKBOOK
    return "a zip archive", ARCHIVE


def _has_wide_characters(data: bytes) -> bool:
    """Whether every other byte is mostly 0, as in Latin letters of two bytes each."""
    start = data[:4096]
    return any(2 * start[first::2].count(0) > len(start[first::2]) > 1 for first in (0, 1))

"""The results of many runs in one compressed file, which is read and never unpacked."""

from __future__ import annotations

import io
import lzma
import tarfile
from collections.abc import Mapping
from pathlib import Path

from propulsion_tools.compare.run_folders import RESULT_FILES
from propulsion_tools.errors import OptionError
from propulsion_tools.records import write_atomically

ARCHIVE_FILE = "runs.tar.xz"
MOST_BYTES, MOST_MEMORY = 2**28, 2**27  # of the content, and of xz's own tables; `xz -9` takes 65 MiB of them
Results = Mapping[tuple[str, str], bytes]
"""Contents by the name of the run and the name of the file."""


def write_archive(file: Path, results: Results) -> None:
    """Write an archive; the same results give the same bytes.

    Args:
        file: The archive.
        results: What to keep.
    """
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for run, name in sorted(results, key=lambda key: key[::-1]):  # files that are alike stand together
            member = tarfile.TarInfo(f"{run}/{name}")
            member.size = len(results[run, name])
            archive.addfile(member, io.BytesIO(results[run, name]))
    write_atomically(file, lzma.compress(content.getvalue(), preset=9))


def read_archive(file: Path) -> Results:
    """The results in an archive, which need not be one of ours.

    Raises:
        OptionError: It is damaged, too large, or holds something else than results of runs.
    """
    results: dict[tuple[str, str], bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(_decompressed(file)), mode="r:") as archive:
            for member in archive:
                _refuse_all_but_results(member, file)
                run, _, name = member.name.partition("/")
                if (run, name) in results:  # at once: a header of negative size would lead back to itself for ever
                    raise OptionError(f"{file} holds {member.name!r} twice.")
                results[run, name] = _content(archive, member)
    except OptionError:
        raise
    except (lzma.LZMAError, tarfile.TarError, EOFError, ValueError, ArithmeticError) as error:
        raise OptionError(f"{file} cannot be read as an archive of runs: {error}.") from error
    return results


def _decompressed(file: Path) -> bytes:
    unpacker = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MOST_MEMORY)
    size = file.stat().st_size
    content = unpacker.decompress(file.read_bytes(), MOST_BYTES + 1) if size <= MOST_BYTES else b""
    if max(size, len(content)) > MOST_BYTES:
        raise OptionError(f"{file} holds more than {MOST_BYTES // 2**20} MiB, too much for an archive of runs.")
    if not unpacker.eof:
        raise EOFError("it ends too early")
    return content


def _refuse_all_but_results(member: tarfile.TarInfo, file: Path) -> None:
    run, _, name = member.name.partition("/")
    is_plain = member.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and not member.issparse()
    if not is_plain or run in ("", ".", "..") or "\\" in run or name not in RESULT_FILES:
        raise OptionError(
            f"{file} holds {member.name!r}, which is no result of a run: write it with `propulsion compare --archive`."
        )


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    stream = archive.extractfile(member)
    return stream.read() if stream else b""

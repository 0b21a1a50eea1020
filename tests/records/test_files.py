"""Laws of files: whole or not at all, whatever writes them, and names that every system takes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from propulsion_tools.records import atomic, is_stream, model_slug, slug, write_atomically


@pytest.mark.parametrize("content", ["new", b"new"])
def test_write_leaves_the_old_file_when_it_is_interrupted(
    content: str | bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "record.json"
    write_atomically(file, "old")

    def killed(source: object, target: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(file, content)
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]
    monkeypatch.undo()
    write_atomically(file, content)
    assert file.read_text() == "new"


@pytest.mark.parametrize("name", ["/dev/stdin", "/dev/stdout", "/dev/fd/3", "/proc/self/fd/3", os.devnull])
def test_streams_and_devices_are_known(name: str, tmp_path: Path) -> None:
    assert is_stream(Path(name))
    assert not is_stream(tmp_path)
    assert not is_stream(tmp_path / "dev" / "stdout")


def test_a_stream_that_leads_to_a_file_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    file = tmp_path / "redirected.txt"
    with file.open("w") as stream:
        stream.write("before\n")
        stream.flush()
        write_atomically(Path(f"/dev/fd/{stream.fileno()}"), "new\n")
    assert file.read_text() == "before\nnew\n"
    assert list(tmp_path.iterdir()) == [file]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link.json").symlink_to(tmp_path / "there" / "file.json")
    write_atomically(tmp_path / "link.json", "new")
    assert (tmp_path / "link.json").is_symlink()
    assert (tmp_path / "there" / "file.json").read_text() == "new"


def test_a_stream_becomes_the_file_at_its_end(tmp_path: Path) -> None:
    file = tmp_path / "folder" / "rows.jsonl"
    with atomic(file) as stream:
        stream.write("one\n")
        assert not file.exists()
    assert file.read_text() == "one\n"
    with pytest.raises(TypeError), atomic(file) as stream:
        stream.writelines(["two\n", 2])
    assert file.read_text() == "one\n"
    assert list(file.parent.iterdir()) == [file]


def test_what_is_written_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    for name in ("fsync", "replace"):
        original = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *args, name=name, call=original: (calls.append(name), call(*args)))
    write_atomically(tmp_path / "file", "text")
    assert calls == ["fsync", "replace"]


def test_slugs() -> None:
    assert slug("lr1e-05 é/ä: b_c.d") == "lr1e-05-b_c.d"
    assert model_slug("org/Model-7b/") == model_slug("/some/where/Model-7b") == "Model-7b"

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from lrsclip_rt.archive import content_stamps
from lrsclip_rt.archive.content_stamps import ContentStamps
from lrsclip_rt.archive.inputs import sha256_and_size


class Counting:
    """Hashes files and counts how often."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, path: Path) -> tuple[str, int]:
        self.calls += 1
        return sha256_and_size(path)


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of this moment count as settled."""
    monkeypatch.setattr(content_stamps, "SETTLED_NS", -(10**12))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.bin"
    path.write_bytes(b"first")
    return path


def ask(tmp_path: Path, file: Path, hashed: Counting, *, rehash: bool = False) -> tuple[str, int]:
    with ContentStamps(tmp_path / "cache" / "stamps.sqlite") as stamps:
        return stamps.sha256_and_size(file, hashed, rehash=rehash)


@pytest.mark.usefixtures("settled")
def test_an_unchanged_file_is_read_once(tmp_path: Path, file: Path) -> None:
    hashed = Counting()
    first = ask(tmp_path, file, hashed)
    assert first == sha256_and_size(file)
    assert ask(tmp_path, file, hashed) == first
    assert hashed.calls == 1
    assert ask(tmp_path, file, hashed, rehash=True) == first
    assert hashed.calls == 2


@pytest.mark.usefixtures("settled")
def test_a_change_that_keeps_size_and_modification_time_is_seen(tmp_path: Path, file: Path) -> None:
    hashed = Counting()
    ask(tmp_path, file, hashed)
    before = file.stat()
    time.sleep(0.02)  # beyond a tick of the file system's clock
    file.write_bytes(b"other")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert ask(tmp_path, file, hashed) == sha256_and_size(file)
    assert hashed.calls == 2


@pytest.mark.usefixtures("settled")
def test_another_file_at_the_same_path_is_seen(tmp_path: Path, file: Path) -> None:
    hashed = Counting()
    ask(tmp_path, file, hashed)
    other = tmp_path / "other.bin"
    other.write_bytes(b"other")
    shutil.copystat(file, other)
    other.replace(file)
    assert ask(tmp_path, file, hashed) == sha256_and_size(file)
    assert hashed.calls == 2


def test_a_file_that_has_just_changed_is_not_remembered(tmp_path: Path, file: Path) -> None:
    hashed = Counting()
    ask(tmp_path, file, hashed)
    ask(tmp_path, file, hashed)
    assert hashed.calls == 2


@pytest.mark.usefixtures("settled")
def test_a_file_that_changes_while_it_is_read_is_not_remembered(tmp_path: Path, file: Path) -> None:
    def slow(path: Path) -> tuple[str, int]:
        found = sha256_and_size(path)
        path.write_bytes(b"longer than before")
        return found

    with ContentStamps(tmp_path / "cache" / "stamps.sqlite") as stamps:
        stamps.sha256_and_size(file, slow)
    assert ask(tmp_path, file, Counting()) == sha256_and_size(file)


@pytest.mark.usefixtures("settled")
def test_stamps_that_are_broken_only_cost_time(tmp_path: Path, file: Path) -> None:
    database = tmp_path / "cache" / "stamps.sqlite"
    database.parent.mkdir()
    database.write_bytes(b"no database at all" * 100)
    hashed = Counting()
    for _ in range(2):
        assert ask(tmp_path, file, hashed) == sha256_and_size(file)
    assert hashed.calls == 2
    with ContentStamps(None) as stamps:
        assert stamps.sha256_and_size(file, hashed) == sha256_and_size(file)
    with pytest.raises(ValueError, match="does not exist"), ContentStamps(None) as stamps:
        stamps.sha256_and_size(tmp_path / "missing", sha256_and_size)

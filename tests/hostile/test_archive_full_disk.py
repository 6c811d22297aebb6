"""A disk that fills up during an append, a commit or a compaction; segments that are torn or flipped."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import archive_makers as makers
import archive_work
import pytest

from lrsclip_rt.archive import Archive, ArchiveWriter
from lrsclip_rt.archive.verifying import verify_archive
from lrsclip_rt.errors import ArchiveCorruptError, ArchiveError

REFUSED = r"(No space left|disk is full|database or disk is full|File too large).*committed rows are intact"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 16 MB; needs the right to mount."""
    if shutil.which("mount") is None:
        pytest.skip("there is no mount command")
    path = tmp_path / "disk"
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(path)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk is not allowed here")
    yield path
    subprocess.run(["umount", path], check=True)


@contextlib.contextmanager
def nearly_full(disk: Path, free_bytes: int) -> Iterator[None]:
    filler = disk / "filler"
    with filler.open("wb") as stream:
        while (rest := shutil.disk_usage(disk).free - free_bytes) > 0:
            stream.write(b"x" * min(rest, 1 << 16))
            stream.flush()
    try:
        yield
    finally:
        filler.unlink()


def work_until_refused(work: archive_work.Work) -> None:
    def work_on() -> None:
        for _ in range(3000):
            work.step()

    with pytest.raises(ArchiveError, match=REFUSED):
        work_on()
    work.writer.close()


def test_random_work_on_a_full_disk_keeps_everything_committed(disk: Path) -> None:
    state, during = archive_work.State(), Counter[str]()
    for seed in range(12):
        rng = random.Random(seed)
        said: list[dict[str, Any]] = []
        work = archive_work.Work(disk / "archive", rng, state, said.append)
        with nearly_full(disk, 4096 * rng.randint(1, 150)):
            work_until_refused(work)
        during[said[-1].get("begin", "append") if said else "append"] += 1
        state = archive_work.check(disk / "archive", *archive_work.states_from(said, state))
        state = archive_work.go_on(disk / "archive", state, rng)
    print(dict(during))
    assert len(during) > 1


@pytest.mark.parametrize("free_pages", [0, 2, 9, 10, 12])
def test_opening_on_a_full_disk_says_so_and_harms_nothing(disk: Path, free_pages: int) -> None:
    folder = makers.write(disk / "archive", range(5))
    database = sqlite3.connect(folder / "archive.db", isolation_level=None)
    for statement in ("DROP TABLE moves", "DROP TABLE deletions", "PRAGMA user_version = 1"):
        database.execute(statement)
    database.execute("UPDATE info SET value = '1' WHERE key = 'format_version'")
    database.close()
    with nearly_full(disk, 4096 * free_pages):
        with pytest.raises(ArchiveError, match=r"disk") as refused:
            ArchiveWriter.of_existing(folder)
        assert not isinstance(refused.value, ArchiveCorruptError)
    for version in (1, 2):
        with Archive.open(folder) as archive:
            assert makers.contents(archive) == makers.expected_contents(range(5))
            assert archive.info.format_version == version
        ArchiveWriter.of_existing(folder).close()


@pytest.mark.parametrize("free_pages", [0, 1, 3, 6, 9, 14, 20])
def test_a_compaction_that_does_not_fit_changes_nothing(disk: Path, free_pages: int) -> None:
    folder = makers.write(disk / "archive", range(60), segment_rows=100, block_rows=32)
    with ArchiveWriter.of_existing(folder) as writer:
        writer.delete_sources([3, 20, 44])
    with Archive.open(folder) as archive:
        contents = makers.contents(archive)
    files = sorted(path.name for path in (folder / "segments").iterdir())
    with nearly_full(disk, 4096 * free_pages):
        with pytest.raises(ArchiveError, match=REFUSED), ArchiveWriter.of_existing(folder) as writer:
            writer.compact()
        assert sorted(path.name for path in (folder / "segments").iterdir()) == files
        with Archive.open(folder) as archive:
            assert makers.contents(archive) == contents
    assert not verify_archive(folder).damaged
    with ArchiveWriter.of_existing(folder) as writer:
        assert writer.compact().removed_rows == 18
    with Archive.open(folder) as archive:
        assert makers.contents(archive) == contents
    assert not verify_archive(folder).damaged


def test_files_that_may_not_grow_keep_everything_committed(tmp_path: Path) -> None:
    """The same without the right to mount: the system refuses to let any file grow beyond a limit."""
    limit_and_run = (
        "import resource, runpy, sys; limit = int(sys.argv.pop(1));"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit));"
        "sys.argv[0] = sys.argv.pop(1); runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    script, state, rng = archive_work.__file__, archive_work.State(), random.Random(5)
    archive = tmp_path / "archive"
    for seed, limit in enumerate((150_000, 180_000, 200_001, 233_000)):
        arguments = [limit_and_run, str(limit), script, str(archive), str(seed), "100000", json.dumps(state)]
        done = subprocess.run(
            [sys.executable, "-c", *arguments],
            capture_output=True,
            text=True,
            env=environment,
            timeout=120,
            check=False,
        )
        assert done.returncode == 1
        assert "committed rows are intact" in done.stderr, done.stderr
        said = [json.loads(line) for line in done.stdout.splitlines()]
        state = archive_work.check(archive, *archive_work.states_from(said, state))
        state = archive_work.go_on(archive, state, rng)


@pytest.mark.parametrize("column", "f16 i8 scale box time source level".split())
def test_every_flipped_bit_and_every_torn_file_is_named(tmp_path: Path, column: str) -> None:
    folder = makers.write(tmp_path / "archive", range(6), segment_rows=12, block_rows=5)
    with ArchiveWriter.of_existing(folder) as writer:
        writer.delete_source(4)
        writer.compact()
    rng = random.Random(0)
    for number in (1, 3, 4):
        path = folder / "segments" / f"{number:06d}.{column}"
        whole = path.read_bytes()
        for _ in range(6):
            content = bytearray(whole)
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
            path.write_bytes(content)
            found = [finding.file for finding in verify_archive(folder).findings if finding.damage]
            assert f"segments/{path.name}" in found
        path.write_bytes(whole[: rng.randrange(len(whole))])
        message = rf"{number:06d}\.{column} holds \d+ bytes, the record expects {len(whole)}"
        for use in (Archive.open, ArchiveWriter.of_existing):
            with pytest.raises(ArchiveCorruptError, match=message):
                use(folder)
        assert verify_archive(folder).damaged
        path.write_bytes(whole)
    assert not verify_archive(folder).damaged

"""Archives that are broken, foreign, full, locked, read-only, or whose writer was killed."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import archive_makers as makers
import numpy as np
import pytest

from lrsclip_rt.archive import Archive, ArchiveWriter, ModelRecord, NewTile, Where
from lrsclip_rt.archive.schema import is_created
from lrsclip_rt.archive.verifying import verify_archive
from lrsclip_rt.errors import ArchiveCorruptError, ArchiveError
from lrsclip_rt.tiles import Window

MAKERS = Path(makers.__file__)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path: Path = makers.write(tmp_path / "archive", range(3))
    return path


def environment() -> dict[str, str]:
    """For a subprocess that imports what this process imports."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


# -- killed writers -----------------------------------------------------------------------------


def run_and_kill(folder: Path, sources: int, moment: random.Random) -> tuple[int, bool]:
    """Start the writer, kill it at a random moment; the rows it acknowledged and whether it had ended."""
    command = [sys.executable, str(MAKERS), str(folder), str(sources)]
    acknowledged = 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment()) as process:
        assert process.stdout is not None
        # One in five is killed while it makes the archive, the others after some commits.
        commits = moment.randrange(1, 8) if moment.random() < 0.8 else 0
        while not commits and not folder.exists() and process.poll() is None:
            time.sleep(0.001)
        for _ in range(commits):
            acknowledged = int(process.stdout.readline() or acknowledged)
        time.sleep(moment.random() * 0.03)
        process.send_signal(signal.SIGKILL)
        rest = process.stdout.read().split()
        ended = process.wait() == 0
    # A line may have been cut off in the middle of its writing.
    return max([acknowledged, *(int(line) for line in rest[:-1]), *(int(n) for n in rest[-1:])]), ended


def check_after_kill(folder: Path, sources: int, acknowledged: int) -> int:
    expected = makers.expected_contents(range(sources))
    if not is_created(folder):
        assert acknowledged == 0
        return 0
    with Archive.open(folder) as archive:
        found = makers.contents(archive)
        assert len(archive) == len(found) >= acknowledged, "no acknowledged row is lost, none is doubled"
        assert found.items() <= expected.items()
        [hits] = archive.search(makers.unit_rows(1), k=3)
        assert len(hits) == min(3, len({archive.tile(i).source for i in found}) * 6)
    report = verify_archive(folder)
    assert not report.damaged, report.findings
    return len(found)


def kill_again_and_again(tmp_path: Path, kills: int, seed: int) -> None:
    moment = random.Random(seed)
    sources, folder, done = 30, tmp_path / "archive", 0
    for number in range(kills):
        acknowledged, _ = run_and_kill(folder, sources, moment)
        rows = check_after_kill(folder, sources, max(acknowledged, done))
        done = rows
        if rows == sources * 6:
            folder, done = tmp_path / f"archive-{number}", 0
    subprocess.run(
        [sys.executable, MAKERS, folder, str(sources)],
        check=True,
        stdout=subprocess.DEVNULL,
        env=environment(),
    )
    with Archive.open(folder) as archive:
        assert makers.contents(archive) == makers.expected_contents(range(sources))
    assert not verify_archive(folder).damaged


def test_a_killed_writer_loses_nothing_and_leaves_nothing_half_done(tmp_path: Path) -> None:
    kill_again_and_again(tmp_path, 5, seed=time.time_ns() % 1000)


# -- full disks -----------------------------------------------------------------------------------


@contextlib.contextmanager
def small_disk(path: Path, size: str) -> Iterator[Path]:
    """A file system of ``size`` bytes; needs the right to mount."""
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", path], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a small disk is not allowed here")
    try:
        yield path
    finally:
        subprocess.run(["umount", path], check=True)


def test_a_full_disk_leaves_everything_committed_intact(tmp_path: Path) -> None:
    if shutil.which("mount") is None:
        pytest.skip("there is no mount command")
    with small_disk(tmp_path / "disk", "700k") as disk:
        folder = makers.write(disk / "archive", range(2), segment_rows=500)
        filler = disk / "filler"
        filler.write_bytes(b"x" * max(0, shutil.disk_usage(disk).free - 60_000))
        committed = 2

        def fill() -> None:
            nonlocal committed
            with ArchiveWriter(folder, makers.MODEL, makers.FP32) as writer:
                for number in range(2, 3000):
                    makers.add(writer, number)
                    writer.commit()
                    committed = number + 1

        with pytest.raises(ArchiveError, match=r"(No space left|disk is full).*committed rows are intact"):
            fill()
        with Archive.open(folder) as archive:
            assert makers.contents(archive) == makers.expected_contents(range(committed))
        filler.unlink()
        assert not verify_archive(folder).damaged
        makers.write(folder, range(committed + 3))
        with Archive.open(folder) as archive:
            assert makers.contents(archive) == makers.expected_contents(range(committed + 3))


def test_a_file_that_may_not_grow_leaves_everything_committed_intact(tmp_path: Path) -> None:
    """The same without the right to mount: the system refuses to let any file grow beyond a limit."""
    script = """
import resource, sys
from pathlib import Path
import archive_makers as makers
from lrsclip_rt.archive import ArchiveWriter
from lrsclip_rt.errors import ArchiveError
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
done = 0
try:
    with ArchiveWriter(Path(sys.argv[1]), makers.MODEL, makers.FP32) as writer:
        for number in range(3000):
            makers.add(writer, number)
            writer.commit()
            done = number + 1
except ArchiveError as error:
    print(done, error)
"""
    for limit in (200_000, 300_001, 420_000):
        folder = tmp_path / str(limit)
        command = [sys.executable, "-c", script, str(folder), str(limit)]
        told = subprocess.run(command, capture_output=True, text=True, check=True, env=environment())
        assert "committed rows are intact" in told.stdout, told
        done = int(told.stdout.split()[0])
        with Archive.open(folder) as archive:
            assert makers.contents(archive) == makers.expected_contents(range(done))
        assert not verify_archive(folder).damaged
        makers.write(folder, range(done + 2))
        with Archive.open(folder) as archive:
            assert makers.contents(archive) == makers.expected_contents(range(done + 2))


# -- torn, foreign and newer archives -----------------------------------------------------------------


@pytest.mark.parametrize("column", "f16 i8 scale box time source level".split())
def test_a_torn_segment_is_refused_by_name_and_bytes(folder: Path, column: str) -> None:
    path = folder / "segments" / f"000001.{column}"
    expected = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-1])
    message = rf"000001\.{column} holds {expected - 1} bytes, the record expects {expected}"
    with pytest.raises(ArchiveCorruptError, match=message):
        Archive.open(folder)
    with pytest.raises(ArchiveCorruptError, match=message):
        ArchiveWriter(folder, makers.MODEL, makers.FP32)
    path.unlink()
    with pytest.raises(ArchiveCorruptError, match=rf"000001\.{column} is missing"):
        Archive.open(folder)


def test_a_newer_format_is_refused(folder: Path) -> None:
    for statement in ("PRAGMA user_version = 3", "UPDATE info SET value = '7' WHERE key = 'format_version'"):
        copy = folder.with_name(statement[:3])
        shutil.copytree(folder, copy)
        database = sqlite3.connect(copy / "archive.db", isolation_level=None)
        database.execute(statement)
        database.close()
        for use in (
            Archive.open,
            verify_archive,
            lambda path: ArchiveWriter(path, makers.MODEL, makers.FP32),
        ):
            with pytest.raises(
                ArchiveError, match=r"format_version [37], this lrsclip-rt reads up to 2. Upgrade"
            ):
                use(copy)


def test_a_database_that_forgot_rows_does_not_cut_them_off(folder: Path) -> None:
    for statement in ("UPDATE segments SET rows = 7", "DELETE FROM segments"):
        copy = folder.with_name(statement[:3])
        shutil.copytree(folder, copy)
        database = sqlite3.connect(copy / "archive.db", isolation_level=None)
        database.execute("PRAGMA foreign_keys = OFF")
        database.execute(statement)
        database.close()
        with pytest.raises(ArchiveCorruptError, match="its last tile is row 17 of segment 1"):
            ArchiveWriter(copy, makers.MODEL, makers.FP32)
        assert (copy / "segments" / "000001.f16").stat().st_size == 18 * makers.DIM * 2
        assert verify_archive(copy).damaged


def test_what_is_no_archive_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("text")
    (tmp_path / "other").mkdir()
    database = sqlite3.connect(tmp_path / "other" / "archive.db")
    database.execute("CREATE TABLE photos (name)")
    database.close()
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "archive.db").write_text("this is a text, not a database" * 100)
    for name, message in {
        "empty": "holds no archive.db",
        "missing": "does not exist",
        "file": "is no archive",
        "other": "of something else",
        "text": "no readable SQLite database",
    }.items():
        with pytest.raises(ArchiveError, match=message):
            Archive.open(tmp_path / name)
    for name in ("file", "other", "text"):
        with pytest.raises(ArchiveError):
            ArchiveWriter(tmp_path / name, makers.MODEL, makers.FP32)
    assert (tmp_path / "text" / "archive.db").read_text().startswith("this is a text")


def test_a_folder_of_other_things_does_not_become_an_archive(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"precious")
    with pytest.raises(ArchiveError, match=r"is no archive but holds holiday\.jpg"):
        ArchiveWriter(tmp_path, makers.MODEL, makers.FP32)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["holiday.jpg"]


def test_vectors_are_never_thrown_away_with_a_lost_database(folder: Path) -> None:
    for name in ("archive.db", "archive.db-wal", "archive.db-shm"):
        (folder / name).unlink(missing_ok=True)
    size = (folder / "segments" / "000001.f16").stat().st_size
    with pytest.raises(ArchiveCorruptError, match=r"archive\.db is missing, but .*segments holds vectors"):
        ArchiveWriter(folder, makers.MODEL, makers.FP32)
    assert (folder / "segments" / "000001.f16").stat().st_size == size


@pytest.mark.parametrize("stage", ["folder", "lock", "segments", "model", "empty database"])
def test_an_interrupted_creation_is_taken_up(tmp_path: Path, stage: str) -> None:
    folder = tmp_path / "archive"
    folder.mkdir()
    stages = ["folder", "lock", "segments", "model", "empty database"]
    reached = stages[: stages.index(stage) + 1]
    if "lock" in reached:
        (folder / "writer.lock").write_text('{"pid": 1')
    if "segments" in reached:
        (folder / "segments").mkdir()
    if "model" in reached:
        (folder / "model").mkdir()
        (folder / ".model.abc.part").mkdir()
        (folder / ".model.abc.part" / "text.fp32.onnx").write_bytes(b"half")
    if "empty database" in reached:
        sqlite3.connect(folder / "archive.db").close()
        (folder / "archive.db").touch()
    makers.write(folder, range(2))
    with Archive.open(folder) as archive:
        assert makers.contents(archive) == makers.expected_contents(range(2))
    assert not list(folder.glob(".model*"))


def test_a_power_cut_in_the_first_moments_is_taken_up(tmp_path: Path) -> None:
    """Before the write-ahead log is in use, SQLite leaves a rollback journal that a reader cannot apply."""
    database = sqlite3.connect(tmp_path / "made.db", isolation_level=None)
    database.execute("PRAGMA cache_size = 1")
    database.execute("BEGIN")
    database.execute("CREATE TABLE half (content)")
    database.executemany("INSERT INTO half VALUES (?)", [(b"x" * 4000,)] * 50)
    folder = tmp_path / "archive"
    folder.mkdir()
    for suffix in ("", "-journal"):
        shutil.copy(tmp_path / f"made.db{suffix}", folder / f"archive.db{suffix}")
    database.close()
    assert (folder / "archive.db").stat().st_size > 0
    with pytest.raises(ArchiveError, match=r"never finished being created\. Run lrsclip"):
        Archive.open(folder)
    makers.write(folder, range(2))
    with Archive.open(folder) as archive:
        assert makers.contents(archive) == makers.expected_contents(range(2))


def test_a_half_created_archive_says_so(tmp_path: Path) -> None:
    (tmp_path / "archive.db").touch()
    with pytest.raises(ArchiveError, match="never finished being created"):
        Archive.open(tmp_path)


@pytest.mark.parametrize("key", ["model_identity", "dim", "block_rows", "format_version"])
def test_a_database_without_its_facts_is_refused(folder: Path, key: str) -> None:
    database = sqlite3.connect(folder / "archive.db", isolation_level=None)
    database.execute("DELETE FROM info WHERE key = ?", (key,))
    database.close()
    with pytest.raises(ArchiveCorruptError, match=f"lacks {key}"):
        Archive.open(folder)


@pytest.mark.parametrize("value", ["-5", "0", "a", "1e9", "99999999999999999999"])
def test_a_database_of_nonsense_is_refused(folder: Path, value: str) -> None:
    database = sqlite3.connect(folder / "archive.db", isolation_level=None)
    database.execute("UPDATE info SET value = ? WHERE key = 'dim'", (value,))
    database.close()
    with pytest.raises(ArchiveError):
        Archive.open(folder)


def test_random_damage_never_crashes(folder: Path) -> None:
    """Whatever bytes are wrong: an answer, or an error of ours."""
    rng = random.Random(3)
    database = sqlite3.connect(folder / "archive.db", isolation_level=None)
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()
    whole = (folder / "archive.db").read_bytes()
    for _ in range(60):
        content = bytearray(whole)
        for _ in range(rng.choice((1, 10, 300))):
            content[rng.randrange(len(content))] = rng.randrange(256)
        (folder / "archive.db").write_bytes(
            content[: rng.choice((len(content), rng.randrange(len(content))))]
        )
        for beside in ("archive.db-wal", "archive.db-shm"):
            (folder / beside).unlink(missing_ok=True)
        with contextlib.suppress(ArchiveError):
            verify_archive(folder)
        with contextlib.suppress(ArchiveError), Archive.open(folder) as archive:
            archive.search(makers.unit_rows(1), where=Where(bbox=(0, -1, 3, 1), start="1960-01-01"))


# -- readers that may not write -----------------------------------------------------------------------


def test_an_archive_on_a_read_only_disk_is_searched(tmp_path: Path) -> None:
    if shutil.which("mount") is None:
        pytest.skip("there is no mount command")
    with small_disk(tmp_path / "disk", "4m") as disk:
        folder = makers.write(disk / "archive", range(3))
        for beside in ("archive.db-wal", "archive.db-shm"):
            (folder / beside).unlink(missing_ok=True)
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        before = sorted(path.name for path in folder.iterdir())
        with Archive.open(folder) as archive:
            assert makers.contents(archive) == makers.expected_contents(range(3))
            assert len(archive.search(makers.unit_rows(1), k=2)[0]) == 2
        assert not verify_archive(folder).damaged
        assert sorted(path.name for path in folder.iterdir()) == before
        with pytest.raises(ArchiveError, match=r"writer\.lock cannot be written|cannot be an archive folder"):
            ArchiveWriter(folder, makers.MODEL, makers.FP32)


def test_a_writer_that_died_does_not_keep_readers_out(tmp_path: Path) -> None:
    """A log that was never folded into the database is read."""
    folder = tmp_path / "archive"
    script = (
        "import os, sys\n"
        "import archive_makers as makers\n"
        "writer = makers.ArchiveWriter(sys.argv[1], makers.MODEL, makers.FP32)\n"
        "makers.add(writer, 0); writer.commit(); makers.add(writer, 1); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", script, folder], check=False, env=environment())
    assert (folder / "archive.db-wal").stat().st_size > 0
    with Archive.open(folder) as archive:
        assert makers.contents(archive) == makers.expected_contents(range(1))
    with ArchiveWriter(folder, makers.MODEL, makers.FP32) as writer:
        assert writer.rows == 6


# -- odd contents ---------------------------------------------------------------------------------------


def test_an_empty_archive_answers_with_nothing(tmp_path: Path) -> None:
    with ArchiveWriter(tmp_path, makers.MODEL, makers.FP32):
        pass
    with Archive.open(tmp_path) as archive:
        for where in (None, Where(bbox=(0, 0, 1, 1)), Where(start="2020-01-01"), Where(metadata={"a": "b"})):
            results = archive.search(makers.unit_rows(2), where=where, min_score=0.1)
            assert [len(hits) for hits in results] == [0, 0]
            assert [hits.presence for hits in results] == [None, None]
            assert [hits.present for hits in results] == [False, False]


def test_one_row_is_enough(tmp_path: Path) -> None:
    with ArchiveWriter(tmp_path, makers.MODEL, makers.FP32) as writer:
        source = writer.add_source(makers.content(0))
        writer.append(source, [makers.whole()], makers.unit_rows(1))
    with Archive.open(tmp_path) as archive:
        [hits] = archive.search(makers.unit_rows(1), k=10)
        assert len(hits) == 1
        assert hits[0].z == 0.0
        assert hits.presence == pytest.approx(1.0, abs=1e-3)


def test_wide_models_and_huge_windows_are_only_numbers(tmp_path: Path) -> None:
    model = ModelRecord("ef" * 32, "wide", 1280)
    rows = makers.unit_rows(3, dim=1280)
    with ArchiveWriter(tmp_path, model, makers.FP32, segment_rows=2, block_rows=1) as writer:
        source = writer.add_source(makers.content(0, width=2**31 - 1, height=2**31 - 1))
        tiles = [NewTile(2**31 - 1, Window(i, 2**31, 2**31 - 1, 2**31 - 1)) for i in range(3)]
        writer.append(source, tiles, rows)
    with Archive.open(tmp_path) as archive:
        [hits] = archive.search(rows[2], k=3, merge=False)
        assert hits[0].window == tiles[2].window
        assert np.float16(hits[0].score) == pytest.approx(1.0, abs=1e-3)
    assert not verify_archive(tmp_path).damaged

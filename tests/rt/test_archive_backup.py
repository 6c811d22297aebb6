from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import archive_makers as makers
import archive_work
import pytest
from click.testing import CliRunner

from lrsclip_rt.archive import Archive, ArchiveWriter
from lrsclip_rt.archive import backing_up as backing_up_module
from lrsclip_rt.archive.backing_up import backup_archive
from lrsclip_rt.archive.models import model_from_bundle, text_bundle
from lrsclip_rt.archive.verifying import verify_archive
from lrsclip_rt.bundle import Bundle
from lrsclip_rt.cli.archive import command
from lrsclip_rt.errors import ArchiveCorruptError, ArchiveError, OutputExistsError

SIZES = {"segment_rows": 20, "block_rows": 8}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path: Path = makers.write(tmp_path / "archive", range(5), **SIZES)
    with ArchiveWriter.of_existing(path) as writer:
        writer.delete_source(2)
    return path


def contents(folder: Path) -> dict[str, bytes]:
    with Archive.open(folder) as archive:
        found: dict[str, bytes] = makers.contents(archive)
        return found


def test_a_copy_is_an_archive_of_its_own(folder: Path, tmp_path: Path) -> None:
    before = contents(folder)
    report = backup_archive(folder, tmp_path / "copy")
    assert (report.rows, report.bytes) == (24, 30 * (16 * 2 + 16 + 4 + 32 + 8 + 8 + 4))
    shutil.rmtree(folder)
    assert contents(tmp_path / "copy") == before
    assert not verify_archive(tmp_path / "copy").damaged
    with ArchiveWriter.of_existing(tmp_path / "copy") as writer:
        makers.add(writer, 1)
        writer.compact()
    assert contents(tmp_path / "copy") == makers.expected_contents(range(5))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy"]


def test_the_text_tower_is_copied(made_bundle: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(made_bundle)
    ArchiveWriter(tmp_path / "archive", model_from_bundle(bundle), makers.FP32, bundle=bundle).close()
    backup_archive(tmp_path / "archive", tmp_path / "copy")
    with Archive.open(tmp_path / "copy") as archive:
        assert text_bundle(archive).identity == bundle.identity


def test_what_is_not_committed_is_not_copied(folder: Path, tmp_path: Path) -> None:
    before = contents(folder)
    with ArchiveWriter.of_existing(folder) as writer:
        makers.add(writer, 9)
        writer.delete_source(1)
        backup_archive(folder, tmp_path / "copy")
    assert contents(tmp_path / "copy") == before
    sizes = {p.name: p.stat().st_size for p in (tmp_path / "copy" / "segments").glob("*.f16")}
    assert sizes == {"000001.f16": 20 * 32, "000002.f16": 10 * 32}


def test_copies_made_while_a_writer_works_are_each_of_one_moment(tmp_path: Path) -> None:
    import random

    states = [archive_work.State()]
    work = archive_work.Work(tmp_path / "archive", random.Random(4), {}, lambda _: None)
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            work.step()
            if work.committed != states[-1]:
                states.append(dict(work.committed))

    thread = threading.Thread(target=write)
    thread.start()
    copies = [tmp_path / f"copy-{number}" for number in range(12)]
    for copy in copies:
        backup_archive(tmp_path / "archive", copy)
    stop.set()
    thread.join()
    work.writer.close()
    expected = [archive_work.expected(state) for state in [*states, work.committed]]
    last = 0
    for copy in copies:
        found = contents(copy)
        assert found in expected[last:]
        last = expected.index(found, last)
        assert not verify_archive(copy).damaged
    assert len(states) > 10


def test_a_compaction_in_the_middle_starts_the_copy_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy_segment, compacted = backing_up_module._copy_segment, []

    def compact_first(*arguments: object) -> int:
        if not compacted:
            compacted.append(True)
            with ArchiveWriter.of_existing(folder) as writer:
                writer.compact()
        return copy_segment(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(backing_up_module, "_copy_segment", compact_first)
    backup_archive(folder, tmp_path / "copy")
    assert contents(tmp_path / "copy") == contents(folder)
    assert [path.name for path in (tmp_path / "copy" / "segments").glob("*.f16")] == [
        "000003.f16",
        "000004.f16",
    ]


def test_damage_is_not_copied_and_nothing_is_left(folder: Path, tmp_path: Path) -> None:
    path = folder / "segments" / "000002.f16"
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    with pytest.raises(ArchiveCorruptError, match=r"000002\.f16: rows 0 to 7"):
        backup_archive(folder, tmp_path / "copy")
    assert [p.name for p in tmp_path.iterdir()] == ["archive"]


def test_a_copy_never_overwrites(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "precious").touch()
    with pytest.raises(OutputExistsError, match="Choose another name"):
        backup_archive(folder, tmp_path / "copy")
    with pytest.raises(ArchiveError, match="is no archive"):
        backup_archive(tmp_path / "copy", tmp_path / "other")


def test_the_command_tells_what_was_copied(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    result = CliRunner().invoke(command, ["backup", str(folder), str(copy), "--json"], catch_exceptions=False)
    assert json.loads(result.output) == {"copy": str(copy), "rows": 24, "bytes": 30 * 104}


def test_a_copy_that_was_killed_is_not_there(folder: Path, tmp_path: Path) -> None:
    script = (
        "import os, sys\n"
        "from lrsclip_rt.archive.backing_up import backup_archive\n"
        "backup_archive(sys.argv[1], sys.argv[2], progress=lambda count: os._exit(9))"
    )
    done = subprocess.run([sys.executable, "-c", script, folder, tmp_path / "copy"], check=False)
    assert done.returncode == 9
    assert not (tmp_path / "copy").exists()
    backup_archive(folder, tmp_path / "copy")
    assert contents(tmp_path / "copy") == contents(folder)


def test_a_disk_that_is_too_small_for_a_copy_is_named(folder: Path, tmp_path: Path) -> None:
    script = (
        "import resource, sys\n"
        "from lrsclip_rt.archive.backing_up import backup_archive\n"
        "from lrsclip_rt.errors import ArchiveError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]),) * 2)\n"
        "try: backup_archive(sys.argv[1], sys.argv[2])\n"
        "except ArchiveError as error: print(error)"
    )
    for limit in (40_000, 60_000):
        arguments = [sys.executable, "-c", script, folder, tmp_path / "copy", str(limit)]
        told = subprocess.run(arguments, capture_output=True, text=True, check=True)
        assert "could not be" in told.stdout, told
        assert [path.name for path in tmp_path.iterdir()] == ["archive"]


def test_an_empty_folder_becomes_the_copy(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    backup_archive(folder, tmp_path / "copy")
    assert contents(tmp_path / "copy") == contents(folder)

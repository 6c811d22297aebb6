from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import archive_makers as makers
import pytest

from lrsclip_rt.archive import ArchiveWriter, NewTile
from lrsclip_rt.archive.verifying import verify_archive
from lrsclip_rt.errors import ArchiveError
from lrsclip_rt.tiles import Window


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path: Path = makers.write(tmp_path / "archive", range(5), segment_rows=20, block_rows=8)
    return path


def damage(folder: Path) -> dict[str, str]:
    return {finding.file: finding.problem for finding in verify_archive(folder).findings if finding.damage}


def change(folder: Path, statement: str) -> None:
    database = sqlite3.connect(folder / "archive.db", isolation_level=None)
    database.execute(statement)
    database.close()


def test_a_sound_archive_has_no_findings_but_the_missing_model(folder: Path) -> None:
    report = verify_archive(folder)
    assert not report.damaged
    assert [(finding.file, finding.damage) for finding in report.findings] == [("model", False)]
    assert report.rows == 30
    row_bytes = 16 * 2 + 16 + 4 + 32 + 8 + 8 + 4
    assert report.bytes == 30 * row_bytes


@pytest.mark.parametrize("column", "f16 i8 scale box time source level".split())
def test_one_flipped_bit_is_found_in_its_file_and_block(folder: Path, column: str) -> None:
    path = folder / "segments" / f"000001.{column}"
    content = bytearray(path.read_bytes())
    row_bytes = len(content) // 20
    content[17 * row_bytes + 1] ^= 4
    path.write_bytes(content)
    found = damage(folder)
    assert found[f"segments/000001.{column}"]
    messages = [f.problem for f in verify_archive(folder).findings if f.file == f"segments/000001.{column}"]
    assert f"rows 16 to 19 (bytes {16 * row_bytes} on) differ from their checksum" in messages


def test_a_file_that_is_short_or_gone_is_named(folder: Path) -> None:
    short, gone = folder / "segments" / "000002.box", folder / "segments" / "000001.i8"
    short.write_bytes(short.read_bytes()[:-1])
    gone.unlink()
    assert damage(folder) == {
        "segments/000002.box": "holds 319 bytes, the record expects 320",
        "segments/000001.i8": "is missing, the record expects 320",
    }


def test_a_swapped_file_of_the_right_length_is_found(folder: Path) -> None:
    first, second = folder / "segments" / "000001.f16", folder / "segments" / "000001.f16.old"
    content = first.read_bytes()
    first.rename(second)
    first.write_bytes(content[32:] + content[:32])
    second.unlink()
    assert "segments/000001.f16" in damage(folder)


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("DELETE FROM tiles WHERE segment = 2 AND row = 9", "1 rows of segment 2 have no tile"),
        ("DELETE FROM tiles WHERE segment = 1 AND row = 3", "do not match its living rows one to one"),
        ("UPDATE tiles SET id = 'ff' || substr(id, 3) WHERE tile = 7", "has not the id of its source"),
        ("UPDATE tiles SET row_off = row_off + 1 WHERE tile = 7", "has not the id of its source"),
        ("DELETE FROM tile_boxes WHERE box = 3", "R*Tree holds 29 boxes, its tiles have 30"),
        ("DELETE FROM blocks WHERE segment = 1 AND column_name = 'f16' AND block = 1", "cover 12 of 20 rows"),
    ],
)
def test_a_database_that_does_not_fit_the_rows_is_found(folder: Path, statement: str, expected: str) -> None:
    change(folder, statement)
    assert any(f.file == "archive.db" and expected in f.problem for f in verify_archive(folder).findings)


@pytest.mark.parametrize(
    ("statement", "column"),
    [
        ("UPDATE tiles SET time_us = 5 WHERE tile = 26", "time"),
        ("UPDATE tiles SET time_us = NULL WHERE tile = 26", "time"),
        ("UPDATE tiles SET east = east + 1 WHERE tile = 26", "box"),
        ("UPDATE tiles SET west = NULL WHERE tile = 26", "box"),
        ("UPDATE tiles SET source = 1, level = 255 WHERE tile = 26", "source"),
        ("UPDATE tiles SET level = 255 WHERE tile = 26", "level"),
    ],
)
def test_a_column_that_disagrees_with_its_tile_is_found(folder: Path, statement: str, column: str) -> None:
    change(folder, statement)
    assert damage(folder)[f"segments/000002.{column}"].startswith("row 5 is not what its tile")


def test_damage_inside_the_database_is_found(folder: Path) -> None:
    path = folder / "archive.db"
    change(folder, "PRAGMA wal_checkpoint(TRUNCATE)")
    content = bytearray(path.read_bytes())
    identifier = next(iter(makers.expected_contents(range(1)))).encode()
    page = content.index(identifier) // 4096
    content[page * 4096 : page * 4096 + 12] = b"\x07" * 12
    path.write_bytes(content)
    assert "archive.db" in damage(folder)


def test_a_damaged_model_is_found(folder: Path, made_bundle: Path) -> None:
    shutil.copytree(made_bundle, folder / "model")
    assert "is of another model" in damage(folder)["model"]
    (folder / "model" / "bundle.json").unlink()
    assert "no bundle" in damage(folder)["model"]


def test_places_across_the_antimeridian_have_two_boxes(tmp_path: Path) -> None:
    with ArchiveWriter(tmp_path, makers.MODEL, makers.FP32) as writer:
        source = writer.add_source(makers.content(0))
        writer.append(
            source, [NewTile(256, Window(0, 0, 9, 9), (179.0, 0.0, -179.0, 1.0))], makers.unit_rows(1)
        )
    assert not verify_archive(tmp_path).damaged


def test_only_archives_are_verified(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="is no archive"):
        verify_archive(tmp_path)

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import archive_makers as makers
import numpy as np
import pytest
from click.testing import CliRunner

from lrsclip_rt.archive import Archive, ArchiveWriter, Hits, Producer
from lrsclip_rt.archive import store as store_module
from lrsclip_rt.archive.segments import columns_of
from lrsclip_rt.archive.verifying import verify_archive
from lrsclip_rt.cli.archive import command
from lrsclip_rt.errors import ArchiveCorruptError

SIZES = {"segment_rows": 20, "block_rows": 8}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path: Path = makers.write(tmp_path / "archive", range(9), **SIZES)
    with ArchiveWriter.of_existing(path) as writer:
        writer.delete_sources([2, 5])
    return path


def segment_files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "segments").iterdir())}


def rows_by_id(archive: Archive) -> dict[str, tuple[bytes, ...]]:
    """Every column's bytes of every living row."""
    found = {}
    for tile in archive.catalog.tiles(
        range(sum(s.rows for s in archive.segments)), archive.segments
    ).values():
        segment = next(s for s in reversed(archive.mapped_segments) if s.record.base <= tile.row)
        row = tile.row - segment.record.base
        found[tile.id] = tuple(getattr(segment, c.name)[row].tobytes() for c in columns_of(archive.dim))
    return found


def answers(archive: Archive) -> list[list[tuple[str, float, str]]]:
    queries = makers.unit_rows(8, 77)
    return [
        [(hit.id, hit.score, hit.source) for hit in hits]
        for hits in archive.search(queries, k=7, merge=False)
    ]


def test_living_rows_keep_their_bytes_ids_and_answers(folder: Path) -> None:
    with Archive.open(folder) as archive:
        before, told = rows_by_id(archive), answers(archive)
    with ArchiveWriter.of_existing(folder) as writer:
        report = writer.compact()
        assert writer.rows == 42
    assert (report.rows, report.removed_rows, report.moved_rows) == (42, 12, 42)
    assert (report.segments_before, report.segments_after) == ((1, 2, 3), (4, 5, 6))
    with Archive.open(folder) as archive:
        assert [(s.number, s.base, s.rows, s.dead) for s in archive.segments] == [
            (4, 0, 20, ()),
            (5, 20, 20, ()),
            (6, 40, 2, ()),
        ]
        assert rows_by_id(archive) == before
        assert answers(archive) == told
        assert makers.contents(archive).keys() == before.keys()
    assert {name.partition(".")[0] for name in segment_files(folder)} == {"000004", "000005", "000006"}
    assert not verify_archive(folder).findings[1:], "nothing but the missing model"


def test_a_compact_archive_is_left_alone(folder: Path) -> None:
    with ArchiveWriter.of_existing(folder) as writer:
        writer.compact()
        files = segment_files(folder)
        report = writer.compact()
    assert (report.removed_rows, report.moved_rows) == (0, 0)
    assert segment_files(folder) == files


def test_only_what_needs_it_is_rewritten(tmp_path: Path) -> None:
    folder = makers.write(tmp_path / "archive", range(9), **SIZES)
    with ArchiveWriter.of_existing(folder) as writer:
        writer.delete_source(5)
        report = writer.compact()
    assert report.segments_after == (1, 4, 5)
    with Archive.open(folder) as archive:
        assert [(s.number, s.rows) for s in archive.segments] == [(1, 20), (4, 20), (5, 8)]
        assert archive.tiles_of_source(1)[0].row == 0


def test_small_segments_of_one_producer_are_joined(tmp_path: Path) -> None:
    folder = tmp_path / "archive"
    for number in range(6):
        by = Producer("fp32", "openvino") if number % 2 else makers.FP32
        with ArchiveWriter(folder, makers.MODEL, by, **SIZES) as writer:
            makers.add(writer, number)
    with ArchiveWriter.of_existing(folder) as writer:
        writer.compact()
    with Archive.open(folder) as archive:
        assert [(s.producer.backend, s.rows) for s in archive.segments] == [
            ("onnxruntime", 18),
            ("openvino", 18),
        ]
        assert makers.contents(archive) == makers.expected_contents(range(6))
    assert not verify_archive(folder).damaged


def test_a_writer_goes_on_after_a_compaction(folder: Path) -> None:
    with ArchiveWriter.of_existing(folder) as writer:
        makers.add(writer, 20)
        writer.compact()
        makers.add(writer, 21)
        writer.delete_source(1)
        writer.commit()
        writer.compact()
        makers.add(writer, 0)
    with ArchiveWriter.of_existing(folder) as writer:
        makers.add(writer, 22)
    with Archive.open(folder) as archive:
        kept = {
            k: v
            for n in (0, 2, 3, 5, 6, 7, 8, 20, 21, 22)
            for k, v in makers.expected_contents(range(n, n + 1)).items()
        }
        assert makers.contents(archive) == kept
    assert not verify_archive(folder).damaged


def test_when_everything_was_deleted_nothing_is_left_and_numbers_go_on(folder: Path) -> None:
    with ArchiveWriter.of_existing(folder) as writer:
        writer.delete_sources([1, 3, 4, 6, 7, 8, 9])
        assert writer.compact().segments_after == ()
        assert segment_files(folder) == {}
    with ArchiveWriter.of_existing(folder) as writer:
        makers.add(writer, 1)
    with Archive.open(folder) as archive:
        assert [s.number for s in archive.segments] == [4], "segment numbers are never given twice"
        assert makers.contents(archive) == makers.expected_contents(range(1, 2))


def test_a_reader_that_was_open_goes_on_through_several_compactions(folder: Path) -> None:
    with Archive.open(folder) as archive:
        told, held = answers(archive), makers.contents(archive)
        by_id = {identifier: archive.tile(identifier) for identifier in held}
        of_source = archive.tiles_of_source(3)
        with ArchiveWriter.of_existing(folder) as writer:
            writer.compact()
        assert answers(archive) == told
        with ArchiveWriter.of_existing(folder) as writer:
            makers.add(writer, 30)
            writer.delete_source(1)
            writer.compact()
        assert archive.tiles_of_source(3) == of_source
        gone = set(makers.expected_contents(range(1)))
        for identifier, tile in by_id.items():
            if identifier not in gone:
                assert archive.tile(identifier) == tile
        queries = makers.unit_rows(3, 5)
        for hits in archive.search(queries, k=50, merge=False):
            assert {hit.id for hit in hits} == held.keys() - gone
        assert archive.refresh() == 42
        assert (
            makers.contents(archive).keys()
            == (held.keys() - gone) | makers.expected_contents(range(30, 31)).keys()
        )


def test_moves_that_lead_in_a_circle_are_refused(folder: Path) -> None:
    with Archive.open(folder) as archive:
        identifier = archive.tiles_of_source(9)[0].id
        with ArchiveWriter.of_existing(folder) as writer:
            writer.compact()
        database = sqlite3.connect(folder / "archive.db", isolation_level=None)
        database.execute("UPDATE moves SET to_segment = segment")
        with pytest.raises(ArchiveCorruptError, match="segment 3 was moved to segment 3"):
            archive.catalog.tiles([41], archive.segments)
        database.execute("UPDATE moves SET segment = segment + 6, to_segment = segment + 3")
        database.close()
        with pytest.raises(ArchiveCorruptError, match=r"segment \d was moved to segment \d"):
            archive.tile(identifier)


def test_opening_while_files_are_taken_away_sees_the_new_ones(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mapped = store_module.map_segment
    compacted = []

    def compact_first(*arguments: object) -> object:
        if not compacted:
            compacted.append(True)
            with ArchiveWriter.of_existing(folder) as writer:
                writer.compact()
        return mapped(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(store_module, "map_segment", compact_first)
    with Archive.open(folder) as archive:
        assert [s.number for s in archive.segments] == [4, 5, 6]
        assert len(makers.contents(archive)) == 42


def test_verification_while_files_are_taken_away_looks_again(folder: Path) -> None:
    compacted = []

    def compact_once(_: int) -> None:
        if not compacted:
            compacted.append(True)
            with ArchiveWriter.of_existing(folder) as writer:
                writer.compact()

    report = verify_archive(folder, progress=compact_once)
    assert not report.damaged, report.findings
    assert report.rows == 42


@pytest.mark.parametrize("column", "f16 i8 scale box time source level".split())
def test_damage_is_never_copied_under_a_new_checksum(folder: Path, column: str) -> None:
    path = folder / "segments" / f"000002.{column}"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    before = segment_files(folder)
    with (
        ArchiveWriter.of_existing(folder) as writer,
        pytest.raises(ArchiveCorruptError, match=rf"000002\.{column}: rows 8 to 15"),
    ):
        writer.compact()
    assert segment_files(folder) == before
    with Archive.open(folder) as archive:
        assert len(archive) == 42


def test_the_command_says_what_it_did(folder: Path) -> None:
    result = CliRunner().invoke(command, ["compact", str(folder), "--json"], catch_exceptions=False)
    assert json.loads(result.output) == {
        "archive": str(folder),
        "rows": 42,
        "rows_removed": 12,
        "rows_moved": 42,
        "segments_before": 3,
        "segments_after": 3,
    }


def test_ties_keep_their_scores(tmp_path: Path) -> None:
    """Equal rows may answer in another order, since the first of them is the best."""
    folder = tmp_path / "archive"
    row = makers.unit_rows(1)
    with ArchiveWriter(folder, makers.MODEL, makers.FP32, segment_rows=3, block_rows=2) as writer:
        for number in range(8):
            source = writer.add_source(makers.content(number))
            writer.append(source, [makers.whole()], row)
        writer.delete_source(2)

    def found() -> tuple[Hits, list[float]]:
        with Archive.open(folder) as archive:
            [hits] = archive.search(row, k=8, merge=False)
            return hits, [hit.score for hit in hits]

    before, scores = found()
    with ArchiveWriter.of_existing(folder) as writer:
        writer.compact()
    after, scores_after = found()
    assert scores == scores_after
    assert np.ptp(scores) == 0
    assert {hit.id for hit in before} == {hit.id for hit in after}

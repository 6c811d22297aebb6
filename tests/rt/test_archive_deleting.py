from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import archive_makers as makers
import numpy as np
import pytest
from click.testing import CliRunner

from lrsclip_rt.archive import Archive, ArchiveWriter, NewTile, Producer, Where
from lrsclip_rt.archive.deleting import sources_to_delete
from lrsclip_rt.archive.verifying import verify_archive
from lrsclip_rt.cli.archive import command
from lrsclip_rt.errors import ArchiveError, ArchiveLockedError, InputError
from lrsclip_rt.tiles import Window


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path: Path = makers.write(tmp_path / "archive", range(5), segment_rows=20, block_rows=8)
    return path


def delete(folder: Path, *numbers: int) -> int:
    with ArchiveWriter.of_existing(folder) as writer:
        return writer.delete_sources(numbers)


def expected(*sources: int) -> dict[str, bytes]:
    return {k: v for n in sources for k, v in makers.expected_contents(range(n, n + 1)).items()}


def test_what_is_deleted_is_gone_and_no_other_row_moves(folder: Path) -> None:
    with Archive.open(folder) as before:
        rows = {i: before.tile(i).row for i in makers.contents(before)}
    assert delete(folder, 2, 5) == 12
    with Archive.open(folder) as archive:
        assert len(archive) == 18
        assert makers.contents(archive) == expected(0, 2, 3)
        assert {i: archive.tile(i).row for i in expected(0, 2, 3)} == {i: rows[i] for i in expected(0, 2, 3)}
        assert [s.dead for s in archive.segments] == [((6, 6),), ((4, 6),)]
        first, second = archive.mapped_segments
        assert first.alive is not None
        assert second.alive is not None
        assert np.flatnonzero(~first.alive).tolist() == [6, 7, 8, 9, 10, 11]
        assert np.flatnonzero(~second.alive).tolist() == [4, 5, 6, 7, 8, 9]
        with pytest.raises(InputError, match="no source number 2"):
            archive.content(2)
        assert archive.tiles_of_source(2) == ()
        for number in (0, 1):
            [hits] = archive.search(makers.unit_rows(1, number), k=30, merge=False)
            assert {hit.id for hit in hits} == set(expected(0, 2, 3))
    assert not verify_archive(folder).damaged


def test_where_nothing_was_deleted_every_row_lives(folder: Path) -> None:
    with Archive.open(folder) as archive:
        assert [segment.alive for segment in archive.mapped_segments] == [None, None]


def test_a_deleted_file_is_indexed_again_under_the_same_ids(folder: Path) -> None:
    delete(folder, 3)
    with ArchiveWriter.of_existing(folder) as writer:
        number = makers.add(writer, 2)
        assert number == 6, "the number of a source is never given twice"
        assert writer.commit() == 30
    with Archive.open(folder) as archive:
        assert makers.contents(archive) == makers.expected_contents(range(5))
    assert not verify_archive(folder).damaged


def test_the_number_of_the_last_source_is_not_given_again(folder: Path) -> None:
    delete(folder, 5)
    delete(folder, 4)
    with ArchiveWriter.of_existing(folder) as writer:
        assert makers.add(writer, 7) == 6


def test_rows_that_are_not_committed_yet_can_be_deleted(folder: Path) -> None:
    with ArchiveWriter.of_existing(folder) as writer:
        number = makers.add(writer, 5)
        makers.add(writer, 6)
        assert writer.delete_source(number) == 6
        assert makers.add(writer, 5) == number + 2
        writer.commit()
    with Archive.open(folder) as archive:
        assert makers.contents(archive) == makers.expected_contents(range(7))
        assert sum(s.rows for s in archive.segments) == 48
    assert not verify_archive(folder).damaged


def test_a_deletion_that_is_not_committed_is_none(folder: Path) -> None:
    writer = ArchiveWriter.of_existing(folder)
    writer.delete_sources([1, 2, 3])
    with Archive.open(folder) as archive:
        assert makers.contents(archive) == makers.expected_contents(range(5))
    writer.close()
    with Archive.open(folder) as archive:
        assert makers.contents(archive) == makers.expected_contents(range(5))


def test_a_reader_that_was_open_answers_without_what_was_deleted(folder: Path) -> None:
    with Archive.open(folder) as archive:
        delete(folder, 1)
        [hits] = archive.search(makers.unit_rows(1, 0), k=40, merge=False)
        assert {hit.id for hit in hits} == set(expected(1, 2, 3, 4))
        assert archive.refresh() == 24
        assert len(archive) == 24


def test_neighbouring_runs_become_one(folder: Path) -> None:
    for number in (3, 1, 2):
        delete(folder, number)
    with Archive.open(folder) as archive:
        assert [s.dead for s in archive.segments] == [((0, 18),), ()]


def test_a_source_that_is_not_there_is_refused(folder: Path) -> None:
    with ArchiveWriter.of_existing(folder) as writer:
        with pytest.raises(InputError, match="no source number 9"):
            writer.delete_sources([1, 2, 9])
        assert writer.commit() == 30, "all of them or none"


def test_boxes_go_also_across_the_antimeridian_and_no_others_do(tmp_path: Path) -> None:
    across = (179.0, 0.0, -179.0, 1.0)
    with ArchiveWriter(tmp_path, makers.MODEL, makers.FP32) as writer:
        for number, box in enumerate((across, across, (-180.0, 0.0, 180.0, 1.0), None)):
            source = writer.add_source(makers.content(number))
            writer.append(source, [NewTile(256, Window(0, 0, 9, 9), box)], makers.unit_rows(1))
        writer.delete_sources([2, 4])
    with Archive.open(tmp_path) as archive:
        assert archive.catalog.rows("SELECT DISTINCT tile FROM tile_boxes ORDER BY tile") == [(1,), (3,)]
        assert len(archive.search(makers.unit_rows(1), where=Where(bbox=(178, 0, -178, 1)))[0]) == 2
    assert not verify_archive(tmp_path).damaged


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("UPDATE deletions SET rows = 5", "do not match its living rows one to one"),
        ("UPDATE deletions SET rows = 99", "are recorded as deleted, but it has"),
        ("DELETE FROM deletions", "do not match its living rows one to one"),
    ],
)
def test_deletions_that_do_not_fit_the_tiles_are_found(folder: Path, statement: str, expected: str) -> None:
    delete(folder, 2)
    database = sqlite3.connect(folder / "archive.db", isolation_level=None)
    database.execute(statement)
    database.close()
    assert any(f.damage and expected in f.problem for f in verify_archive(folder).findings)


def test_sources_are_chosen_by_path_by_tile_and_by_metadata(folder: Path) -> None:
    with ArchiveWriter.of_existing(folder) as writer:
        writer.add_metadata(1, {"sensor": "naip"})
        writer.add_metadata(2, {"sensor": "naip"})
        writer.add_metadata(3, {"sensor": "s2"})
    with Archive.open(folder) as archive:
        tile = archive.tiles_of_source(4)[2].id
        assert sources_to_delete(archive, patterns=["000.tif", "/data/scenes/003.tif"]) == [1, 4]
        assert sources_to_delete(archive, patterns=["00[12].tif"]) == [2, 3]
        assert sources_to_delete(archive, patterns=["/data/lists/../scenes/003.tif"]) == [4]
        assert sources_to_delete(archive, ids=[tile[:16]]) == [4]
        assert sources_to_delete(archive, metadata={"sensor": "naip"}) == [1, 2]
        assert sources_to_delete(archive, patterns=["*"], metadata={"sensor": "s2"}) == [3]
        for wrong, message in (
            ({"patterns": ["000.tif", "nowhere.tif"]}, "lies at nowhere.tif; nothing was deleted"),
            ({"metadata": {"sensor": "landsat"}}, "no source of .* has all"),
            ({"patterns": ["004.tif"], "metadata": {"sensor": "s2"}}, "no source of .* has all"),
            ({}, "say what to delete"),
        ):
            with pytest.raises(InputError, match=message):
                sources_to_delete(archive, **wrong)  # type: ignore[arg-type]


def test_the_command_lists_first_and_deletes_when_told(folder: Path) -> None:
    arguments = ["delete", str(folder), "--source", "00[13].tif", "--json"]
    listed = CliRunner().invoke(command, [*arguments, "--dry-run"], catch_exceptions=False)
    records = [json.loads(line) for line in listed.output.splitlines()]
    assert records == [
        {"source": f"/data/scenes/{name}.tif", "rows": 6, "deleted": False} for name in ("001", "003")
    ]
    with Archive.open(folder) as archive:
        assert len(archive) == 30
    deleted = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert [json.loads(line)["deleted"] for line in deleted.output.splitlines()] == [True, True]
    with Archive.open(folder) as archive:
        assert makers.contents(archive) == expected(0, 2, 4)
    assert CliRunner().invoke(command, ["delete", str(folder)]).exit_code == 2


def test_a_writer_of_what_exists_needs_an_archive_and_the_lock(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="is no archive"):
        ArchiveWriter.of_existing(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
    with ArchiveWriter(folder, makers.MODEL, Producer("fp32", "openvino")), pytest.raises(ArchiveLockedError):
        ArchiveWriter.of_existing(folder)

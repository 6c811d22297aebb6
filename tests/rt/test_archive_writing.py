from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import archive_makers as makers
import numpy as np
import pytest

from lrsclip_rt.archive import (
    Archive,
    ArchiveWriter,
    ContentRecord,
    Location,
    ModelRecord,
    NewTile,
    Producer,
    Where,
)
from lrsclip_rt.archive.segments import int8_from_rows
from lrsclip_rt.archive.summary import summary_from_archive
from lrsclip_rt.archive.times import NO_TIME
from lrsclip_rt.archive.verifying import verify_archive
from lrsclip_rt.errors import ArchiveError, ArchiveLockedError, ArchiveModelError, InputError
from lrsclip_rt.tiles import Window


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "archive"


def open_writer(path: Path, **options: Any) -> ArchiveWriter:
    return ArchiveWriter(path, makers.MODEL, makers.FP32, **options)


def test_what_was_appended_comes_back(folder: Path) -> None:
    makers.write(folder, range(4))
    with Archive.open(folder) as archive:
        assert len(archive) == 24
        assert makers.contents(archive) == makers.expected_contents(range(4))
        assert archive.model == makers.MODEL
        assert archive.locations(1) == [Path("/data/scenes/000.tif")]
        tile = archive.tiles_of_source(2)[0]
        assert (tile.tile, tile.source) == (makers.grid(1)[0], 2)
        assert archive.content(2) == makers.content(1)


def test_rows_that_are_not_committed_are_not_seen(folder: Path) -> None:
    with open_writer(folder) as writer:
        makers.add(writer, 0)
        writer.commit()
        makers.add(writer, 1)
        archive = Archive.open(folder)
        assert len(archive) == 6
        assert (folder / "segments" / "000001.f16").stat().st_size == 12 * makers.DIM * 2
        writer.commit()
        assert len(archive) == 6, "a snapshot does not move by itself"
        assert archive.refresh() == 12
        archive.close()


def test_leaving_by_an_exception_drops_what_is_not_committed(folder: Path) -> None:
    def stop_in_the_middle() -> None:
        with open_writer(folder) as writer:
            makers.add(writer, 0)
            writer.commit()
            makers.add(writer, 1)
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        stop_in_the_middle()
    with Archive.open(folder) as archive:
        assert makers.contents(archive) == makers.expected_contents(range(1))
    assert (folder / "segments" / "000001.f16").stat().st_size == 6 * makers.DIM * 2


def test_the_same_tile_is_never_there_twice(folder: Path) -> None:
    with open_writer(folder) as writer:
        source = makers.add(writer, 0)
        tiles, rows = makers.grid(0), makers.unit_rows(6, 99)
        assert writer.append(source, tiles, rows) == 0, "pending tiles count as known"
        writer.commit()
        assert writer.append(source, tiles, rows) == 0
        assert writer.append(source, [makers.whole(), makers.whole()], rows[:2]) == 1
    with Archive.open(folder) as archive:
        assert len(archive) == 7
        expected = makers.expected_contents(range(1))
        assert {i: row for i, row in makers.contents(archive).items() if i in expected} == expected


def test_rows_of_many_sources_are_appended_together(folder: Path) -> None:
    with open_writer(folder) as writer:
        numbers = [writer.add_source(makers.content(number)) for number in range(4)]
        order = [3, 0, 0, 2, 1, 3]
        tiles = [makers.grid(number)[i] for i, number in enumerate(order)]
        rows = np.stack([makers.unit_rows(6, number)[i] for i, number in enumerate(order)])
        sources = [numbers[number] for number in order]
        assert writer.append(sources, tiles, rows) == 6
        assert writer.append(sources[::-1], tiles[::-1], rows[::-1]) == 0, "they are there already"
        with pytest.raises(InputError, match="source 77 is not in"):
            writer.append([numbers[0], 77], tiles[:2], rows[:2])
    with Archive.open(folder) as archive:
        found = makers.contents(archive)
        expected = makers.expected_contents(range(4))
        assert len(found) == 6
        assert all(expected[identifier] == row for identifier, row in found.items())
        (segment,) = archive.mapped_segments
        assert segment.source.tolist() == sources
        assert [archive.tile(name).source for name in found] == sources


def test_segments_end_at_their_size_and_checksums_at_their_blocks(folder: Path) -> None:
    makers.write(folder, range(9), segment_rows=20, block_rows=8)
    with Archive.open(folder) as archive:
        assert [(s.number, s.base, s.rows) for s in archive.segments] == [
            (1, 0, 20),
            (2, 20, 20),
            (3, 40, 14),
        ]
        assert makers.contents(archive) == makers.expected_contents(range(9))
        blocks = archive.catalog.rows(
            "SELECT segment, block, rows FROM blocks WHERE column_name = 'f16' ORDER BY segment, block"
        )
    full = [(segment, block, rows) for segment in (1, 2) for block, rows in enumerate((8, 8, 4))]
    assert blocks == [*full, (3, 0, 8), (3, 1, 6)]
    assert not verify_archive(folder).damaged


def test_a_second_session_goes_on_behind_the_first(folder: Path) -> None:
    for number in range(5):
        with open_writer(folder, segment_rows=8, block_rows=3) as writer:
            makers.add(writer, number)
    with Archive.open(folder) as archive:
        assert makers.contents(archive) == makers.expected_contents(range(5))
    assert not verify_archive(folder).damaged


def test_rows_of_an_interrupted_writer_are_cut_off(folder: Path) -> None:
    makers.write(folder, range(2))
    for name in ("000001.f16", "000001.time", "000002.f16", "000002.box"):
        with (folder / "segments" / name).open("ab") as stream:
            stream.write(b"rest of a writer that died" * 9)
    with Archive.open(folder) as archive:
        assert makers.contents(archive) == makers.expected_contents(range(2))
    found = verify_archive(folder)
    assert {f.file for f in found.findings if not f.damage and f.file != "model"} == {
        "segments/000001.f16",
        "segments/000001.time",
        "segments/000002.f16",
        "segments/000002.box",
    }
    assert not found.damaged
    open_writer(folder).close()
    assert sorted(path.name for path in (folder / "segments").iterdir()) == sorted(
        f"000001.{name}" for name in "f16 i8 scale box time source level".split()
    )
    assert (folder / "segments" / "000001.f16").stat().st_size == 12 * makers.DIM * 2
    assert (folder / "segments" / "000001.time").stat().st_size == 12 * 8
    makers.write(folder, range(3))
    with Archive.open(folder) as archive:
        assert makers.contents(archive) == makers.expected_contents(range(3))
    assert not verify_archive(folder).damaged


def test_a_session_of_another_backend_tidies_up_as_well(folder: Path) -> None:
    makers.write(folder, range(2))
    path = folder / "segments" / "000001.f16"
    with path.open("ab") as stream:
        stream.write(b"rest of a writer that died")
    ArchiveWriter(folder, makers.MODEL, Producer("fp32", "openvino")).close()
    assert path.stat().st_size == 12 * makers.DIM * 2


def test_vectors_reach_the_disk_before_the_commit(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    fsync = os.fsync

    def watched(descriptor: int) -> None:
        events.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        fsync(descriptor)

    with open_writer(folder) as writer:
        makers.add(writer, 0)
        monkeypatch.setattr(os, "fsync", watched)
        writer._database.set_trace_callback(events.append)
        writer.commit()
    commit = events.index("COMMIT")
    assert {f"000001.{name}" for name in "f16 i8 scale box time source level".split()} <= set(events[:commit])
    assert "segments" in events[:commit]


def test_the_columns_say_what_the_tiles_say(folder: Path) -> None:
    with open_writer(folder) as writer:
        source = writer.add_source(makers.content(0))
        tiles = [
            NewTile(256, Window(0, 0, 256, 256), (170.0, -5.0, -170.0, 5.0), (), -1, 0.5),
            makers.whole(),
        ]
        rows = makers.unit_rows(2)
        writer.append(source, tiles, rows)
    with Archive.open(folder) as archive:
        (segment,) = archive.mapped_segments
        assert segment.box[0].tolist() == [170.0, -5.0, -170.0, 5.0]
        assert np.isnan(segment.box[1]).all()
        assert segment.time.tolist() == [-1, NO_TIME]
        assert segment.level.tolist() == [256, 0]
        assert segment.source.tolist() == [source, source]
        codes, scale = int8_from_rows(rows.astype(np.float16))
        assert (segment.i8 == codes).all()
        assert (segment.scale == scale).all()
        approximate = segment.i8.astype(np.float32) * segment.scale[:, None]
        assert np.abs(approximate - rows).max() <= scale.max() / 2 + 1e-3
        boxes = archive.catalog.rows("SELECT min_lon, max_lon, tile FROM tile_boxes ORDER BY min_lon")
        assert boxes == [(-180.0, -170.0, 1), (170.0, 180.0, 1)]


def test_a_second_writer_is_told_who_holds_the_archive(folder: Path) -> None:
    with open_writer(folder) as writer:
        makers.add(writer, 0)
        with pytest.raises(ArchiveLockedError, match=f"process {os.getpid()} on .* since 20"):
            open_writer(folder)
        script = (
            "import sys; from lrsclip_rt.archive import *; from lrsclip_rt.errors import ArchiveLockedError\n"
            "try: ArchiveWriter(sys.argv[1], ModelRecord('ab' * 32, 'made', 16), Producer('fp32', 'x'))\n"
            "except ArchiveLockedError as error: print(error)"
        )
        told = subprocess.run(
            [sys.executable, "-c", script, folder], capture_output=True, text=True, check=True
        )
        assert f"process {os.getpid()}" in told.stdout
    with open_writer(folder) as writer:
        assert writer.rows == 6, "the lock is free once the writer is closed"


def test_readers_work_while_a_writer_does(folder: Path) -> None:
    makers.write(folder, range(1))
    stop, failures = threading.Event(), []

    def read() -> None:
        with Archive.open(folder) as archive:
            while not stop.is_set():
                rows = archive.refresh()
                if rows % 6 or len(makers.contents(archive)) != rows:
                    failures.append(rows)

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    with open_writer(folder, segment_rows=20) as writer:
        for number in range(1, 25):
            makers.add(writer, number)
            writer.commit()
    stop.set()
    for thread in threads:
        thread.join()
    assert not failures
    with Archive.open(folder) as archive:
        assert makers.contents(archive) == makers.expected_contents(range(25))


def test_another_model_is_refused_and_both_are_named(folder: Path) -> None:
    makers.write(folder)
    other = ModelRecord("cd" * 32, "other", makers.DIM)
    with pytest.raises(
        ArchiveModelError, match=r"made \(identity abababababab.*other \(identity cdcdcdcdcdcd"
    ):
        ArchiveWriter(folder, other, makers.FP32)
    open_writer(folder).close()


def test_segments_record_precision_and_backend(folder: Path) -> None:
    makers.write(folder, range(1))
    for producer, number in ((Producer("fp16", "tensorrt"), 1), (makers.FP32, 2), (makers.FP32, 3)):
        with ArchiveWriter(folder, makers.MODEL, producer) as writer:
            makers.add(writer, number)
    with Archive.open(folder) as archive:
        found = [(s.producer.precision, s.producer.backend, s.rows) for s in archive.segments]
        assert found == [("fp32", "onnxruntime", 6), ("fp16", "tensorrt", 6), ("fp32", "onnxruntime", 12)]
        assert makers.contents(archive) == makers.expected_contents(range(4))
    assert not verify_archive(folder).damaged


def test_precisions_mix_only_when_they_passed_their_gate(folder: Path) -> None:
    failed = Producer("int8", "openvino", gate_passed=False)
    makers.write(folder, range(1))
    with pytest.raises(ArchiveModelError, match="int8 has not passed its gate"):
        ArchiveWriter(folder, makers.MODEL, failed)
    other = folder.with_name("other")
    with ArchiveWriter(other, makers.MODEL, failed) as writer:
        makers.add(writer, 0)
    with ArchiveWriter(other, makers.MODEL, failed) as writer:
        makers.add(writer, 1)
    with pytest.raises(ArchiveModelError, match="int8 has not passed its gate"):
        open_writer(other)


def test_one_content_at_two_paths_is_one_source_with_two_locations(folder: Path) -> None:
    with open_writer(folder) as writer:
        first = makers.add(writer, 0)
        second = writer.add_source(makers.content(0))
        writer.add_location(second, Location("/elsewhere/scenes", "copy.tif"))
    assert first == second
    with Archive.open(folder) as archive:
        assert archive.locations(first) == [Path("/data/scenes/000.tif"), Path("/elsewhere/scenes/copy.tif")]
        summary = summary_from_archive(archive)
    assert (summary.sources, summary.locations, summary.rows) == (1, 2, 6)
    assert summary.roots == {"scenes": "/data/scenes", "scenes-2": "/elsewhere/scenes"}


def test_a_file_that_was_replaced_points_to_its_new_content(folder: Path) -> None:
    with open_writer(folder) as writer:
        old, new = makers.add(writer, 0), writer.add_source(makers.content(1))
        assert writer.add_location(new, Location("/data/scenes", "000.tif")) == old
        assert writer.add_location(new, Location("/data/scenes", "000.tif")) is None
    with Archive.open(folder) as archive:
        assert archive.locations(old) == []
        [hits] = archive.search(makers.unit_rows(1, 0), k=1)
        assert hits[0].source == f"sha256:{makers.content(0).content_sha256}"


def test_a_source_is_read_in_one_way_only(folder: Path) -> None:
    with open_writer(folder) as writer:
        writer.add_source(makers.content(0, reading={"bands": [4, 3, 2]}))
        writer.add_source(makers.content(0, reading={"bands": [4, 3, 2]}))
        with pytest.raises(ArchiveError, match="Index it with the same options"):
            writer.add_source(makers.content(0))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.zeros((6, 16), np.float32), "row 0 has length 0"),
        (np.full((6, 16), np.nan), "row 0 has length nan"),
        (makers.unit_rows(6) * 2, "has length 2"),
        (makers.unit_rows(5), r"vectors \(5, 16\) must be \(6, 16\)"),
        (makers.unit_rows(6, dim=8), r"vectors \(6, 8\) must be \(6, 16\)"),
    ],
)
def test_only_unit_rows_are_taken(folder: Path, rows: Any, message: str) -> None:
    with open_writer(folder) as writer:
        source = writer.add_source(makers.content(0))
        with pytest.raises(InputError, match=message):
            writer.append(source, makers.grid(0), rows)
        assert writer.append(source, makers.grid(0), makers.unit_rows(6)) == 6


def test_a_tile_needs_a_source(folder: Path) -> None:
    with open_writer(folder) as writer, pytest.raises(InputError, match="source 7 is not in"):
        writer.append(7, makers.grid(0), makers.unit_rows(6))


def test_a_closed_writer_says_so(folder: Path) -> None:
    writer = open_writer(folder)
    writer.close()
    writer.close()
    with pytest.raises(ArchiveError, match="is closed"):
        writer.commit()


def test_tiles_are_found_by_the_beginning_of_their_id(folder: Path) -> None:
    makers.write(folder)
    with Archive.open(folder) as archive:
        wanted = archive.tiles_of_source(2)[3]
        assert archive.tile(wanted.id) == wanted
        assert archive.tile(wanted.id[:12].upper()) == wanted
        # 18 ids have 16 first digits to choose from.
        firsts = Counter(identifier[0] for identifier in makers.contents(archive))
        with pytest.raises(InputError, match="begins more than one"):
            archive.tile(firsts.most_common(1)[0][0])
        for wrong in ("", "xyz", "0" * 32):
            with pytest.raises(InputError, match="tile"):
                archive.tile(wrong)


def test_a_summary_counts_what_is_there(folder: Path) -> None:
    makers.write(folder, range(3))
    with open_writer(folder) as writer:
        source = writer.add_source(makers.content(9))
        writer.add_metadata(source, {"sensor": "naip"})
        writer.append(source, [makers.whole()], makers.unit_rows(1, 9))
    with Archive.open(folder) as archive:
        summary = summary_from_archive(archive)
    assert (summary.rows, summary.sources, summary.unfinished_sources) == (19, 4, 1)
    assert summary.levels == {"0": 1, "256": 18}
    assert summary.rows_without_place == summary.rows_without_time == 1
    assert summary.first_time == summary.last_time == "1970-01-01T00:00:00Z"
    assert summary.metadata_keys == ["sensor"]
    assert summary.extent is not None
    assert summary.extent[0] == 0.0
    assert summary.extent[2] == pytest.approx(2.025)
    assert summary.bytes == sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


def test_a_reader_holds_no_transaction_and_never_writes(folder: Path) -> None:
    makers.write(folder)
    with Archive.open(folder) as archive:
        archive.search(makers.unit_rows(1), where=Where(bbox=(0, -1, 1, 1)))
        assert not archive._database.in_transaction
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            archive._database.execute("DELETE FROM tiles")
        with pytest.raises(ValueError, match="read-only"):
            archive.mapped_segments[0].f16[0] = 0


def test_an_archive_of_nothing_is_an_archive(folder: Path) -> None:
    with open_writer(folder):
        pass
    with Archive.open(folder) as archive:
        assert len(archive) == 0
        assert archive
        assert archive.sample.shape == (0, 16)
    assert verify_archive(folder).rows == 0


def test_a_source_keeps_every_field(folder: Path) -> None:
    full = ContentRecord(
        "cd" * 32, 123, 640, 448, "EPSG:32750", (0.5, 0.0, 3e5, 0.0, -0.5, 9e6), 0.5, 7, {"stretch": [0, 9.5]}
    )
    with open_writer(folder) as writer:
        source = writer.add_source(full)
    with Archive.open(folder) as archive:
        assert archive.content(source) == full
        with pytest.raises(InputError, match="no source number 5"):
            archive.content(5)

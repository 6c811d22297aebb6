from __future__ import annotations

import json
from pathlib import Path

import archive_makers as makers
import pytest
from click.testing import CliRunner

from lrsclip_rt.archive import Archive, ArchiveWriter, Location, ModelRecord, Producer
from lrsclip_rt.archive import merging as merging_module
from lrsclip_rt.archive.merging import merge_archives
from lrsclip_rt.archive.models import model_from_bundle, text_bundle
from lrsclip_rt.archive.verifying import verify_archive
from lrsclip_rt.bundle import Bundle
from lrsclip_rt.cli.archive import command
from lrsclip_rt.errors import ArchiveError, ArchiveModelError


@pytest.fixture
def parts(tmp_path: Path) -> list[Path]:
    """Sources 0 to 8 on three archives, with one source on two of them and a deleted one."""
    paths = [makers.write(tmp_path / f"part-{n}", range(3 * n, 3 * n + 4), segment_rows=10) for n in range(3)]
    with ArchiveWriter.of_existing(paths[2]) as writer:
        writer.delete_source(4)
        writer.add_metadata(1, {"sensor": "naip"})
    return paths


def contents(folder: Path) -> dict[str, bytes]:
    with Archive.open(folder) as archive:
        found: dict[str, bytes] = makers.contents(archive)
        return found


def test_parts_become_one_archive_with_the_same_bytes(parts: list[Path], tmp_path: Path) -> None:
    report = merge_archives(tmp_path / "all", parts)
    assert (report.rows, report.added_rows, report.known_rows, report.failures) == (54, 54, 12, [])
    assert contents(tmp_path / "all") == makers.expected_contents(range(9))
    with Archive.open(tmp_path / "all") as archive, Archive.open(parts[1]) as part:
        assert archive.catalog.sources_by_metadata({"sensor": "naip"}) == {7}
        assert archive.locations(7) == [Path("/data/scenes/006.tif")]
        assert archive.catalog.rows("SELECT count(*) FROM grids") == [(9,)]
        tile = part.tiles_of_source(2)[3]
        assert archive.tile(tile.id).tile == tile.tile
        assert archive.content(archive.tile(tile.id).source) == part.content(2)
    assert not verify_archive(tmp_path / "all").damaged
    assert [contents(path) for path in parts[:1]] == [makers.expected_contents(range(4))]


def test_merging_again_adds_nothing(parts: list[Path], tmp_path: Path) -> None:
    merge_archives(tmp_path / "all", parts)
    report = merge_archives(tmp_path / "all", parts)
    assert (report.rows, report.added_rows, report.known_rows) == (54, 0, 66)
    assert contents(tmp_path / "all") == makers.expected_contents(range(9))


def test_an_interrupted_merge_goes_on(
    parts: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merging_module, "_COMMIT_ROWS", 6)
    seen = 0

    def stop(rows: int) -> None:
        nonlocal seen
        seen += rows
        if seen > 30:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        merge_archives(tmp_path / "all", parts, progress=stop)
    held = contents(tmp_path / "all")
    assert 0 < len(held) < 54
    with Archive.open(tmp_path / "all") as archive:
        unfinished = "SELECT count(*) FROM tiles WHERE source IN (SELECT source FROM grids)"
        assert archive.catalog.rows(unfinished) == [(24,)], "a grid is finished when its tiles are there"
    report = merge_archives(tmp_path / "all", parts)
    assert report.added_rows == 54 - len(held)
    assert contents(tmp_path / "all") == makers.expected_contents(range(9))


def test_producers_stay_with_their_rows(tmp_path: Path) -> None:
    with ArchiveWriter(tmp_path / "a", makers.MODEL, Producer("fp16", "tensorrt")) as writer:
        makers.add(writer, 0)
    with ArchiveWriter(tmp_path / "a", makers.MODEL, makers.FP32) as writer:
        makers.add(writer, 1)
    makers.write(tmp_path / "b", range(2, 3))
    merge_archives(tmp_path / "all", [tmp_path / "a", tmp_path / "b"])
    with Archive.open(tmp_path / "all") as archive:
        found = [(s.producer.precision, s.rows) for s in archive.segments]
        assert found == [("fp16", 6), ("fp32", 12)]


def test_the_text_tower_comes_with_the_first_part(made_bundle: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(made_bundle)
    ArchiveWriter(tmp_path / "part", model_from_bundle(bundle), makers.FP32, bundle=bundle).close()
    merge_archives(tmp_path / "all", [tmp_path / "part"])
    with Archive.open(tmp_path / "all") as archive:
        assert text_bundle(archive).identity == bundle.identity
        assert len(archive) == 0


def test_another_model_is_refused(parts: list[Path], tmp_path: Path) -> None:
    other = tmp_path / "other"
    ArchiveWriter(other, ModelRecord("cd" * 32, "other", makers.DIM), makers.FP32).close()
    with pytest.raises(ArchiveModelError, match="other"):
        merge_archives(other, parts)
    with pytest.raises(ArchiveModelError, match="other"):
        merge_archives(parts[0], [other])
    with pytest.raises(ArchiveError, match="is the target itself"):
        merge_archives(parts[0], [parts[1], parts[0]])


def test_a_source_that_was_read_in_another_way_is_listed(parts: list[Path], tmp_path: Path) -> None:
    with ArchiveWriter(tmp_path / "all", makers.MODEL, makers.FP32) as writer:
        writer.add_source(makers.content(1, reading={"bands": [4, 3, 2]}))
    arguments = ["merge", str(tmp_path / "all"), *map(str, parts), "--json"]
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 1
    row = json.loads(result.stdout.splitlines()[0])
    assert (row["rows"], row["rows_added"], row["failed"]) == (48, 48, 1)
    assert "failed: /data/scenes/001.tif: its pixels were read with" in result.stderr


def test_of_one_path_with_two_contents_the_later_part_wins(tmp_path: Path) -> None:
    for name, number in (("a", 0), ("b", 1)):
        with ArchiveWriter(tmp_path / name, makers.MODEL, makers.FP32) as writer:
            source = writer.add_source(makers.content(number))
            writer.add_location(source, Location("/data", "same.tif"))
            writer.append(source, makers.grid(number), makers.unit_rows(6, number))
    merge_archives(tmp_path / "all", [tmp_path / "a", tmp_path / "b"])
    with Archive.open(tmp_path / "all") as archive:
        assert [archive.locations(n) for n in (1, 2)] == [[], [Path("/data/same.tif")]]
        assert len(archive) == 12

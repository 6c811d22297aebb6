from __future__ import annotations

import json
from pathlib import Path

import archive_makers as makers
import pytest
from click.testing import CliRunner

from lrsclip_rt.archive import Archive, ArchiveWriter, Location
from lrsclip_rt.cli.archive import command
from lrsclip_rt.errors import ArchiveError, InputError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Sources 1 to 3 below /data/scenes, source 4 below /data/photos."""
    path: Path = makers.write(tmp_path / "archive", range(3))
    with ArchiveWriter.of_existing(path) as writer:
        source = writer.add_source(makers.content(3))
        writer.add_location(source, Location("/data/photos", "a/b.jpg", 1))
    return path


def relocate(folder: Path, old: str, new: str) -> list[tuple[str, str, str, int]]:
    with ArchiveWriter.of_existing(folder) as writer:
        return [(r.name, r.before, r.after, r.paths) for r in writer.relocate(old, new)]


def paths(folder: Path) -> list[str]:
    with Archive.open(folder) as archive:
        return [str(path) for number in range(1, 5) for path in archive.locations(number)]


@pytest.mark.parametrize("old", ["scenes", "/data/scenes", "/data/scenes/"])
def test_a_root_is_meant_by_its_name_or_its_folder(folder: Path, old: str) -> None:
    assert relocate(folder, old, "/mnt/new") == [("scenes", "/data/scenes", "/mnt/new", 3)]
    assert paths(folder) == [f"/mnt/new/00{n}.tif" for n in range(3)] + ["/data/photos/a/b.jpg"]


def test_all_roots_below_a_folder_move_with_it(folder: Path) -> None:
    assert relocate(folder, "/data", "/mnt/disk") == [
        ("scenes", "/data/scenes", "/mnt/disk/scenes", 3),
        ("photos", "/data/photos", "/mnt/disk/photos", 1),
    ]
    assert paths(folder)[-1] == "/mnt/disk/photos/a/b.jpg"


def test_a_root_that_is_none_is_refused_and_the_roots_are_named(folder: Path) -> None:
    for wrong in ("/dat", "/data/scenes/sub", "nowhere"):
        with pytest.raises(InputError, match=r"is no root .* scenes: /data/scenes; photos: /data/photos"):
            relocate(folder, wrong, "/mnt")


def test_roots_that_come_to_lie_at_one_place_become_one(folder: Path) -> None:
    with ArchiveWriter.of_existing(folder) as writer:
        writer.add_location(1, Location("/mnt/new", "000.tif", 5))
    relocate(folder, "/data/scenes", "/mnt/new")
    assert paths(folder) == [f"/mnt/new/00{n}.tif" for n in range(3)] + ["/data/photos/a/b.jpg"]
    with Archive.open(folder) as archive:
        assert archive.catalog.rows("SELECT count(*) FROM roots") == [(2,)]


def test_one_path_never_stands_for_two_sources(folder: Path) -> None:
    with ArchiveWriter.of_existing(folder) as writer:
        writer.add_location(2, Location("/mnt/new", "000.tif", 5))
        writer.add_location(1, Location("/mnt/photos", "a/b.jpg", 5))
    before = paths(folder)
    with ArchiveWriter.of_existing(folder) as writer:
        with pytest.raises(ArchiveError, match=r"/mnt/new/000\.tif is recorded as another source"):
            writer.relocate("/data/scenes", "/mnt/new")
        with pytest.raises(ArchiveError, match=r"/mnt/photos/a/b\.jpg is recorded as another source"):
            writer.relocate("/data", "/mnt")
        writer.commit()
    assert paths(folder) == before, "all roots or none"


def test_the_command_lists_what_moved(folder: Path) -> None:
    arguments = ["relocate", str(folder), "photos", "/mnt/photos", "--json"]
    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert json.loads(result.output) == {
        "name": "photos",
        "before": "/data/photos",
        "after": "/mnt/photos",
        "paths": 1,
    }

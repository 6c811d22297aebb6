"""Shards, and the same by a real Ray cluster of this machine."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lrsclip_rt.archive import Archive
from lrsclip_rt.archive.cluster import ModelChoice, index_on_ray, index_shard
from lrsclip_rt.archive.ingest import index_sources
from lrsclip_rt.archive.inputs import InputFile, Shard, list_inputs
from lrsclip_rt.archive.merging import merge_archives
from lrsclip_rt.archive.plans import IndexOptions
from lrsclip_rt.archive.verifying import verify_archive
from lrsclip_rt.embedder import Embedder, load
from lrsclip_rt.errors import DependencyError, InputError

rasterio = pytest.importorskip("rasterio")


@pytest.fixture(scope="module")
def model(made_bundle: Path) -> Embedder:
    return load(made_bundle)


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    """Two dozen pictures in folders and a scene, 36 rows."""
    path = tmp_path / "inputs"
    for seed in range(24):
        folder = path / f"part{seed % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(seed).integers(0, 255, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{seed:02}.png")
    write_scene(path / "scene.tif")
    return path


def write_scene(path: Path) -> None:
    noise = np.random.default_rng(99).integers(1, 255, (3, 25, 35), dtype=np.uint8)
    array = noise.repeat(20, axis=1).repeat(20, axis=2)
    profile = {"driver": "GTiff", "height": 500, "width": 700, "count": 3, "dtype": "uint8"}
    transform = rasterio.Affine(10, 0, 500_000, 0, -10, 4_000_000)
    with rasterio.open(path, "w", crs="EPSG:32650", transform=transform, **profile) as dataset:
        dataset.write(array)


def rows_by_id(folder: Path) -> dict[str, bytes]:
    with Archive.open(folder) as archive:
        tiles = list(archive.catalog.tiles(range(len(archive)), archive.segments).values())
        rows = archive.vectors(tiles)
        found = {tile.id: row.tobytes() for tile, row in zip(tiles, rows, strict=True)}
        assert len(found) == len(archive)
        return found


def names_of(folder: Path) -> set[str]:
    with Archive.open(folder) as archive:
        return {
            location.name
            for (source,) in archive.catalog.rows("SELECT source FROM sources")
            for location in archive.locations(source)
        }


def test_shards_hold_each_file_once_whatever_the_folder_is_called(inputs: Path) -> None:
    files = [file for file in list_inputs([inputs]) if isinstance(file, InputFile)]
    moved = [InputFile(Path("/other") / file.relative, Path("/other")) for file in files]
    for count in (1, 2, 5):
        shards = [Shard(number, count) for number in range(1, count + 1)]
        holders = [[shard.number for shard in shards if shard.holds(file)] for file in files]
        assert all(len(holder) == 1 for holder in holders)
        assert holders == [[shard.number for shard in shards if shard.holds(file)] for file in moved]
    for number, count in ((0, 2), (3, 2), (1, 0)):
        with pytest.raises(InputError, match=f"shard {number}/{count} does not exist"):
            Shard(number, count)


def test_merged_shards_are_the_archive_of_one_run(inputs: Path, tmp_path: Path, model: Embedder) -> None:
    whole = index_sources(tmp_path / "whole", [inputs], model)
    parts = [tmp_path / f"part{number}" for number in (1, 2, 3)]
    reports = [
        index_sources(part, [inputs], model, IndexOptions(shard=Shard(number, 3)))
        for number, part in enumerate(parts, start=1)
    ]
    assert sum(report.rows for report in reports) == whole.rows == 36
    assert all(report.rows for report in reports)
    merge_archives(tmp_path / "merged", parts)
    assert rows_by_id(tmp_path / "merged") == rows_by_id(tmp_path / "whole")
    assert names_of(tmp_path / "merged") == names_of(tmp_path / "whole")
    again = index_sources(tmp_path / "merged", [inputs], model)
    assert (again.rows, again.known_sources) == (0, 25)


def test_a_part_leaves_out_what_its_archive_holds(inputs: Path, tmp_path: Path, model: Embedder) -> None:
    index_sources(tmp_path / "archive", [inputs / "part0"], model)
    (inputs / "copy").mkdir()
    (inputs / "copy" / "of-00.png").write_bytes((inputs / "part0" / "00.png").read_bytes())
    part = index_sources(tmp_path / "part", [inputs], model, base=tmp_path / "archive")
    assert (part.rows, part.known_sources) == (36 - 8, 8 + 1)
    merge_archives(tmp_path / "archive", [tmp_path / "part"])
    assert len(rows_by_id(tmp_path / "archive")) == 36
    assert "of-00.png" in names_of(tmp_path / "archive"), "a new place of known content is recorded"


def test_one_worker_indexes_its_shard(inputs: Path, tmp_path: Path, made_bundle: Path) -> None:
    part = tmp_path / "parts" / "one"
    options = IndexOptions(shard=Shard(2, 2))
    choice = ModelChoice(made_bundle, threads=1)
    report = index_shard(str(part), [str(inputs)], choice, options, str(tmp_path / "archive"), False)
    assert report.rows == len(rows_by_id(part)) > 0


def test_without_ray_the_extra_is_named(
    inputs: Path, tmp_path: Path, made_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(DependencyError, match=r"ray is not installed.*lrsclip-rt\[cluster\]"):
        index_on_ray(tmp_path / "archive", [inputs], ModelChoice(made_bundle))


@pytest.fixture(scope="module")
def ray_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """A Ray cluster of this machine with two CPUs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # importing Ray warns about other libraries
        ray: Any = pytest.importorskip("ray", reason="ray runs the cluster")
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            object_store_memory=80 * 2**20,
            _temp_dir=str(tmp_path_factory.mktemp("r")),
        )
    yield ray
    ray.shutdown()


def test_ray_tasks_make_the_archive_of_one_run_and_go_on_after_failures(
    ray_cluster: ModuleType, inputs: Path, tmp_path: Path, made_bundle: Path, model: Embedder
) -> None:
    archive = tmp_path / "archive"
    (inputs / "broken.png").write_bytes(b"no image")
    # A part that cannot be made stands for a machine that fails.
    parts = tmp_path / "archive.parts"
    parts.mkdir()
    (parts / "00002-of-00002").write_text("in the way")
    first = index_on_ray(archive, [inputs], ModelChoice(made_bundle), shards=2)
    names = {Path(name).name for name, _ in first.failures}
    assert "00002-of-00002" in names
    assert 0 < first.rows == len(rows_by_id(archive)) < 36
    (parts / "00002-of-00002").unlink()
    second = index_on_ray(archive, [inputs], ModelChoice(made_bundle), shards=2)
    assert [Path(name).name for name, _ in second.failures] == ["broken.png"]
    assert first.rows + second.rows == second.archive_rows == 36
    index_sources(tmp_path / "whole", [inputs], model)
    assert rows_by_id(archive) == rows_by_id(tmp_path / "whole")
    assert not parts.exists(), "parts are removed once they are merged"
    third = index_on_ray(archive, [inputs], ModelChoice(made_bundle), shards=2)
    assert (third.rows, third.known_sources) == (0, 25)
    assert not verify_archive(archive).damaged


def test_parts_of_another_number_of_shards_are_not_mixed(
    ray_cluster: ModuleType, inputs: Path, tmp_path: Path, made_bundle: Path
) -> None:
    (tmp_path / "parts" / "00001-of-00003").mkdir(parents=True)
    with pytest.raises(InputError, match="holds 00001-of-00003, which is no part of 2"):
        index_on_ray(
            tmp_path / "archive", [inputs], ModelChoice(made_bundle), shards=2, parts=tmp_path / "parts"
        )

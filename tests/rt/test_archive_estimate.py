from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lrsclip_rt.archive.estimating import DATABASE_BYTES, estimate_index
from lrsclip_rt.archive.ingest import index_sources
from lrsclip_rt.archive.inputs import Shard
from lrsclip_rt.archive.plans import IndexOptions
from lrsclip_rt.embedder import Embedder, load

rasterio = pytest.importorskip("rasterio")


@pytest.fixture(scope="module")
def model(made_bundle: Path) -> Embedder:
    return load(made_bundle)


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    path = tmp_path / "inputs"
    path.mkdir()
    return path


def write_scene(path: Path, height: int, width: int, seed: int = 0) -> Path:
    noise = np.random.default_rng(seed).integers(1, 255, (3, height // 16, width // 16), dtype=np.uint8)
    array = noise.repeat(16, axis=1).repeat(16, axis=2)
    profile = {"driver": "GTiff", "height": array.shape[1], "width": array.shape[2], "count": 3}
    transform = rasterio.Affine(10, 0, 500_000, 0, -10, 4_000_000)
    with rasterio.open(path, "w", dtype="uint8", crs="EPSG:32650", transform=transform, **profile) as dataset:
        dataset.write(array)
    return path


def picture(path: Path, seed: int) -> Path:
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(path)
    return path


def folder_bytes(folder: Path) -> int:
    """Without SQLite's passing files."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return sum(path.stat().st_size for path in files if not path.name.endswith(("-shm", "-wal")))


def test_an_estimate_counts_what_a_run_then_writes(tmp_path: Path, inputs: Path, model: Embedder) -> None:
    write_scene(inputs / "a.tif", 1600, 1600)
    write_scene(inputs / "b.tif", 480, 640, 1)
    for seed in range(40):
        picture(inputs / f"{seed:02}.png", seed)
    (inputs / "broken.png").write_bytes(b"no image")
    archive = tmp_path / "archive"
    options = IndexOptions(tiles=(32,), overlap=0.0)
    estimate = estimate_index(archive, [inputs], model, options)
    assert not archive.exists()
    assert [Path(name).name for name, _ in estimate.failures] == ["broken.png"]
    assert estimate.tiles == 50 * 50 + 15 * 20 + 40 * 4
    assert estimate.sampled == 64
    assert estimate.tiles_per_s is not None
    assert estimate.seconds == pytest.approx(estimate.tiles / estimate.tiles_per_s)
    report = index_sources(archive, [inputs], model, options)
    assert report.rows == estimate.tiles
    assert folder_bytes(archive / "model") == pytest.approx(estimate.new_bytes - DATABASE_BYTES, rel=0.01)
    added = folder_bytes(archive) - folder_bytes(archive / "model") - DATABASE_BYTES
    assert added == pytest.approx(sum(map(estimate.bytes_of, estimate.sources)), rel=0.15)
    again = estimate_index(archive, [inputs], model, options)
    assert (again.tiles, again.archive_bytes, again.tiles_per_s, again.seconds) == (0, 0, None, None)


def test_an_estimate_of_more_counts_only_what_is_new(tmp_path: Path, inputs: Path, model: Embedder) -> None:
    write_scene(inputs / "a.tif", 512, 512)
    archive = tmp_path / "archive"
    index_sources(archive, [inputs], model, IndexOptions(overlap=0.0))
    picture(inputs / "b.png", 1)
    shutil.copy(inputs / "b.png", inputs / "copy.png")
    before = folder_bytes(archive)
    estimate = estimate_index(archive, [inputs], model, IndexOptions(tiles=(128, 256), overlap=0.0))
    by_name = {source.file.path.name: source.tiles for source in estimate.sources}
    assert by_name == {"a.tif": 16, "b.png": 2, "copy.png": 0}
    assert folder_bytes(archive) == before


def test_shards_share_the_work(tmp_path: Path, inputs: Path, model: Embedder) -> None:
    for seed in range(20):
        picture(inputs / f"{seed:02}.png", seed)
    parts = [
        estimate_index(tmp_path / "archive", [inputs], model, IndexOptions(shard=Shard(number, 3)))
        for number in (1, 2, 3)
    ]
    names = [source.file.path.name for part in parts for source in part.sources]
    assert sorted(names) == [f"{seed:02}.png" for seed in range(20)]
    assert all(part.tiles > 0 for part in parts)

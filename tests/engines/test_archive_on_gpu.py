"""Searches of an archive on a device made for the host, held against those without one."""

from __future__ import annotations

import gc
from pathlib import Path

import archive_makers as makers
import numpy as np
import pytest
from click.testing import CliRunner
from host_device import HostDevice
from numpy.typing import NDArray

from lrsclip_rt.archive import Archive, ArchiveWriter, ModelRecord, NewTile, Where
from lrsclip_rt.cli import cli
from lrsclip_rt.errors import BackendError, InputError
from lrsclip_rt.tiles import Window

DIM = 24
MODEL = ModelRecord("ab" * 32, "made", DIM)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """600 rows in three segments, some of them equal, one source deleted."""
    with ArchiveWriter(tmp_path / "archive", MODEL, makers.FP32, segment_rows=256, block_rows=64) as writer:
        for number in range(6):
            source = writer.add_source(makers.content(number, width=100, height=1))
            boxes = [(number + i / 100, 0.0, number + i / 100 + 0.01, 0.01) for i in range(100)]
            tiles = [
                NewTile(1, Window(i, 0, 1, 1), box, (makers.square(box),)) for i, box in enumerate(boxes)
            ]
            rows = makers.unit_rows(100, number % 4, DIM)
            writer.append(source, tiles, rows)
        writer.commit()
        writer.delete_source(2)
    return tmp_path / "archive"


@pytest.fixture
def driver(gpu: HostDevice, monkeypatch: pytest.MonkeyPatch) -> HostDevice:
    monkeypatch.setattr("lrsclip_rt.archive.device_ranking.cuda_driver", lambda: gpu.driver)
    return gpu


def queries() -> NDArray[np.float32]:
    return makers.unit_rows(3, 99, DIM)


@pytest.mark.parametrize("where", [None, Where(bbox=(0.5, -1, 3.5, 1)), Where(bbox=(50, 50, 51, 51))])
@pytest.mark.parametrize("k", [1, 10, 200])
def test_a_gpu_gives_the_answers_of_an_exact_search(
    folder: Path, driver: HostDevice, where: Where | None, k: int
) -> None:
    with Archive.open(folder) as archive:
        expected = archive.search(queries(), k, where, merge=False, exact=True)
        archive.use_gpu()
        launches = driver.stub.kernel_launches
        found = archive.search(queries(), k, where, merge=False)
        again = archive.search(queries(), k, where, merge=False)
    rows = 0 if where is not None and where.bbox == (50, 50, 51, 51) else 1
    assert (driver.stub.kernel_launches > launches) == bool(rows)
    for mine, same, theirs in zip(found, again, expected, strict=True):
        assert [(h.id, h.score, h.z) for h in mine] == [(h.id, h.score, h.z) for h in theirs]
        assert [h.id for h in same] == [h.id for h in theirs]
        assert mine.presence == theirs.presence
    gc.collect()


def test_rows_that_came_later_are_put_there_by_a_refresh(folder: Path, driver: HostDevice) -> None:
    with Archive.open(folder) as archive:
        archive.use_gpu("cuda:0")
        with ArchiveWriter(folder, MODEL, makers.FP32) as writer:
            row = makers.unit_rows(1, 77, DIM)
            writer.append(writer.add_source(makers.content(9)), [makers.whole()], row)
        assert archive.search(row, 1)[0][0].score < 0.999
        held = driver.stub.used_bytes
        archive.refresh()
        assert archive.search(row, 1)[0][0].score > 0.999
        gc.collect()
        assert driver.stub.used_bytes < 1.5 * held, "the former rows are gone"


def test_without_a_gpu_it_is_a_named_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> object:
        raise BackendError("no NVIDIA driver here")

    monkeypatch.setattr("lrsclip_rt.archive.device_ranking.cuda_driver", none)
    with Archive.open(folder) as archive:
        with pytest.raises(BackendError, match="no NVIDIA driver here"):
            archive.use_gpu()
        with pytest.raises(InputError, match="is no GPU, expected cuda or cuda:N"):
            archive.use_gpu("gpu")
        assert len(archive.search(queries(), 3)[0]) == 3, "it goes on without one"


def test_the_command_searches_on_the_gpu(folder: Path, driver: HostDevice) -> None:
    with Archive.open(folder) as archive:
        identifier = archive.search(queries(), 1)[0][0].id
    launches = driver.stub.kernel_launches
    plain = CliRunner().invoke(cli, ["search", str(folder), "--like", identifier, "--json"])
    assert driver.stub.kernel_launches == launches
    on_gpu = CliRunner().invoke(
        cli, ["search", str(folder), "--like", identifier, "--json", "--device", "cuda"]
    )
    assert (plain.exit_code, on_gpu.exit_code) == (0, 0), on_gpu.output
    assert on_gpu.stdout == plain.stdout
    assert driver.stub.kernel_launches > launches
    gc.collect()

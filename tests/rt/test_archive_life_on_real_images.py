from __future__ import annotations

import json
from pathlib import Path

import archive_makers as makers
import numpy as np
import pytest

from lrsclip_rt.archive import Archive, ArchiveWriter
from lrsclip_rt.archive.backing_up import backup_archive
from lrsclip_rt.archive.deleting import sources_to_delete
from lrsclip_rt.archive.ingest import index_sources
from lrsclip_rt.archive.merging import merge_archives
from lrsclip_rt.archive.verifying import verify_archive
from lrsclip_rt.embedder import Embedder, load

IMAGES = 40


@pytest.fixture(scope="module")
def model() -> Embedder:
    pytest.importorskip("onnxruntime")
    return load()


@pytest.fixture(scope="module")
def images(data_dir: Path) -> list[Path]:
    """Files of the validation split, taken evenly."""
    root = data_dir / "aid_rsicd"
    lines = (root / "pairs.jsonl").read_text(encoding="utf-8").splitlines()
    records = [record for record in map(json.loads, lines) if record["split"] == "val"]
    return [root / record["image"] for record in records[:: len(records) // IMAGES]][:IMAGES]


def answers(folder: Path, queries: np.ndarray) -> list[list[tuple[str, float]]]:
    with Archive.open(folder) as archive:
        return [[(h.id, h.score) for h in hits] for hits in archive.search(queries, k=10, merge=False)]


def test_a_whole_life(images: list[Path], model: Embedder, tmp_path: Path) -> None:
    """Two parts, one archive, some sources gone and back again, and a copy: the same vectors and answers."""
    for name, part in (("a", images[:25]), ("b", images[20:])):
        assert index_sources(tmp_path / name, part, model).rows == len(part)
    report = merge_archives(tmp_path / "all", [tmp_path / "a", tmp_path / "b"])
    assert (report.rows, report.known_rows) == (IMAGES, 5)
    queries = model.embed_texts(["an airport with planes", "many buildings", "a beach beside the sea"])
    with Archive.open(tmp_path / "all") as archive:
        whole = makers.contents(archive)
        gone = sources_to_delete(archive, patterns=[str(path) for path in images[::3]])
    told = answers(tmp_path / "all", queries)
    with ArchiveWriter.of_existing(tmp_path / "all") as writer:
        writer.delete_sources(gone)
    fewer = answers(tmp_path / "all", queries)
    assert fewer != told
    with ArchiveWriter.of_existing(tmp_path / "all") as writer:
        assert writer.compact().removed_rows == len(gone) == 14
    assert answers(tmp_path / "all", queries) == fewer
    assert index_sources(tmp_path / "all", images, model).rows == len(gone)
    with Archive.open(tmp_path / "all") as archive:
        back = makers.contents(archive)
    assert back.keys() == whole.keys()
    for identifier, row in whole.items():
        again = np.frombuffer(back[identifier], np.float16)
        np.testing.assert_allclose(again, np.frombuffer(row, np.float16), atol=2e-3)
    assert [[i for i, _ in hits] for hits in answers(tmp_path / "all", queries)] == [
        [i for i, _ in hits] for hits in told
    ]
    backup_archive(tmp_path / "all", tmp_path / "copy")
    assert answers(tmp_path / "copy", queries) == answers(tmp_path / "all", queries)
    assert not verify_archive(tmp_path / "copy").findings

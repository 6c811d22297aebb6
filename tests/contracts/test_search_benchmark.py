"""The search benchmark: what it searches, what it counts as found, and what it holds against the targets."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from lrsclip_rt.archive import Archive
from lrsclip_rt.archive.where import passing_rows

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def benchmark(monkeypatch):
    """Imports a module of the benchmark, as its script does."""
    monkeypatch.syspath_prepend(str(ROOT))

    def module(name: str) -> ModuleType:
        return importlib.import_module(f"benchmarks.{name}")

    return module


def unit(rows: int, dim: int) -> np.ndarray:
    made = np.random.default_rng(0).standard_normal((rows, dim)).astype(np.float32)
    return made / np.linalg.norm(made, axis=1, keepdims=True)


def test_rows_lie_between_two_distinct_real_ones(benchmark):
    base = unit(20, 512)
    rows = benchmark("search_archive").interpolated(base, 400, 3)
    assert rows.shape == (400, 512)
    assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    nearest = np.sort(rows @ base.T, axis=1)[:, ::-1]
    assert (nearest[:, 0] < 0.999).all(), "no row is a copy"
    for row in rows[:20]:
        first, second = np.argsort(row @ base.T)[::-1][:2]
        pair = base[[first, second]].T
        parts, rest, *_ = np.linalg.lstsq(pair, row, rcond=None)
        assert rest < 1e-6
        assert 0.19 < parts[0] / parts.sum() < 0.81


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """An archive of the benchmark's own making, 12,000 rows, and the folder of its materials."""
    pytest.importorskip("faiss", reason="the benchmark builds codes")
    import sys

    sys.path.insert(0, str(ROOT))
    try:
        made = importlib.import_module("benchmarks.search_archive")
    finally:
        sys.path.remove(str(ROOT))
    from lrsclip_rt.embedder import load

    work = tmp_path_factory.mktemp("search")
    texts = [f"a scene with {number} white buildings by a river" for number in range(20)]
    np.save(work / "base.npy", unit(200, load().spec.embed_dim))
    (work / "queries.json").write_text(json.dumps(texts))
    materials = made.Materials(work / "base.npy", work / "queries.json", "made")
    facts = made.enlarged_archive(work / "archive", materials, 12_000, lambda _: None)
    again = made.enlarged_archive(work / "archive", materials, 12_000, lambda _: None)
    assert again == facts
    return work, texts, facts


def test_the_filters_let_their_share_through(benchmark, small):
    work, _, facts = small
    assert facts.rows == facts.codes["rows"] == 12_000
    filters = benchmark("search_archive").FILTERS
    with Archive.open(work / "archive") as archive:
        for name, where in filters.items():
            passing = sum(int(passing_rows(where, s, None).sum()) for s in archive.mapped_segments)
            assert passing == (100 if name == "1 %" else 1000) * 2


@pytest.mark.parametrize("name", ["lrsclip", "lrsclip-exact", "numpy-exact", "faiss-flat"])
def test_exact_contenders_find_the_truth_and_wrong_rows_are_noticed(benchmark, small, name):
    work, texts, _ = small
    contenders = benchmark("search_contenders")
    truth = benchmark("search").Truth(work / "archive", work, texts, 1)
    service = contenders.SearchService(contenders.Job(name, work / "archive", work / name, 1))
    opened = service.open(["1 %", "10 %"])
    assert opened["filters"] is True
    for where in (None, "1 %", "10 %"):
        answers = service.answers(texts, where)
        assert truth.recall(answers, where) >= (0.97 if name == "lrsclip" and where is None else 1.0)
        worse = [[*rows[:-1], (rows[-1] + 7) % 12_000] for rows in answers]
        assert truth.recall(worse, where) < truth.recall(answers, where)
    assert len(service.time(texts[:3], "1 %")) == 3
    assert service.peak_memory_bytes() is None or service.peak_memory_bytes() > 1 << 20


def test_the_targets_of_a_size_are_judged(benchmark):
    judge = benchmark("search").verdicts

    def row(where: str, p50: float, recall: float) -> dict:
        return {
            "contender": "lrsclip",
            "what": f"text to hits, {where}",
            "p50_ms": p50,
            "recall_at_10": recall,
        }

    rows = [row("all rows", 10.0, 0.995), row("1 %", 11.0, 1.0), row("10 %", 13.0, 0.999)]
    found = {v["title"]: v["met"] for v in judge(1_000_000, rows, {"lrsclip": 10**9}, 0.9)}
    assert found == {
        "p50 at most 15 ms": True,
        "recall@10 at least 0.99": True,
        "1 % filter: p50 at most 1.2x unfiltered": True,
        "1 % filter: recall@10 at least 1": True,
        "10 % filter: p50 at most 1.2x unfiltered": False,
        "10 % filter: recall@10 at least 1": False,
        "cold start at most 1 s": True,
    }
    large = {v["title"]: v["met"] for v in judge(10_000_000, rows, {"lrsclip": 2 * 10**9}, 5.0)}
    assert large["resident at most 1.5 GB"] is False
    assert large["10 % filter: recall@10 at least 0.99"] is True

"""The tables of measurements in README and docs come from recorded files and from nowhere else."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from types import ModuleType

import pytest

from lrsclip_rt.benchmarking import BenchRow, append_record, make_record, records_from_file

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
MARKED = "before\n<!-- table precisions -->\nold\n<!-- end precisions -->\nafter\n"


@pytest.fixture(scope="module")
def tables() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tables", BENCHMARKS / "tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def record(results: Path, *, model: str, seconds: float) -> None:
    rows: list[dict[str, object]] = []
    for name, taken in (("pytorch-fp32", 1.0), ("lrsclip-int8-cpu", seconds)):
        costs = {"status": "passed", "file_bytes": 2**20, "peak_memory_bytes": 3 * 2**20}
        rows.append({"what": "candidate", "contender": name, **costs})
        for what in ("files to embeddings", "query of 12 tokens"):
            times = BenchRow.of(what, name, [taken], batch=8)
            rows.append({**asdict(times), "ratio": 1.0 / taken})
    settings = {"model": model, "weights": "random", "batch": 8, "files": 8, "rounds": 1}
    append_record(make_record("precisions", threads=2, settings=settings, results=rows), results)


def test_without_records_the_table_says_so(tables, tmp_path):
    assert "No measurement is recorded yet." in tables.with_tables(MARKED, tmp_path)


def test_the_newest_record_of_every_model_becomes_rows(tables, tmp_path):
    record(tmp_path, model="ViT-B/16", seconds=0.5)
    record(tmp_path, model="mini", seconds=0.02)
    record(tmp_path, model="ViT-B/16", seconds=0.25)
    text = tables.with_tables(MARKED, tmp_path)
    assert text.startswith("before\n<!-- table precisions -->\n")
    assert text.endswith("<!-- end precisions -->\nafter\n")
    assert "old" not in text
    rows = [[cell.strip() for cell in line.split("|")] for line in text.splitlines() if "int8-cpu" in line]
    assert [(row[1], row[3], row[6], row[7]) for row in rows] == [
        ("ViT-B/16 [1]", "within", "250.00", "4.0x"),
        ("mini [2]", "within", "20.00", "50.0x"),
    ]
    assert "batch 8, files 8, rounds 1, weights random" in text.replace("; ", ", ")


def test_a_table_may_be_of_some_models_alone(tables, tmp_path):
    record(tmp_path, model="ViT-B/16", seconds=0.5)
    record(tmp_path, model="mini", seconds=0.02)
    text = tables.with_tables(
        MARKED.replace("precisions -->\nold", "precisions: mini, other -->\nold"), tmp_path
    )
    assert text.startswith("before\n<!-- table precisions: mini, other -->\n")
    assert "mini [1]" in text
    assert "ViT" not in text


def test_every_marked_table_has_a_layout(tables):
    pages = [tables.ROOT / "README.md", *sorted((tables.ROOT / "docs").glob("*.md"))]
    marked = {found["name"] for page in pages for found in tables.MARKED.finditer(page.read_text("utf-8"))}
    assert marked
    assert marked <= {*tables.LAYOUTS, tables.TARGETS}


def test_the_table_of_targets_leaves_none_out_and_says_what_nobody_measured(tables, tmp_path):
    lines = tables.target_rows(tmp_path)
    titles = [line[0] for line in lines]
    assert len(titles) == len(set(titles)) >= 30
    for word in (
        "AMX",
        "VNNI",
        "query",
        "10 M",
        "absent",
        "localization",
        "start",
        "GPU",
        "RSSCN7",
        "long texts",
    ):
        assert any(word in title for title in titles), word
    assert all(line[3] == "not measured" for line in lines if "built-in" not in line[0])


def test_a_record_decides_on_its_targets(tables, tmp_path):
    def judged(bench: str, title: str, found: float, met: bool, **settings: object) -> None:
        rows = [{"what": "target", "title": title, "found": found, "met": met}]
        append_record(make_record(bench, threads=2, settings=settings, results=rows), tmp_path)

    judged("search", "p50 at most 15 ms", 20.0, False, rows=1_000_000)
    judged("search", "p50 at most 15 ms", 12.0, True, rows=1_000_000)
    judged("search", "p50 at most 15 ms", 99.0, False, rows=1_000)
    judged("gpu_kernels", "GPU preprocess: differing bytes", 0, True)
    judged("precisions", "12-token query, int8", 36.2, False, model="ViT-B/16")
    lines = {line[0]: line[2:4] for line in tables.target_rows(tmp_path)}
    assert lines["search, 1 M rows: p50"] == ("12.0 ms", "met")
    assert lines["GPU preprocess: differing bytes"] == ("0", "met")
    assert [
        found for title, found in lines.items() if title.endswith("PyTorch fp32 at 248 tokens: int8")
    ] == [("36.20x", "NOT MET")]


def test_making_the_tables_twice_changes_nothing(tables, tmp_path):
    record(tmp_path, model="mini", seconds=0.02)
    once = tables.with_tables(MARKED, tmp_path)
    assert tables.with_tables(once, tmp_path) == once


def test_check_fails_on_a_stale_table_and_passes_once_it_is_renewed(tmp_path):
    readme, results = tmp_path / "README.md", tmp_path / "results"
    (tmp_path / "docs").mkdir()
    readme.write_text(MARKED)
    record(results, model="mini", seconds=0.02)

    def status(*arguments: str) -> int:
        program = [sys.executable, str(BENCHMARKS / "tables.py"), "--root", str(tmp_path)]
        done = subprocess.run([*program, "--results", str(results), *arguments], check=False, timeout=60)
        return done.returncode

    assert status("--check") == 1
    assert readme.read_text() == MARKED
    assert status() == 0
    assert status("--check") == 0


def test_every_recorded_line_is_a_record_of_a_known_revision():
    for path in sorted((BENCHMARKS / "results").glob("*/*.jsonl")):
        for line in records_from_file(path):
            assert line["commit"], f"{path}: a recorded measurement names its commit"

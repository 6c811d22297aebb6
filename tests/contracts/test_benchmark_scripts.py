"""The README's table of measurements comes from recorded files and from nowhere else."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from lrsclip_rt.benchmarking import BenchRow, append_record, make_record, records_from_file

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
MARKED = "before\n<!-- table embed_vs_torch -->\nold\n<!-- end embed_vs_torch -->\nafter\n"


@pytest.fixture(scope="module")
def readme_table() -> ModuleType:
    spec = importlib.util.spec_from_file_location("readme_table", BENCHMARKS / "readme_table.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def record(results: Path, *, model: str, seconds: float) -> None:
    rows = [BenchRow.of("files to embeddings", "PyTorch fp32", [1.0], batch=8)]
    rows.append(BenchRow.of("files to embeddings", "int8-cpu", [seconds], batch=8))
    settings = {"model": model, "weights": "random", "batch": 8, "files": 8, "rounds": 1}
    append_record(make_record("embed_vs_torch", threads=2, settings=settings, results=rows), results)


def test_without_records_the_table_says_so(readme_table, tmp_path):
    assert "No measurement is recorded yet." in readme_table.with_tables(MARKED, tmp_path)


def test_the_newest_record_of_every_model_becomes_rows(readme_table, tmp_path):
    record(tmp_path, model="ViT-B/16", seconds=0.5)
    record(tmp_path, model="mini", seconds=0.02)
    record(tmp_path, model="ViT-B/16", seconds=0.25)
    text = readme_table.with_tables(MARKED, tmp_path)
    assert text.startswith("before\n<!-- table embed_vs_torch -->\n")
    assert text.endswith("<!-- end embed_vs_torch -->\nafter\n")
    assert "old" not in text
    rows = [[cell.strip() for cell in line.split("|")] for line in text.splitlines() if "int8-cpu" in line]
    assert [(row[1], row[4]) for row in rows] == [("ViT-B/16 [1]", "250.0"), ("mini [2]", "20.0")]
    assert "batch 8, files 8, rounds 1, weights random" in text.replace("; ", ", ")


def test_making_the_tables_twice_changes_nothing(readme_table, tmp_path):
    record(tmp_path, model="mini", seconds=0.02)
    once = readme_table.with_tables(MARKED, tmp_path)
    assert readme_table.with_tables(once, tmp_path) == once


def test_check_fails_on_a_stale_table_and_passes_once_it_is_renewed(tmp_path):
    readme, results = tmp_path / "README.md", tmp_path / "results"
    readme.write_text(MARKED)
    record(results, model="mini", seconds=0.02)

    def status(*arguments: str) -> int:
        program = [sys.executable, str(BENCHMARKS / "readme_table.py"), "--readme", str(readme)]
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


def test_the_comparison_with_torch_checks_first_and_prints_its_record_last(tmp_path):
    if not all(importlib.util.find_spec(name) for name in ("torch", "open_clip", "onnx")):
        pytest.skip("PyTorch, open_clip or onnx is not installed")
    options = "--model tiny --rounds 1 --files 2 --batch 2 --threads 1 --no-record".split()
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "embed_vs_torch.py"), *options],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    last = json.loads(done.stdout.splitlines()[-1])
    parity = {row["contender"]: row for row in last["results"] if row["what"] == "parity"}
    assert parity["fp32"]["passed"]
    assert parity["fp32"]["image"]["minimum"] >= 0.99999
    timed = [row for row in last["results"] if "ratio" in row]
    assert {row["what"] for row in timed} == {
        "files to embeddings",
        "query of 12 tokens",
        "query of 200 tokens",
    }
    assert {row["contender"] for row in timed} >= {"PyTorch fp32", "PyTorch fp32, 248 tokens", "fp32"}

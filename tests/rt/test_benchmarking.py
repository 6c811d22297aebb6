"""Records of measurements: what they hold, where they go, and that broken ones are refused."""

from __future__ import annotations

import json
import subprocess

import numpy as np
import pytest

from lrsclip_rt import benchmarking
from lrsclip_rt.benchmarking import (
    RECORD_KEYS,
    BenchRow,
    append_record,
    device_slug,
    interleaved_seconds,
    make_record,
    peak_rss_bytes,
    records_from_file,
    source_revision,
)
from lrsclip_rt.cpu import CpuInfo
from lrsclip_rt.errors import InputError


def test_a_row_holds_median_tail_and_throughput():
    row = BenchRow.of("image tower", "fp32", [0.1] * 18 + [0.2, 0.4], batch=8)
    assert row.p50_ms == pytest.approx(100)
    assert row.p95_ms == pytest.approx(1000 * np.percentile([0.1] * 18 + [0.2, 0.4], 95))
    assert row.per_second == pytest.approx(80)
    assert (row.rounds, row.batch) == (20, 8)


def test_no_rounds_are_an_error():
    with pytest.raises(InputError, match="no rounds"):
        BenchRow.of("image tower", "fp32", [])


def test_a_record_has_every_key_of_the_schema_in_one_line():
    row = BenchRow.of("image tower", "fp32", [0.1])
    record = make_record("bench", threads=2, settings={"batch": 8}, results=[row, {"what": "parity"}])
    line = record.to_json()
    parsed = json.loads(line)
    assert "\n" not in line
    assert tuple(parsed) == RECORD_KEYS
    assert parsed["results"][0]["p50_ms"] == pytest.approx(100)
    assert parsed["results"][1] == {"what": "parity"}
    assert {"name", "architecture", "cpus", "instructions"} == set(parsed["device"])
    assert {"python", "numpy"} <= set(parsed["versions"])
    assert parsed["schema"] == 1


def test_records_are_appended_by_device_and_read_back(tmp_path):
    first = make_record("bench", threads=1, settings={}, results=[])
    path = append_record(first, tmp_path)
    assert append_record(first, tmp_path) == path
    assert path == tmp_path / device_slug(first.device) / "bench.jsonl"
    assert records_from_file(path) == [json.loads(first.to_json())] * 2


@pytest.mark.parametrize("line", ["{", "{}", '{"bench": "x"}', "[]"])
def test_a_line_that_is_no_record_is_named(tmp_path, line):
    path = tmp_path / "bench.jsonl"
    path.write_text(make_record("bench", threads=1, settings={}, results=[]).to_json() + "\n" + line + "\n")
    with pytest.raises(InputError, match="line 2"):
        records_from_file(path)


def test_contenders_take_turns_and_warm_up_rounds_are_not_counted():
    order = []
    runs = {name: (lambda number, name=name: order.append((name, number))) for name in ("a", "b")}
    seconds = interleaved_seconds(runs, rounds=2, warm_up=1)
    assert order == [("a", -1), ("b", -1), ("a", 0), ("b", 0), ("a", 1), ("b", 1)]
    assert [len(seconds[name]) for name in ("a", "b")] == [2, 2]


def test_a_contender_that_settles_runs_once_untimed_before_its_repeats():
    order = []
    runs = {name: (lambda number, name=name: order.append(name)) for name in ("a", "b")}
    seconds = interleaved_seconds(runs, rounds=1, warm_up=0, repeats=2, settle_s=0.001)
    assert order == ["a", "a", "a", "b", "b", "b"]
    assert [len(seconds[name]) for name in ("a", "b")] == [2, 2]


def test_a_device_is_named_by_letters_digits_and_dashes():
    slug = device_slug(CpuInfo("AMD EPYC(TM) 9B14 @ 2.6/GHz", "x86_64", 4, ()))
    assert slug == "amd-epyc-9b14-2-6-ghz-4-cpus"
    assert device_slug(CpuInfo("", "aarch64", 6, ())) == "aarch64-6-cpus"


def test_the_peak_of_memory_grows_with_what_is_held():
    before = peak_rss_bytes()
    held = np.ones((before + (64 << 20)) // 8)
    after = peak_rss_bytes()
    assert after >= before + (32 << 20)
    del held


def git(folder, *arguments):
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "commit.gpgsign=false"]
    subprocess.run(
        ["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True, timeout=60
    )


def test_a_revision_is_the_commit_and_whether_files_differ_beside_results(tmp_path):
    assert source_revision(tmp_path) == (None, None)
    git(tmp_path, "init", "-q")
    assert source_revision(tmp_path) == (None, None)  # no commit yet
    (tmp_path / "a.txt").write_text("a")
    git(tmp_path, "add", "a.txt")
    git(tmp_path, "commit", "-q", "-m", "first")
    commit, dirty = source_revision(tmp_path)
    assert len(commit) == 40
    assert dirty is False
    results = tmp_path / "benchmarks" / "results" / "device"
    results.mkdir(parents=True)
    (results / "bench.jsonl").write_text("{}")
    assert source_revision(tmp_path) == (commit, False)
    (tmp_path / "a.txt").write_text("b")
    assert source_revision(tmp_path) == (commit, True)


def test_without_git_the_revision_is_unknown(tmp_path, monkeypatch):
    (tmp_path / ".git").mkdir()
    monkeypatch.setattr(benchmarking.subprocess, "run", lambda *a, **k: (_ for _ in ()).throw(OSError()))
    assert source_revision(tmp_path) == (None, None)

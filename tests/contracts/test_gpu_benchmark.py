"""benchmarks/gpu.sh is rehearsed on the host, so that the first minute on a GPU is not lost to a typo."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import lrsclip_kernels
from lrsclip_rt.benchmarking import records_from_file

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "benchmarks" / "gpu.sh"

# The wheel carries the kernels without what compiles them for the host.
pytestmark = pytest.mark.skipif(
    not (Path(lrsclip_kernels.__file__).parent / "host" / "driver.c").is_file(),
    reason="the rehearsal's device is in a checkout alone",
)


def run(*options: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [str(SCRIPT), *options],
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
        env=environment,
    )


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Records, marks and logs of the whole flow, and what it printed."""
    for library in ("torch", "onnx", "onnxruntime"):
        pytest.importorskip(library, reason="the rehearsal exports and runs a model")
    if shutil.which("g++") is None or shutil.which("gcc") is None:
        pytest.skip("gcc and g++ make the device of the rehearsal")
    # A name with a blank: no step may take it apart.
    out = tmp_path_factory.mktemp("gpu") / "a run"
    done = run("--rehearse", "--out", str(out), "--budget", "450")
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return out, done.stdout


def test_every_step_runs_or_says_why_not(rehearsed: tuple[Path, str]) -> None:
    out, said = rehearsed
    states = {path.stem: json.loads(path.read_text()) for path in (out / "marks").glob("*.json")}
    assert {name for name, state in states.items() if state["state"] != "done"} == {"sanitizer", "engines"}
    assert {state["reason"] for state in states.values()} == {
        "",
        "TensorRT needs a GPU",
        "compute-sanitizer is not here",
    }
    assert len(states) == 12
    assert "step           state      seconds  reason" in said


def test_records_are_of_the_form_of_all_benchmarks_and_name_the_gpu(rehearsed: tuple[Path, str]) -> None:
    out, _ = rehearsed
    records = {path.stem: records_from_file(path)[-1] for path in out.glob("*.jsonl")}
    assert set(records) == {
        "gpu_end_to_end",
        "gpu_heat_map",
        "gpu_kernels",
        "gpu_peers",
        "gpu_search",
        "gpu_towers",
        "kernel_checks",
        "ort_cuda_proof",
    }
    for record in records.values():
        assert record["settings"]["rehearsal"] is True
        assert record["device"]["name"] == record["settings"]["gpu"]["name"] == "Stub"
    assert all(row["differing"] == 0 for row in records["kernel_checks"]["results"])
    contenders = {row["contender"] for row in records["gpu_towers"]["results"]}
    assert contenders == {f"{p} onnxruntime-cuda{g}" for p in ("fp16", "fp32") for g in ("", ", CUDA graph")}
    assert not any("error" in row for row in records["gpu_towers"]["results"])


def test_what_is_done_is_not_done_again_and_what_failed_is(
    rehearsed: tuple[Path, str], tmp_path: Path
) -> None:
    out = Path(shutil.copytree(rehearsed[0], tmp_path / "run"))
    (out / "marks" / "heat_map.json").write_text('{"state": "failed", "reason": "a test", "seconds": 1}')
    before = (out / "gpu_search.jsonl").read_text()
    done = run("--rehearse", "--out", str(out), "--work", str(rehearsed[0] / "work"))
    assert done.returncode == 0
    assert [line for line in done.stdout.splitlines() if line.startswith("---")] == ["--- heat_map"]
    assert (out / "gpu_search.jsonl").read_text() == before
    assert len(records_from_file(out / "gpu_heat_map.jsonl")) == 2


def test_a_budget_that_ends_leaves_the_rest_open(tmp_path: Path) -> None:
    done = run("--rehearse", "--out", str(tmp_path), "--budget", "1")
    assert done.returncode == 3
    assert "environment    open" in done.stdout


def test_a_step_that_needs_another_is_not_run_without_it(tmp_path: Path) -> None:
    done = run("--rehearse", "--out", str(tmp_path), "--only", "kernels")
    assert done.returncode == 0
    assert "waits" in done.stdout
    assert "needs environment" in done.stdout
    again = run("--rehearse", "--out", str(tmp_path), "--only", "environment,kernels")
    assert again.returncode == 0
    assert "kernels        done" in again.stdout


def test_a_wrong_call_is_refused(tmp_path: Path) -> None:
    assert run("--wheels").returncode == 2
    done = run("--rehearse", "--out", str(tmp_path), "--only", "nothing")
    assert (done.returncode, "nothing is no step" in done.stderr) == (2, True)
    done = run("--rehearse", "--out", str(tmp_path), "--record")
    assert (done.returncode, "a rehearsal measures nothing" in done.stderr) == (2, True)

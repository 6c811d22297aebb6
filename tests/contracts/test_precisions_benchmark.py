"""The side-by-side run of precisions and peers: its output, what counts, and that a crash costs one alone."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from lrsclip_rt.benchmarking import RECORD_KEYS, BenchRow

ROOT = Path(__file__).resolve().parents[2]
ONLY = "onnxruntime-fp32,openvino-nncf,lrsclip-onnxruntime-int8-cpu,lrsclip-onnxruntime-fp32"
CANDIDATE_KEYS = {"status", "reason", "runs_as", "cold_s", "warm_s", "file_bytes", "peak_memory_bytes"}


@pytest.fixture
def side_by_side(monkeypatch):
    """Imports a module of the benchmark, as its script does."""
    monkeypatch.syspath_prepend(str(ROOT))

    def module(name: str) -> ModuleType:
        return importlib.import_module(f"benchmarks.side_by_side.{name}")

    return module


def need(*names: str) -> None:
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} is not installed")


def run(*options: str) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, str(ROOT / "benchmarks" / "precisions.py"), *options]
    return subprocess.run(program, capture_output=True, text=True, check=False, timeout=900)


# -------------------------------------------------------------------------------------- the whole script


def test_the_built_in_model_is_checked_then_timed_and_its_record_comes_last():
    need("torch", "open_clip", "onnx", "onnxruntime")
    tiny = "--threads 1 --rounds 1 --seconds 0 --files 2 --checks 4 --batch 2".split()
    done = run("--models", "mini", "--only", ONLY, *tiny)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    record = json.loads(lines[-1])
    assert tuple(record) == RECORD_KEYS
    assert (record["bench"], record["settings"]["model"]) == ("precisions", "mini")
    rows = {(row["what"], row.get("contender")): row for row in record["results"]}

    for name in ("onnxruntime-fp32", "lrsclip-onnxruntime-fp32"):
        parity = rows["parity", name]
        assert parity["passed"]
        # The peer's weights were taken out of the graphs: this holds both ways.
        assert min(parity["image"]["minimum"], parity["text"]["minimum"]) >= 0.99999
        assert (parity["n_images"], parity["n_texts"]) == (4, 5)
    assert 0.97 < rows["parity", "lrsclip-onnxruntime-int8-cpu"]["image"]["minimum"] < 0.99999

    for name in ("pytorch-fp32", "onnxruntime-fp32", "lrsclip-onnxruntime-int8-cpu"):
        candidate = rows["candidate", name]
        assert set(candidate) >= CANDIDATE_KEYS
        assert candidate["file_bytes"] > 10_000_000
        assert candidate["cold_s"] > 0
        assert candidate["warm_s"] > 0
        for what in ("files to embeddings", "query of 12 tokens"):
            assert rows[what, name]["ratio"] > 0
    assert rows["files to embeddings", "pytorch-fp32"]["ratio"] == 1
    assert rows["query of 12 tokens", "pytorch-fp32"]["rounds"] == 10
    if sys.platform == "linux":
        peaks = {row["contender"]: row["peak_memory_bytes"] for row in record["results"] if "cold_s" in row}
        # This runtime loads no torch.
        assert peaks["lrsclip-onnxruntime-fp32"] < 0.7 * peaks["pytorch-fp32"]

    header = next(line for line in lines if line.startswith("| candidate"))
    table = [line for line in lines if line.startswith("| ")]
    assert all(line.count("|") == header.count("|") for line in table)
    assert len(table) == 2 + 5
    if importlib.util.find_spec("nncf") is None:
        assert rows["candidate", "openvino-nncf"]["status"] == "not run"
        assert "pip install nncf" in done.stdout


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--models", "nothing"], "nothing is unknown"),
        (["--only", "pytorch-fp32,fp7"], "fp7 is no candidate"),
        (["--rounds", "0"], "--rounds must be at least 1"),
        (["--data", "no such folder"], "no such folder"),
    ],
)
def test_a_wrong_option_is_a_usage_mistake(options, said):
    done = run(*options)
    assert done.returncode == 2
    assert said in done.stderr


# ------------------------------------------------------------------------------------------- what counts


def outcome(report: ModuleType, candidate: object, *, ms: float, status: str = "passed") -> object:
    times = {
        "files": BenchRow.of(report.FILES, "", [ms / 1000], batch=8),
        "query": BenchRow.of(report.QUERY, "", [ms / 1000]),
    }
    return report.Outcome(candidate, status, **times)


def test_what_failed_its_gate_reaches_no_target_and_a_peer_counts_for_none(side_by_side):
    report, candidates = side_by_side("report"), side_by_side("candidates")
    known = {candidate.name: candidate for candidate in candidates.CANDIDATES}
    outcomes = [
        outcome(report, candidates.YARDSTICK, ms=100),
        outcome(report, known["openvino-nncf"], ms=1),
        outcome(report, known["lrsclip-openvino-int8"], ms=2, status="failed"),
        outcome(report, known["lrsclip-onnxruntime-int8-cpu"], ms=25),
        outcome(report, known["lrsclip-openvino-fp32"], ms=50),
        report.Outcome(known["lrsclip-openvino-bf16"], "not run", "no such instructions"),
    ]
    verdicts = report.judged(outcomes, report.targets(["avx512-vnni"]))
    found = {verdict.target.title: verdict for verdict in verdicts}
    images = found["image files, within the int8 gate, VNNI"]
    assert (images.best, images.ratio, images.met) == ("lrsclip-onnxruntime-int8-cpu", 4, True)
    assert (found["image files, fp32"].ratio, found["image files, fp32"].met) == (2, True)
    query = found["12-token query, int8"]
    assert (query.ratio, query.met) == (4, False)
    assert "NOT MET, 4.00x" in query.sentence()

    text = report.table(outcomes)
    failed = next(line for line in text.splitlines() if line.startswith("| lrsclip-openvino-int8 "))
    assert "FAILED" in failed
    assert " 50.00 " in failed
    assert "- lrsclip-openvino-bf16: not run, no such instructions" in text


def test_a_target_without_any_candidate_is_not_met(side_by_side):
    report, candidates = side_by_side("report"), side_by_side("candidates")
    outcomes = [outcome(report, candidates.YARDSTICK, ms=100)]
    verdicts = report.judged(outcomes, report.targets([]))
    assert [(verdict.ratio, verdict.met) for verdict in verdicts] == [(None, False)] * 3


@pytest.mark.parametrize(
    ("instructions", "ratio"), [(["amx-int8", "avx512-vnni"], 8.0), (["avx-vnni"], 3.3), (["avx2"], None)]
)
def test_the_target_for_images_in_8_bits_depends_on_the_instructions(side_by_side, instructions, ratio):
    found = [t for t in side_by_side("report").targets(instructions) if "int8 gate" in t.title]
    assert [target.ratio for target in found] == ([] if ratio is None else [ratio])


# --------------------------------------------------------------------------------------------- processes


class Fragile:
    """Something that can fail in each way."""

    def answer(self, value: int) -> int:
        return value + 1

    def mistake(self) -> None:
        raise ValueError("what went wrong")

    def crash(self) -> None:
        os._exit(7)

    def hang(self) -> None:
        import time

        time.sleep(60)


def test_an_exception_is_told_and_the_process_goes_on(side_by_side, remote_class):
    error = side_by_side("remote").RemoteError
    with remote_class(Fragile) as remote:
        with pytest.raises(error, match="ValueError: what went wrong"):
            remote.call("mistake", timeout_s=60)
        assert remote.call("answer", 41, timeout_s=60) == 42


@pytest.mark.parametrize(
    ("method", "timeout_s", "said"), [("crash", 60, "status 7"), ("hang", 1, "within 1 s")]
)
def test_a_process_that_ends_or_hangs_is_an_error_and_no_more(
    side_by_side, remote_class, method, timeout_s, said
):
    error = side_by_side("remote").RemoteError
    with remote_class(Fragile) as remote:
        assert remote.call("answer", 1, timeout_s=60) == 2
        with pytest.raises(error, match=said):
            remote.call(method, timeout_s=timeout_s)
        with pytest.raises(error, match="ended"):
            remote.call("answer", 1, timeout_s=60)


@pytest.fixture
def remote_class(side_by_side, monkeypatch):
    """``Remote`` for a class of this file, which a new process finds beside itself."""
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parent))
    monkeypatch.setattr(Fragile, "__module__", Path(__file__).stem)
    monkeypatch.setitem(sys.modules, Path(__file__).stem, sys.modules[__name__])
    return side_by_side("remote").Remote


# ----------------------------------------------------------------------------------------------- weights


def test_wide_channels_change_the_weights_and_not_the_answers(side_by_side):
    need("torch", "onnx")
    import torch

    from lrsclip_train.model import DualClip

    weights = side_by_side("weights")
    config = weights.CONFIGS["tiny"]
    plain = weights.random_state(config)
    wide = weights.widened(plain)
    norm = "visual.transformer.resblocks.1.ln_2.weight"
    ratio = (wide[norm] / plain[norm]).numpy()
    assert sorted(np.round(ratio, 3))[-7:] == [1, 30, 30, 30, 30, 30, 30]

    pixels = torch.from_numpy(np.random.default_rng(0).standard_normal((4, 3, 32, 32), np.float32))
    tokens = torch.from_numpy(np.random.default_rng(1).integers(1, 49406, (4, 248)))
    tokens[:, 9] = 49407
    rows = []
    for state in (plain, wide):
        model = DualClip(config).eval()
        model.load_state_dict(state)
        with torch.inference_mode():
            images, texts = model.encode_image(pixels), model.encode_text(tokens)
        rows.append(torch.nn.functional.normalize(torch.cat([images, texts]), dim=-1).numpy())
    assert np.abs(rows[0] - rows[1]).max() < 1e-5
    assert (rows[0][:1] @ rows[0][1:4].T).max() < 0.999


def test_rendered_pairs_are_a_data_set_with_a_split_to_calibrate_on_and_one_to_compare_on(
    side_by_side, tmp_path
):
    from lrsclip_rt.datasets import pair_set_from_folder

    preparation = side_by_side("preparation")
    folder = preparation.write_rendered_pairs(tmp_path / "tiles", 8)
    assert len(pair_set_from_folder(folder, split="train")) == 64
    materials = preparation.materials_from_folder(folder, 8)
    assert len(set(materials.paths)) == 8
    assert all(path.is_file() for path in materials.paths)
    assert materials.paths[0].stem == "064"
    assert max(len(text) for text in materials.texts) > 200
    assert materials.origin == "tiles val, the first of 256 x 256 px"

"""What ``auto`` chooses: without a measurement, with one, and with one that no longer holds."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from click.testing import CliRunner

from lrsclip_rt import backend_choice
from lrsclip_rt.backend_choice import (
    Choice,
    Measurement,
    Timing,
    candidates,
    choose,
    keep_measurement,
    kept_measurement,
)
from lrsclip_rt.backend_measuring import Timer, contenders, measure
from lrsclip_rt.bundle import Bundle
from lrsclip_rt.cli.info import command
from lrsclip_rt.cpu import CpuInfo
from lrsclip_rt.embedder import load
from lrsclip_rt.errors import BackendError, BundleError, DependencyError

needs_openvino = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="openvino is not installed"
)
pytestmark = pytest.mark.usefixtures("cache_home", "no_gpu")

ORT_INT8, ORT, OPENVINO = (
    Choice("onnxruntime", "int8-cpu"),
    Choice("onnxruntime", "fp32"),
    Choice("openvino", "fp32"),
)


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Times are of CPUs here, also on a machine that has a GPU."""
    monkeypatch.setattr("lrsclip_rt.backends.tensorrt_backend.has_gpu", lambda: False)


@pytest.fixture
def bundle(made_bundle: Path) -> Bundle:
    return Bundle.open(made_bundle)


def measurement(**milliseconds: float) -> Measurement:
    """Times of both towers by a name like ``openvino_fp32``."""
    names = {"ort_int8": ORT_INT8, "ort": ORT, "openvino": OPENVINO}
    rows = [Timing(names[n].backend, names[n].precision, ms, ms) for n, ms in milliseconds.items()]
    return Measurement("2026-01-02T03:04:05Z", tuple(rows))


def timer(seconds: Mapping[str, float], seen: list[str]) -> Timer:
    """Runs everything once, so that a contender that cannot run fails; the times are made up."""

    def time_them(runs: Mapping[str, Callable[[int], object]]) -> Mapping[str, Sequence[float]]:
        for name, run in runs.items():
            run(0)
            seen.append(name)
        return {name: [9.0, seconds[name], 0.0] for name in runs}

    return time_them


# Without a measurement


def test_nothing_is_measured_and_openvino_is_not_imported_by_default(made_bundle: Path) -> None:
    code = f"""
import sys
import lrsclip_rt as lrs
model = lrs.load({str(made_bundle)!r})
model.embed_texts("a ship")
print(model.backend, model.precision, "openvino" in sys.modules)
print("lrsclip_rt.backend_measuring" in sys.modules)
print(lrs.load({str(made_bundle)!r}, precision="auto").precision, "openvino" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.splitlines() == ["onnxruntime fp32 False", "False", "int8-cpu False"]
    assert done.stderr == ""


def test_candidates_come_in_the_order_of_the_table(bundle: Bundle) -> None:
    assert candidates(bundle) == [ORT, OPENVINO]
    assert candidates(bundle, precision="auto") == [ORT_INT8, ORT, OPENVINO]
    assert candidates(bundle, backend="openvino", precision="auto") == [OPENVINO]
    assert candidates(bundle, precision="int8-cpu") == [ORT_INT8]
    with pytest.raises(BundleError, match="not int8"):
        candidates(bundle, precision="int8")


def test_auto_precision_never_takes_what_has_no_report(bundle: Bundle) -> None:
    unproven = replace(bundle.precisions["int8-cpu"], parity=None)
    manifest = replace(bundle.manifest, precisions={**bundle.precisions, "int8-cpu": unproven})
    assert choose(Bundle(bundle.path, manifest), precision="auto") == ORT
    assert choose(Bundle(bundle.path, manifest), precision="int8-cpu") == ORT_INT8
    alone = replace(manifest, precisions={"int8-cpu": unproven}, default_precision="int8-cpu")
    with pytest.raises(BackendError, match=r"no precision of .* passed its gate.*Name one of int8-cpu"):
        choose(Bundle(bundle.path, alone), precision="auto")
    # bf16 is never in the running while the bundle has no report of it.
    assert "bf16" not in {choice.precision for choice in candidates(bundle, precision="auto")}


def test_backends_of_gpus_are_considered_only_where_there_is_one(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert candidates(bundle, precision="fp16") == []
    monkeypatch.setattr("lrsclip_rt.backends.tensorrt_backend.has_gpu", lambda: True)
    on_gpu = [Choice("tensorrt", "fp16"), Choice("onnxruntime-cuda", "fp16")]
    assert candidates(bundle, precision="fp16") == on_gpu
    assert candidates(bundle, precision="auto") == [
        ORT_INT8,
        ORT,
        OPENVINO,
        *on_gpu,
        Choice("onnxruntime-cuda", "fp32"),
    ]


# Ranking


def test_the_fastest_comes_first_and_a_tenth_is_noise() -> None:
    everything = [ORT_INT8, ORT, OPENVINO]
    assert measurement(ort_int8=1, ort=3, openvino=2).ranked(everything) == [ORT_INT8, OPENVINO, ORT]
    assert measurement(ort=2.1, openvino=2.0).ranked([ORT, OPENVINO]) == [ORT, OPENVINO]
    assert measurement(ort=2.3, openvino=2.0).ranked([ORT, OPENVINO]) == [OPENVINO, ORT]
    assert measurement(ort=2.0, openvino=2.1).ranked([OPENVINO, ORT]) == [OPENVINO, ORT]


def test_both_towers_count_alike() -> None:
    times = (Timing("onnxruntime", "fp32", 100.0, 1.0), Timing("openvino", "fp32", 90.0, 2.0))
    assert Measurement("", times).ranked([OPENVINO, ORT]) == [ORT, OPENVINO]
    text_alone = tuple(replace(row, image_ms=None) for row in times)
    assert Measurement("", text_alone).ranked([OPENVINO, ORT]) == [ORT, OPENVINO]


def test_a_measurement_that_does_not_know_all_of_them_says_nothing() -> None:
    assert measurement(openvino=1).ranked([ORT, OPENVINO]) == [ORT, OPENVINO]
    refused = Measurement("", tuple(Timing(c.backend, c.precision, reason="no") for c in (ORT, OPENVINO)))
    assert refused.ranked([ORT, OPENVINO]) == [ORT, OPENVINO]
    assert measurement().ranked([]) == []


# Choosing with one


@needs_openvino
def test_auto_takes_what_was_measured_fastest_at_the_precision(bundle: Bundle) -> None:
    assert keep_measurement(bundle, measurement(ort_int8=3, ort=2, openvino=1)) is not None
    assert choose(bundle) == OPENVINO
    assert choose(bundle, device="cpu") == OPENVINO
    assert choose(bundle, precision="auto") == OPENVINO
    assert choose(bundle, precision="auto", backend="onnxruntime") == ORT
    assert choose(bundle, precision="int8-cpu") == ORT_INT8
    assert choose(bundle, backend="onnxruntime") == ORT
    model = load(bundle)
    assert (model.backend, model.precision) == ("openvino", "fp32")


def test_a_measurement_never_changes_the_default_precision(bundle: Bundle) -> None:
    keep_measurement(bundle, measurement(ort_int8=1, ort=50, openvino=90))
    assert choose(bundle).precision == bundle.default_precision == "fp32"
    assert choose(bundle, precision="auto") == ORT_INT8


def test_what_was_fastest_but_no_longer_runs_is_passed_over(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_measurement(bundle, measurement(ort=2, openvino=1))
    broken = BackendError("openvino is broken")
    monkeypatch.setattr("lrsclip_rt.backends.openvino_backend.openvino_obstacle", lambda: broken)
    assert choose(bundle) == ORT
    with pytest.raises(BackendError, match="openvino is broken"):
        choose(bundle, backend="openvino")


def test_times_of_one_device_say_nothing_about_another(bundle: Bundle) -> None:
    keep_measurement(bundle, measurement(ort=2, openvino=1))
    with pytest.raises((BackendError, DependencyError), match="not on cuda:0"):
        choose(bundle, device="cuda:0")


# Remembering


def test_a_measurement_is_read_back_as_it_was(bundle: Bundle) -> None:
    kept = measurement(ort=2, openvino=1)
    kept = replace(kept, timings=(*kept.timings, Timing("onnxruntime", "fp16", reason="no")))
    path = keep_measurement(bundle, kept)
    assert path is not None
    assert kept_measurement(bundle) == kept
    later = replace(kept, at="2027-01-01T00:00:00Z")
    assert keep_measurement(bundle, later) == path
    assert kept_measurement(bundle) == later
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_it_holds_for_one_model_threads_processor_and_libraries(
    bundle: Bundle, handmade: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_measurement(bundle, measurement(ort=2, openvino=1), threads=3)
    assert kept_measurement(bundle, threads=3) is not None
    assert kept_measurement(bundle, threads=4) is None
    other = handmade.make_bundle(tmp_path / "other", vocabulary=None, checkpoint_sha256="cd" * 32)
    assert kept_measurement(other, threads=3) is None
    with monkeypatch.context() as context:
        context.setattr(backend_choice, "cpu_info", lambda: CpuInfo("Another", "x86_64", 2, ("avx2",)))
        assert kept_measurement(bundle, threads=3) is None
    with monkeypatch.context() as context:
        context.setattr(backend_choice, "_version", lambda name: "99.0" if name == "openvino" else None)
        assert kept_measurement(bundle, threads=3) is None
    assert kept_measurement(bundle, threads=3) is not None


def test_a_damaged_memory_is_as_good_as_none(bundle: Bundle) -> None:
    path = keep_measurement(bundle, measurement(ort=2, openvino=1))
    assert path is not None
    good = json.loads(path.read_text())

    def with_row(**changes: object) -> dict[str, object]:
        return {**good, "timings": [{**good["timings"][0], **changes}]}

    damaged: list[object] = [
        [],
        None,
        {},
        {**good, "key": {}},
        {**good, "timings": 5},
        {**good, "timings": [1]},
        with_row(image_ms=-1.0),
        with_row(image_ms=float("nan")),
        with_row(text_ms="fast"),
        with_row(more=1),
    ]
    for record in damaged:
        path.write_text(json.dumps(record))
        assert kept_measurement(bundle) is None, record
        assert choose(bundle) == ORT
    for content in (b"", b"\xff\xfe", b"[" * 100_000):
        path.write_bytes(content)
        assert kept_measurement(bundle) is None
    path.unlink()
    path.mkdir()
    assert kept_measurement(bundle) is None
    assert keep_measurement(bundle, measurement(ort=2, openvino=1)) is None


# Measuring


@needs_openvino
def test_all_contenders_are_timed_and_the_medians_kept(bundle: Bundle) -> None:
    seconds = {"int8-cpu on onnxruntime": 0.4, "fp32 on onnxruntime": 0.2, "fp32 on openvino": 0.1}
    images: list[str] = []
    texts: list[str] = []
    found = measure(bundle, threads=1, time_images=timer(seconds, images), time_texts=timer(seconds, texts))
    assert contenders(bundle) == [ORT_INT8, ORT, OPENVINO]
    assert images == texts == list(seconds)
    # Four images a run, one query; the median of 9, the time and 0 is the time.
    assert [row.image_ms for row in found.timings] == pytest.approx([100, 50, 25])
    assert [row.text_ms for row in found.timings] == pytest.approx([400, 200, 100])
    assert [row.reason for row in found.timings] == [None] * 3
    keep_measurement(bundle, found)
    assert choose(bundle) == OPENVINO


def test_where_nothing_has_a_rival_nothing_is_timed(bundle: Bundle) -> None:
    manifest = replace(
        bundle.manifest,
        precisions={"int8-cpu": bundle.precisions["int8-cpu"]},
        default_precision="int8-cpu",
    )
    alone = Bundle(bundle.path, manifest)
    seen: list[str] = []
    assert contenders(alone) == []
    assert measure(alone, time_images=timer({}, seen), time_texts=timer({}, seen)).timings == ()
    assert seen == []
    assert choose(alone, precision="auto") == ORT_INT8


def test_answers_below_the_gate_are_not_timed_and_never_chosen(handmade: ModuleType, tmp_path: Path) -> None:
    good = handmade.make_bundle(tmp_path / "good", extra={"int8-cpu": 0.001})
    bad = handmade.make_bundle(tmp_path / "bad", extra={"int8-cpu": 0.8})
    record = json.loads((bad.path / "bundle.json").read_text())
    record["precisions"]["int8-cpu"]["parity"] = good.record("int8-cpu").parity.to_dict()
    (bad.path / "bundle.json").write_text(json.dumps(record))
    lying = Bundle.open(bad.path)
    assert choose(lying, precision="auto") == ORT_INT8
    seconds = dict.fromkeys(("fp32 on onnxruntime", "fp32 on openvino"), 1.0)
    found = measure(lying, threads=1, time_images=timer(seconds, []), time_texts=timer(seconds, []))
    row = found.timings[0]
    assert (row.precision, row.image_ms, row.text_ms) == ("int8-cpu", None, None)
    assert "fell below its gate on the probe" in str(row.reason)
    keep_measurement(lying, found)
    assert choose(lying, precision="auto") == ORT


# The command


def facts_of(*arguments: str) -> tuple[dict[str, Any], str]:
    result = CliRunner().invoke(command, [*arguments, "--json"])
    assert result.exit_code == 0, result.output + str(result.exception)
    assert len(result.stdout.splitlines()) == 1
    return json.loads(result.stdout)["bundle"], result.stderr


@needs_openvino
def test_info_measures_only_when_asked_and_shows_what_was_found(made_bundle: Path, bundle: Bundle) -> None:
    facts, _ = facts_of("-b", str(made_bundle), "--threads", "1")
    assert facts["measured"] is None
    facts, said = facts_of("-b", str(made_bundle), "--threads", "1", "--measure")
    rows = facts["measured"]["timings"]
    assert [(row["backend"], row["precision"]) for row in rows] == [
        ("onnxruntime", "int8-cpu"),
        ("onnxruntime", "fp32"),
        ("openvino", "fp32"),
    ]
    assert all(row["image_ms"] > 0 and row["text_ms"] > 0 for row in rows)
    assert said == ""
    kept = kept_measurement(bundle, threads=1)
    assert kept is not None
    assert facts["measured"]["at"] == kept.at
    # What is measured again takes the place of what was made up.
    keep_measurement(bundle, measurement(ort_int8=9, ort=9, openvino=1), threads=1)
    facts, _ = facts_of("-b", str(made_bundle), "--threads", "1")
    assert facts["precisions"]["fp32"]["auto"] == "openvino"
    assert facts["auto_precision"] == "fp32"
    facts, _ = facts_of("-b", str(made_bundle), "--threads", "1", "--measure")
    assert facts["measured"]["at"] != "2026-01-02T03:04:05Z"


def test_the_table_shows_the_numbers(
    made_bundle: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from lrsclip_rt.cli import info

    monkeypatch.setenv("COLUMNS", "250")
    info._print(info.collect_facts(made_bundle))
    assert "lrsclip info --measure" in capsys.readouterr().out
    keep_measurement(bundle, measurement(ort=2, openvino=1))
    info._print(info.collect_facts(made_bundle))
    shown = capsys.readouterr().out
    assert "2026-01-02T03:04:05Z: fp32 onnxruntime 2.00 ms an image, 2.00 ms a query; fp32 openvino" in shown


def test_a_cache_that_cannot_be_written_is_said_and_no_failure(
    made_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    facts, said = facts_of("-b", str(made_bundle), "--threads", "1", "--measure")
    assert facts["measured"] is None
    assert "measured 20" in said
    assert "not remembered: the cache folder cannot be written" in said

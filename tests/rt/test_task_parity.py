"""What a precision may cost on data: each gate just kept and just missed, and reports as files."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest

from lrsclip_rt.errors import BundleError, InputError
from lrsclip_rt.evaluation import Recalls, RetrievalMetrics
from lrsclip_rt.parity import GATES
from lrsclip_rt.task_changes import (
    BINS_PER_DECADE,
    DECADES,
    TASK_GATE,
    CosineDistribution,
    PredictionChange,
    RetrievalChange,
    TaskGate,
)
from lrsclip_rt.task_parity import SetReport, TaskReport


def cosines(*values: float) -> CosineDistribution:
    return CosineDistribution.of(np.array(values))


def metrics(mean_recall: float, *, images: int = 1766, captions: int = 3000) -> RetrievalMetrics:
    recalls = Recalls(mean_recall, mean_recall, mean_recall)
    return RetrievalMetrics(recalls, recalls, images, captions)


def retrieval(lost: float, *, captions: str = "short", **counts: int) -> RetrievalChange:
    return RetrievalChange(captions, metrics(20.0, **counts), metrics(20.0 - lost, **counts))


def predictions(lost: int, images: int, *, by: str = "labels") -> PredictionChange:
    return PredictionChange(by, images, 7, images - 5, images - 5 - lost, abs(lost))


def report(*, precision: str = "int8-cpu", tasks: TaskGate = TASK_GATE, **change: Any) -> TaskReport:
    one = SetReport(
        name="tiles",
        split="val",
        images=140,
        failed=1,
        image=cosines(0.999, 0.998),
        text=cosines(0.9999),
        top1_agreement=97.0,
        top10_agreement=98.5,
        retrieval=(retrieval(0.1), retrieval(3.0, captions="long")),
        predictions=(predictions(1, 140),),
    )
    return TaskReport(
        precision, "onnxruntime", "2026-01-02T03:04:05Z", "a processor", {"onnxruntime": "1.0"},
        (replace(one, **change),), GATES[precision], tasks,
    )  # fmt: skip


def test_the_task_gates_are_the_published_constants() -> None:
    assert asdict(TASK_GATE) == {"mean_recall_drop": 0.5, "class_drop": 0.5, "labelled_drop": 100 / 140}


@pytest.mark.parametrize(
    ("images", "by", "allowed"),
    [
        (140, "labels", 1), (279, "labels", 1), (280, "labels", 2), (12, "labels", 1),
        (1766, "class", 8), (200, "class", 1), (12, "class", 1),
    ],
)  # fmt: skip
def test_a_set_may_lose_its_share_of_predictions_and_at_least_one(images: int, by: str, allowed: int) -> None:
    assert predictions(0, images, by=by).allowed(TASK_GATE) == allowed
    assert report(predictions=(predictions(allowed, images, by=by),)).passed
    failed = report(predictions=(predictions(allowed + 1, images, by=by),))
    assert not failed.passed
    (reason,) = failed.reasons
    assert reason.startswith(f"tiles val: {allowed + 1} of {images} predictions by {by} lost net")
    assert reason.endswith(f"expected at most {allowed}")


def test_what_is_won_elsewhere_makes_up_for_what_is_lost() -> None:
    assert report(predictions=(PredictionChange("labels", 140, 7, 100, 99, 30),)).passed
    assert report(predictions=(PredictionChange("labels", 140, 7, 100, 110, 30),)).passed


def test_mean_recall_may_fall_by_half_a_point_and_gain_any() -> None:
    assert report(retrieval=(retrieval(0.5),)).passed
    assert report(retrieval=(retrieval(-9.0),)).passed
    failed = report(retrieval=(retrieval(0.51),))
    assert failed.reasons == (
        "tiles val: short mR 20.00 -> 19.49, a drop of 0.51 points, expected at most 0.50",
    )


def test_a_small_set_may_lose_one_query_at_one_cut() -> None:
    worth = 100 / (6 * 12)
    assert report(retrieval=(retrieval(worth, images=12, captions=20),)).passed
    assert not report(retrieval=(retrieval(worth + 0.01, images=12, captions=20),)).passed


def test_long_captions_are_gated_only_where_a_set_has_no_other() -> None:
    assert report(retrieval=(retrieval(0.0), retrieval(3.0, captions="long"))).passed
    assert not report(retrieval=(retrieval(3.0, captions="long"),)).passed


def test_cosines_and_the_best_image_have_their_gates_on_data_too() -> None:
    assert "image cosine" in report(image=cosines(0.999, 0.96)).reasons[0]
    assert "text cosine" in report(text=cosines(0.98)).reasons[0]
    assert "text cosine -1" in report(text=cosines(float("nan"))).reasons[0]
    assert "top-1 agreement 94.9 %, expected 95 %" in report(top1_agreement=94.9).reasons[0]
    assert report(top1_agreement=None, top10_agreement=None).passed
    assert report(image=cosines(0.9994), precision="fp16").reasons


def test_a_report_without_sets_does_not_pass() -> None:
    assert not replace(report(), sets=()).passed


def test_a_bundle_may_tighten_and_never_loosen() -> None:
    strict = TASK_GATE.tightened({"labelled_drop": 0, "mean_recall_drop": 0.05})
    assert strict == TaskGate(0.05, 0.5, 0.0)
    assert set(report(tasks=strict).reasons) == {
        "tiles val: short mR 20.00 -> 19.90, a drop of 0.10 points, expected at most 0.05",
        "tiles val: 1 of 140 predictions by labels lost net (135 -> 134 right), expected at most 0",
    }
    for looser in ({"mean_recall_drop": 0.6}, {"labelled_drop": 1}, {"class_drop": float("nan")},
                   {"class_drop": -1}, {"class_drop": True}, {"mean": 0.999}):  # fmt: skip
        with pytest.raises(InputError, match="threshold"):
            TASK_GATE.tightened(looser)


def test_the_histogram_counts_every_row_by_its_distance() -> None:
    found = cosines(1.0, 1 - 1.5e-4, 1 - 1.6e-4, 1 - 3e-2, -1.0)
    assert sum(found.counts) == found.rows == 5
    index = int((np.log10(1.5e-4) - DECADES[0]) * BINS_PER_DECADE)
    assert (found.counts[0], found.counts[index], found.counts[-1]) == (1, 2, 1)
    assert found.to_dict()["histogram"] == {"-12": 1, "-3.875": 2, "-1.625": 1, "-0.125": 1}


def read_back(record: Any, **gates: Any) -> TaskReport:
    return TaskReport.from_dict(
        record, where="tasks", **{"gate": GATES["int8-cpu"], "tasks": TASK_GATE, **gates}
    )


def test_a_report_survives_json_and_is_judged_by_the_gates_of_today() -> None:
    bad = report(predictions=(predictions(9, 140),))
    record = json.loads(json.dumps(bad.to_dict()))
    assert record["passed"] is False
    assert read_back(record) == bad
    record["passed"] = True
    record["gate"]["labelled_drop"] = 50.0
    assert not read_back(record).passed
    good = json.loads(json.dumps(report().to_dict()))
    assert read_back(good).passed
    assert not read_back(good, tasks=TaskGate(0.05, 0.5, 0.5)).passed


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["sets"], {}),
        (["sets", 0, "images"], 0),
        (["sets", 0, "split"], 3),
        (["sets", 0, "top1_agreement"], 101),
        (["sets", 0, "image", "mean"], "high"),
        (["sets", 0, "image", "histogram"], {"-3.9": 1}),
        (["sets", 0, "retrieval", 0, "captions"], "middling"),
        (["sets", 0, "retrieval", 0, "fp32", "t2i", "r1"], None),
        (["sets", 0, "predictions", 0, "by"], "guess"),
        (["sets", 0, "predictions", 0, "found_right"], 141),
        (["sets", 0, "more"], 1),
        (["versions"], {"onnxruntime": 1}),
        (["gate"], None),
        (["at"], None),
        (["more"], 1),
    ],
)
def test_a_record_that_is_no_report_is_refused(path: list[Any], value: Any) -> None:
    record = json.loads(json.dumps(report().to_dict()))
    inner = record
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    with pytest.raises(BundleError):
        read_back(record)


def test_a_record_that_lacks_a_key_is_refused() -> None:
    for key in report().to_dict():
        record = json.loads(json.dumps(report().to_dict()))
        del record[key]
        with pytest.raises(BundleError, match=key):
            read_back(record)

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest
from numpy.typing import NDArray

from lrsclip_rt.errors import InputError
from lrsclip_rt.parity import GATES, CosineSummary, Embeddings, Gate, ParityReport, compare, cosine_rows


@pytest.fixture
def rows() -> NDArray[np.float64]:
    return np.random.default_rng(0).standard_normal((50, 64))


def turned(rows: NDArray[np.float64], cosine: float) -> NDArray[np.float64]:
    """Rows whose cosine with ``rows`` is exactly ``cosine``, by turning each in a random plane."""
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    other = np.random.default_rng(9).standard_normal(rows.shape)
    other -= (other * unit).sum(axis=1, keepdims=True) * unit
    other /= np.linalg.norm(other, axis=1, keepdims=True)
    return cosine * unit + np.sqrt(1 - cosine**2) * other


EIGHT_BIT = ("bf16", "int8", "int8-bf16", "int8-cpu", "fp8")


def test_the_gates_are_the_published_constants() -> None:
    assert {name: asdict(gate) for name, gate in GATES.items()} == {
        "fp32": {"mean": 0.99999, "minimum": 0.99999, "top1": 0.0},
        "fp16": {"mean": 0.9995, "minimum": 0.999, "top1": 95.0},
        **{n: {"mean": 0.99, "minimum": 0.97, "top1": 95.0} for n in EIGHT_BIT},
    }


def test_cosines_ignore_length_and_match_their_definition(rows: NDArray[np.float64]) -> None:
    np.testing.assert_allclose(cosine_rows(rows, rows * 7), 1)
    np.testing.assert_allclose(cosine_rows(rows, turned(rows, 0.8)), 0.8)
    np.testing.assert_allclose(
        cosine_rows(rows.reshape(5, 10, 64), turned(rows, 0.3).reshape(5, 10, 64)), 0.3
    )


@pytest.mark.parametrize("precision", ["fp16", "int8", "int8-cpu", "fp8", "bf16", "fp32"])
def test_a_precision_passes_just_above_its_gate_and_fails_just_below(
    precision: str, rows: NDArray[np.float64]
) -> None:
    gate = GATES[precision]
    reference = Embeddings(rows, rows)

    def passed(cosine: float) -> bool:
        # One image is compared too, so that the ranking does not matter here.
        return compare(
            Embeddings(texts=rows), Embeddings(texts=turned(rows, cosine)), precision=precision
        ).passed

    assert compare(reference, reference, precision=precision).passed
    assert passed(gate.mean + 1e-6)
    assert not passed(gate.mean - 1e-6)
    # The mean is high enough, one row is not.
    for cosine, good in ((gate.minimum + 1e-6, gate.mean < 1 - 1e-9), (gate.minimum - 1e-6, False)):
        many = np.tile(rows, (20, 1))
        candidate = many.copy()
        candidate[17] = turned(many, cosine)[17]
        report = compare(Embeddings(many), Embeddings(candidate), precision=precision)
        assert report.passed is good, (cosine, report)


def test_images_and_texts_are_judged_separately(rows: NDArray[np.float64]) -> None:
    bad = turned(rows, 0.9)
    for candidate in (Embeddings(bad, rows), Embeddings(rows, bad)):
        report = compare(Embeddings(rows, rows), candidate, precision="int8")
        assert not report.passed
    assert not compare(Embeddings(rows, rows), Embeddings(rows, -rows), precision="int8").passed


def test_patches_have_a_verdict_of_their_own(rows: NDArray[np.float64]) -> None:
    patches = np.random.default_rng(1).standard_normal((4, 100, 64))
    flat = patches.reshape(400, 64)
    one_bad = flat.copy()
    one_bad[3] = -flat[3]
    good = compare(
        Embeddings(rows, None, patches),
        Embeddings(rows, None, one_bad.reshape(patches.shape)),
        precision="int8",
    )
    assert good.passed
    assert good.dense_passed
    assert good.dense is not None
    assert good.dense.minimum == pytest.approx(-1)
    bad = turned(flat, 0.95).reshape(patches.shape)
    report = compare(Embeddings(rows, None, patches), Embeddings(rows, None, bad), precision="int8")
    assert report.passed
    assert report.dense_passed is False
    assert compare(Embeddings(rows), Embeddings(rows), precision="int8").dense_passed is None


def test_top1_agreement_is_the_share_of_texts_whose_best_image_stays() -> None:
    images = np.eye(20)
    texts = np.eye(20)
    swapped = images.copy()
    swapped[[0, 1]] = images[[1, 0]]
    report = compare(Embeddings(images, texts), Embeddings(swapped, texts), precision="int8")
    assert report.top1_agreement == pytest.approx(90)
    gate = Gate(-1, -1, 95)
    assert not compare(
        Embeddings(images, texts), Embeddings(swapped, texts), precision="int8", gate=gate
    ).passed
    assert compare(
        Embeddings(images, texts), Embeddings(swapped, texts), precision="int8", gate=Gate(-1, -1, 90)
    ).passed
    assert (
        compare(Embeddings(images[:1], texts), Embeddings(images[:1], texts), precision="int8").top1_agreement
        is None
    )


def test_only_the_best_image_counts_for_the_agreement() -> None:
    images, texts = np.eye(3), np.array([[3.0, 2.0, 1.0]])
    report = compare(Embeddings(images, texts), Embeddings(images[[0, 2, 1]], texts), precision="int8")
    assert report.top1_agreement == 100


def test_a_report_about_nothing_or_with_nan_does_not_pass(rows: NDArray[np.float64]) -> None:
    assert not compare(Embeddings(), Embeddings(), precision="fp16").passed
    broken = rows.copy()
    broken[0, 0] = np.nan
    report = compare(Embeddings(rows), Embeddings(broken), precision="fp16")
    assert not report.passed
    assert report.image is not None
    assert report.image.minimum == -1
    assert not compare(Embeddings(rows), Embeddings(np.zeros_like(rows)), precision="fp16").passed


def test_a_report_survives_json_and_its_verdict_is_computed_anew(rows: NDArray[np.float64]) -> None:
    report = compare(
        Embeddings(rows, rows, rows[None]), Embeddings(turned(rows, 0.98), rows, rows[None]), precision="int8"
    )
    record = json.loads(json.dumps(report.to_dict()))
    assert record["passed"] is False
    assert ParityReport.from_dict(record) == report
    record["passed"] = True
    assert not ParityReport.from_dict(record).passed


def test_a_record_that_is_no_report_is_refused(rows: NDArray[np.float64]) -> None:
    good = compare(Embeddings(rows), Embeddings(rows), precision="fp16").to_dict()
    for change in (
        {"n_images": -1},
        {"n_images": True},
        {"image": {"mean": 1}},
        {"gate": None},
        {"top1_agreement": "x"},
        {"more": 1},
    ):
        with pytest.raises(InputError, match="parity report"):
            ParityReport.from_dict({**good, **change})
    with pytest.raises(InputError, match="parity report"):
        ParityReport.from_dict({k: v for k, v in good.items() if k != "text"})


def test_sides_that_do_not_match_are_refused(rows: NDArray[np.float64]) -> None:
    for candidate in (Embeddings(rows[:-1]), Embeddings(rows[:, :8]), Embeddings(), Embeddings(rows[0])):
        with pytest.raises(InputError, match="of one shape"):
            compare(Embeddings(rows), candidate, precision="fp16")
    with pytest.raises(InputError, match="int4"):
        compare(Embeddings(rows), Embeddings(rows), precision="int4")


def test_a_gate_can_be_tightened_and_never_loosened() -> None:
    gate = GATES["int8"]
    assert gate.tightened({"mean": 0.995, "top1": 100}) == Gate(0.995, 0.97, 100.0)
    assert gate.tightened({}) == gate
    for looser in (
        {"mean": 0.98},
        {"minimum": 0.96},
        {"top1": 94.9},
        {"mean": float("nan")},
        {"mean": 2},
        {"mean": True},
        {"x": 1},
    ):
        with pytest.raises(InputError):
            gate.tightened(looser)


def test_a_summary_holds_the_mean_the_least_and_the_first_percentile() -> None:
    summary = CosineSummary.of(np.linspace(0, 1, 101))
    assert (summary.mean, summary.minimum, summary.p1) == pytest.approx((0.5, 0, 0.01))

"""What counts as proven."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lrsclip_export.proof import Answers, describe, parity_of, prove_fp32
from lrsclip_rt.errors import ParityError
from lrsclip_rt.parity import Gate


@pytest.fixture
def answers() -> Answers:
    rng = np.random.default_rng(7)
    rows = [rng.standard_normal(shape) for shape in ((6, 16), (2, 9, 16), (5, 16))]
    images, patches, texts = (
        (r / np.linalg.norm(r, axis=-1, keepdims=True)).astype(np.float32) for r in rows
    )
    return Answers(images, patches, texts, texts)


def turned(rows: np.ndarray, by: float) -> np.ndarray:
    """The last row turned away, the others as they were."""
    out = rows.copy()
    out[-1] = np.roll(out[-1], 1, axis=-1) * by + out[-1] * (1 - by)
    return out


def test_equal_answers_are_proven(answers) -> None:
    assert prove_fp32(answers, answers).passed


@pytest.mark.parametrize("part", ["images", "patches", "texts", "texts_fixed"])
def test_one_wrong_row_of_any_graph_is_found(answers, part) -> None:
    wrong = replace(answers, **{part: turned(getattr(answers, part), 0.05)})
    with pytest.raises(ParityError, match="do not answer as the checkpoint does"):
        prove_fp32(answers, wrong)


def test_text_graphs_that_differ_by_more_than_a_millionth_are_found(answers) -> None:
    wrong = replace(answers, texts=turned(answers.texts, 1e-5))
    with pytest.raises(ParityError, match="short text graph differs"):
        prove_fp32(answers, wrong)


def test_answers_that_are_not_finite_are_not_proven(answers) -> None:
    wrong = replace(answers, images=np.full_like(answers.images, np.nan))
    with pytest.raises(ParityError):
        prove_fp32(answers, wrong)


@pytest.mark.parametrize("part", ["texts", "texts_fixed"])
def test_the_report_shows_the_worse_of_the_two_text_graphs(answers, part) -> None:
    report = parity_of(
        answers, replace(answers, **{part: turned(getattr(answers, part), 0.5)}), precision="int8-cpu"
    )
    assert report.text is not None
    assert report.text.minimum < 0.95
    assert not report.passed


def test_a_bundles_tighter_gate_is_the_one_that_counts(answers) -> None:
    near = replace(answers, images=turned(answers.images, 0.02))
    assert parity_of(answers, near, precision="fp16").passed
    tight = parity_of(answers, near, precision="fp16", gate=Gate(0.99999999, 0.99999999))
    assert not tight.passed
    assert "gate 1 mean" in describe(tight)

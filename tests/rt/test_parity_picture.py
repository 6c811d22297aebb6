"""The picture of what precisions cost: its colours say what was lost, won and too much."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from lrsclip_rt.errors import InputError
from lrsclip_rt.evaluation import Recalls, RetrievalMetrics
from lrsclip_rt.parity import GATES
from lrsclip_rt.parity_picture import LOST, TOO_MUCH, WON, render_parity
from lrsclip_rt.task_changes import TASK_GATE, CosineDistribution, PredictionChange, RetrievalChange, TaskGate
from lrsclip_rt.task_parity import SetReport, TaskReport


def report(
    lost: int, *, spread: float = 1e-4, name: str = "tiles", tasks: TaskGate = TASK_GATE
) -> TaskReport:
    distances = spread * np.geomspace(0.3, 3, 200)
    rows = CosineDistribution.of(1 - distances)
    recalls = Recalls(20.0, 40.0, 60.0)
    same = RetrievalMetrics(recalls, recalls, 1000, 2000)
    one = SetReport(
        name, None, 1000, 0, rows, rows, 100.0, 99.0, (RetrievalChange("short", same, same),),
        (PredictionChange("labels", 1000, 7, 500, 500 - lost, 50),),
    )  # fmt: skip
    return TaskReport(
        "int8", "openvino", "2026-01-02T03:04:05Z", "a processor", {}, (one,), GATES["int8"], tasks
    )


def pixels_of(picture: Image.Image, colour: tuple[int, int, int]) -> int:
    return int((np.asarray(picture) == np.array(colour, np.uint8)).all(axis=2).sum())


def test_a_loss_a_gain_and_too_much_have_their_colours() -> None:
    small, won, much = (render_parity([report(lost)], title="The cost of mini") for lost in (3, -3, 20))
    assert small.size == won.size == much.size
    assert pixels_of(small, LOST) > pixels_of(won, LOST) + 200
    assert pixels_of(won, WON) > pixels_of(small, WON) + 200
    assert pixels_of(much, TOO_MUCH) > pixels_of(small, TOO_MUCH) + 500


def test_a_wider_distribution_lies_further_to_the_right() -> None:
    picture = np.asarray(render_parity([report(0, spread=1e-5), report(0, spread=1e-3)], title="T"))
    orange = (picture == np.array((252, 176, 84), np.uint8)).all(axis=2)
    # The name of the strip has the colour too, left of the axis.
    orange[:, :112] = False
    blocks = np.array_split(orange, 2)
    near, far = (np.median(np.nonzero(block)[1]) for block in blocks)
    assert far > near + 50


def test_every_report_gets_a_block_and_any_number_fits() -> None:
    one, many = (render_parity([report(0, name="n" * 80)] * n, title="T " * 300) for n in (1, 9))
    assert one.width == many.width
    assert many.height > 6 * one.height - 8 * 200


def test_a_gate_of_nothing_and_rows_far_beyond_are_drawn() -> None:
    none_allowed = replace(TASK_GATE, labelled_drop=0.0)
    assert render_parity([report(1, spread=0.6, tasks=none_allowed)], title="T").width > 500
    same = report(0, spread=1e-15, tasks=none_allowed)
    assert pixels_of(render_parity([same], title="T"), LOST) < 300


def test_nothing_to_draw_is_named() -> None:
    with pytest.raises(InputError, match="no report"):
        render_parity([], title="T")

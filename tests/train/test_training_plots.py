"""Logs as runs leave them behind, and what is seen in their pictures."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lrsclip_rt.errors import InputError
from lrsclip_train.axes import Axis, axis_over, running_median
from lrsclip_train.plots import GAP, LONG, PANEL_HEIGHT, RATE, SHORT, TOTAL, WEIGHT, plot_log, read_log


def _row(step: int, **more: Any) -> dict[str, Any]:
    row = {
        "step": step,
        "lr": 1e-4 * step,
        "loss": 2.0 + 1 / step,
        "short": 3.0 + 1 / step,
        "long": 1.0 + 1 / step,
        "weight": 0.5 + 0.4 / step,
        "scale": 14.3,
        "images_per_s": 50.0,
    }
    return row | more


def _log(folder: Path, rows: list[dict[str, Any]], tail: str = "") -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "log.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + tail, encoding="utf-8")
    return path


def _picture(log: Path) -> np.ndarray:
    out = log.with_name("log.png")
    plot_log(log, out)
    with Image.open(out) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(int)


def _columns(picture: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """Columns in which a colour occurs, in order."""
    same = (np.abs(picture - np.array(colour)).max(axis=2) <= 3).any(axis=0)
    return np.flatnonzero(same)


def test_every_curve_is_seen_over_the_whole_width(tmp_path: Path) -> None:
    rows = [_row(step) for step in range(1, 101)]
    rows[49] |= {"val_mR": 12.0, "val_long_mR": 30.0}
    rows[99] |= {"val_mR": 15.0, "val_long_mR": 33.0}
    picture = _picture(_log(tmp_path / "run", rows))
    for colour in (TOTAL, SHORT, LONG, WEIGHT, RATE):
        columns = _columns(picture, colour)
        assert columns[0] < 110, colour
        assert columns[-1] > 980, colour
    panels = picture[-(PANEL_HEIGHT + GAP) :]
    assert _columns(panels, SHORT)[0] > 500  # the recalls begin in the middle of the run
    assert _columns(panels, LONG)[-1] > 980


def test_a_panel_without_values_is_left_out(tmp_path: Path) -> None:
    full = _picture(_log(tmp_path / "a", [_row(1, val_mR=5.0), _row(2, val_mR=6.0)]))
    without = _picture(_log(tmp_path / "b", [_row(1), _row(2)]))
    only_rate = _picture(_log(tmp_path / "c", [{"step": 1, "lr": 1e-3}, {"step": 2, "lr": 2e-3}]))
    heights = [len(picture) for picture in (full, without, only_rate)]
    assert heights[0] - heights[1] == heights[1] - heights[2] == PANEL_HEIGHT + GAP
    with pytest.raises(InputError, match="nothing to draw"):
        _picture(_log(tmp_path / "d", [{"step": 1, "loss": math.nan}]))


def test_values_that_are_not_finite_leave_a_gap(tmp_path: Path) -> None:
    rows = [_row(step) for step in range(1, 16)]
    whole = _columns(_picture(_log(tmp_path / "whole", rows)), WEIGHT)
    for row, bad in zip(rows[5:8], (math.nan, math.inf, None), strict=True):
        row["weight"] = bad
    text = (tmp_path / "whole" / "log.jsonl").read_text("utf-8")
    broken = _columns(_picture(_log(tmp_path / "gap", rows)), WEIGHT)
    assert "NaN" not in text
    assert "NaN" in (tmp_path / "gap" / "log.jsonl").read_text("utf-8")
    # 15 steps over 912 px: from the fifth to the ninth step.
    gap = range(84 + 4 * 912 // 14 + 5, 84 + 8 * 912 // 14 - 5)
    # Where the learning rate crosses it, the weight's line is hidden.
    assert len(set(gap) & set(whole.tolist())) > 0.9 * len(gap)
    assert not set(gap) & set(broken.tolist())


def test_one_row_is_drawn_as_dots(tmp_path: Path) -> None:
    picture = _picture(_log(tmp_path / "run", [_row(7, val_mR=3.0)]))
    for colour in (TOTAL, SHORT, LONG, WEIGHT, RATE):
        dot = [column for column in _columns(picture, colour) if 300 < column < 600]
        assert 3 <= len(dot) <= 9, colour
        assert abs(float(np.mean(dot)) - 540) < 2, colour


def test_a_torn_last_line_is_left_out_and_one_within_too(tmp_path: Path) -> None:
    torn = _log(tmp_path / "a", [_row(1), _row(2)], tail='{"step": 3, "lo')
    assert [row["step"] for row in read_log(torn).rows] == [1, 2]
    assert read_log(torn).torn == 1
    # A resumed run appends to the torn line; both are lost, the rest is not.
    resumed = _log(
        tmp_path / "b", [_row(1), _row(2)], tail='{"step": 3, "l{"step": 2}\n{"step": 3, "loss": 9}\n'
    )
    assert read_log(resumed).rows[-1] == {"step": 3, "loss": 9}
    assert read_log(resumed).torn == 1
    _picture(torn)
    cut = _log(tmp_path / "c", [_row(1)])
    cut.write_bytes(cut.read_bytes() + b'{"step": 2, "note": "\xc3')
    assert (len(read_log(cut).rows), read_log(cut).torn) == (1, 1)


def test_where_a_run_was_resumed_the_later_rows_win(tmp_path: Path) -> None:
    steps = [*range(1, 31), *range(21, 26), *range(11, 15)]
    log = _log(tmp_path / "run", [{"step": s, "loss": float(n)} for n, s in enumerate(steps)])
    run = read_log(log)
    assert [row["step"] for row in run.rows] == list(range(1, 15))
    assert [row["loss"] for row in run.rows[8:]] == [8.0, 9.0, 35.0, 36.0, 37.0, 38.0]
    assert run.resumed == (10,)
    twice = _log(tmp_path / "twice", [{"step": s, "loss": 1.0} for s in (1, 2, 3, 4, 3, 4, 5, 6, 6)])
    assert read_log(twice).resumed == (2, 5)
    _picture(twice)


def test_a_missing_or_empty_log_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none.jsonl cannot be read"):
        read_log(tmp_path / "none.jsonl")
    with pytest.raises(InputError, match=r"holds no row with a step \(2 lines are no JSON\)"):
        read_log(_log(tmp_path / "run", [{"loss": 1.0}], tail="[1]\n"))


def test_ticks_are_round_and_cover_the_values() -> None:
    assert axis_over([1.0, 1500.0], wanted=8, whole=True, tight=True).ticks == (
        200.0, 400.0, 600.0, 800.0, 1000.0, 1200.0, 1400.0,
    )  # fmt: skip
    assert axis_over([3.0, 3.0], wanted=8, whole=True, tight=True).ticks == (3.0,)
    assert axis_over([0.0, 0.0], wanted=5).ticks[0] < 0 < axis_over([0.0, 0.0], wanted=5).ticks[-1]
    rate = axis_over([0.0, 4.7e-4], wanted=5)
    assert [rate.label(tick) for tick in rate.ticks] == ["0", "1e-4", "2e-4", "3e-4", "4e-4", "5e-4"]
    loss = axis_over([0.9, 2.2], wanted=5)
    assert [loss.label(tick) for tick in loss.ticks] == ["0.5", "1.0", "1.5", "2.0", "2.5"]
    assert Axis(0.0, 10.0, (0.0, 10.0)).share(25.0) == 1.0


def test_the_running_median_is_that_of_each_window() -> None:
    values = np.random.default_rng(0).normal(size=50)
    expected = [np.median(values[max(0, i - 3) : i + 4]) for i in range(50)]
    np.testing.assert_allclose(running_median(values.tolist(), 3), expected)

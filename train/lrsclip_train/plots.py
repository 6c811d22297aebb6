"""A training run as a picture, drawn from its log: losses, pair weight and learning rate, recall."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from lrsclip_rt.errors import InputError
from lrsclip_rt.localization.furniture import font_for
from lrsclip_train.axes import INK, PALE, PAPER, Axis, Box, Curve, Pen, axis_over, draw_axes, draw_curves

__all__ = ["RunLog", "plot_log", "read_log"]

Row = dict[str, Any]

WIDTH, PANEL_HEIGHT, GAP = 1080, 250, 62
TOP, BOTTOM, LEFT, RIGHT = 112, 66, 84, 84
FINE = 2
"""The picture is drawn this many times larger and reduced, which smooths lines and letters."""

SHORT, LONG, TOTAL = (33, 102, 172), (214, 96, 30), (96, 100, 108)
WEIGHT, RATE = (138, 75, 155), (31, 138, 91)
RECALLS = (SHORT, LONG, RATE, WEIGHT, (184, 134, 11), (196, 60, 90))
_RECALL = re.compile(r"val_(.+_)?(mR|R@?\d+)")


@dataclass(frozen=True, slots=True)
class RunLog:
    """What a run logged.

    Attributes:
        rows: One per step, steps rising.
        torn: Lines that were no JSON object with a step: a killed run leaves one.
        resumed: Steps after which the run was taken up again.
    """

    rows: tuple[Row, ...]
    torn: int
    resumed: tuple[int, ...]


def read_log(path: Path) -> RunLog:
    """Read a run's JSON lines.

    Where the step goes back, the run was resumed from an older checkpoint: what the killed run
    had logged from there on no longer belongs to it.

    Raises:
        InputError: If the file cannot be read or holds no row.
    """
    try:
        lines = path.read_text("utf-8", errors="replace").splitlines()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}; give the log.jsonl of a run") from error
    rows: list[Row] = []
    resumed: list[int] = []
    torn = 0
    for line in filter(str.strip, lines):
        row = _row(line)
        if row is None:
            torn += 1
            continue
        if rows and row["step"] <= rows[-1]["step"]:
            while rows and row["step"] <= rows[-1]["step"]:
                rows.pop()
            resumed = [step for step in resumed if step < row["step"] - 1] + [row["step"] - 1]
        rows.append(row)
    if not rows:
        raise InputError(f"{path} holds no row with a step ({torn} lines are no JSON); train first")
    return RunLog(tuple(rows), torn, tuple(resumed))


def plot_log(log: Path, out: Path) -> None:
    """Draw a run's log as a PNG; an older picture is replaced.

    Three panels over the steps: the losses (pale as logged, strong as running median); the weight a
    of the long texts with the learning rate; every logged recall. A panel without a value is
    left out, a value that is not finite leaves a gap.

    Args:
        log: JSON lines with ``step`` and any of ``loss``, ``short``, ``long``, ``weight``, ``lr``,
            ``val_mR``, ``val_long_mR`` and other ``val_...`` recalls.
        out: Where the PNG goes.

    Raises:
        InputError: If the log cannot be read, or holds nothing to draw.
    """
    run = read_log(log)
    panels = [panel for panel in _panels(run.rows) if panel.left]
    if not panels:
        raise InputError(
            f"{log} holds none of loss, short, long, weight, lr and val recalls; nothing to draw"
        )
    height = TOP + len(panels) * PANEL_HEIGHT + (len(panels) - 1) * GAP + BOTTOM
    image = Image.new("RGB", (WIDTH * FINE, height * FINE), PAPER)
    pen = Pen(ImageDraw.Draw(image), FINE)
    _draw_title(pen, log, run)
    first, last = run.rows[0]["step"], run.rows[-1]["step"]
    steps = axis_over([first, last], wanted=8, whole=True, tight=True)
    for number, panel in enumerate(panels):
        top = TOP + number * (PANEL_HEIGHT + GAP)
        box = Box(LEFT, top, WIDTH - RIGHT, top + PANEL_HEIGHT)
        _draw_panel(pen, box, steps, panel, run.resumed, named=number == len(panels) - 1)
    image.reduce(FINE).save(out, "PNG", optimize=True)


@dataclass(frozen=True, slots=True)
class _Panel:
    """Curves over one axis on the left, and over a second one on the right."""

    title: str
    left: tuple[Curve, ...]
    right: tuple[Curve, ...] = ()


def _panels(rows: Sequence[Row]) -> list[_Panel]:
    noisy = [_curve(rows, key, colour, key, noisy=True) for key, colour in
             (("loss", TOTAL), ("short", SHORT), ("long", LONG))]  # fmt: skip
    recalls = sorted({key for row in rows for key in row if _RECALL.fullmatch(key)}, key=_plain_first)
    named = [
        _curve(rows, key, RECALLS[number % len(RECALLS)], key.removeprefix("val_").replace("_", " "))
        for number, key in enumerate(recalls)
    ]
    weight = _finite([_curve(rows, "weight", WEIGHT, "weight of the long texts")])
    rate = _finite([_curve(rows, "lr", RATE, "learning rate")])
    return [
        _Panel("loss", _finite(noisy)),
        _Panel("schedule", weight, rate) if weight else _Panel("schedule", rate),
        _Panel("recall on val [%]", _finite(named)),
    ]


def _plain_first(key: str) -> tuple[bool, int, str]:
    """Mean recalls before single ones, ``val_mR`` before all."""
    return (not key.endswith("mR"), len(key), key)


def _finite(curves: Sequence[Curve]) -> tuple[Curve, ...]:
    return tuple(curve for curve in curves if any(math.isfinite(value) for _, value in curve.points))


def _curve(
    rows: Sequence[Row], key: str, colour: tuple[int, int, int], label: str, *, noisy: bool = False
) -> Curve:
    points = tuple((float(row["step"]), _number(row[key])) for row in rows if key in row)
    return Curve(label, colour, points, noisy=noisy, marked=key.startswith("val_") or len(points) == 1)


def _number(value: Any) -> float:
    """NaN for whatever is no number."""
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan


def _row(line: str) -> Row | None:
    """A JSON object with a whole step, or None."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    if not isinstance(row, dict) or type(row.get("step")) is not int:
        return None
    return row


def _draw_title(pen: Pen, log: Path, run: RunLog) -> None:
    last = run.rows[-1]
    name = log.resolve().parent.name
    pen.text((LEFT, 16), f"Training run: {name}", 21, INK)
    facts = [f"step {last['step']}"]
    for key, words in (("scale", "logit scale {:.1f}"), ("images_per_s", "{:.0f} images/s")):
        if math.isfinite(_number(last.get(key))):
            facts.append(words.format(last[key]))
    if run.resumed:
        facts.append(f"resumed at {', '.join(map(str, run.resumed[-4:]))}")
    if run.torn:
        facts.append(f"{run.torn} torn line{'s' if run.torn > 1 else ''} left out")
    pen.text((LEFT, 46), ",  ".join(facts), 14, PALE)


def _draw_panel(
    pen: Pen, box: Box, steps: Axis, panel: _Panel, resumed: Sequence[int], *, named: bool
) -> None:
    left = _axis(panel.left)
    right = _axis(panel.right) if panel.right else None
    draw_axes(pen, box, steps, left, right, step_name="step" if named else "")
    for step in resumed:
        pen.dashed(box.place(steps, step), box.top, box.bottom)
    for curves, axis in ((panel.left, left), (panel.right, right)):
        if axis is not None:
            draw_curves(pen, box, steps, axis, curves)
    _draw_legend(pen, box, panel)


def _axis(curves: Sequence[Curve]) -> Axis:
    """Over the curves that are drawn; weights and recalls start at zero, losses where they are."""
    values = [v for curve in curves for _, v in (curve.smooth or curve.points) if math.isfinite(v)]
    if not curves[0].noisy:
        values.append(0.0)
    return axis_over(values, wanted=5)


def _draw_legend(pen: Pen, box: Box, panel: _Panel) -> None:
    """The panel's title, then each curve's name in its colour with its last value, on one line."""
    pen.text((box.left, box.top - 24), panel.title, 15, INK)
    right = float(box.right)
    for curve in reversed(panel.left + panel.right):
        label = f"{curve.label}  {curve.last:.3g}"
        pen.text((right, box.top - 23), label, 14, curve.colour, "ra")
        right -= font_for(label, 14 * FINE).getlength(label) / FINE
        pen.line([(right - 26, box.top - 14), (right - 8, box.top - 14)], curve.colour, 2.5)
        right -= 46

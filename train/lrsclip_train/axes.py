"""Axes and curves for plots of a run: round ticks, thin grid lines, gaps where values are missing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from PIL import ImageDraw

from lrsclip_rt.localization.furniture import font_for

__all__ = [
    "INK",
    "PALE",
    "PAPER",
    "Axis",
    "Box",
    "Colour",
    "Curve",
    "Pen",
    "axis_over",
    "draw_axes",
    "draw_curves",
    "running_median",
]

Colour = tuple[int, int, int]
PAPER, INK, PALE, GRID, FRAME = (
    (255, 255, 255),
    (28, 32, 36),
    (107, 112, 120),
    (234, 236, 239),
    (176, 180, 186),
)
LABEL_SIZE = 13


@dataclass(frozen=True, slots=True)
class Box:
    """Where a panel lies [px], before enlargement."""

    left: int
    top: int
    right: int
    bottom: int

    def place(self, axis: Axis, value: float) -> float:
        """Column [px] of a value of the horizontal axis."""
        return self.left + axis.share(value) * (self.right - self.left)

    def level(self, axis: Axis, value: float) -> float:
        """Row [px] of a value of a vertical axis."""
        return self.bottom - axis.share(value) * (self.bottom - self.top)


@dataclass(frozen=True, slots=True)
class Axis:
    """A range of values and its round ticks."""

    low: float
    high: float
    ticks: tuple[float, ...]

    def share(self, value: float) -> float:
        """Where a value lies, 0 at ``low`` and 1 at ``high``; values outside are moved to the end."""
        return min(1.0, max(0.0, (value - self.low) / (self.high - self.low)))

    def label(self, tick: float) -> str:
        """As many digits as the distance of ticks asks for."""
        gap = self.ticks[1] - self.ticks[0] if len(self.ticks) > 1 else max(abs(tick), 1.0)
        if max(abs(self.low), abs(self.high)) < 1e-2:
            if tick == 0:
                return "0"
            mantissa, exponent = f"{tick:.2e}".split("e")
            return f"{float(mantissa):g}e{int(exponent)}"
        return f"{tick:.{max(0, -math.floor(math.log10(gap) + 1e-9))}f}"


@dataclass(frozen=True, slots=True)
class Curve:
    """A named series.

    Attributes:
        label: For the legend.
        colour: RGB.
        points: (step, value), steps rising; NaN and infinities are gaps.
        noisy: Drawn pale, its running median strong.
        marked: Each point gets a dot.
    """

    label: str
    colour: Colour
    points: tuple[tuple[float, float], ...]
    noisy: bool = False
    marked: bool = False

    @property
    def smooth(self) -> tuple[tuple[float, float], ...]:
        """The running median of a noisy curve of many points; empty otherwise."""
        if not self.noisy or len(self.points) < 20:
            return ()
        values = running_median([value for _, value in self.points], max(2, len(self.points) // 60))
        return tuple((step, value) for (step, _), value in zip(self.points, values, strict=True))

    @property
    def last(self) -> float:
        """The last finite value of what is drawn strong."""
        drawn = self.smooth or self.points
        return next(value for _, value in reversed(drawn) if math.isfinite(value))


class Pen:
    """Draws in px of the final picture on a canvas that is ``fine`` times larger."""

    def __init__(self, canvas: ImageDraw.ImageDraw, fine: int) -> None:
        self.canvas, self.fine = canvas, fine

    def line(self, points: Sequence[tuple[float, float]], colour: Colour, width: float) -> None:
        """A line with smooth joints; a single point is a dot of that width."""
        if len(points) == 1:
            self.dot(points[0], colour, width)
            return
        enlarged = [(x * self.fine, y * self.fine) for x, y in points]
        self.canvas.line(enlarged, fill=colour, width=round(width * self.fine), joint="curve")

    def dot(self, centre: tuple[float, float], colour: Colour, radius: float) -> None:
        """A filled disc."""
        x, y, r = (part * self.fine for part in (*centre, radius))
        self.canvas.ellipse((x - r, y - r, x + r, y + r), fill=colour)

    def text(
        self, at: tuple[float, float], words: str, size: int, colour: Colour, anchor: str = "la"
    ) -> None:
        """One line of text; ``anchor`` as Pillow names it."""
        place = (at[0] * self.fine, at[1] * self.fine)
        self.canvas.text(place, words, fill=colour, font=font_for(words, size * self.fine), anchor=anchor)

    def dashed(self, x: float, top: float, bottom: float) -> None:
        """A thin upright line of dashes."""
        y = top
        while y < bottom:
            self.line([(x, y), (x, min(y + 5, bottom))], FRAME, 1)
            y += 9


def axis_over(values: Sequence[float], *, wanted: int, whole: bool = False, tight: bool = False) -> Axis:
    """An axis that covers all values, ticks at 1, 2 or 5 x 10^n.

    Args:
        values: Finite, at least one.
        wanted: About how many ticks.
        whole: Ticks are whole numbers.
        tight: The axis ends at the values; otherwise at ticks.

    Example:
        >>> axis_over([0.13, 2.2], wanted=5).ticks
        (0.0, 0.5, 1.0, 1.5, 2.0, 2.5)
    """
    low, high = min(values), max(values)
    if low == high:
        around = 0.5 if tight or low == 0 else 0.5 * abs(low)
        low, high = low - around, high + around
    rough = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    gap = next(step * power for step in (1, 2, 5, 10) if step * power >= rough * (1 - 1e-9))
    if whole:
        gap = max(1.0, gap)
    first, last = math.floor(low / gap + 1e-9), math.ceil(high / gap - 1e-9)
    ticks = tuple(float(f"{number * gap:.12g}") for number in range(first, last + 1))
    if tight:
        return Axis(low, high, tuple(tick for tick in ticks if low <= tick <= high))
    return Axis(ticks[0], ticks[-1], ticks)


def draw_axes(pen: Pen, box: Box, steps: Axis, left: Axis, right: Axis | None, *, step_name: str) -> None:
    """Grid, ticks and their labels; ``step_name`` below where it is not empty."""
    for tick in left.ticks:
        y = box.level(left, tick)
        pen.line([(box.left, y), (box.right, y)], GRID, 1)
        pen.text((box.left - 10, y), left.label(tick), LABEL_SIZE, PALE, "rm")
    if right is not None:
        for tick in right.ticks:
            pen.text((box.right + 10, box.level(right, tick)), right.label(tick), LABEL_SIZE, PALE, "lm")
    for tick in steps.ticks:
        x = box.place(steps, tick)
        pen.line([(x, box.bottom), (x, box.bottom + 5)], FRAME, 1)
        pen.text((x, box.bottom + 9), steps.label(tick), LABEL_SIZE, PALE, "ma")
    pen.line([(box.left, box.bottom), (box.right, box.bottom)], FRAME, 1.5)
    if step_name:
        pen.text(((box.left + box.right) / 2, box.bottom + 32), step_name, LABEL_SIZE + 1, PALE, "ma")


def draw_curves(pen: Pen, box: Box, steps: Axis, axis: Axis, curves: Sequence[Curve]) -> None:
    """Curves, broken where values are not finite; what is pale lies below what is strong."""
    for curve in curves:
        if curve.smooth:
            red, green, blue = (round(0.72 * 255 + 0.28 * part) for part in curve.colour)
            for placed in _placed(box, steps, axis, curve.points):
                pen.line(placed, (red, green, blue), 1.2)
    for curve in curves:
        for placed in _placed(box, steps, axis, curve.smooth or curve.points):
            pen.line(placed, curve.colour, 2.2)
            for place in placed if curve.marked else ():
                pen.dot(place, curve.colour, 3.5)


def running_median(values: Sequence[float], reach: int) -> list[float]:
    """Median over ``reach`` values before and after; what is not finite is left out, and stays NaN.

    Example:
        >>> running_median([1.0, 9.0, 2.0, float("nan"), 3.0], 1)
        [5.0, 2.0, 5.5, nan, 3.0]
    """
    smooth = []
    for index, value in enumerate(values):
        near = [v for v in values[max(0, index - reach) : index + reach + 1] if math.isfinite(v)]
        smooth.append(median(near) if math.isfinite(value) else math.nan)
    return smooth


def _placed(
    box: Box, steps: Axis, axis: Axis, points: Sequence[tuple[float, float]]
) -> list[list[tuple[float, float]]]:
    """Stretches of finite values as (column, row) [px]."""
    runs: list[list[tuple[float, float]]] = [[]]
    for step, value in points:
        if math.isfinite(value):
            runs[-1].append((box.place(steps, step), box.level(axis, value)))
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]

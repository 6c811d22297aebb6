"""What each precision costs, as a picture: how far its embeddings moved, and what that did to the scores.

One block a precision and backend. Left, the distribution of ``1 - cosine`` on a logarithmic axis with both
gates; right, what was lost on each data set as a share of what is allowed, so that every gate is one line.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from lrsclip_rt.errors import InputError
from lrsclip_rt.localization.furniture import draw_header, font_for
from lrsclip_rt.task_changes import BINS_PER_DECADE, DECADES, CosineDistribution
from lrsclip_rt.task_parity import SetReport, TaskReport

__all__ = ["LOST", "TOO_MUCH", "WON", "render_parity"]

PAPER, CARD, INK, PALE, GRID = (24, 24, 28), (32, 32, 37), (245, 245, 245), (170, 170, 178), (58, 58, 66)
FORBIDDEN = (62, 34, 40)
"""Ground beyond a gate."""

IMAGES, TEXTS = (252, 176, 84), (150, 132, 232)
LOST, WON, TOO_MUCH = (216, 160, 92), (74, 170, 128), (236, 84, 92)

FINE = 2
"""Everything is drawn this many times larger and reduced, which smooths it."""

WIDTH, MARGIN = 1240, 28
STRIP, LINE = 62, 30
"""Heights of a distribution and of a line of scores [px]."""
LEFT = (112, 560)
"""Columns of the cosine axis [px]."""
LABELS, RIGHT, NUMBERS = 600, (850, 1040), 1056
"""Columns of the names of the scores, of their axis and of their numbers [px]."""
MOST_SHARE = 2.0
"""A loss beyond this many times the allowed one is cut there."""


@dataclass(frozen=True, slots=True)
class _Score:
    """A line at the right: a name, the loss as a share of what is allowed, and its numbers."""

    name: str
    share: float
    numbers: str


def render_parity(reports: Sequence[TaskReport], *, title: str) -> Image.Image:
    """Draw reports below each other.

    Args:
        reports: One for each precision and backend.
        title: The headline.

    Raises:
        InputError: If there is none.
    """
    if not reports:
        raise InputError("no report to draw, expected one for each precision and backend")
    decades = _decades(reports)
    blocks = [_block(report, decades) for report in reports]
    header = draw_header(WIDTH, title, _facts(reports[0]))
    legend = _legend()
    gap = 14
    height = header.height + sum(block.height + gap for block in blocks) + legend.height
    picture = Image.new("RGB", (WIDTH, height), PAPER)
    picture.paste(header, (0, 0))
    top = header.height
    for block in blocks:
        picture.paste(block, (0, top))
        top += block.height + gap
    picture.paste(legend, (0, top))
    return picture


def _facts(report: TaskReport) -> str:
    sets = ", ".join(f"{one.title} ({one.images} images)" for one in report.sets)
    return f"against fp32 on onnxruntime  |  {sets}  |  {report.processor}, {report.at[:10]}"


class _Canvas:
    """Draws in picture coordinates on a larger sheet."""

    def __init__(self, width: int, height: int, colour: tuple[int, int, int]) -> None:
        self._image = Image.new("RGB", (FINE * width, FINE * height), colour)
        self._draw = ImageDraw.Draw(self._image)

    def box(
        self, box: tuple[float, float, float, float], colour: tuple[int, int, int], radius: int = 0
    ) -> None:
        left, top, right, bottom = (FINE * part for part in box)
        if right > left and bottom > top:
            self._draw.rounded_rectangle((left, top, right - 1, bottom - 1), FINE * radius, fill=colour)

    def area(self, points: Sequence[tuple[float, float]], colour: tuple[int, int, int]) -> None:
        self._draw.polygon([(FINE * col, FINE * row) for col, row in points], fill=colour)

    def line(
        self, points: Sequence[tuple[float, float]], colour: tuple[int, int, int], width: float = 1
    ) -> None:
        scaled = [(FINE * col, FINE * row) for col, row in points]
        self._draw.line(scaled, fill=colour, width=max(1, round(FINE * width)))

    def text(
        self, col: float, row: float, text: str, size: int, colour: tuple[int, int, int], anchor: str = "lm"
    ) -> None:
        font = font_for(text, FINE * size)
        self._draw.text((FINE * col, FINE * row), text, fill=colour, font=font, anchor=anchor)

    def reduced(self) -> Image.Image:
        return self._image.reduce(FINE)


def _block(report: TaskReport, decades: tuple[int, int]) -> Image.Image:
    scores = [score for one in report.sets for score in _scores(one, report)]
    head, foot = 50, 34
    height = head + max(2 * STRIP + 8, len(scores) * LINE) + foot
    canvas = _Canvas(WIDTH, height, PAPER)
    canvas.box((MARGIN // 2, 0, WIDTH - MARGIN // 2, height), CARD, radius=10)
    canvas.text(MARGIN, 26, f"{report.precision} on {report.backend}", 20, INK)
    said, colour = ("passed", WON) if report.passed else ("failed", TOO_MUCH)
    canvas.text(WIDTH - MARGIN, 26, said, 18, colour, anchor="rm")
    _draw_cosines(canvas, report, decades, head, height - foot)
    _draw_scores(canvas, scores, head, height - foot)
    return canvas.reduced()


def _draw_cosines(
    canvas: _Canvas, report: TaskReport, decades: tuple[int, int], top: int, bottom: int
) -> None:
    def col(distance: float) -> float:
        place = math.log10(min(max(distance, 10.0 ** decades[0]), 10.0 ** decades[1])) - decades[0]
        return LEFT[0] + (LEFT[1] - LEFT[0]) * place / (decades[1] - decades[0])

    least, mean = col(1 - report.gate.minimum), col(1 - report.gate.mean)
    canvas.box((least, top, LEFT[1], bottom), FORBIDDEN)
    for decade in range(decades[0], decades[1] + 1):
        at = col(10.0**decade)
        canvas.line([(at, top), (at, bottom)], GRID)
        canvas.text(at, bottom + 14, f"1e{decade}" if decade else "1", 12, PALE, anchor="mm")
    canvas.text(MARGIN, bottom + 14, "1 - cosine", 12, PALE)
    middle = (top + bottom) / 2
    for row, name, colour in ((middle - 4, "image", IMAGES), (middle + 4 + STRIP, "text", TEXTS)):
        parts = [one.image if name == "image" else one.text for one in report.sets]
        canvas.text(MARGIN, row - STRIP / 2, name, 15, colour)
        _draw_ridge(canvas, parts, (row - STRIP, row), colour, decades)
        worst = col(1 - min(part.summary.minimum for part in parts))
        canvas.line([(worst, row - 18), (worst, row)], INK, width=1.5)
    for at, width in ((mean, 1), (least, 2)):
        canvas.line([(at, top), (at, bottom)], TOO_MUCH, width=width)


def _draw_ridge(
    canvas: _Canvas,
    parts: Sequence[CosineDistribution],
    rows: tuple[float, float],
    colour: tuple[int, int, int],
    decades: tuple[int, int],
) -> None:
    """Shares of each bin as an area whose highest point fills the strip."""
    counts = np.sum([part.counts for part in parts], axis=0)[(decades[0] - DECADES[0]) * BINS_PER_DECADE :]
    counts = counts[: (decades[1] - decades[0]) * BINS_PER_DECADE]
    top, bottom = rows[0] + 6, rows[1]
    heights = (bottom - top) * counts / max(1, counts.max())
    step = (LEFT[1] - LEFT[0]) / len(counts)
    points = [(LEFT[0] + step * (i + 0.5), bottom - height) for i, height in enumerate(heights)]
    canvas.area([(LEFT[0], bottom), *points, (LEFT[1], bottom)], colour)
    canvas.line([(LEFT[0], bottom), (LEFT[1], bottom)], GRID)


def _scores(one: SetReport, report: TaskReport) -> list[_Score]:
    """What a set says, each as a share of what is allowed."""
    scores = []
    if one.top1_agreement is not None:
        lost = 100 - one.top1_agreement
        share = _share(lost, 100 - report.gate.top1)
        scores.append(_Score(f"{one.title}: same best image", share, f"{one.top1_agreement:.1f} %"))
    change = one.gated_retrieval
    if change is not None:
        share = _share(change.drop, change.allowed(report.tasks))
        numbers = f"{change.reference.mean_recall:.2f} -> {change.found.mean_recall:.2f}"
        scores.append(_Score(f"{one.title}: {change.captions} mR", share, numbers))
    for p in one.predictions:
        numbers = f"{p.reference_right} -> {p.found_right} of {p.images}"
        scores.append(_Score(f"{one.title}: top-1", _share(p.lost, p.allowed(report.tasks)), numbers))
    return scores


def _share(lost: float, allowed: float) -> float:
    if allowed > 0:
        return lost / allowed
    return math.inf if lost > 0 else min(0.0, lost)


def _draw_scores(canvas: _Canvas, scores: Sequence[_Score], top: int, bottom: int) -> None:
    zero = (RIGHT[0] + RIGHT[1]) / 2
    unit = (RIGHT[1] - RIGHT[0]) / 2 / MOST_SHARE
    canvas.box((zero + unit, top, RIGHT[1], bottom), FORBIDDEN)
    first = (top + bottom - len(scores) * LINE) / 2
    for number, score in enumerate(scores):
        row = first + (number + 0.5) * LINE
        cut = float(np.clip(score.share, -MOST_SHARE, MOST_SHARE))
        colour = WON if cut < 0 else LOST if score.share <= 1 + 1e-9 else TOO_MUCH
        ends = sorted((zero, zero + unit * cut))
        canvas.box((ends[0], row - 7, max(ends[1], ends[0] + 1), row + 7), colour)
        canvas.text(LABELS, row, _fitting(score.name), 14, INK)
        canvas.text(NUMBERS, row, score.numbers, 14, PALE)
    canvas.line([(zero, top), (zero, bottom)], PALE)
    canvas.line([(zero + unit, top), (zero + unit, bottom)], TOO_MUCH, width=2)
    for share, label in ((0, "0"), (1, "allowed")):
        canvas.text(zero + unit * share, bottom + 14, label, 12, PALE, anchor="mm")


def _fitting(name: str) -> str:
    """A name that ends before the axis begins; the folder gives way."""
    room = RIGHT[0] - LABELS - 10
    folder, _, score = name.rpartition(": ")
    while font_for(name, 14).getlength(name) > room and len(folder) > 3:
        folder = folder[:-1]
        name = f"{folder}...: {score}"
    return name


def _legend() -> Image.Image:
    canvas = _Canvas(WIDTH, 44, PAPER)
    col = float(MARGIN)
    for colour, said in (
        (INK, "the farthest row"),
        (TOO_MUCH, "gates: thin of the mean, thick of the farthest row and of the losses"),
        (LOST, "lost"),
        (WON, "won"),
    ):
        canvas.box((col, 14, col + 10, 24), colour)
        canvas.text(col + 16, 19, said, 13, PALE)
        col += 40 + font_for(said, 13).getlength(said)
    return canvas.reduced()


def _decades(reports: Sequence[TaskReport]) -> tuple[int, int]:
    """The part of the axis that holds every row and every gate."""
    parts = [part for report in reports for one in report.sets for part in (one.image, one.text)]
    counts: NDArray[np.int64] = np.sum([part.counts for part in parts], axis=0)
    filled = np.flatnonzero(counts) / BINS_PER_DECADE + DECADES[0]
    gates = [math.log10(max(1 - report.gate.minimum, 1e-12)) for report in reports]
    low, high = math.floor(min(filled[0], *gates)), math.ceil(max(filled[-1] + 0.1, *gates) + 0.2)
    return max(DECADES[0], min(low, DECADES[1] - 1)), min(high, DECADES[1])

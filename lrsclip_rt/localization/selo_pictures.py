"""The picture of one scored query: the map over its scene, the true outlines, circles and peaks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from lrsclip_rt.localization.colours import coloured
from lrsclip_rt.localization.furniture import draw_header, font_for
from lrsclip_rt.localization.selo_evaluation import QueryResult

__all__ = ["render_query"]

FINE = 2
"""Lines are drawn this many times larger and reduced, which smooths them."""

PAPER, PALE = (24, 24, 28), (170, 170, 178)
SHADE, OUTLINE, CIRCLE, HIT, MISS = (
    (14, 14, 18),
    (255, 255, 255),
    (150, 214, 255),
    (64, 236, 190),
    (255, 120, 96),
)
GREYED = 0.5
"""How far the scene's own colours are drawn towards grey."""


def render_query(result: QueryResult, thumbnail: NDArray[np.uint8]) -> Image.Image:
    """Draw a query's map over its scene.

    Outlines are white, their circles blue and dashed; a peak inside a circle is green, one outside red.

    Args:
        result: The query, its scores and its map.
        thumbnail: (h, w, 3) uint8 picture of the whole scene.
    """
    height, width = thumbnail.shape[:2]
    large = _blended(result.levels, thumbnail).resize((FINE * width, FINE * height), Image.Resampling.BICUBIC)
    _draw_truth(large, result, large.width / result.levels.shape[1])
    body = large.resize((width, height), Image.Resampling.LANCZOS)
    header = draw_header(width, result.query.caption, _facts(result))
    footer = _legend(width)
    picture = Image.new("RGB", (width, header.height + height + footer.height), PAPER)
    picture.paste(header, (0, 0))
    picture.paste(body, (0, header.height))
    picture.paste(footer, (0, header.height + height))
    return picture


def _facts(result: QueryResult) -> str:
    scores = result.scores
    peaks = "1 peak" if len(scores.peaks) == 1 else f"{len(scores.peaks)} peaks"
    area = "-" if scores.roc_auc is None else f"{scores.roc_auc:.3f}"
    return (
        f"{result.query.scene}  |  Rmi {scores.rmi:.3f}  (Rsu {scores.rsu:.3f}, Ras {scores.ras:.3f}, "
        f"Rda {scores.rda:.3f})  |  ROC-AUC {area}  |  {peaks}"
    )


def _blended(levels: NDArray[np.uint8], thumbnail: NDArray[np.uint8]) -> Image.Image:
    height, width = thumbnail.shape[:2]
    small = Image.fromarray(levels).resize((width, height), Image.Resampling.BOX)
    share = np.asarray(small, dtype=np.float32) / np.float32(255)
    mixed = thumbnail * np.float32(1 - GREYED)
    mixed += thumbnail.mean(axis=2, keepdims=True, dtype=np.float32) * np.float32(GREYED)
    alpha = (np.float32(0.2) + np.float32(0.42) * share)[..., None]
    mixed += alpha * (coloured(share) - mixed)
    return Image.fromarray(np.clip(np.rint(mixed), 0, 255).astype(np.uint8))


def _draw_truth(image: Image.Image, result: QueryResult, scale: float) -> None:
    canvas = ImageDraw.Draw(image)
    line = FINE * max(2, round(max(image.size) / FINE / 500))
    for outline in result.query.outlines:
        ring = [((col + 0.5) * scale, (row + 0.5) * scale) for col, row in (*outline, outline[0])]
        canvas.line(ring, fill=SHADE, width=2 * line, joint="curve")
        canvas.line(ring, fill=OUTLINE, width=line, joint="curve")
    circles = result.scores.circles
    for circle in circles:
        centre = ((circle.col + 0.5) * scale, (circle.row + 0.5) * scale)
        _dashed_circle(canvas, centre, circle.radius * scale, line)
    for col, row in result.scores.peaks:
        inside = any(np.hypot(col - c.col, row - c.row) <= c.radius for c in circles)
        _peak(canvas, ((col + 0.5) * scale, (row + 0.5) * scale), 4 * line, HIT if inside else MISS)


def _dashed_circle(
    canvas: ImageDraw.ImageDraw, centre: tuple[float, float], radius: float, line: int
) -> None:
    box = (centre[0] - radius, centre[1] - radius, centre[0] + radius, centre[1] + radius)
    dashes = int(np.clip(2 * np.pi * radius / (8 * line), 8, 90))
    step = 360 / dashes
    for number in range(dashes):
        canvas.arc(box, number * step, (number + 0.6) * step, fill=CIRCLE, width=line)


def _peak(
    canvas: ImageDraw.ImageDraw, centre: tuple[float, float], radius: float, colour: tuple[int, int, int]
) -> None:
    for size, fill in ((radius * 1.35, SHADE), (radius, colour)):
        box = (centre[0] - size, centre[1] - size, centre[0] + size, centre[1] + size)
        canvas.ellipse(box, fill=fill)


def _legend(width: int) -> Image.Image:
    size = int(min(25, max(11, width / 68)))
    image = Image.new("RGB", (width, 3 * size), PAPER)
    canvas = ImageDraw.Draw(image)
    font = font_for("", size)
    left = float(size)
    entries = (
        (OUTLINE, "true outline"),
        (CIRCLE, "its circle"),
        (HIT, "peak inside"),
        (MISS, "peak outside"),
    )
    for colour, label in entries:
        canvas.ellipse((left, size, left + size, 2 * size), fill=colour)
        canvas.text((left + 1.5 * size, 1.5 * size), label, fill=PALE, font=font, anchor="lm")
        left += 3.0 * size + float(font.getlength(label))
    return image

"""What surrounds a heat map: the title above; the legend and the scale bar below."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from lrsclip_rt.localization.colours import colour_table

__all__ = ["draw_footer", "draw_header", "font_for", "scale_bar_length_m"]

PAPER, INK, PALE = (24, 24, 28), (245, 245, 245), (170, 170, 178)

MAX_TITLE_LINES = 4
"""Lines of a long description before it is cut with an ellipsis."""

SYSTEM_FONTS = ("NotoSansCJK-Regular.ttc", "DejaVuSans.ttf", "Arial Unicode.ttf", "arial.ttf")
"""Fonts looked for when a text has letters that Pillow's own font lacks."""


def font_for(text: str, size: int) -> Any:
    """A font [px] that has the letters of ``text`` if one is installed, else Pillow's own."""
    if any(ord(letter) > 0xFF for letter in text):
        for name in SYSTEM_FONTS:
            try:
                return ImageFont.truetype(name, size)
            except OSError:
                continue
    return ImageFont.load_default(size)


def draw_header(width: int, title: str, facts: str) -> Image.Image:
    """The query, wrapped, and a line of facts: an RGB image ``width`` px wide."""
    size = _text_size(width)
    margin = size // 2
    title_font = font_for(title, size)
    lines = _wrapped(" ".join(title.split()), title_font, width - 2 * margin)
    small = max(11, round(size * 0.62))
    fact_lines = _wrapped(facts, font_for(facts, small), width - 2 * margin)
    height = margin * 2 + round(1.3 * size * len(lines)) + round(1.4 * small * len(fact_lines))
    image = Image.new("RGB", (width, height), PAPER)
    canvas = ImageDraw.Draw(image)
    top = float(margin)
    for line in lines:
        canvas.text((margin, top), line, fill=INK, font=title_font)
        top += 1.3 * size
    for line in fact_lines:
        canvas.text((margin, top), line, fill=PALE, font=font_for(facts, small))
        top += 1.4 * small
    return image


def draw_footer(
    width: int,
    score_range: tuple[float, float],
    *,
    metres_per_px: float | None = None,
    measure: str = "cosine",
) -> Image.Image:
    """Legend of the colours and, where the ground distance is known, a scale bar."""
    size = max(11, round(_text_size(width) * 0.62))
    margin = _text_size(width) // 2
    image = Image.new("RGB", (width, margin * 2 + round(size * 2.5)), PAPER)
    canvas = ImageDraw.Draw(image)
    _draw_legend(image, canvas, size, margin, score_range, measure)
    if metres_per_px is not None and metres_per_px > 0:
        _draw_scale_bar(canvas, width, size, margin, metres_per_px)
    return image


def _draw_legend(
    image: Image.Image,
    canvas: Any,
    size: int,
    margin: int,
    score_range: tuple[float, float],
    measure: str,
) -> None:
    length = round(min(0.45 * image.width, 28 * size))
    ramp = colour_table()[np.linspace(0, 255, length).round().astype(int)]
    bar = Image.fromarray(np.repeat(ramp[None], size, axis=0))
    image.paste(bar, (margin, margin))
    below = margin + size * 1.3
    font = font_for("0", size)
    canvas.text((margin, below), f"{score_range[0]:.3f}", fill=PALE, font=font)
    canvas.text((margin + length, below), f"{score_range[1]:.3f}", fill=PALE, font=font, anchor="ra")
    canvas.text((margin + length / 2, below), measure, fill=PALE, font=font, anchor="ma")


def _draw_scale_bar(canvas: Any, width: int, size: int, margin: int, metres_per_px: float) -> None:
    metres = scale_bar_length_m(0.25 * width * metres_per_px)
    length = metres / metres_per_px
    right, middle = width - margin, margin + size // 2
    canvas.line([(right - length, middle), (right, middle)], fill=INK, width=max(2, size // 6))
    for end in (right - length, right):
        canvas.line([(end, middle - size // 2), (end, middle + size // 2)], fill=INK, width=max(2, size // 8))
    label = f"{metres / 1000:g} km" if metres >= 1000 else f"{metres:g} m"
    canvas.text(
        (right - length / 2, margin + size * 1.3), label, fill=PALE, font=font_for("0", size), anchor="ma"
    )


def scale_bar_length_m(longest_m: float) -> float:
    """Largest of 1, 2, 5 x 10^n [m] that does not exceed ``longest_m``.

    Example:
        >>> scale_bar_length_m(730.0), scale_bar_length_m(0.3)
        (500.0, 0.2)
    """
    power = 10.0 ** math.floor(math.log10(longest_m))
    digit = max(step for step in (1, 2, 5) if step * power <= longest_m * (1 + 1e-9))
    return float(f"{digit * power:.3g}")


def _text_size(width: int) -> int:
    return int(min(40, max(16, width / 42)))


def _wrapped(text: str, font: Any, width: float) -> list[str]:
    """Break ``text`` into lines that fit, the last ended by an ellipsis if there is more."""
    lines: list[str] = [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            if len(lines) == MAX_TITLE_LINES:
                lines[-1] += " ..."
                break
            lines.append(word)
        else:
            lines[-1] = longer
    return [_cut(line, font, width) for line in lines]


def _cut(line: str, font: Any, width: float) -> str:
    if font.getlength(line) <= width:
        return line
    while len(line) > 1 and font.getlength(line + "...") > width:
        line = line[: max(1, int(len(line) * 0.95))]
        if len(line) < 4:
            break
    return line + "..."

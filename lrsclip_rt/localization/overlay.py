"""The picture of one heat map: the scene, the scores over it, regions, title, legend and scale."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from lrsclip_rt.localization.box_filter import odd_cells, smoothed, smoothing_px
from lrsclip_rt.localization.colours import coloured
from lrsclip_rt.localization.furniture import draw_footer, draw_header, font_for
from lrsclip_rt.localization.heatmap import Heatmap, Region
from lrsclip_rt.raster import Scene

__all__ = ["OVERLAY_SIDE", "render_overlay", "scene_thumbnail"]

OVERLAY_SIDE = 2048
"""Longest side of the scene in the picture [px]."""

SMALLEST_SIDE = 640
"""Scenes with a shorter long side are enlarged, so that title and legend stay readable."""

FAINTEST, STRONGEST = 0.22, 0.62
"""Opacity of the colours at the lowest and highest score: the peak must not hide the object."""

GREYED = 0.45
"""How far the scene's own colours are drawn towards grey."""

MISSING = (38, 38, 42)
"""Colour where the scene shows nothing."""

LABELLED = 20
"""Regions that get their rank as a label; outlines are drawn for all."""


@dataclass(frozen=True, slots=True)
class Drawing:
    """An image and how many of its pixels a source pixel covers."""

    image: Image.Image
    scale: float


def scene_thumbnail(scene: Scene, *, longest: int = OVERLAY_SIDE) -> NDArray[np.uint8]:
    """The scene as (h, w, 3) uint8, no side above ``longest``; small scenes are enlarged."""
    side = max(scene.height, scene.width)
    scale = min(longest, max(side, min(SMALLEST_SIDE, longest))) / side
    height, width = max(1, round(scene.height * scale)), max(1, round(scene.width * scale))
    if scale <= 1.0:
        return scene.read(scene.extent, out_height=height, out_width=width)
    image = Image.fromarray(scene.read(scene.extent))
    return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC), dtype=np.uint8)


def render_overlay(
    heatmap: Heatmap,
    thumbnail: NDArray[np.uint8],
    *,
    subtitle: str = "",
    gsd_m: float | None = None,
) -> Image.Image:
    """Draw one heat map over its scene.

    The scores are smoothed over half the smallest window for display; files keep them as they are.

    Args:
        heatmap: What to draw.
        thumbnail: (h, w, 3) uint8 picture of the whole scene, from ``scene_thumbnail``.
        subtitle: A second, smaller line, for example the scene's name.
        gsd_m: Ground distance of a source pixel [m]; a scale bar is drawn where it is known.
    """
    height, width = thumbnail.shape[:2]
    drawing = Drawing(_blended(heatmap, thumbnail), width / heatmap.width)
    for region in reversed(heatmap.regions):  # the best on top
        _draw_outline(drawing, region)
    for region in heatmap.regions[:LABELLED][::-1]:
        _draw_label(drawing, region)
    header = draw_header(width, heatmap.text, _facts(heatmap, subtitle))
    metres = None if gsd_m is None else gsd_m / drawing.scale
    footer = draw_footer(width, heatmap.score_range, metres_per_px=metres, measure=heatmap.measure)
    picture = Image.new("RGB", (width, header.height + height + footer.height))
    picture.paste(header, (0, 0))
    picture.paste(drawing.image, (0, header.height))
    picture.paste(footer, (0, header.height + height))
    return picture


def _facts(heatmap: Heatmap, subtitle: str) -> str:
    """One line under the query."""
    count = len(heatmap.regions)
    found = "nothing stands out" if count == 0 else f"{count} region{'s' if count > 1 else ''}"
    best = f"best {heatmap.score_range[1]:.3f} (z {heatmap.z:.1f})"
    windows = "/".join(str(scale) for scale in heatmap.scales) or "whole scene"
    absent = "probably not in this scene" if heatmap.presence and not heatmap.presence.present else ""
    facts = (subtitle, absent, found, best, f"{heatmap.mode} {windows}")
    return "  |  ".join(part for part in facts if part)


def _blended(heatmap: Heatmap, thumbnail: NDArray[np.uint8]) -> Image.Image:
    height, width = thumbnail.shape[:2]
    values = heatmap.normalised
    reach = smoothing_px(heatmap.scales)
    smooth = smoothed(
        values,
        odd_cells(reach, values.shape[0], heatmap.height),
        odd_cells(reach, values.shape[1], heatmap.width),
    )
    share = np.asarray(
        Image.fromarray(np.clip(np.nan_to_num(smooth), 0.0, 1.0)).resize(
            (width, height), Image.Resampling.BILINEAR
        ),
        dtype=np.float32,
    )
    alpha = (FAINTEST + (STRONGEST - FAINTEST) * share)[..., None]
    # Calmer colours below, so that those above speak.
    mixed = thumbnail * np.float32(1 - GREYED)
    mixed += thumbnail.mean(axis=2, keepdims=True, dtype=np.float32) * np.float32(GREYED)
    mixed += alpha * (coloured(share) - mixed)
    picture = np.clip(mixed, 0, 255).astype(np.uint8)
    missing = np.isnan(values)
    if missing.any():
        hidden = Image.fromarray(missing).resize((width, height), Image.Resampling.NEAREST)
        picture[np.asarray(hidden, dtype=bool)] = MISSING
    return Image.fromarray(picture)


def _draw_outline(drawing: Drawing, region: Region) -> None:
    canvas = ImageDraw.Draw(drawing.image)
    line = max(2, round(max(drawing.image.size) / 600))
    for ring in region.polygon:
        points = [(col * drawing.scale, row * drawing.scale) for col, row in ring]
        for colour, thickness in (((0, 0, 0), line + 2), ((255, 255, 255), line)):
            canvas.line(points, fill=colour, width=thickness, joint="curve")


def _draw_label(drawing: Drawing, region: Region) -> None:
    """The rank in a disc at the region's peak."""
    canvas = ImageDraw.Draw(drawing.image)
    radius = max(9.0, max(drawing.image.size) / 90)
    width, height = drawing.image.size
    col = min(max(region.peak[0] * drawing.scale, radius), width - 1 - radius)
    row = min(max(region.peak[1] * drawing.scale, radius), height - 1 - radius)
    box = (col - radius, row - radius, col + radius, row + radius)
    canvas.ellipse(box, fill=(255, 255, 255), outline=(0, 0, 0), width=2)
    label = str(region.rank)
    canvas.text((col, row), label, fill=(0, 0, 0), font=font_for(label, round(radius * 1.25)), anchor="mm")

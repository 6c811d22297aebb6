"""Outlines of zones on a canvas, and paths through them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from .canvas import Canvas, Point
from .truth import Zone

__all__ = [
    "area_of",
    "blob",
    "clip_zone",
    "covers_all",
    "cut_to_box",
    "hull_box",
    "inside_zone",
    "offset_path",
    "ribbon",
    "side_point",
    "smooth_path",
    "zone_outline",
]


def blob(
    canvas: Canvas, zone: Zone, *, fill: float = 0.92, corners: int = 9, ragged: float = 0.22
) -> list[Point]:
    """An irregular rounded outline within a zone."""
    dice = canvas.dice
    start = dice.uniform(0, 2 * math.pi)
    points: list[Point] = []
    for k in range(corners):
        turn = start + 2 * math.pi * k / corners
        reach = fill * dice.uniform(1.06 - ragged, 1.1)
        # A superellipse between circle and box uses the zone better than a circle.
        c, s = math.cos(turn), math.sin(turn)
        stretch = min(1.18, 1 / max(abs(c), abs(s)))
        points.append(
            (
                min(
                    zone.col + zone.width / 2,
                    max(zone.col - zone.width / 2, zone.col + c * reach * stretch * zone.width / 2),
                ),
                min(
                    zone.row + zone.height / 2,
                    max(zone.row - zone.height / 2, zone.row + s * reach * stretch * zone.height / 2),
                ),
            )
        )
    closed = smooth_path([*points, points[0], points[1]], 3)
    per_corner = len(closed) // (corners + 1)
    return closed[per_corner // 2 : -per_corner // 2]


def covers_all(canvas: Canvas, zone: Zone) -> bool:
    """Whether a zone reaches past the whole picture, so that it needs no outline."""
    return (
        zone.col - zone.width / 2 <= 0
        and zone.col + zone.width / 2 >= canvas.width
        and zone.row - zone.height / 2 <= 0
        and zone.row + zone.height / 2 >= canvas.height
    )


def zone_outline(canvas: Canvas, zone: Zone) -> list[Point]:
    """A blob within the zone, or the zone's box when that covers the picture."""
    if covers_all(canvas, zone):
        w, h = zone.width / 2, zone.height / 2
        c, r = zone.col, zone.row
        return [(c - w, r - h), (c + w, r - h), (c + w, r + h), (c - w, r + h)]
    return blob(canvas, zone)


def cut_to_box(points: Sequence[Point], width: float, height: float) -> list[Point]:
    """A polygon cut to ``[0, width] x [0, height]`` (Sutherland-Hodgman)."""
    kept = list(points)
    for axis, bound, sign in ((0, 0.0, 1), (0, width, -1), (1, 0.0, 1), (1, height, -1)):
        source, kept = kept, []
        for i, here in enumerate(source):
            before = source[i - 1]
            inside, was = (here[axis] - bound) * sign >= 0, (before[axis] - bound) * sign >= 0
            if inside != was:
                part = (bound - before[axis]) / (here[axis] - before[axis])
                other = before[1 - axis] + part * (here[1 - axis] - before[1 - axis])
                kept.append((bound, other) if axis == 0 else (other, bound))
            if inside:
                kept.append(here)
    return kept


def area_of(points: Sequence[Point]) -> float:
    """Area of a polygon."""
    twice = sum(points[i - 1][0] * p[1] - p[0] * points[i - 1][1] for i, p in enumerate(points))
    return abs(twice) / 2


def hull_box(points: list[Point]) -> list[Point]:
    """The box around points, as a polygon."""
    left, right = min(p[0] for p in points), max(p[0] for p in points)
    top, bottom = min(p[1] for p in points), max(p[1] for p in points)
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def inside_zone(zone: Zone, point: Point) -> bool:
    """Whether a canvas position lies in a zone's box."""
    return abs(point[0] - zone.col) <= zone.width / 2 and abs(point[1] - zone.row) <= zone.height / 2


def clip_zone(zone: Zone, outline: list[Point]) -> list[Point]:
    """An outline with every vertex moved into the zone's box."""
    w, h = zone.width / 2, zone.height / 2
    return [
        (min(zone.col + w, max(zone.col - w, c)), min(zone.row + h, max(zone.row - h, r))) for c, r in outline
    ]


def side_point(zone: Zone, side: str, along: float, beyond: float) -> Point:
    """A point on one side of a zone, at ``along`` in [-1, 1] of its half length, ``beyond`` it [px]."""
    w, h = zone.width / 2, zone.height / 2
    return {
        "left": (zone.col - w - beyond, zone.row + along * h),
        "right": (zone.col + w + beyond, zone.row + along * h),
        "top": (zone.col + along * w, zone.row - h - beyond),
        "bottom": (zone.col + along * w, zone.row + h + beyond),
    }[side]


def smooth_path(points: Sequence[Point], rounds: int = 3) -> list[Point]:
    """Corners of a polyline cut off again and again (Chaikin); the ends stay."""
    path = list(points)
    for _ in range(rounds):
        cut = [path[0]]
        for (c0, r0), (c1, r1) in itertools.pairwise(path):
            cut.append((c0 * 0.75 + c1 * 0.25, r0 * 0.75 + r1 * 0.25))
            cut.append((c0 * 0.25 + c1 * 0.75, r0 * 0.25 + r1 * 0.75))
        path = [*cut, path[-1]]
    return path


def ribbon(path: Sequence[Point], half_width: float, sway: Sequence[float] | None = None) -> list[Point]:
    """Outline of a polyline drawn ``2 * half_width`` wide; ``sway`` scales the width at each vertex."""
    left: list[Point] = []
    right: list[Point] = []
    for i, (col, row) in enumerate(path):
        (c0, r0), (c1, r1) = path[max(0, i - 1)], path[min(len(path) - 1, i + 1)]
        dc, dr = c1 - c0, r1 - r0
        norm = math.sqrt(dc * dc + dr * dr) or 1.0
        half = half_width * (sway[i] if sway else 1.0)
        left.append((col - dr / norm * half, row + dc / norm * half))
        right.append((col + dr / norm * half, row - dc / norm * half))
    return left + right[::-1]


def offset_path(path: Sequence[Point], shift: float) -> list[Point]:
    """A polyline moved sideways by ``shift``."""
    outline = ribbon(path, shift)
    return outline[: len(path)]

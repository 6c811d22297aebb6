"""A map sketch without a network: footprints as SVG in a frame of longitude and latitude, with a scale."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from lrsclip_rt.archive.footprints import Rings
from lrsclip_rt.demonstration.markup import Markup, element

__all__ = ["Footprint", "map_sketch"]

WIDTH, LEAST_HEIGHT, MOST_HEIGHT = 640.0, 300.0, 500.0
LEFT, TOP, RIGHT, BOTTOM = 1.0, 1.0, 1.0, 52.0
MARGIN = 0.12
"""Room around the hits, as a share of their extent."""

_LEAST_EXTENT_DEG = 1e-4
_KM_PER_DEGREE = 111.195
_SMALL_PX = 9.0


@dataclass(frozen=True, slots=True)
class Footprint:
    """What the map shows of a hit: its rank, its rings in lon, lat, and what a pointer is told."""

    rank: int
    rings: Rings
    title: str


@dataclass(frozen=True, slots=True)
class _Frame:
    """Degrees to pixels: equirectangular, true to scale at the middle latitude."""

    west: float
    north: float
    east: float
    south: float
    height: float
    cut: float
    """Longitudes west of this are drawn 360 degrees further east."""

    @property
    def inner(self) -> tuple[float, float]:
        return WIDTH - LEFT - RIGHT, self.height - TOP - BOTTOM

    def unwrapped(self, lon: float) -> float:
        return lon + 360.0 if lon < self.cut else lon

    def place(self, lon: float, lat: float) -> tuple[float, float]:
        width, height = self.inner
        x = LEFT + (self.unwrapped(lon) - self.west) / (self.east - self.west) * width
        return x, TOP + (self.north - lat) / (self.north - self.south) * height


def map_sketch(footprints: Sequence[Footprint], *, outlines: Sequence[Rings] = ()) -> Markup | None:
    """Draw hits in the order of their ranks, the best on top; None where none has a place.

    Args:
        footprints: Of the hits; those without rings are left out.
        outlines: Of the filter: rings drawn dashed, which do not widen the map.
    """
    placed = [footprint for footprint in footprints if footprint.rings]
    if not placed:
        return None
    frame = _frame([point for footprint in placed for ring in footprint.rings for point in ring])
    width, height = frame.inner
    inside = [element("rect", x=LEFT, y=TOP, width=width, height=height, class_="sea")]
    inside += _grid(frame)
    inside += [_ring_path(frame, rings, "area") for rings in outlines]
    inside += [_mark(frame, footprint) for footprint in reversed(placed)]
    clip = element(
        "defs",
        element("clipPath", element("rect", x=LEFT, y=TOP, width=width, height=height), id="frame"),
    )
    return element(
        "svg",
        clip,
        element("g", inside, clip_path="url(#frame)"),
        element("rect", x=LEFT, y=TOP, width=width, height=height, class_="edge"),
        _labels(frame),
        _scale(frame),
        viewBox=f"0 0 {WIDTH:g} {frame.height:g}",
        role="img",
        aria_label=f"map of {len(placed)} hits",
        class_="map",
    )


def _frame(points: Sequence[tuple[float, float]]) -> _Frame:
    cut = _cut([lon for lon, _ in points])
    lons = [lon + 360.0 if lon < cut else lon for lon, _ in points]
    lats = [lat for _, lat in points]
    middle = (min(lats) + max(lats)) / 2
    squeeze = max(0.05, math.cos(math.radians(middle)))
    # In degrees of latitude both, with room around.
    across = max(_LEAST_EXTENT_DEG, (max(lons) - min(lons)) * squeeze) * (1 + 2 * MARGIN)
    up = max(_LEAST_EXTENT_DEG, max(lats) - min(lats)) * (1 + 2 * MARGIN)
    inner_width = WIDTH - LEFT - RIGHT
    least, most = LEAST_HEIGHT - TOP - BOTTOM, MOST_HEIGHT - TOP - BOTTOM
    inner_height = min(most, max(least, inner_width * up / across))
    degree = max(across / inner_width, up / inner_height)  # of latitude in a pixel
    half_lon, half_lat = degree * inner_width / 2 / squeeze, degree * inner_height / 2
    centre = (min(lons) + max(lons)) / 2
    return _Frame(
        west=centre - half_lon,
        north=middle + half_lat,
        east=centre + half_lon,
        south=middle - half_lat,
        height=inner_height + TOP + BOTTOM,
        cut=cut,
    )


def _cut(lons: Sequence[float]) -> float:
    """The end of the widest gap on the circle of longitudes: what lies west of it is drawn in the east."""
    ordered = sorted(set(lons))
    gaps = [
        (ordered[0] + 360.0 - ordered[-1], -180.0),
        *((after - before, after) for before, after in itertools.pairwise(ordered)),
    ]
    widest = max(gaps, key=lambda gap: gap[0])
    return widest[1] if widest[0] > gaps[0][0] + 1e-9 else -180.0


def _step(extent: float, most: int) -> float:
    """A round number of degrees that divides an extent into at most ``most`` parts.

    Example:
        >>> _step(0.7, 5), _step(40.0, 5)
        (0.2, 10.0)
    """
    rough = extent / most
    power = 10.0 ** math.floor(math.log10(rough))
    return next(round(power * f, 12) for f in (1, 2, 5, 10) if power * f >= rough * (1 - 1e-9))


def _ticks(low: float, high: float, most: int) -> list[float]:
    step = _step(high - low, most)
    first = math.ceil(low / step)
    return [number * step for number in range(first, math.floor(high / step) + 1)]


def _grid(frame: _Frame) -> list[Markup]:
    width, height = frame.inner
    lines = []
    for lon in _ticks(frame.west, frame.east, 5):
        x = LEFT + (lon - frame.west) / (frame.east - frame.west) * width
        lines.append(element("line", x1=_px(x), x2=_px(x), y1=TOP, y2=_px(TOP + height), class_="grid"))
    for lat in _ticks(frame.south, frame.north, 5):
        y = TOP + (frame.north - lat) / (frame.north - frame.south) * height
        lines.append(element("line", x1=LEFT, x2=_px(LEFT + width), y1=_px(y), y2=_px(y), class_="grid"))
    return lines


def _labels(frame: _Frame) -> list[Markup]:
    width, height = frame.inner
    texts = []
    lons, lats = _ticks(frame.west, frame.east, 5), _ticks(frame.south, frame.north, 5)
    for lon in lons:
        x = LEFT + (lon - frame.west) / (frame.east - frame.west) * width
        if not 40 < x < WIDTH - 40:  # half a label would be cut off
            continue
        said = _degrees((lon + 180.0) % 360.0 - 180.0, "EW", lons)
        texts.append(element("text", said, x=_px(x), y=_px(TOP + height + 17), class_="lon"))
    for lat in lats:
        y = TOP + (frame.north - lat) / (frame.north - frame.south) * height
        if y < TOP + 28:
            continue
        texts.append(element("text", _degrees(lat, "NS", lats), x=LEFT + 8, y=_px(y - 5), class_="lat"))
    return texts


def _degrees(value: float, letters: str, ticks: Sequence[float]) -> str:
    step = ticks[1] - ticks[0] if len(ticks) > 1 else 1.0
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    letter = "" if abs(value) < step / 2 else letters[0] if value > 0 else letters[1]
    return f"{abs(value):.{digits}f}\N{DEGREE SIGN}{letter}"


def _scale(frame: _Frame) -> list[Markup]:
    """A bar of a round length, true at the middle latitude."""
    width, height = frame.inner
    km = (frame.north - frame.south) / height * _KM_PER_DEGREE  # in a pixel
    length_km = _step(km * width / 4, 1)
    while length_km / km > width / 2.5:
        length_km /= 2
    y, length = TOP + height + 38, length_km / km
    said = f"{length_km:g} km" if length_km >= 1 else f"{1000 * length_km:g} m"
    path = f"M{LEFT:g} {y - 5:.1f}v5h{length:.1f}v-5"
    return [
        element("path", d=path, class_="scale"),
        element("text", said, x=_px(LEFT + length + 8), y=_px(y + 1), class_="said"),
    ]


def _ring_path(frame: _Frame, rings: Rings, kind: str) -> Markup:
    parts = []
    for ring in rings:
        points = [frame.place(lon, lat) for lon, lat in ring]
        parts.append("M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points) + "Z")
    return element("path", d="".join(parts), class_=kind)


def _mark(frame: _Frame, footprint: Footprint) -> Markup:
    """The footprint, and its rank where it is too small to see or to point at."""
    points = [frame.place(lon, lat) for ring in footprint.rings for lon, lat in ring]
    xs, ys = [x for x, _ in points], [y for _, y in points]
    x, y = (min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2
    size = max(max(xs) - min(xs), max(ys) - min(ys))
    return element(
        "a",
        element("title", footprint.title),
        _ring_path(frame, footprint.rings, "hit"),
        element("circle", cx=_px(x), cy=_px(y), r=_SMALL_PX, class_="dot" if size < 60 else "dot large"),
        element("text", str(footprint.rank), x=_px(x), y=_px(y + 3.8), class_="rank"),
        href=f"#hit-{footprint.rank}",
    )


def _px(value: float) -> str:
    return f"{value:.1f}"

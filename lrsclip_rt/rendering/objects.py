"""Things of a known size: buildings, vehicles, ships, planes, tanks, roads. Lengths are metres."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from .canvas import Canvas, Frame, Point
from .textures import Colour, shade

__all__ = [
    "CAR_COLOURS",
    "ROOFS",
    "Block",
    "Ship",
    "cars_along",
    "draw_blocks",
    "draw_cars",
    "draw_plane",
    "draw_road",
    "draw_ships",
    "draw_tank",
]

ROOFS: dict[str, tuple[Colour, ...]] = {
    "red": ((150, 82, 64), (168, 96, 72), (140, 70, 58)),
    "brown": ((116, 90, 70), (104, 78, 62), (128, 104, 84)),
    "grey": ((126, 126, 128), (108, 110, 114), (142, 140, 138)),
    "white": ((216, 216, 212), (228, 228, 226), (204, 206, 206)),
    "blue": ((100, 130, 168), (88, 116, 152), (114, 142, 174)),
}
CAR_COLOURS: tuple[Colour, ...] = (
    (228, 228, 228),
    (220, 222, 224),
    (190, 192, 196),
    (150, 152, 156),
    (60, 62, 68),
    (36, 38, 44),
    (40, 44, 60),
    (150, 40, 38),
    (60, 80, 130),
    (96, 90, 82),
)


@dataclass(frozen=True, slots=True)
class Block:
    """A building: local frame at its centre, half length, half depth, height [m], roof."""

    frame: Frame
    half_u: float
    half_v: float
    height_m: float
    colour: Colour
    roof: str


def draw_blocks(canvas: Canvas, blocks: Sequence[Block]) -> int:
    """Draw buildings with their shadows first, and count those whose centre is inside."""
    feet = [b.frame.rect(-b.half_u, -b.half_v, b.half_u, b.half_v) for b in blocks]
    canvas.shadows([(foot, b.height_m) for foot, b in zip(feet, blocks, strict=True)])
    for foot, block in zip(feet, blocks, strict=True):
        _draw_roof(canvas, block, foot)
    return sum(canvas.sees((b.frame.col, b.frame.row)) for b in blocks)


def _facing(canvas: Canvas, frame: Frame, u: float, v: float) -> float:
    """Brightness of a roof plane that falls towards the local direction ``(u, v)``."""
    col, row = u * frame.cos - v * frame.sin, u * frame.sin + v * frame.cos
    return 1.0 - 0.24 * (col * canvas.sun[0] + row * canvas.sun[1])


def _draw_roof(canvas: Canvas, block: Block, foot: list[Point]) -> None:
    f, a, b, colour = block.frame, block.half_u, block.half_v, block.colour
    if block.roof in ("gable", "hip"):
        canvas.polygon(f.rect(-a, -b, a, 0), shade(colour, _facing(canvas, f, 0, -1)))
        canvas.polygon(f.rect(-a, 0, a, b), shade(colour, _facing(canvas, f, 0, 1)))
        if block.roof == "hip":
            inset = min(b, a * 0.8)
            for side in (-1, 1):
                tip = f.shape(((side * a, -b), (side * a, b), (side * (a - inset), 0)))
                canvas.polygon(tip, shade(colour, _facing(canvas, f, side, 0)))
        return
    canvas.polygon(foot, shade(colour, 0.82))
    rim = min(0.8, 0.1 * b)
    canvas.polygon(f.rect(-a + rim, -b + rim, a - rim, b - rim), colour)
    dice = canvas.dice
    if block.roof == "ribbed":
        spans = max(1, round(2 * b / 14))
        for i in range(spans):
            v0, v1 = -b + 2 * b * i / spans, -b + 2 * b * (i + 1) / spans
            middle = (v0 + v1) / 2
            canvas.polygon(f.rect(-a, v0, a, middle), shade(colour, _facing(canvas, f, 0, -0.45)))
            canvas.polygon(f.rect(-a, middle, a, v1), shade(colour, _facing(canvas, f, 0, 0.45)))
        for _ in range(dice.integer(0, 8)):
            u = dice.uniform(-a, a * 0.9)
            strip = f.rect(u, -b, u + max(0.7, a * 0.03), b)
            canvas.polygon(strip, shade(colour, dice.uniform(0.8, 1.14)))
    for _ in range(dice.integer(1, 5) if b > 5 else 0):
        u, v, s = dice.uniform(-0.8, 0.8) * a, dice.uniform(-0.8, 0.8) * b, dice.uniform(0.8, 2.2)
        box = f.rect(u - s, v - s, u + s, v + s)
        canvas.shadows([(box, 2.0)])
        canvas.polygon(box, shade(colour, dice.uniform(0.75, 1.2)))


def draw_cars(canvas: Canvas, places: Sequence[Frame]) -> int:
    """Draw cars pointing along +u, and count those inside."""
    shown = [f for f in places if canvas.sees((f.col, f.row))]
    if canvas.ppm > 1.0:
        canvas.shadows([(f.rect(-2.2, -0.9, 2.2, 0.9), 1.0) for f in shown], low=True)
    for f in shown:
        colour = canvas.dice.pick(CAR_COLOURS)
        canvas.polygon(f.rect(-2.3, -0.95, 2.3, 0.95), colour)
        if canvas.ppm > 1.1:
            canvas.polygon(f.rect(0.5, -0.8, 1.2, 0.8), shade(colour, 0.45))
    return len(shown)


@dataclass(frozen=True, slots=True)
class Ship:
    """A vessel with its bow towards +u: frame at its middle, length and beam [m], colours."""

    frame: Frame
    length: float
    beam: float
    hull: Colour
    deck: Colour

    def outline(self, shrink_u: float = 1.0, shrink_v: float = 1.0) -> list[Point]:
        """The hull seen from above, optionally shrunk."""
        a, b = self.length / 2 * shrink_u, self.beam / 2 * shrink_v
        return self.frame.shape(
            (
                (-a, -b * 0.85),
                (a * 0.45, -b),
                (a * 0.8, -b * 0.55),
                (a, 0),
                (a * 0.8, b * 0.55),
                (a * 0.45, b),
                (-a, b * 0.85),
            )
        )


def draw_ships(canvas: Canvas, ships: Sequence[Ship]) -> int:
    """Draw vessels, big ones with cargo, and count those inside."""
    dice = canvas.dice
    canvas.shadows([(s.outline(), s.beam * 0.35) for s in ships], low=True)
    for ship in ships:
        f, a, b = ship.frame, ship.length / 2, ship.beam / 2
        canvas.polygon(ship.outline(), ship.hull)
        canvas.polygon(ship.outline(0.86, 0.72), ship.deck)
        if ship.length > 35:
            for i in range(4):
                u = -a * 0.35 + i * a * 0.27
                tone = dice.pick(((150, 70, 55), (70, 95, 130), (120, 122, 120), (170, 150, 100)))
                canvas.polygon(f.rect(u, -b * 0.6, u + a * 0.22, b * 0.6), dice.vary(tone))
            house = f.rect(-a * 0.8, -b * 0.7, -a * 0.52, b * 0.7)
            canvas.shadows([(house, 10.0)])
            canvas.polygon(house, (224, 224, 220))
        elif b * canvas.ppm > 1.5:
            canvas.polygon(f.rect(-a * 0.45, -b * 0.5, a * 0.2, b * 0.5), shade(ship.hull, 0.86))
            canvas.polygon(f.rect(a * 0.02, -b * 0.42, a * 0.16, b * 0.42), (70, 78, 90))
    return sum(canvas.sees((s.frame.col, s.frame.row)) for s in ships)


def draw_plane(canvas: Canvas, f: Frame, span: float, colour: Colour) -> None:
    """An airliner with its nose towards +u."""
    s = span / 2
    body = (
        (-s, 0),
        (-s * 0.9, -0.09 * s),
        (s * 0.8, -0.11 * s),
        (s * 1.05, 0),
        (s * 0.8, 0.11 * s),
        (-s * 0.9, 0.09 * s),
    )
    wings = ((0.32 * s, 0), (-0.22 * s, -s), (-0.38 * s, -s), (-0.12 * s, 0), (-0.38 * s, s), (-0.22 * s, s))
    tail = (
        (-0.66 * s, 0),
        (-0.9 * s, -0.36 * s),
        (-1.0 * s, -0.36 * s),
        (-0.86 * s, 0),
        (-s, 0.36 * s),
        (-0.9 * s, 0.36 * s),
    )
    parts = [f.shape(wings), f.shape(tail), f.shape(body)]
    canvas.shadows([(parts[0], 5.0), (parts[2], 5.0)])
    canvas.polygon(parts[0], shade(colour, 0.9))
    canvas.polygon(parts[1], shade(colour, 0.9))
    canvas.polygon(parts[2], colour)
    for side in (-0.36, 0.36):
        canvas.polygon(f.rect(0.02 * s, (side - 0.04) * s, 0.2 * s, (side + 0.04) * s), shade(colour, 0.62))


def draw_tank(
    canvas: Canvas, centre: Point, radius_m: float, height_m: float, colour: Colour, roof: str
) -> None:
    """A storage tank seen from slightly aside, with a coned or a floating roof."""
    radius = radius_m * canvas.ppm
    ring = [
        (
            centre[0] + radius * round(math.cos(k * math.pi / 12), 6),
            centre[1] + radius * round(math.sin(k * math.pi / 12), 6),
        )
        for k in range(24)
    ]
    canvas.shadows([(ring, height_m)])
    canvas.disc(centre, radius, shade(colour, 0.74))
    away = canvas.light.shadow
    top = (centre[0] - away[0] * radius * 0.07, centre[1] - away[1] * radius * 0.07)
    canvas.disc(top, radius * 0.95, colour)
    if roof == "floating":
        canvas.disc(top, radius * 0.84, shade(colour, 0.66))
        low = (top[0] - away[0] * radius * 0.1, top[1] - away[1] * radius * 0.1)
        canvas.disc((2 * top[0] - low[0], 2 * top[1] - low[1]), radius * 0.76, shade(colour, 0.86))
    else:
        # A cone is brightest where it faces the sun and darkest opposite.
        for k in range(12):
            c0, s0 = math.cos(k * math.pi / 6), math.sin(k * math.pi / 6)
            c1, s1 = math.cos((k + 1) * math.pi / 6), math.sin((k + 1) * math.pi / 6)
            facing = -((c0 + c1) * away[0] + (s0 + s1) * away[1]) / 2
            r = radius * 0.88
            wedge = [top, (top[0] + r * c0, top[1] + r * s0), (top[0] + r * c1, top[1] + r * s1)]
            canvas.polygon(wedge, shade(colour, 0.95 + 0.1 * facing))
        canvas.disc(top, radius * 0.1, shade(colour, 0.8))


def draw_road(
    canvas: Canvas, path: Sequence[Point], width_m: float, colour: Colour, *, marked: bool = True
) -> None:
    """A road with verges and, when wide enough to show, line markings."""
    canvas.line(path, shade(colour, 1.22), (width_m + 2.0) * canvas.ppm)
    canvas.line(path, colour, width_m * canvas.ppm)
    if marked and canvas.ppm > 0.9:
        canvas.line(path, shade(colour, 1.5), max(1.0, 0.25 * canvas.ppm))


def cars_along(canvas: Canvas, path: Sequence[Point], lanes_m: Sequence[float], gap_m: float) -> list[Frame]:
    """Places for cars on a road, in lanes at the given distances from its middle."""
    dice = canvas.dice
    places: list[Frame] = []
    for lane in lanes_m:
        left = dice.uniform(0, gap_m) * canvas.ppm
        for (c0, r0), (c1, r1) in itertools.pairwise(path):
            dc, dr = c1 - c0, r1 - r0
            length = math.sqrt(dc * dc + dr * dr)
            while left < length:
                cos, sin = dc / length, dr / length
                base = Frame(c0 + cos * left, r0 + sin * left, cos, sin, canvas.ppm)
                places.append(base.moved(0.0, lane))
                left += max(6.5, gap_m * dice.uniform(0.2, 1.8)) * canvas.ppm
            left -= length
    return places

"""Painters of single grounds: car park, sports ground, oil depot."""

from __future__ import annotations

import math

from .built import lay_ground, site, toned
from .canvas import Canvas, Frame, Point
from .objects import ROOFS, Block, draw_blocks, draw_cars, draw_road, draw_tank
from .textures import ASPHALT, CANOPY, CONCRETE, GRASS, SOIL, Colour, shade
from .truth import Fact, Painted, Zone, colour_slot, count_slot, word_slot

__all__ = ["paint_parking_lot", "paint_sports_ground", "paint_storage_tanks"]


def paint_parking_lot(canvas: Canvas, zone: Zone) -> Painted:
    """Rows of stalls with cars on asphalt."""
    dice = canvas.dice
    frame, a, b = site(canvas, zone, turned=30, fill=0.94)
    outline = frame.rect(-a, -b, a, b)
    asphalt = dice.vary(dice.pick((*ASPHALT, (158, 156, 150))))
    lay_ground(canvas, outline, asphalt, spread=1.08, grain=0.05)
    building = None
    if dice.chance(0.5) and b > 38:
        deep = dice.uniform(0.16, 0.24) * b
        tone = dice.pick(("white", "grey", "brown"))
        building = Block(
            frame.moved(dice.uniform(-0.15, 0.15) * a, -b + deep + 3),
            a * dice.uniform(0.5, 0.8),
            deep,
            9.0,
            dice.vary(dice.pick(ROOFS[tone])),
            "flat",
        )
    top = -b + 2 * (building.half_v if building else 0) + 8
    module = 17.0
    rows = max(1, int((b - top) / module))
    paint = shade(asphalt, 1.6)
    cars, trees = [], []
    occupancy = dice.uniform(0.45, 0.95)
    for i in range(rows):
        v = top + module * (i + 0.5) * (b - top) / (rows * module)
        for side in (-1, 1):
            mid = v + side * 2.75
            full = dice.uniform(-0.3, 0.3) + occupancy
            u = -a + 6.0
            while u < a - 6:
                if canvas.ppm > 0.9:
                    canvas.line(
                        [frame.at(u, mid - 2.6), frame.at(u, mid + 2.6)], paint, max(1.0, 0.2 * canvas.ppm)
                    )
                if dice.chance(full):
                    cars.append(frame.moved(u + 1.35, mid + dice.uniform(-0.3, 0.3), dice.pick((1, 3))))
                u += 2.7
        if canvas.ppm > 0.9:
            canvas.line([frame.at(-a + 6, v), frame.at(a - 6, v)], paint, max(1.0, 0.2 * canvas.ppm))
        for u in (-a + 3.5, a - 3.5):
            canvas.disc(frame.at(u, v), 2.4 * canvas.ppm, dice.vary(dice.pick(GRASS), 6))
            trees.append((frame.at(u, v), dice.uniform(1.6, 2.6) * canvas.ppm))
    for _ in range(dice.integer(0, 8)):
        cars.append(frame.moved(dice.uniform(-0.9, 0.9) * a, top + module * dice.integer(0, rows), 0))
    for _ in range(dice.integer(4, 18)):
        edge = dice.pick((-1, 1))
        trees.append((frame.at(dice.uniform(-a, a), edge * (b + 3)), dice.uniform(2.0, 3.6) * canvas.ppm))
    if building:
        draw_blocks(canvas, [building])
    parked = draw_cars(canvas, cars)
    planted = canvas.trees(trees, dice.vary(dice.pick(CANOPY)))
    shown = sum(
        1
        for i in range(rows)
        for s in (-0.5, 0.0, 0.5)
        if s == 0.0 and canvas.sees(frame.at(0, top + (b - top) / rows * (i + 0.5)))
    )
    facts = [
        Fact("In the parking lot there {0}", (count_slot(parked, "car", verb=True),)),
        Fact("The cars are parked in {0}", (count_slot(shown, "double row"),)),
        Fact(
            "White lines mark the spaces on the {0} asphalt", (word_slot("colour", "grey", ("red", "green")),)
        ),
    ]
    if building and canvas.sees((building.frame.col, building.frame.row)):
        facts.append(
            Fact(
                "A large flat {0} borders the parking lot",
                (word_slot("noun", "building", ("river", "forest")),),
            )
        )
    if planted:
        facts.append(Fact("Around it stand {0}", (count_slot(planted, "tree"),)))
    return Painted(outline, (("car", parked), ("row", shown), ("tree", planted)), ("grey",), tuple(facts))


def _pitch(canvas: Canvas, f: Frame, half_u: float, half_v: float, turf: Colour, stripes: int) -> None:
    for k in range(stripes):
        u0, u1 = -half_u + 2 * half_u * k / stripes, -half_u + 2 * half_u * (k + 1) / stripes
        canvas.polygon(f.rect(u0, -half_v, u1, half_v), shade(turf, 1.1 if k % 2 else 0.96))
    white, pen = (226, 230, 222), max(1.0, 0.45 * canvas.ppm)
    a, b = half_u * 0.95, half_v * 0.93
    lines: list[list[Point]] = [
        [(-a, -b), (a, -b), (a, b), (-a, b), (-a, -b)],
        [(0, -b), (0, b)],
        [(-a, -b * 0.58), (-a * 0.69, -b * 0.58), (-a * 0.69, b * 0.58), (-a, b * 0.58)],
        [(a, -b * 0.58), (a * 0.69, -b * 0.58), (a * 0.69, b * 0.58), (a, b * 0.58)],
        [(9.1 * math.cos(k * math.pi / 10), 9.1 * math.sin(k * math.pi / 10)) for k in range(21)],
    ]
    for points in lines:
        canvas.line(f.shape(points), white, pen)


def paint_sports_ground(canvas: Canvas, zone: Zone) -> Painted:
    """A football field, mostly inside a running track, with courts or stands beside it."""
    dice = canvas.dice
    frame, a, b = site(canvas, zone, turned=45, fill=0.95)
    if b > a:
        frame, a, b = frame.moved(0, 0, 1), b, a
    # Drawn to fill its zone: pitches come in many sizes.
    scale = min(a / 92, b / 52)
    turf = dice.vary(
        dice.pick(((74, 118, 58), (60, 104, 56), (88, 120, 66), (56, 92, 60), (104, 124, 74))), 8
    )
    tracked = dice.chance(0.72)
    track, word = dice.pick(
        (
            ((164, 84, 66), "red"),
            ((176, 100, 74), "red"),
            ((150, 72, 62), "red"),
            ((86, 112, 150), "blue"),
            ((140, 136, 132), "grey"),
        )
    )
    track = dice.vary(track, 8)
    border = dice.vary(dice.pick((*GRASS, *CONCRETE)))
    half_u, half_v = 52 * scale, 33 * scale
    outer_u, outer_v = (
        (half_u + 34 * scale, half_v + 15 * scale) if tracked else (half_u + 7 * scale, half_v + 7 * scale)
    )
    outline = frame.rect(-outer_u - 4, -outer_v - 4, outer_u + 4, outer_v + 4)
    lay_ground(canvas, outline, toned(canvas, border, 0.4))
    facts = []
    if tracked:
        for grow, tone in ((0.0, track), (9.5 * scale, turf)):
            radius = outer_v - grow
            oval = [
                frame.at(side * (outer_u - outer_v) + radius * math.cos(t), radius * math.sin(t))
                for side, first in ((1, -math.pi / 2), (-1, math.pi / 2))
                for t in (first + k * math.pi / 16 for k in range(17))
            ]
            canvas.polygon(oval, tone)
            if grow == 0.0:
                for lane in range(1, 6 if canvas.ppm * scale > 1.4 else 1):
                    r = outer_v - lane * 9.5 * scale / 6
                    line = [
                        frame.at(side * (outer_u - outer_v) + r * math.cos(t), r * math.sin(t))
                        for side, first in ((1, -math.pi / 2), (-1, math.pi / 2))
                        for t in (first + k * math.pi / 16 for k in range(17))
                    ]
                    canvas.line([*line, line[0]], shade(track, 1.28), 1)
        facts.append(Fact("A {0} running track surrounds the football field", (colour_slot(word),)))
    _pitch(canvas, frame, half_u, half_v, turf, dice.pick((1, 10, 12, 14)))
    stands = 0
    blocks = []
    for side in (-1, 1):
        if dice.chance(0.35) and b - outer_v > 6:
            deep = min(8.0, (b - outer_v) / 2)
            blocks.append(
                Block(
                    frame.moved(0, side * (outer_v + deep)),
                    half_u * 0.7,
                    deep * 0.9,
                    9,
                    dice.vary((206, 208, 210)),
                    "ribbed",
                )
            )
    stands = draw_blocks(canvas, blocks)
    courts = 0
    room = a - outer_u
    if room > 14:
        for k in range(dice.integer(0, 3)):
            court = frame.moved(outer_u + room / 2, (k - 1) * 32)
            if canvas.sees((court.col, court.row)):
                courts += 1
            canvas.polygon(
                court.rect(-8, -14, 8, 14), dice.pick(((88, 128, 104), (70, 104, 150), (168, 96, 74)))
            )
            canvas.line(court.shape([(-6, -11), (6, -11), (6, 11), (-6, 11), (-6, -11)]), (222, 226, 224), 1)
    trees = []
    for _ in range(dice.integer(6, 40)):
        u, v = dice.uniform(-1, 1), dice.pick((-1, 1))
        trees.append(
            (
                frame.at(u * outer_u, v * (outer_v + 7))
                if dice.chance(0.6)
                else frame.at(v * (outer_u + 7), u * outer_v),
                dice.uniform(2.0, 3.8) * canvas.ppm,
            )
        )
    planted = canvas.trees(trees, dice.vary(dice.pick(CANOPY)))
    facts.insert(
        0, Fact("The sports ground has {0} with white markings", (count_slot(1, "green football field"),))
    )
    if stands:
        facts.append(Fact("Beside the field there {0}", (count_slot(stands, "covered stand", verb=True),)))
    if courts:
        facts.append(Fact("Next to it there {0}", (count_slot(courts, "small court", verb=True),)))
    if planted:
        facts.append(Fact("Around the sports ground stand {0}", (count_slot(planted, "tree"),)))
    counts = (("football field", 1), ("stand", stands), ("court", courts), ("tree", planted))
    return Painted(outline, counts, ("green", *((word,) if tracked else ())), tuple(facts))


def paint_storage_tanks(canvas: Canvas, zone: Zone) -> Painted:
    """Round tanks in rows within bunds, joined by pipes."""
    dice = canvas.dice
    frame, a, b = site(canvas, zone, turned=40, fill=0.95)
    outline = frame.rect(-a, -b, a, b)
    soil = dice.vary(dice.pick((*SOIL, *CONCRETE, *GRASS[:3], (150, 142, 128))))
    lay_ground(canvas, outline, soil, spread=1.14)
    asphalt = dice.vary(dice.pick(ASPHALT))
    draw_road(canvas, [*outline, outline[0]], 5, asphalt, marked=False)
    word, tone = dice.pick(
        (
            ("white", (226, 226, 222)),
            ("white", (232, 232, 230)),
            ("white", (214, 216, 214)),
            ("white", (222, 220, 210)),
            ("white", (236, 236, 236)),
            ("grey", (158, 160, 160)),
            ("brown", (146, 104, 78)),
        )
    )
    cols = dice.integer(2, 4)
    rows = max(1, min(4, round(cols * b / a)))
    du, dv = 2 * (a - 6) / cols, 2 * (b - 6) / rows
    radius = min(du, dv) * dice.uniform(0.28, 0.42)
    roof = dice.pick(("cone", "cone", "floating"))
    bund = dice.chance(0.55)
    spots, small = [], []
    for i in range(cols):
        for j in range(rows):
            u, v = -a + 6 + du * (i + 0.5), -b + 6 + dv * (j + 0.5)
            if dice.chance(0.12):
                small += [
                    (frame.at(u + x, v + y), radius * 0.36)
                    for x in (-radius * 0.5, radius * 0.5)
                    for y in (-radius * 0.5, radius * 0.5)
                ]
                continue
            if bund:
                wall = frame.rect(u - du * 0.47, v - dv * 0.47, u + du * 0.47, v + dv * 0.47)
                canvas.line([*wall, wall[0]], shade(soil, 1.3), 1.6 * canvas.ppm)
            stray = 0.02 if bund else 0.09
            middle = frame.at(u + dice.uniform(-stray, stray) * du, v + dice.uniform(-stray, stray) * dv)
            spots.append((middle, radius * dice.uniform(0.85 if bund else 0.6, 1.0)))
    if not spots:
        spots.append((frame.at(0, 0), radius))
    for i in range(cols - 1):
        u = -a + 6 + du * (i + 1)
        canvas.line([frame.at(u, -b + 4), frame.at(u, b - 4)], shade(soil, 0.7), 1.2 * canvas.ppm)
        canvas.line([frame.at(u + 1.6, -b + 4), frame.at(u + 1.6, b - 4)], (186, 186, 182), 0.9 * canvas.ppm)
    for centre, r in spots + small:
        draw_tank(canvas, centre, r, min(16.0, 0.75 * r), dice.vary(tone, 6), roof)
    tanks = sum(canvas.sees(c) for c, _ in spots + small)
    houses = draw_blocks(
        canvas,
        [
            Block(
                frame.moved(dice.uniform(-0.8, 0.8) * a, dice.pick((-1, 1)) * (b - 3)),
                7,
                3.2,
                4,
                dice.vary(dice.pick(ROOFS["grey"])),
                "flat",
            )
            for _ in range(dice.integer(0, 2))
        ],
    )
    facts = [
        Fact(
            "There {0} standing in the oil depot, and they are {1}",
            (count_slot(tanks, "round storage tank", verb=True), colour_slot(word)),
        ),
        Fact(
            "The tanks have {0} roofs and cast curved shadows on the ground",
            (
                word_slot(
                    "shape",
                    "flat sunken" if roof == "floating" else "slightly pointed",
                    ("flat sunken", "slightly pointed"),
                ),
            ),
        ),
    ]
    if bund:
        facts.append(Fact("Low {0} walls enclose the tanks", (word_slot("shape", "square", ("curved",)),)))
    if houses:
        facts.append(
            Fact("At the edge of the depot there {0}", (count_slot(houses, "small building", verb=True),))
        )
    return Painted(outline, (("tank", tanks), ("building", houses)), (word,), tuple(facts))

"""Painters of built-up areas: housing and industry; and how a site is laid out."""

from __future__ import annotations

from collections.abc import Sequence

from .canvas import Canvas, Frame, Point
from .objects import ROOFS, Block, draw_blocks, draw_cars, draw_road
from .textures import ASPHALT, CANOPY, CONCRETE, GRASS, Colour, ground, shade
from .truth import Fact, Painted, Zone, colour_slot, count_slot, word_slot

__all__ = ["commonest", "lay_ground", "paint_industrial", "paint_residential", "site", "toned"]


def site(
    canvas: Canvas, zone: Zone, *, turned: float = 20.0, fill: float = 0.97
) -> tuple[Frame, float, float]:
    """A rotated rectangle that fits a zone: its frame and half sizes [m]."""
    angle = canvas.dice.uniform(-turned, turned)
    frame = canvas.frame(zone.col, zone.row, angle + canvas.dice.pick((0, 90)))
    w, h = zone.width / canvas.ppm / 2 * fill, zone.height / canvas.ppm / 2 * fill
    cos, sin = abs(frame.cos), abs(frame.sin)
    if sin > cos:
        w, h, cos, sin = h, w, sin, cos
    # Half sizes (a, b) with a*cos + b*sin <= w and a*sin + b*cos <= h.
    scale = min(w / (w * cos + h * sin), h / (w * sin + h * cos))
    return frame, w * scale, h * scale


def toned(canvas: Canvas, colour: Colour, share: float = 0.55) -> Colour:
    """``colour`` moved towards the open land's, so that a site does not look pasted on."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(colour, canvas.land, strict=True))
    return red, green, blue


def commonest(kinds: Sequence[str]) -> tuple[str, str]:
    """The commonest of ``kinds``, and whether that is "all", "most" or only "many"."""
    first = max(sorted(set(kinds)), key=kinds.count)
    n = kinds.count(first)
    return first, "all" if n == len(kinds) else "most" if 2 * n > len(kinds) else "many"


def lay_ground(
    canvas: Canvas,
    outline: list[Point],
    colour: Colour,
    *,
    spread: float = 1.2,
    cell: float = 26.0,
    grain: float = 0.09,
) -> None:
    """Fill a site with patchy ground."""
    dice = canvas.dice
    canvas.fill(
        [outline],
        lambda h, w: ground(
            dice, h, w, shade(colour, 2 - spread), shade(colour, spread), cell=cell, grain=grain
        ),
        rough=2.5,
        cell=9,
    )


def paint_residential(canvas: Canvas, zone: Zone) -> Painted:
    """Streets of detached or dense houses with gardens and trees."""
    dice = canvas.dice
    frame, a, b = site(canvas, zone, turned=35 if zone.width >= canvas.width else 12)
    outline = frame.rect(-a, -b, a, b)
    lay_ground(canvas, outline, toned(canvas, dice.vary(dice.pick(GRASS))))
    dense = dice.chance(0.5)
    lot = dice.uniform(11, 15) if dense else dice.uniform(17, 26)
    deep = dice.uniform(14, 20) if dense else dice.uniform(22, 32)
    street = dice.uniform(6, 9)
    asphalt = dice.vary(dice.pick(ASPHALT))
    names = list(ROOFS)[:4]
    main = dice.pick(("red", "brown", "grey", "grey", "white"))
    roof = dice.pick(("gable", "hip", "hip", "flat" if dense else "gable"))
    block_depth = 2 * deep + street
    rows = max(1, int(2 * b / block_depth))
    pitch = 2 * b / rows
    kinds: list[tuple[str, bool]] = []
    wings: list[Block] = []
    streets, blocks, trees, drives, pools = [], [], [], [], []
    crossing = dice.uniform(-0.5, 0.5) * a
    density = dice.uniform(0.4, 1.9)
    for i in range(rows):
        v = -b + pitch * (i + 0.5)
        streets.append([frame.at(-a, v), frame.at(a, v)])
        for side in (-1, 1):
            u = -a + lot / 2
            while u < a - lot / 3:
                if abs(u - crossing) > lot * 0.75 and dice.chance(0.95):
                    setback = street / 2 + deep * dice.uniform(0.4, 0.5)
                    kind = main if dice.chance(0.75) else dice.pick(names)
                    place = frame.moved(u, v + side * setback, 0 if dice.chance(0.7) else 1)
                    hu, hv = lot * dice.uniform(0.33, 0.43), deep * dice.uniform(0.2, 0.27)
                    tall = dice.uniform(4, 7) if not dense else dice.uniform(5, 10)
                    tone = dice.vary(dice.pick(ROOFS[kind]))
                    blocks.append(Block(place, hu, hv, tall, tone, roof))
                    kinds.append((kind, canvas.sees((place.col, place.row))))
                    if not dense and dice.chance(0.4):
                        wings.append(
                            Block(
                                place.moved(hu * 0.6, hv * 0.9), hu * 0.45, hv * 0.6, tall * 0.8, tone, roof
                            )
                        )
                    drives.append(frame.rect(u + lot * 0.3, v, u + lot * 0.42, v + side * setback))
                    if not dense and dice.chance(0.1):
                        pools.append(frame.at(u, v + side * (setback + deep * 0.38)))
                if dice.chance(density * 0.6):
                    trees.append(
                        (
                            frame.at(
                                u + dice.uniform(-4, 4),
                                v + side * (street / 2 + deep * dice.uniform(0.72, 1.0)),
                            ),
                            dice.uniform(1.8, 4.4) * canvas.ppm,
                        )
                    )
                if dice.chance(density * 0.35):
                    trees.append(
                        (
                            frame.at(u + lot / 2, v + side * (street / 2 + 2.2)),
                            dice.uniform(1.5, 3.0) * canvas.ppm,
                        )
                    )
                u += lot
    for drive in drives:
        canvas.polygon(drive, shade(asphalt, 1.35))
    streets.append([frame.at(crossing, -b), frame.at(crossing, b)])
    for path in streets:
        draw_road(canvas, path, street, asphalt, marked=False)
    for pool in pools:
        canvas.disc(pool, 3.2 * canvas.ppm, (110, 190, 205))
    leaves = dice.vary(dice.pick(CANOPY))
    houses = draw_blocks(canvas, blocks)
    draw_blocks(canvas, wings)
    main, share = commonest([kind for kind, seen in kinds if seen] or [main])
    planted = canvas.trees(trees, leaves)
    parked = []
    for i in range(rows):
        v = -b + pitch * (i + 0.5)
        for _ in range(int(a / 14)):
            parked.append(frame.moved(dice.uniform(-a, a), v + dice.pick((-1, 1)) * street * 0.32))
    cars = draw_cars(canvas, parked)
    swum = sum(canvas.sees(p) for p in pools)
    facts = [
        Fact(
            "In the residential area there {0}, " + share + " of them with {1} roofs",
            (count_slot(houses, "house", verb=True), colour_slot(main)),
        ),
        Fact(
            "The houses stand in {0} along straight grey streets",
            (word_slot("arrangement", "close rows" if dense else "loose rows", ("circles",)),),
        ),
    ]
    if planted:
        facts.append(Fact("Between the houses grow {0}", (count_slot(planted, "tree"),)))
    if cars:
        facts.append(Fact("On the streets there {0}", (count_slot(cars, "car", verb=True),)))
    if swum:
        facts.append(Fact("In the gardens there {0}", (count_slot(swum, "blue swimming pool", verb=True),)))
    counts = (("house", houses), ("tree", planted), ("car", cars), ("pool", swum))
    return Painted(outline, counts, (main, "dense" if dense else "open"), tuple(facts))


def paint_industrial(canvas: Canvas, zone: Zone) -> Painted:
    """Large halls with ribbed or flat roofs around paved yards."""
    dice = canvas.dice
    frame, a, b = site(canvas, zone, turned=35 if zone.width >= canvas.width else 10)
    outline = frame.rect(-a, -b, a, b)
    lay_ground(canvas, outline, dice.vary(dice.pick((*CONCRETE, *ASPHALT, (138, 130, 116)))), spread=1.12)
    main = dice.pick(("white", "white", "grey", "grey", "blue", "blue", "red"))
    street = dice.uniform(8, 13)
    asphalt = dice.vary(dice.pick(ASPHALT))
    cols, rows = dice.integer(2, 4), dice.integer(2, 4)
    if 2 * a / cols < 34:
        cols = max(1, int(2 * a / 34))
    if 2 * b / rows < 30:
        rows = max(1, int(2 * b / 30))
    du, dv = 2 * a / cols, 2 * b / rows
    kinds: list[str] = []
    blocks, trees, trucks, sheds = [], [], [], 0
    for i in range(cols):
        for j in range(rows):
            u, v = -a + du * (i + 0.5), -b + dv * (j + 0.5)
            if dice.chance(0.1):
                for k in range(8):
                    trucks.append(frame.moved(u + (k % 4 - 2) * 5.5, v + (k // 4) * 9 - 4, 1))
                continue
            kind = main if dice.chance(0.7) else dice.pick(("white", "grey", "blue"))
            hu, hv = (du - street) / 2 * dice.uniform(0.72, 0.95), (dv - street) / 2 * dice.uniform(0.6, 0.92)
            parts = dice.integer(1, 2) if hu > 22 else 1
            for p in range(parts):
                middle = u + (p - (parts - 1) / 2) * 2 * hu / parts
                tone = dice.vary(dice.pick(ROOFS[kind]), 8)
                kinds.append(kind)
                blocks.append(
                    Block(
                        frame.moved(middle, v),
                        hu / parts * 0.94,
                        hv,
                        dice.uniform(7, 14),
                        tone,
                        dice.pick(("ribbed", "flat", "ribbed")),
                    )
                )
            for _ in range(dice.integer(0, 5)):
                trees.append(
                    (
                        frame.at(u + dice.uniform(-hu, hu), v + dice.pick((-1, 1)) * (hv + 2.5)),
                        dice.uniform(1.6, 3.2) * canvas.ppm,
                    )
                )
            for _ in range(dice.integer(0, 5)):
                trucks.append(frame.moved(u + dice.uniform(-hu, hu), v + dice.pick((-1, 1)) * (hv + 4.0)))
    for i in range(1, cols):
        draw_road(
            canvas, [frame.at(-a + du * i, -b), frame.at(-a + du * i, b)], street * 0.6, asphalt, marked=False
        )
    for j in range(1, rows):
        draw_road(
            canvas, [frame.at(-a, -b + dv * j), frame.at(a, -b + dv * j)], street * 0.6, asphalt, marked=False
        )
    halls = draw_blocks(canvas, blocks)
    seen = [
        kind
        for kind, block in zip(kinds, blocks, strict=True)
        if canvas.sees((block.frame.col, block.frame.row))
    ]
    main, share = commonest(seen or [main])
    sheds += draw_cars(canvas, trucks)
    planted = canvas.trees(trees, dice.vary(dice.pick(CANOPY)))
    facts = [
        Fact(
            "The industrial area consists of {0}, and " + share + " of the roofs are {1}",
            (count_slot(halls, "large building"), colour_slot(main)),
        ),
        Fact(
            "Wide paved yards and {0} service roads lie between the halls",
            (word_slot("colour", "grey", ("green", "red")),),
        ),
    ]
    if sheds:
        facts.append(Fact("In the yards there {0}", (count_slot(sheds, "vehicle", verb=True),)))
    if planted:
        facts.append(Fact("The site has only {0}", (count_slot(planted, "tree"),)))
    return Painted(
        outline, (("building", halls), ("vehicle", sheds), ("tree", planted)), (main,), tuple(facts)
    )

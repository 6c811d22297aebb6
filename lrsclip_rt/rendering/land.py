"""Painters of land: farmland, forest, mountain, desert."""

from __future__ import annotations

from functools import partial

import numpy as np
from PIL import Image, ImageDraw

from .canvas import Canvas
from .outlines import blob, covers_all, smooth_path, zone_outline
from .textures import (
    CANOPY,
    GRASS,
    Colour,
    canopy,
    ground,
    hillshade,
    image_from_channels,
    mixed,
    noise,
    octaves,
    relief_noise,
    shade,
    tinted,
)
from .truth import Fact, Painted, Zone, colour_slot, count_slot, word_slot

__all__ = ["CROPS", "paint_desert", "paint_farmland", "paint_forest", "paint_mountain"]

CROPS: tuple[Colour, ...] = (
    (104, 120, 70),
    (78, 104, 58),
    (140, 144, 84),
    (168, 152, 104),
    (124, 98, 72),
    (150, 122, 88),
    (92, 88, 62),
    (62, 84, 52),
    (176, 168, 120),
    (110, 136, 70),
)


def paint_forest(canvas: Canvas, zone: Zone) -> Painted:
    """Dense trees, perhaps with a path and clearings."""
    dice = canvas.dice
    outline = zone_outline(canvas, zone)
    colour = dice.vary(dice.pick(CANOPY), 9)
    crown = max(3.2, dice.uniform(4.5, 10.0) * canvas.ppm)
    canvas.fill([outline], (22, 28, 24), rough=crown * 1.3, cell=crown * 2)
    canvas.fill(
        [outline],
        lambda h, w: canopy(dice, h, w, colour, crown=crown, sun=canvas.sun),
        rough=crown * 1.2,
        cell=crown * 2,
    )
    shown = "dark green" if sum(colour) < 155 else "green"
    facts = [Fact("The forest is made of many {0} trees growing close together", (colour_slot(shown),))]
    clearings = dice.integer(1, 3) if dice.chance(0.3) else 0
    placed = 0
    for _ in range(clearings):
        c = zone.col + dice.uniform(-0.28, 0.28) * zone.width
        r = zone.row + dice.uniform(-0.28, 0.28) * zone.height
        if not canvas.sees((c, r), 12):
            continue
        size = dice.uniform(0.1, 0.16) * min(zone.width, zone.height)
        low = dice.vary(dice.pick(GRASS), 10)
        spot = blob(canvas, Zone(c, r, 2 * size, 2 * size * dice.uniform(0.6, 1.0)), corners=6)
        grass = partial(ground, dice, low=low, high=shade(low, 1.25), cell=18)
        canvas.fill([spot], grass, rough=4)
        placed += 1
    if placed == 1:
        facts.append(
            Fact("A single {0} clearing opens among the trees", (word_slot("size", "grassy", ("flooded",)),))
        )
    path = dice.chance(0.25)
    if path:
        line = smooth_path(
            [
                (zone.col - zone.width * 0.45, zone.row + zone.height * dice.uniform(-0.3, 0.3)),
                (zone.col, zone.row + zone.height * dice.uniform(-0.3, 0.3)),
                (zone.col + zone.width * 0.45, zone.row + zone.height * dice.uniform(-0.3, 0.3)),
            ]
        )
        canvas.line(line, dice.vary((150, 138, 112)), max(2.0, 4 * canvas.ppm))
        facts.append(
            Fact("A narrow {0} track crosses the forest from left to right", (colour_slot("brown"),))
        )
    texture = "fine" if crown / 2 < 4.5 else "coarse"
    facts.append(
        Fact(
            "Seen from above the crowns form a {0} rough texture with small dark gaps",
            (word_slot("texture", texture, ("fine", "coarse")),),
        )
    )
    counts = (("clearing", placed),) if placed != 0 else ()
    return Painted(outline, counts, (shown, *(("track",) if path else ())), tuple(facts))


def paint_farmland(canvas: Canvas, zone: Zone) -> Painted:
    """Parcels with furrows, split again and again out of one rotated block."""
    dice = canvas.dice
    whole = covers_all(canvas, zone)
    angle = dice.uniform(-45, 45) if whole else dice.pick((0.0, 0.0, dice.uniform(-14, 14)))
    frame = canvas.frame(zone.col, zone.row, angle)
    w, h = zone.width / canvas.ppm / 2, zone.height / canvas.ppm / 2
    turn = abs(frame.cos) + abs(frame.sin)
    a, b = (w * turn, h * turn) if whole else (w / turn, h / turn)
    if whole:
        a = b = max(a, b)
    size = dice.uniform(0.16, 0.42) * min(zone.width, zone.height) / canvas.ppm
    parcels: list[tuple[float, float, float, float]] = []
    stack = [(-a, -b, a, b)]
    while stack:
        u0, v0, u1, v1 = stack.pop()
        du, dv = u1 - u0, v1 - v0
        if max(du, dv) > size * 1.6 and len(parcels) + len(stack) < 120:
            cut = dice.uniform(0.35, 0.65)
            if du > dv * dice.uniform(0.7, 1.5):
                stack += [(u0, v0, u0 + du * cut, v1), (u0 + du * cut, v0, u1, v1)]
            else:
                stack += [(u0, v0, u1, v0 + dv * cut), (u0, v0 + dv * cut, u1, v1)]
        else:
            parcels.append((u0, v0, u1, v1))
    outline = frame.rect(-a, -b, a, b)
    box = canvas.box_of(outline)
    assert box is not None
    n = len(parcels)
    label = Image.new("L", (box[2] - box[0], box[3] - box[1]))
    pen = ImageDraw.Draw(label)
    lane = dice.uniform(1.5, 5.0)
    for i, (u0, v0, u1, v1) in enumerate(parcels):
        shape = frame.rect(u0 + lane / 2, v0 + lane / 2, u1 - lane / 2, v1 - lane / 2)
        pen.polygon([(round(c) - box[0], round(r) - box[1]) for c, r in shape], fill=i + 1)
    index = np.asarray(label)
    palette = [dice.pick(CROPS) for _ in range(dice.integer(2, 5))]
    tones = [dice.vary(dice.pick(((150, 136, 110), (128, 122, 92), (96, 104, 68))))]
    tones += [dice.vary(dice.pick(palette), 14) for _ in range(n)]
    rows, cols = index.shape
    cc = np.arange(cols, dtype=np.float32)[None, :]
    rr = np.arange(rows, dtype=np.float32)[:, None]
    step = np.zeros((3, n + 1), dtype=np.float32)
    for i in range(1, n + 1):
        period = max(3.0, dice.uniform(2.5, 9.0) * canvas.ppm)
        along = dice.chance(0.5)
        step[0, i] = (frame.cos if along else -frame.sin) / period
        step[1, i] = (frame.sin if along else frame.cos) / period
        step[2, i] = dice.uniform(0.02, 0.13)
    phase = cc * step[0][index] + rr * step[1][index]
    wave = np.abs((phase - np.floor(phase)) * np.float32(2) - np.float32(1)) * np.float32(2) - np.float32(1)
    worn = octaves(dice, rows, cols, 40, levels=4) * np.float32(0.14) + noise(
        dice, rows, cols, 1.5
    ) * np.float32(0.05)
    level = np.float32(1) + wave * step[2][index] + worn
    table = np.asarray(tones, dtype=np.float32)
    canvas.image.paste(
        image_from_channels([table[:, k][index] * level for k in range(3)]),
        box,
        canvas.mask_of([outline], box),
    )
    area = np.bincount(index.ravel(), minlength=n + 1)[1:]
    seen = int((area > 0.002 * canvas.width * canvas.height * (1 if whole else 0.05)).sum())
    greens = sum(1 for i in range(1, n + 1) if tones[i][1] > tones[i][0] + 2 and area[i - 1] > 0)
    main = "green" if greens * 2 > n else "brown"
    hedge = []
    for u0, v0, u1, _ in parcels:
        if dice.chance(0.12):
            radius = dice.uniform(2.0, 3.5)
            for k in range(int((u1 - u0) / (radius * 1.7))):
                hedge.append((frame.at(u0 + k * radius * 1.7, v0 + dice.uniform(-1, 1)), radius * canvas.ppm))
    hedge = [t for t in hedge if zone.width < 0 or canvas.sees(t[0])][:200]
    trees = canvas.trees(hedge, dice.vary(dice.pick(CANOPY)))
    facts = [
        Fact("The farmland is divided into {0}", (count_slot(seen, "field"),)),
        Fact(
            "Most of the fields are {0} and show straight parallel furrows",
            (word_slot("colour", main, ("green", "brown", "blue", "white")),),
        ),
        Fact("Narrow paths separate one field from the next"),
    ]
    if trees > 3:
        facts.append(
            Fact("Rows of {0} trees stand along some of the field edges", (colour_slot("dark green"),))
        )
    return Painted(outline, (("field", seen),), (main,), tuple(facts))


def paint_mountain(canvas: Canvas, zone: Zone) -> Painted:
    """Ridges and valleys as a shaded height field."""
    dice = canvas.dice
    outline = zone_outline(canvas, zone)
    style = dice.pick(("green", "brown", "grey", "snow", "green"))
    low, high = {
        "green": ((52, 70, 44), (112, 118, 80)),
        "brown": ((104, 88, 68), (160, 142, 114)),
        "grey": ((84, 84, 78), (142, 138, 130)),
        "snow": ((62, 66, 60), (120, 118, 112)),
    }[style]
    relief = dice.uniform(0.35, 0.62)
    span = dice.uniform(0.26, 0.5) * min(zone.width, zone.height)

    def texture(height: int, width: int) -> Image.Image:
        # Half resolution is enough for slopes, and four times cheaper.
        h, w, cell, weight = height // 2 + 1, width // 2 + 1, span / 2, 1.0
        surface = np.zeros((h, w), dtype=np.float32)
        carry = np.ones((h, w), dtype=np.float32)
        while cell > 2:
            # Ridged: crests where the noise crosses zero, and more detail near a crest than in a valley.
            layer = np.float32(1) - np.abs(relief_noise(dice, h, w, cell)) * np.float32(2.4)
            layer = layer * carry
            surface += layer * np.float32(weight)
            carry = np.clip(layer * np.float32(0.6) + np.float32(0.55), 0.25, 1.1)
            cell, weight = cell / 2, weight * 0.5
        light = hillshade(surface, canvas.sun, 1.0)
        # Exact integer mean: a float sum would depend on the width of the machine's vectors.
        typical = max(1, int((np.abs(light) * np.float32(4096)).astype(np.int64).sum())) / light.size / 4096
        light = np.clip(light * np.float32(relief / (2 * typical)), -0.75, 0.75)
        cover = octaves(dice, h, w, span * 0.25, levels=4)
        tone = surface * np.float32(0.3) + cover * np.float32(0.5) + np.float32(0.3)
        rgb = tinted(low, high, tone, np.float32(1) + light + noise(dice, h, w, 1.6) * np.float32(0.1))
        if style == "snow":
            white = np.clip((surface - np.float32(0.75)) * np.float32(1.3) + cover * np.float32(1.1), 0, 0.95)
            rgb = mixed(rgb, [(np.float32(0.85) + light) * np.float32(c) for c in (226, 230, 238)], white)
        return image_from_channels(rgb).resize((width, height), Image.Resampling.BILINEAR)

    canvas.fill([outline], texture, rough=14, cell=30, soft=0 if covers_all(canvas, zone) else 9)
    words = {
        "green": "green and wooded",
        "brown": "brown and bare",
        "grey": "grey and rocky",
        "snow": "partly covered by white snow",
    }
    facts = (
        Fact(
            "The slopes of the mountain are {0}", (word_slot("colour", words[style], tuple(words.values())),)
        ),
        Fact("Several sharp ridges branch out and dark valleys run between them"),
        Fact("One side of every ridge is bright while the other side lies in shadow"),
    )
    return Painted(outline, (), (style,), facts)


def paint_desert(canvas: Canvas, zone: Zone) -> Painted:
    """Sand dunes: a sawtooth wave bent by noise, lit from one side."""
    dice = canvas.dice
    outline = zone_outline(canvas, zone)
    colour, word = dice.pick(
        (
            ((204, 170, 116), "yellow"),
            ((196, 150, 96), "yellow"),
            ((186, 128, 84), "orange"),
            ((206, 186, 150), "pale yellow"),
            ((178, 146, 110), "brown"),
        )
    )
    colour = dice.vary(colour, 10)
    frame = canvas.frame(zone.col, zone.row, dice.uniform(0, 180))
    period = dice.uniform(0.07, 0.26) * min(zone.width, zone.height)
    relief = dice.uniform(0.2, 0.55)

    def texture(h: int, w: int) -> Image.Image:
        cc = np.arange(w, dtype=np.float32)[None, :]
        rr = np.arange(h, dtype=np.float32)[:, None]
        bend = octaves(dice, h, w, period * 2.5, levels=3) * np.float32(dice.uniform(0.6, 1.5))
        phase = (cc * np.float32(frame.cos) + rr * np.float32(frame.sin)) * np.float32(1 / period) + bend
        part = phase - np.floor(phase)
        # Windward slopes are long, lee slopes short and dark.
        dune = np.where(part < 0.72, part * np.float32(1.39), (np.float32(1) - part) * np.float32(3.57))
        surface = dune * np.float32(period * 0.22) + octaves(dice, h, w, 9, levels=3) * np.float32(0.9)
        light = hillshade(surface, canvas.sun, relief)
        wide = octaves(dice, h, w, period * 5, levels=2)
        level = (
            np.float32(1)
            + light * np.float32(0.5)
            + wide * np.float32(0.08)
            + noise(dice, h, w, 1.6) * np.float32(0.03)
        )
        return image_from_channels([level * np.float32(c) for c in colour])

    soft = 0 if covers_all(canvas, zone) else 6
    canvas.fill([outline], texture, rough=10, cell=22, soft=soft)
    shrubs = 0
    if dice.chance(0.3):
        spots = [
            (
                (
                    zone.col + dice.uniform(-0.4, 0.4) * zone.width,
                    zone.row + dice.uniform(-0.4, 0.4) * zone.height,
                ),
                dice.uniform(1.2, 2.2) * canvas.ppm,
            )
            for _ in range(dice.integer(6, 24))
        ]
        shrubs = canvas.trees(spots, (92, 92, 62))
    facts = [
        Fact("The desert is a wide area of {0} sand", (colour_slot(word),)),
        Fact("Long curved dunes follow each other like waves across the sand"),
    ]
    if shrubs:
        facts.append(
            Fact("There {0} scattered over the sand", (count_slot(shrubs, "small shrub", verb=True),))
        )
    else:
        facts.append(Fact("The sand carries {0} at all", (word_slot("noun", "no plants", ("many trees",)),)))
    return Painted(outline, (("shrub", shrubs),) if shrubs else (), (word,), tuple(facts))

"""Painters of water: pond, river, beach."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from .canvas import Canvas, Point
from .outlines import blob, clip_zone, covers_all, hull_box, inside_zone, ribbon, side_point, smooth_path
from .textures import CANOPY, Colour, image_from_channels, mixed, noise, octaves, ripples, shade, tinted
from .truth import Fact, Painted, Zone, colour_slot, count_slot, word_slot

__all__ = ["INWARD", "SEAS", "WATERS", "lay_river", "paint_beach", "paint_pond", "paint_river", "river_path"]

WATERS: tuple[tuple[Colour, str], ...] = (
    ((38, 54, 40), "dark green"),
    ((64, 86, 62), "green"),
    ((36, 44, 46), "black"),
    ((60, 82, 92), "blue"),
    ((118, 108, 82), "brown"),
    ((52, 78, 84), "blue"),
)


def paint_pond(canvas: Canvas, zone: Zone) -> Painted:
    """One or two ponds with banks, trees around and perhaps a footpath."""
    dice = canvas.dice
    pair = dice.chance(0.25)
    colour, word = dice.pick(WATERS[:4] + WATERS[5:])
    colour = dice.vary(colour, 6)
    bank = dice.vary(dice.pick(((150, 140, 112), (128, 124, 92), (170, 162, 140), (104, 112, 74))), 8)
    shift = 0.25 * zone.width if pair else 0.0
    spots = [
        Zone(
            zone.col - shift,
            zone.row,
            zone.width * (0.45 if pair else 0.82),
            zone.height * dice.uniform(0.6, 0.82),
        )
    ]
    if pair:
        spots.append(
            Zone(
                zone.col + shift,
                zone.row + dice.uniform(-0.06, 0.06) * zone.height,
                zone.width * 0.42,
                zone.height * 0.6,
            )
        )
    angular = dice.chance(0.35)
    shapes = []
    for spot in spots:
        shape = blob(
            canvas,
            spot,
            fill=1.0,
            corners=dice.integer(4, 5) if angular else dice.integer(6, 9),
            ragged=0.2 if angular else 0.5,
        )
        shapes.append(shape)
        wide = max(2.0, dice.uniform(1.5, 5.0) * canvas.ppm)
        canvas.fill([ribbon([*shape, shape[0]], wide)], bank, rough=2, cell=7)
        canvas.fill([shape], shade(colour, 0.72), rough=3, cell=14)
        canvas.fill(
            [shape],
            lambda h, w: ripples(dice, h, w, colour, cell=60, contrast=0.1),
            rough=3,
            cell=14,
            soft=2.5,
        )
    trees = []
    for shape in shapes:
        for col, row in shape:
            if dice.chance(0.4):
                out = dice.uniform(1.06, 1.22)
                spot_c = sum(p[0] for p in shape) / len(shape)
                spot_r = sum(p[1] for p in shape) / len(shape)
                trees.append(
                    (
                        (spot_c + (col - spot_c) * out, spot_r + (row - spot_r) * out),
                        dice.uniform(2.2, 4.2) * canvas.ppm,
                    )
                )
    planted = canvas.trees(trees, dice.vary(dice.pick(CANOPY)))
    outline = shapes[0] if not pair else [*shapes[0], *shapes[1]]
    facts = [
        Fact("There {0} here", (count_slot(len(spots), "pond", verb=True),)),
        Fact(
            "The still water is {0} and its shore is {1}",
            (
                colour_slot(word),
                word_slot(
                    "shape",
                    "angular" if angular else "rounded and irregular",
                    ("rounded and irregular", "angular"),
                ),
            ),
        ),
    ]
    if planted:
        facts.append(Fact("Around the water stand {0}", (count_slot(planted, "tree"),)))
    return Painted(
        hull_box(outline) if pair else outline,
        (("pond", len(spots)), ("tree", planted)),
        (word,),
        tuple(facts),
    )


def river_path(canvas: Canvas, zone: Zone, beyond: float, bend: float) -> tuple[list[Point], tuple[str, str]]:
    """A winding line that enters and leaves through the zone's sides."""
    dice = canvas.dice
    sides = zone.sides or ("left", "right")
    if len(sides) == 1:
        side = sides[0]
        inward = -0.72 * (zone.width if side in ("left", "right") else zone.height)
        a, b = dice.uniform(-0.75, -0.55), dice.uniform(0.55, 0.75)
        points = [
            side_point(zone, side, a, beyond),
            side_point(zone, side, a * 1.15, inward * 0.4),
            side_point(zone, side, a * 0.6, inward * 1.12),
            side_point(zone, side, b * 0.6, inward * 1.12),
            side_point(zone, side, b * 1.15, inward * 0.4),
            side_point(zone, side, b, beyond),
        ]
        return smooth_path(points, 4), (side, side)
    first, second = dice.shuffled(sides)[:2]
    if {first, second} not in ({"left", "right"}, {"top", "bottom"}):
        middle = (
            zone.col + dice.uniform(-0.14, 0.14) * zone.width,
            zone.row + dice.uniform(-0.14, 0.14) * zone.height,
        )
        ends = [side_point(zone, side, dice.uniform(-0.3, 0.3), beyond) for side in (first, second)]
        bends = [
            (
                (p[0] + middle[0]) / 2 + dice.uniform(-1, 1) * bend * zone.width * 0.35,
                (p[1] + middle[1]) / 2 + dice.uniform(-1, 1) * bend * zone.height * 0.35,
            )
            for p in ends
        ]
        return smooth_path([ends[0], bends[0], middle, bends[1], ends[1]], 4), (first, second)
    flip = dice.pick((-1, 1))
    swing = [flip * bend * 2 * dice.uniform(0.4, 1.0) for _ in range(2)]
    deep_first = -0.3 * (zone.width if first in ("left", "right") else zone.height)
    deep_second = -0.3 * (zone.width if second in ("left", "right") else zone.height)
    middle = (
        zone.col + dice.uniform(-0.08, 0.08) * zone.width,
        zone.row + dice.uniform(-0.08, 0.08) * zone.height,
    )
    points = [
        side_point(zone, first, dice.uniform(-0.3, 0.3), beyond),
        side_point(zone, first, swing[0], deep_first),
        middle,
        side_point(zone, second, -swing[1], deep_second),
        side_point(zone, second, dice.uniform(-0.3, 0.3), beyond),
    ]
    return smooth_path(points, 4), (first, second)


def lay_river(
    canvas: Canvas, zone: Zone, half_m: float, *, bend: float = 0.22
) -> tuple[list[Point], list[Point], str, tuple[str, str]]:
    """Draw a river; returns its middle line, its outline, its colour word and the sides it leaves by."""
    dice = canvas.dice
    half = half_m * canvas.ppm
    path, ends = river_path(canvas, zone, 3 * half + 20, bend)
    sway, value = [], 1.0
    for _ in path:
        value = min(1.25, max(0.8, value + dice.uniform(-0.05, 0.05)))
        sway.append(value)
    colour, word = dice.pick(WATERS)
    colour = dice.vary(colour, 8)
    bank = dice.vary(dice.pick(((166, 152, 120), (140, 128, 98), (108, 112, 78))), 8)
    canvas.fill(
        [ribbon(path, half + dice.uniform(3, 11) * canvas.ppm, sway)], bank, rough=4, cell=16, soft=1.5
    )
    outline = ribbon(path, half, sway)
    canvas.fill([outline], shade(colour, 0.78), rough=2.5, cell=12)
    canvas.fill(
        [outline],
        lambda h, w: ripples(dice, h, w, colour, cell=70, contrast=0.08),
        rough=2.5,
        cell=12,
        soft=2,
    )
    return path, outline, word, ends


def paint_river(canvas: Canvas, zone: Zone) -> Painted:
    """A winding river with banks and trees."""
    dice = canvas.dice
    half = dice.uniform(0.06, 0.13) * min(zone.width, zone.height) / canvas.ppm
    path, outline, word, ends = lay_river(canvas, zone, half, bend=dice.uniform(0.14, 0.34))
    spots = []
    density = dice.uniform(0.1, 0.9)
    for side in (-1, 1):
        for edge in (
            ribbon(path, (half + 9) * canvas.ppm)[: len(path)]
            if side < 0
            else ribbon(path, (half + 9) * canvas.ppm)[len(path) :]
        ):
            for _ in range(2):
                if dice.chance(density) and inside_zone(zone, edge):
                    push = 9 * canvas.ppm
                    spot = (edge[0] + dice.uniform(-push, push), edge[1] + dice.uniform(-push, push) * 0.8)
                    spots.append((spot, dice.uniform(2.4, 4.6) * canvas.ppm))
    trees = canvas.trees(spots, dice.vary(dice.pick(CANOPY)))
    way = (
        f"from the {ends[0]} to the {ends[1]}"
        if ends[0] != ends[1]
        else f"in a loop that opens to the {ends[0]}"
    )
    others = ("from the left to the right", "from the top to the bottom", "from the left to the bottom")
    facts = [
        Fact("A curved river with {0} water winds through the land", (colour_slot(word),)),
        Fact(
            "It runs {0}",
            (
                word_slot(
                    "direction",
                    way,
                    others[:2]
                    if ends[0] != ends[1] and set(ends) not in ({"left", "right"}, {"top", "bottom"})
                    else (others[1] if set(ends) == {"left", "right"} else others[0],),
                ),
            ),
        ),
        Fact("A narrow bare strip of ground lines both banks"),
    ]
    if trees:
        facts.append(Fact("Along the banks grow {0}", (count_slot(trees, "tree"),)))
    return Painted(clip_zone(zone, outline), (("tree", trees),), (word,), tuple(facts))


SEAS: tuple[tuple[Colour, Colour, str], ...] = (
    ((24, 70, 92), (70, 160, 160), "turquoise"),
    ((22, 56, 76), (62, 108, 112), "dark blue"),
    ((40, 92, 100), (110, 178, 172), "turquoise"),
    ((46, 78, 74), (96, 118, 100), "green"),
    ((30, 66, 100), (84, 140, 160), "blue"),
)
INWARD: dict[str, Point] = {
    "left": (1.0, 0.0),
    "right": (-1.0, 0.0),
    "top": (0.0, 1.0),
    "bottom": (0.0, -1.0),
}


def paint_beach(canvas: Canvas, zone: Zone) -> Painted:
    """Sea, surf, sand and green behind it, by distance from a wavering shore line."""
    dice = canvas.dice
    side = (zone.sides or ("left",))[0]
    whole = covers_all(canvas, zone)
    w, h = zone.width / 2, zone.height / 2
    outline: list[Point] = [
        (zone.col - w, zone.row - h),
        (zone.col + w, zone.row - h),
        (zone.col + w, zone.row + h),
        (zone.col - w, zone.row + h),
    ]
    box = canvas.box_of(outline)
    assert box is not None
    cols, rows = box[2] - box[0], box[3] - box[1]
    cc = (np.arange(cols, dtype=np.float32) + np.float32(box[0] - zone.col))[None, :]
    rr = (np.arange(rows, dtype=np.float32) + np.float32(box[1] - zone.row))[:, None]
    inward = INWARD[side]
    depth, across = (2 * w, 2 * h) if side in ("left", "right") else (2 * h, 2 * w)
    along = cc * np.float32(inward[0]) + rr * np.float32(inward[1]) + np.float32(depth / 2)
    lateral = cc * np.float32(inward[1]) + rr * np.float32(inward[0])
    sand_px = dice.uniform(0.12, 0.24) * min(depth, across)
    if len(zone.sides) == 2:
        # Across a corner of the picture: the shore runs out of it at both ends.
        second = INWARD[zone.sides[1]]
        other = cc * np.float32(second[0]) + rr * np.float32(second[1])
        leg = 2 * h if side in ("left", "right") else 2 * w
        share = along * np.float32(1 / depth) + other * np.float32(1 / leg) + np.float32(0.5)
        steep = 1 / math.sqrt(1 / depth**2 + 1 / leg**2)
        distance = (share - np.float32(0.93)) * np.float32(steep) + np.float32(sand_px)
    elif whole:
        tilt = dice.uniform(-0.9, 0.9)
        norm = math.sqrt(1 + tilt * tilt)
        distance = (along + lateral * np.float32(tilt)) * np.float32(1 / norm) - np.float32(
            depth * dice.uniform(0.35, 0.6) / norm
        )
    else:
        # A bay: inside an ellipse about the middle of the open side there is sea.
        reach_in, reach_out = depth * 0.94 - sand_px, across * 0.48 - sand_px * 0.6
        inner, outer = along * np.float32(1 / reach_in), lateral * np.float32(1 / reach_out)
        # Fourth powers: a bay with a long straight shore rather than a round pool.
        inner, outer = inner * inner, outer * outer
        radius = np.sqrt(np.sqrt(inner * inner + outer * outer))
        distance = (radius - np.float32(1)) * np.float32(min(reach_in, reach_out))
    distance = distance + octaves(dice, rows, cols, min(depth, across) * 0.3, levels=3) * np.float32(
        min(depth, across) * 0.035
    )
    deep, shallow, word = dice.pick(SEAS)
    sand = dice.vary(dice.pick(((222, 206, 172), (206, 184, 146), (232, 222, 200), (190, 164, 126))), 8)
    sea_px = max(10.0, depth * 0.45)
    swell = noise(dice, rows, cols, 2.2, 4) * np.float32(0.05) + octaves(dice, rows, cols, 40) * np.float32(
        0.06
    )
    rgb = tinted(deep, shallow, np.float32(1) + distance * np.float32(1 / sea_px), swell + np.float32(1))
    foam = np.zeros((rows, cols), dtype=np.float32)
    bands = dice.integer(1, 3)
    torn = octaves(dice, rows, cols, 14, levels=3)
    for k in range(bands):
        centre = np.float32(-2 - k * sea_px * dice.uniform(0.13, 0.2))
        half = np.float32(max(2.0, sea_px * 0.035 * dice.uniform(0.7, 1.8)))
        foam = np.maximum(
            foam,
            np.float32(1.15)
            - np.abs(distance + torn * half - centre) * (np.float32(1) / half)
            + torn * np.float32(0.5 * min(k, 1)),
        )
    rgb = mixed(rgb, (238, 242, 242), np.clip(foam, 0, 0.95))
    rough = octaves(dice, rows, cols, 16, levels=3) * np.float32(0.06) + noise(
        dice, rows, cols, 1.5
    ) * np.float32(0.03)
    dry = tinted(shade(sand, 0.8), sand, distance * np.float32(5.0 / sand_px), rough + np.float32(1))
    rgb = [np.where(distance > 0, land, sea) for land, sea in zip(dry, rgb, strict=True)]
    mask = np.full((rows, cols), 255, dtype=np.float32)
    mask -= np.clip((distance + torn * np.float32(4) - np.float32(sand_px)) * np.float32(60), 0, 255)
    canvas.image.paste(image_from_channels(rgb), box, Image.fromarray(np.clip(mask, 0, 255).astype(np.uint8)))
    shown = distance < sand_px
    used_cols, used_rows = np.nonzero(shown.any(axis=0))[0], np.nonzero(shown.any(axis=1))[0]
    outline = hull_box(
        [
            (float(used_cols[0] + box[0]), float(used_rows[0] + box[1])),
            (float(used_cols[-1] + box[0]), float(used_rows[-1] + box[1])),
        ]
    )
    if len(zone.sides) == 2:
        corner = (zone.col - inward[0] * w - second[0] * w, zone.row - inward[1] * h - second[1] * h)
        reach = [
            (corner[0] + 2 * w * (inward[0] + second[0]), corner[1]),
            (corner[0], corner[1] + 2 * h * (inward[1] + second[1])),
        ]
        outline = [corner, *reach]
    spots: list[tuple[Point, float]] = []
    dark = dice.integer(0, 30)
    for _ in range(dark * 4):
        r, c = dice.integer(0, rows - 1), dice.integer(0, cols - 1)
        if len(spots) < dark and sand_px + 6 < distance[r, c] < sand_px * 2.4:
            spots.append(((float(c + box[0]), float(r + box[1])), dice.uniform(1.8, 4.0) * canvas.ppm))
    trees = canvas.trees(spots, dice.vary(dice.pick(CANOPY)))
    tone = "white" if min(sand) > 185 else "yellow"
    where = (
        side
        if len(zone.sides) < 2
        else " ".join(sorted({"top": "upper", "bottom": "lower"}.get(s, s) for s in zone.sides)[::-1])
    )
    facts = [
        Fact("The beach is a strip of {0} sand beside {1} sea water", (colour_slot(tone), colour_slot(word))),
        Fact(
            "The sea lies on the {0} side and white waves break along the shore",
            (word_slot("position", where, tuple(s for s in INWARD if s not in zone.sides and s != side)),),
        ),
        Fact(
            "{0} of white foam follow the water line"
            if bands > 1
            else "{0} of white foam follows the water line",
            (count_slot(bands, "line"),),
        ),
    ]
    if trees:
        facts.append(Fact("Behind the sand grow {0}", (count_slot(trees, "tree"),)))
    return Painted(outline, (("wave line", bands), ("tree", trees)), (tone, word), tuple(facts))

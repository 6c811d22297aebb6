"""Painters of transport: airport, motorway junction, bridge."""

from __future__ import annotations

import math

from .built import lay_ground, site, toned
from .canvas import Canvas, Frame
from .objects import ROOFS, Block, cars_along, draw_blocks, draw_cars, draw_plane, draw_road
from .outlines import clip_zone, hull_box, offset_path, ribbon, smooth_path
from .textures import ASPHALT, CANOPY, CONCRETE, GRASS, shade
from .truth import Fact, Painted, Zone, colour_slot, count_slot, word_slot
from .water import lay_river

__all__ = ["paint_airport", "paint_bridge", "paint_road"]


def paint_airport(canvas: Canvas, zone: Zone) -> Painted:
    """A runway with its taxiway, an apron with parked planes and a terminal."""
    dice = canvas.dice
    frame, a, b = site(canvas, zone, turned=38 if zone.width >= canvas.width else 12)
    if b > a:
        frame, a, b = frame.moved(0, 0, 1), b, a
    outline = frame.rect(-a, -b, a, b)
    lay_ground(canvas, outline, toned(canvas, dice.vary(dice.pick(GRASS))))
    concrete = dice.vary(dice.pick(CONCRETE))
    asphalt = dice.vary(dice.pick(ASPHALT))
    runways = 1
    width = min(45.0, b * dice.uniform(0.2, 0.28))
    v_run = b - width * dice.uniform(0.7, 1.0)
    far = 4 * a if zone.loose and dice.chance(0.6) else a
    v_taxi = v_run - width * dice.uniform(1.25, 1.6)
    taxi = width * 0.42
    canvas.polygon(frame.rect(-far, v_run - width / 2, far, v_run + width / 2), asphalt)
    canvas.polygon(frame.rect(-far, v_taxi - taxi / 2, far, v_taxi + taxi / 2), shade(concrete, 0.92))
    white = (222, 222, 218)
    for edge in (-0.44, 0.44):
        canvas.line(
            [frame.at(-far, v_run + edge * width), frame.at(far, v_run + edge * width)],
            white,
            0.9 * canvas.ppm,
        )
    dash = max(12.0, a / 9)
    u = -a + dash * 1.6
    while u < a - dash:
        canvas.line([frame.at(u, v_run), frame.at(u + dash * 0.55, v_run)], white, 1.2 * canvas.ppm)
        u += dash
    for k in range(8):
        v = v_run + width * (k - 3.5) * 0.105
        canvas.polygon(frame.rect(-a + 4, v - width * 0.03, -a + 4 + dash * 0.7, v + width * 0.03), white)
    for u in (-0.8 * a, dice.uniform(-0.4, 0.4) * a, 0.8 * a):
        canvas.polygon(
            frame.rect(u - taxi / 2, v_taxi, u + taxi / 2, v_run - width / 2 + 1), shade(concrete, 0.92)
        )
    canvas.line([frame.at(-a, v_taxi), frame.at(a, v_taxi)], (206, 178, 84), 0.8 * canvas.ppm)
    apron_a = a * dice.uniform(0.55, 0.95)
    apron = frame.rect(-apron_a, -b, apron_a, v_taxi)
    lay_ground(canvas, apron, concrete, spread=1.06, cell=40, grain=0.04)
    for k in range(1, 9):
        u = -apron_a + 2 * apron_a * k / 9
        canvas.line([frame.at(u, -b), frame.at(u, v_taxi)], shade(concrete, 0.93), 1)
    deep = v_taxi + b
    hall = deep * dice.uniform(0.13, 0.2)
    tone = dice.pick(ROOFS[dice.pick(("white", "white", "grey", "blue"))])
    blocks = [
        Block(
            frame.moved(0, -b + hall + 2),
            apron_a * dice.uniform(0.6, 0.9),
            hall,
            14,
            dice.vary(tone),
            "ribbed",
        )
    ]
    span = min(dice.uniform(24, 48), deep * 0.34)
    nose = -b + 2 * hall + span * 0.3
    arms = dice.integer(0, 2) if deep - 2 * hall > span * 2.8 else 0
    spots: list[tuple[float, float, int]] = []
    for k in range(arms):
        u = (k - (arms - 1) / 2) * apron_a * 0.8
        half = (deep - 2 * hall) * 0.3
        blocks.append(
            Block(frame.moved(u, -b + 2 * hall + half, 1), half, span * 0.16, 10, dice.vary(tone), "ribbed")
        )
        for v in (-0.45, 0.55):
            for way in (-1, 1):
                spots.append((u + way * span * 0.78, -b + 2 * hall + half * (1 + v), 2 if way > 0 else 0))
    planes: list[Frame] = []
    load = dice.uniform(0.6, 1.0)
    if arms:
        planes = [frame.moved(u, v, t) for u, v, t in spots if dice.chance(load)]
    else:
        u = -apron_a + span * 0.65
        while u < apron_a - span * 0.55:
            if dice.chance(load):
                planes.append(frame.moved(u, nose + span * 0.4, 3))
            u += span * 1.16
        if deep - 2 * hall > span * 2.9:
            u = -apron_a + span * 0.65
            while u < apron_a - span * 0.55:
                if dice.chance(load * 0.7):
                    planes.append(frame.moved(u, nose + span * 1.9, 1))
                u += span * 1.2
    if dice.chance(0.35):
        planes.append(frame.moved(dice.uniform(-0.6, 0.6) * a, v_run, dice.pick((0, 2))))
    for side in (-1, 1):
        free = a - apron_a
        if free > 18:
            hangar = Block(
                frame.moved(side * (apron_a + free * 0.5), -b + deep * 0.3),
                free * 0.3,
                deep * 0.2,
                9,
                dice.vary(tone),
                "ribbed",
            )
            blocks.append(hangar)
    halls = draw_blocks(canvas, blocks)
    for plane in planes:
        draw_plane(canvas, plane, span * dice.uniform(0.82, 1.0), dice.vary((232, 233, 234), 6))
    parked = sum(canvas.sees((p.col, p.row)) for p in planes)
    facts = [
        Fact("At the airport there {0}", (count_slot(parked, "white plane", verb=True),))
        if parked
        else Fact("No plane is standing on the {0} apron", (word_slot("colour", "grey", ("green", "red")),)),
        Fact(
            "The airport has {0} with white markings and a parallel taxiway",
            (count_slot(runways, "long straight runway"),),
        ),
    ]
    if halls:
        facts.append(
            Fact("Beside the concrete apron there {0}", (count_slot(halls, "airport building", verb=True),))
        )
    facts.append(Fact("Strips of {0} grass lie between the runway and the taxiway", (colour_slot("green"),)))
    counts = (("plane", parked), ("runway", runways), ("building", halls))
    return Painted(outline, counts, ("white",), tuple(facts))


def paint_road(canvas: Canvas, zone: Zone) -> Painted:
    """A motorway junction: one road over another, with ramps and loops."""
    dice = canvas.dice
    whole = zone.width >= canvas.width
    frame = canvas.frame(zone.col, zone.row, dice.uniform(-40, 40) if whole else dice.uniform(-12, 12))
    w, h = zone.width / canvas.ppm / 2, zone.height / canvas.ppm / 2
    outline = hull_box(
        [
            (zone.col - zone.width / 2, zone.row - zone.height / 2),
            (zone.col + zone.width / 2, zone.row + zone.height / 2),
        ]
    )
    asphalt = dice.vary(dice.pick(ASPHALT))
    lanes = dice.integer(2, 4)
    half = 3.6 * lanes + 2.0
    reach = (1.6 if whole else 0.94) * min(w, h)
    lay_ground(
        canvas,
        outline if whole else frame.rect(-reach, -reach, reach, reach),
        toned(canvas, dice.vary(dice.pick(GRASS)), 0.8),
    )
    site_reach = reach
    bow = dice.uniform(-0.15, 0.15) * reach
    reach = 3 * reach if zone.loose else reach
    under = smooth_path([frame.at(-reach, bow), frame.at(0, -bow), frame.at(reach, bow)], 3)
    over = smooth_path([frame.at(bow, -reach), frame.at(-bow * 0.4, 0), frame.at(bow, reach)], 3)
    cars: list[Frame] = []
    ramps = 0
    quadrants = dice.shuffled([(1, 1), (1, -1), (-1, 1), (-1, -1)])[: dice.integer(2, 4)]
    loop = min(dice.uniform(0.26, 0.4) * min(w, h), 75.0)
    clover = dice.chance(0.6)
    for su, sv in quadrants:
        near = half * 0.8
        if clover:
            centre = near + loop * 0.95
            turn = [
                (su * (centre + loop * math.cos(t)), sv * (centre + loop * math.sin(t)))
                for t in (-math.pi * 0.5 + k * math.pi / 12 - math.pi * 0.25 for k in range(0, 25))
            ]
            cut = [p for p in turn if abs(p[0]) > near * 0.6 and abs(p[1]) > near * 0.6]
            path = frame.shape([*cut, cut[0]])
        else:
            far = min(site_reach * 0.9, loop * 2.4 + near)
            path = smooth_path(
                frame.shape(
                    [
                        (su * far, sv * near),
                        (su * far * 0.45, sv * near * 1.5),
                        (su * near * 1.5, sv * far * 0.45),
                        (su * near, sv * far),
                    ]
                ),
                3,
            )
        draw_road(canvas, path, 7.0, asphalt, marked=False)
        ramps += canvas.sees(path[len(path) // 2])
        cars += cars_along(canvas, path, (0.0,), 45)
    gap = dice.uniform(14, 40)
    tracks = [s * (2.8 + 3.6 * k) for s in (-1, 1) for k in range(lanes)]
    for deck, path in ((0.0, under), (7.0, over)):
        if deck:
            middle = path[len(path) // 2 - len(path) // 5 : len(path) // 2 + len(path) // 5]
            canvas.shadows([(ribbon(middle, half * canvas.ppm), deck)])
        canvas.line(path, shade(asphalt, 1.3), (2 * half + 2.6) * canvas.ppm)
        canvas.line(path, asphalt if not deck else shade(asphalt, 1.12), 2 * half * canvas.ppm)
        canvas.line(path, dice.pick(((86, 104, 66), (170, 166, 158))), max(1.0, 1.6 * canvas.ppm))
        if canvas.ppm > 0.7:
            for k in range(1, lanes):
                for s in (-1, 1):
                    canvas.line(offset_path(path, s * (1.0 + 3.6 * k) * canvas.ppm), shade(asphalt, 1.55), 1)
        # Cars of the lower road are drawn before the upper deck hides some of them.
        draw = cars_along(canvas, path, tracks, gap)
        if not deck:
            shown = [f for f in draw if abs(frame.local(f)[0]) > half + 3]
            cars += shown
            lower = draw_cars(canvas, cars)
        else:
            upper = draw_cars(canvas, draw)
    spots = []
    for _ in range(dice.integer(10, 70)):
        u, v = dice.uniform(-1, 1) * site_reach, dice.uniform(-1, 1) * site_reach
        if abs(u) > half + 8 and abs(v) > half + 8:
            spots.append((frame.at(u, v), dice.uniform(1.8, 3.8) * canvas.ppm))
    # Trees on ramps would hide them.
    spots = [
        s
        for s in spots
        if canvas.sees(s[0]) and canvas.image.getpixel((int(s[0][0]), int(s[0][1]))) != asphalt
    ]
    planted = canvas.trees(spots, dice.vary(dice.pick(CANOPY))) if spots else 0
    total = lower + upper
    facts = [
        Fact(
            "Two wide {0} roads cross each other, one of them on a viaduct",
            (word_slot("colour", "grey", ("red", "green")),),
        ),
        Fact("Each direction has {0}", (count_slot(lanes, "lane"),)),
    ]
    if ramps:
        facts.append(Fact("The roads are joined by {0}", (count_slot(ramps, "curved ramp"),)))
    if total:
        facts.append(Fact("On the roads there {0}", (count_slot(total, "car", verb=True),)))
    if planted:
        facts.append(Fact("On the grass beside them stand {0}", (count_slot(planted, "tree"),)))
    counts = (("car", total), ("ramp", ramps), ("tree", planted))
    box = outline if whole else frame.rect(-site_reach, -site_reach, site_reach, site_reach)
    return Painted(box, counts, ("grey",), tuple(facts))


def paint_bridge(canvas: Canvas, zone: Zone) -> Painted:
    """A wide river with one or two bridges across it."""
    dice = canvas.dice
    half = dice.uniform(0.13, 0.24) * min(zone.width, zone.height) / canvas.ppm
    path, outline, word, _ = lay_river(canvas, zone, half, bend=0.08)
    at = len(path) // 2 + dice.integer(-len(path) // 12, len(path) // 12)
    (c0, r0), (c1, r1) = path[at - 2], path[at + 2]
    length = math.sqrt((c1 - c0) ** 2 + (r1 - r0) ** 2) or 1.0
    across = Frame(*path[at], -(r1 - r0) / length, (c1 - c0) / length, canvas.ppm)
    bridges = 2 if dice.chance(0.25) else 1
    wide = dice.uniform(4.5, 11.0)
    asphalt = dice.vary(dice.pick(ASPHALT))
    rail = dice.vary((186, 182, 172))
    reach = max(half * 1.25 + 24, 1.35 * half)
    cars: list[Frame] = []
    for k in range(bridges):
        v = 0.0 if bridges == 1 else (k - 0.5) * (2 * wide + dice.uniform(6, 16))
        road = (
            [across.at(-4 * reach, v), across.at(4 * reach, v)]
            if zone.width >= canvas.width
            else [across.at(-1.25 * reach, v), across.at(1.25 * reach, v)]
        )
        draw_road(canvas, road, 2 * wide * 0.86, asphalt)
        deck = across.rect(-reach, v - wide, reach, v + wide)
        canvas.shadows([(deck, dice.uniform(6, 12))])
        piers = max(2, int(reach / 14))
        for p in range(piers):
            u = -half + 2 * half * (p + 0.5) / piers
            canvas.polygon(across.rect(u - 1.2, v - wide - 1.6, u + 1.2, v + wide + 1.6), shade(rail, 0.8))
        canvas.polygon(deck, rail)
        canvas.polygon(across.rect(-reach, v - wide + 1.2, reach, v + wide - 1.2), asphalt)
        if canvas.ppm > 0.7:
            canvas.line([across.at(-reach, v), across.at(reach, v)], (218, 214, 196), 1)
        cars += cars_along(canvas, road, (-wide * 0.45, wide * 0.45), dice.uniform(12, 40))
    driven = draw_cars(canvas, cars)
    trees = []
    for edge in ribbon(path, (half + 14) * canvas.ppm):
        u, v = across.local(Frame(edge[0], edge[1], 1.0, 0.0, canvas.ppm))
        if (
            dice.chance(0.5)
            and abs(v) > wide * 2.5 + 8
            and abs(edge[0] - zone.col) < zone.width / 2
            and abs(edge[1] - zone.row) < zone.height / 2
        ):
            trees.append((edge, dice.uniform(2.2, 4.4) * canvas.ppm))
    planted = canvas.trees(trees, dice.vary(dice.pick(CANOPY)))
    facts = [
        Fact(
            "There {0} crossing a river with {1} water",
            (count_slot(bridges, "straight bridge", verb=True), colour_slot(word)),
        ),
        Fact(
            "The bridge deck is {0} and throws a dark shadow on the water"
            if bridges == 1
            else "The bridge decks are {0} and throw dark shadows on the water",
            (word_slot("colour", "grey", ("red", "green")),),
        ),
    ]
    if driven:
        facts.append(Fact("On the road there {0}", (count_slot(driven, "car", verb=True),)))
    if planted:
        facts.append(Fact("On the banks stand {0}", (count_slot(planted, "tree"),)))
    counts = (("bridge", bridges), ("car", driven), ("tree", planted))
    return Painted(
        clip_zone(zone, [*outline, *across.rect(-reach, -wide, reach, wide)]), counts, (word,), tuple(facts)
    )

"""Painter of harbours."""

from __future__ import annotations

from .built import lay_ground
from .canvas import Canvas, Frame
from .objects import ROOFS, Block, Ship, draw_blocks, draw_cars, draw_ships
from .textures import CONCRETE, Colour, ripples, shade
from .truth import Fact, Painted, Zone, colour_slot, count_slot, word_slot

__all__ = ["HARBOUR_WATERS", "paint_harbour"]

HARBOUR_WATERS: tuple[tuple[Colour, str], ...] = (
    ((32, 66, 66), "dark green"),
    ((40, 84, 84), "green"),
    ((30, 56, 70), "dark blue"),
    ((50, 70, 80), "blue"),
    ((26, 36, 40), "black"),
)


def paint_harbour(canvas: Canvas, zone: Zone) -> Painted:
    """A basin open to one side: a marina with piers full of boats, or a quay with big ships."""
    dice = canvas.dice
    side = (zone.sides or ("left",))[0]
    turns = {"bottom": 0, "left": 1, "top": 2, "right": 3}[side]
    # Local v points to the open water, u runs along the quay.
    frame = canvas.frame(zone.col, zone.row, 0).moved(0, 0, turns)
    w, h = zone.width / canvas.ppm / 2, zone.height / canvas.ppm / 2
    a, b = (w, h) if turns % 2 == 0 else (h, w)
    quay = dice.uniform(0.1, 0.2) * b
    wing = dice.uniform(0.04, 0.08) * a
    land = frame.rect(-a, -b, a, b)
    concrete = dice.vary(dice.pick(CONCRETE))
    lay_ground(canvas, land, concrete, spread=1.1)
    colour, word = dice.pick(HARBOUR_WATERS)
    colour = dice.vary(colour, 6)
    left_wall, right_wall = (
        (dice.chance(0.85), dice.chance(0.85))
        if zone.width < canvas.width
        else (dice.chance(0.4), dice.chance(0.4))
    )
    u0, u1 = (-a + wing if left_wall else -a), (a - wing if right_wall else a)
    v0 = -b + quay
    basin = frame.rect(u0, v0, u1, b)
    canvas.fill([basin], lambda hh, ww: ripples(dice, hh, ww, colour, cell=80, contrast=0.1))
    canvas.line(
        [frame.at(u0, b), frame.at(u0, v0), frame.at(u1, v0), frame.at(u1, b)],
        shade(concrete, 1.16),
        1.8 * canvas.ppm,
    )
    marina = dice.chance(0.76)
    ships: list[tuple[Frame, float, float]] = []
    piers = 0
    wood = dice.vary((176, 168, 152))
    if marina:
        length = max(dice.uniform(9, 17), (u1 - u0) / dice.uniform(14, 20))
        beam = length * dice.uniform(0.27, 0.33)
        pitch = 2 * length + dice.uniform(7, 13)
        piers = max(1, int((u1 - u0 - 6) / pitch))
        pitch = (u1 - u0) / piers
        shown = 0
        load = dice.uniform(0.55, 0.95)
        for i in range(piers):
            u = u0 + pitch * (i + 0.5)
            end = b - dice.uniform(0.1, 0.3) * (b - v0)
            canvas.shadows([(frame.rect(u - 1.2, v0, u + 1.2, end), 1.5)])
            canvas.polygon(frame.rect(u - 1.2, v0, u + 1.2, end), wood)
            shown += canvas.sees(frame.at(u, (v0 + end) / 2))
            v = v0 + beam + 3
            while v < end - beam:
                for way in (-1, 1):
                    if dice.chance(load):
                        ship = frame.moved(u + way * (1.6 + length / 2), v, 0 if way > 0 else 2)
                        ships.append(
                            (ship, length * dice.uniform(0.62, 1.05), beam * dice.uniform(0.85, 1.0))
                        )
                v += beam * dice.uniform(1.3, 1.55)
        piers = shown
    else:
        length = dice.uniform(0.3, 0.52) * min(a, b)
        beam = length * dice.uniform(0.18, 0.24)
        u = u0 + length * 0.62
        while u < u1 - length * 0.5:
            if dice.chance(0.93):
                ships.append((frame.moved(u, v0 + beam * 0.62 + 1, dice.pick((0, 2))), length, beam))
            u += length * 1.2
        for wall, u, way in ((left_wall, u0, 1), (right_wall, u1, -1)):
            v = v0 + beam * 1.4 + length * 0.62
            while wall and v < b - length * 0.5:
                if dice.chance(0.8):
                    ships.append(
                        (frame.moved(u + way * (beam * 0.62 + 1), v, dice.pick((1, 3))), length, beam)
                    )
                v += length * 1.2
        for _ in range(dice.integer(3, 9)):
            spot = (
                dice.uniform(u0 + length, u1 - length),
                dice.uniform(v0 + 2 * beam + length, b - length * 0.6),
            )
            if all(
                abs(spot[0] - q[0]) + abs(spot[1] - q[1]) > length * 1.1
                for q in [frame.local(s[0]) for s in ships]
            ):
                small = length * dice.uniform(0.45, 0.8)
                ships.append((frame.moved(*spot, dice.integer(0, 3)), small, small * 0.24))
    hulls: tuple[Colour, ...] = (
        (228, 228, 226),
        (236, 236, 234),
        (216, 218, 220),
        (206, 204, 196),
        (70, 84, 110),
    )
    freight: tuple[Colour, ...] = ((130, 62, 54), (60, 74, 96), (70, 76, 78), (150, 84, 60))
    fleet = []
    for ship, size, width in ships:
        hull = dice.vary(dice.pick(hulls if marina else freight), 8)
        deck = shade(hull, 0.94) if marina else dice.vary((164, 152, 134))
        fleet.append(Ship(ship, size, width, hull, deck))
    moored = draw_ships(canvas, fleet)
    sheds: list[Block] = []
    cars: list[Frame] = []
    u = -a + 12
    while quay > 12 and u < a - 18:
        if dice.chance(0.6):
            tone = dice.pick(ROOFS[dice.pick(("white", "grey", "blue", "red"))])
            sheds.append(
                Block(
                    frame.moved(u, -b + quay * 0.42),
                    dice.uniform(7, 14),
                    quay * 0.28,
                    8,
                    dice.vary(tone),
                    dice.pick(("ribbed", "flat")),
                )
            )
        elif not marina:
            for k in range(6):
                tone = dice.pick(
                    ((150, 70, 55), (70, 95, 130), (120, 122, 120), (176, 150, 84), (60, 110, 90))
                )
                canvas.polygon(
                    frame.rect(u - 8 + 0.3, -b + 3 + k * 2.7, u + 6, -b + 5.4 + k * 2.7), dice.vary(tone)
                )
        else:
            cars += [frame.moved(u - 9 + 2.8 * k, -b + quay * 0.55, 1) for k in range(7) if dice.chance(0.8)]
        u += 32
    parked = draw_cars(canvas, cars)
    halls = draw_blocks(canvas, sheds)
    kind = "white boat" if marina else "large ship"
    noun = count_slot(moored, kind, verb=True)
    facts = [
        Fact("In the harbour there {0} on {1} water", (noun, colour_slot(word))),
        Fact(
            "The quay is made of {0} concrete and the basin opens to the {1}",
            (
                word_slot("colour", "grey", ("red", "black")),
                word_slot(
                    "position", side, tuple(s for s in ("left", "right", "top", "bottom") if s != side)
                ),
            ),
        ),
    ]
    if piers:
        facts.append(Fact("The boats are tied up along {0}", (count_slot(piers, "narrow pier"),)))
    if halls:
        facts.append(Fact("On the quay there {0}", (count_slot(halls, "building", verb=True),)))
    counts = (("ship", moored), ("pier", piers), ("building", halls), ("car", parked))
    return Painted(land, counts, (word, "marina" if marina else "port"), tuple(facts))

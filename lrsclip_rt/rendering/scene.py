"""Tiles with one object, scenes with many."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import MappingProxyType

from lrsclip_rt.errors import InputError

from .built import paint_industrial, paint_residential
from .canvas import SUPERSAMPLING, Canvas, Light, Point
from .captions import NOUNS
from .descriptions import ALIKE, PHRASES, describe_long, describe_short
from .grounds import paint_parking_lot, paint_sports_ground, paint_storage_tanks
from .harbour import paint_harbour
from .land import paint_desert, paint_farmland, paint_forest, paint_mountain
from .objects import ROOFS, Block, draw_blocks, draw_road
from .outlines import cut_to_box, smooth_path
from .textures import ASPHALT, CANOPY, GRASS, SOIL, Colour, Dice, ground, shade
from .transport import paint_airport, paint_bridge, paint_road
from .truth import Fact, Painted, RenderedScene, TruthObject, Zone, count_slot, word_slot
from .water import paint_beach, paint_pond, paint_river

__all__ = [
    "CLASSES",
    "CONFUSABLE",
    "CONTEXTS",
    "CORNERED",
    "DEMO_SEEDS",
    "EXTENDED",
    "PAINTERS",
    "SIDES",
    "SPAN_M",
    "TEST_SEEDS",
    "TRAIN_SEEDS",
    "WATERSIDE",
    "render_scene",
    "render_tile",
]

TRAIN_SEEDS = range(0, 1_000_000)
DEMO_SEEDS = range(2_000_000, 2_000_100)
TEST_SEEDS = range(3_000_000, 3_001_000)

CLASSES: tuple[str, ...] = tuple(PHRASES)
PAINTERS: MappingProxyType[str, Callable[[Canvas, Zone], Painted]] = MappingProxyType(
    {
        "airport": paint_airport,
        "beach": paint_beach,
        "bridge": paint_bridge,
        "desert": paint_desert,
        "farmland": paint_farmland,
        "forest": paint_forest,
        "harbour": paint_harbour,
        "industrial": paint_industrial,
        "mountain": paint_mountain,
        "parking_lot": paint_parking_lot,
        "pond": paint_pond,
        "residential": paint_residential,
        "river": paint_river,
        "road": paint_road,
        "sports_ground": paint_sports_ground,
        "storage_tanks": paint_storage_tanks,
    }
)
# Ground covered by a tile's edge [m], about as in AID.
SPAN_M: MappingProxyType[str, tuple[float, float]] = MappingProxyType(
    {
        "airport": (170, 900),
        "beach": (120, 500),
        "bridge": (150, 450),
        "desert": (200, 900),
        "farmland": (150, 900),
        "forest": (120, 480),
        "harbour": (140, 420),
        "industrial": (150, 560),
        "mountain": (200, 2500),
        "parking_lot": (100, 260),
        "pond": (120, 400),
        "residential": (120, 420),
        "river": (150, 900),
        "road": (160, 520),
        "sports_ground": (120, 300),
        "storage_tanks": (110, 420),
    }
)
EXTENDED = frozenset(
    {
        "beach",
        "bridge",
        "desert",
        "farmland",
        "forest",
        "mountain",
        "river",
        "road",
        "residential",
        "industrial",
    }
)
SIDES = ("left", "right", "top", "bottom")
CONTEXTS = ("forest", "farmland", "residential", "industrial")


def _light(dice: Dice) -> Light:
    turn = math.radians(dice.uniform(0, 360))
    shadow = (round(math.cos(turn), 9), round(math.sin(turn), 9))
    return Light(shadow, dice.uniform(0.35, 1.1), dice.uniform(0.42, 0.72))


def _light_fact(light: Light) -> Fact:
    cols, rows = light.shadow
    words = (
        *(("lower",) if rows > 0.4 else ("upper",) if rows < -0.4 else ()),
        *(("right",) if cols > 0.4 else ("left",) if cols < -0.4 else ()),
    )
    wrong = {"upper": "lower", "lower": "upper", "left": "right", "right": "left"}
    return Fact(
        "Shadows fall towards the {0}",
        (
            word_slot(
                "direction", " ".join((*words, "side")), (" ".join((*(wrong[w] for w in words), "side")),)
            ),
        ),
    )


def _background(canvas: Canvas) -> Fact:
    """Fill the picture with open land and say of which kind."""
    dice = canvas.dice
    dry = dice.chance(0.3)
    low = dice.vary(dice.pick(SOIL if dry else GRASS), 14)
    high = dice.vary(dice.pick(SOIL[:3] if dry else GRASS), 14)
    mixed: Colour = ((low[0] + high[0]) // 2, (low[1] + high[1]) // 2, (low[2] + high[2]) // 2)
    h, w = canvas.height // SUPERSAMPLING, canvas.width // SUPERSAMPLING
    # Drawn at final resolution: twice that would cost four times as much and show no more.
    land = ground(dice, h, w, shade(low, 0.92), shade(high, 1.08), cell=dice.uniform(0.12, 0.3) * min(400, h))
    canvas.image.paste(land.resize((canvas.width, canvas.height)))
    canvas.land = mixed
    word = "green" if mixed[1] > mixed[0] + 3 else "brown"
    return Fact(
        "The open ground around is {0}", (word_slot("colour", word, ("green", "brown", "white", "blue")),)
    )


def _boxed(canvas: Canvas, name: str, painted: Painted) -> TruthObject:
    """Canvas outline to a truth object in scene pixels."""
    h, w = canvas.height // SUPERSAMPLING, canvas.width // SUPERSAMPLING
    outline = [(c / SUPERSAMPLING, r / SUPERSAMPLING) for c, r in painted.outline]
    points = tuple((round(c, 2), round(r, 2)) for c, r in cut_to_box(outline, w, h))
    left, right = min(p[0] for p in points), max(p[0] for p in points)
    top, bottom = min(p[1] for p in points), max(p[1] for p in points)
    col, row = min(w - 1, math.floor(left)), min(h - 1, math.floor(top))
    return TruthObject(
        name=name,
        row_off=row,
        col_off=col,
        height=max(1, min(h, math.ceil(bottom)) - row),
        width=max(1, min(w, math.ceil(right)) - col),
        polygon=points,
        counts=painted.counts,
        attributes=painted.attributes,
        facts=painted.facts,
    )


def _described(
    canvas: Canvas, seed: int, objects: Sequence[TruthObject], facts: Sequence[Fact]
) -> RenderedScene:
    bare = RenderedScene(canvas.finished(), seed, tuple(objects), tuple(facts), canvas.gsd_m, "", "")
    return replace(bare, short=describe_short(bare), long=describe_long(bare))


def render_tile(name: str, seed: int, *, size: int = 160) -> RenderedScene:
    """One tile dominated by one class, like an AID image.

    Args:
        name: One of ``CLASSES``.
        seed: Any non-negative integer; see ``TRAIN_SEEDS``, ``DEMO_SEEDS``, ``TEST_SEEDS``.
        size: Edge [px].

    Returns:
        The tile, the same for the same arguments.

    Raises:
        InputError: If the class is unknown or the size is under 32.

    Example:
        >>> tile = render_tile("harbour", 7)
        >>> tile.pixels.shape, tile.objects[0].name
        ((160, 160, 3), 'harbour')
    """
    if name not in PAINTERS:
        raise InputError(f"class {name!r} is unknown; choose one of {', '.join(CLASSES)}")
    if size < 32:
        raise InputError(f"size {size} is too small; a tile needs at least 32 pixels")
    dice = Dice(seed, CLASSES.index(name), size)
    low, high = SPAN_M[name]
    # Log-uniform without a logarithm: the square of a draw leans to small spans.
    part = dice.uniform(0, 1)
    span = low + (high - low) * part * part
    canvas = Canvas(size, size, round(span / size, 4), dice, _light(dice))
    land = _background(canvas)
    full = dice.chance(0.85 if name == "beach" else 0.7 if name in EXTENDED else 0.3)
    edge = canvas.width
    if full:
        zone = Zone(edge / 2, edge / 2, edge * 1.12, edge * 1.12)
    else:
        w, h = (edge * dice.uniform(0.6, 0.98) for _ in range(2))
        slack_c, slack_r = (edge - w) / 2, (edge - h) / 2
        zone = Zone(
            edge / 2 + dice.uniform(-slack_c, slack_c), edge / 2 + dice.uniform(-slack_r, slack_r), w, h
        )
    zone = replace(_with_sides(zone, name, dice, edge, full), loose=True)
    around = _surroundings(canvas, zone, name, full)
    hidden = (full and name not in ("river", "bridge", "beach")) or any(
        s.kind == "object" for f in around for s in f.slots
    )
    facts = [*around, *(() if hidden else (land,))]
    painted = PAINTERS[name](canvas, zone)
    facts.append(_light_fact(canvas.light))
    across = round(span / 10) * 10
    facts.append(
        Fact(
            "The picture is about {0} wide",
            (word_slot("size", f"{across} metres", (f"{across * 4} metres",)),),
        )
    )
    return _described(canvas, seed, [_boxed(canvas, name, painted)], facts)


def _with_sides(zone: Zone, name: str, dice: Dice, edge: float, full: bool) -> Zone:
    """Move a zone of open water to the edge of the tile that the water runs out of."""
    if name in ("river", "bridge"):
        zone = Zone(edge / 2, edge / 2, edge * 1.05, edge * 1.05)
        return replace(
            zone,
            sides=dice.pick(
                (
                    ("left", "right"),
                    ("top", "bottom"),
                    ("left", "top"),
                    ("right", "bottom"),
                    ("left", "bottom"),
                )
            ),
        )
    if name == "beach" and not full and dice.chance(0.7):
        across, down = dice.pick((("left", "top"), ("left", "bottom"), ("right", "top"), ("right", "bottom")))
        col = zone.width / 2 if across == "left" else edge - zone.width / 2
        row = zone.height / 2 if down == "top" else edge - zone.height / 2
        return replace(zone, sides=(across, down), col=col, row=row)
    if name in ("beach", "harbour"):
        side = dice.pick(SIDES)
        if full:
            return replace(zone, sides=(side,))
        col = {"left": zone.width / 2, "right": edge - zone.width / 2}.get(side, zone.col)
        row = {"top": zone.height / 2, "bottom": edge - zone.height / 2}.get(side, zone.row)
        return replace(zone, col=col, row=row, sides=(side,))
    return zone


def _surroundings(canvas: Canvas, zone: Zone, name: str, full: bool) -> list[Fact]:
    """Trees, a road and houses that the object is then drawn over."""
    dice = canvas.dice
    facts: list[Fact] = []
    edge = canvas.width
    if dice.chance(0.4) and (not full or name in ("river", "bridge")):
        kind = dice.pick(
            [
                k
                for k in CONTEXTS
                if k != name
                and k not in ALIKE.get(name, ())
                and (k in ("forest", "farmland") or edge < 500 * canvas.ppm)
            ]
        )
        PAINTERS[kind](canvas, Zone(edge / 2, edge / 2, edge * 1.12, edge * 1.12))
        if not full:
            pad = dice.vary(dice.pick(GRASS + SOIL))
            canvas.land = pad
            w, h = zone.width / 2 + dice.uniform(2, 12), zone.height / 2 + dice.uniform(2, 12)
            yard = [
                (zone.col - w, zone.row - h),
                (zone.col + w, zone.row - h),
                (zone.col + w, zone.row + h),
                (zone.col - w, zone.row + h),
            ]
            canvas.fill(
                [yard],
                lambda hh, ww: ground(dice, hh, ww, shade(pad, 0.9), shade(pad, 1.1), cell=30),
                rough=4,
                cell=14,
            )
        others = tuple(
            NOUNS[k] for k in NOUNS if k not in (name, kind, *ALIKE.get(name, ()), *ALIKE.get(kind, ()))
        )
        return [Fact("All around it there is {0}", (word_slot("object", NOUNS[kind], others),))]
    if full:
        return facts
    if dice.chance(0.5):
        near = dice.uniform(0.02, 0.08) * edge
        col = zone.col + dice.pick((-1, 1)) * (zone.width / 2 + near)
        row = zone.row + dice.pick((-1, 1)) * (zone.height / 2 + near)
        upright = dice.chance(0.5)
        path: list[Point] = [(col, -9.0), (col, edge + 9.0)] if upright else [(-9.0, row), (edge + 9.0, row)]
        draw_road(canvas, path, dice.uniform(5, 10), dice.vary(dice.pick(ASPHALT)))
        if 0 < (col if upright else row) < edge:
            facts.append(
                Fact("A straight {0} road runs past it", (word_slot("colour", "grey", ("red", "green")),))
            )
    outside = [
        (p, dice.uniform(1.8, 4.0) * canvas.ppm)
        for p in ((dice.uniform(0, edge), dice.uniform(0, edge)) for _ in range(dice.integer(0, 70)))
        if abs(p[0] - zone.col) > zone.width / 2 + 8 or abs(p[1] - zone.row) > zone.height / 2 + 8
    ]
    if dice.chance(0.3):
        homes = []
        for _ in range(dice.integer(3, 9)):
            p = (dice.uniform(8, edge - 8), dice.uniform(8, edge - 8))
            if abs(p[0] - zone.col) > zone.width / 2 + 14 or abs(p[1] - zone.row) > zone.height / 2 + 14:
                tone = dice.vary(dice.pick(ROOFS[dice.pick(("red", "brown", "grey", "white"))]))
                homes.append(Block(canvas.frame(p[0], p[1], dice.uniform(0, 90)), 7, 4.5, 5, tone, "gable"))
        if homes:
            shown = draw_blocks(canvas, homes)
            facts.append(Fact("Near it there {0}", (count_slot(shown, "small house", verb=True),)))
    if len(outside) > 2:
        grown = canvas.trees(outside, dice.vary(dice.pick(CANOPY)))
        facts.append(Fact("On the land around it stand {0}", (count_slot(grown, "green tree"),)))
    return facts


CONFUSABLE = (("river", "bridge"), ("desert", "beach"))
CORNERED = frozenset({"river", "bridge", "beach"})
WATERSIDE = frozenset({"river", "bridge", "beach", "harbour"})


def render_scene(
    seed: int, *, height: int = 1024, width: int = 1024, classes: Sequence[str] | None = None
) -> RenderedScene:
    """A landscape in which each class occurs as one clearly separated zone.

    Args:
        seed: Any non-negative integer.
        height: Scene height [px].
        width: Scene width [px].
        classes: Classes to lay out; by default eight or nine, chosen by the seed.

    Returns:
        The scene with one truth object per class.

    Raises:
        InputError: If a class is unknown or repeated, or the scene has no room for them.
    """
    dice = Dice(seed, 991, height, width)
    chosen = list(classes) if classes is not None else _choice(dice)
    if not chosen or len(set(chosen)) < len(chosen) or any(c not in PAINTERS for c in chosen):
        raise InputError(f"classes {chosen} must be distinct and each one of {', '.join(CLASSES)}")
    cells = _grid(len(chosen), height, width)
    if min(height / cells[0], width / cells[1]) < 128:
        raise InputError(
            f"{len(chosen)} classes need more room than {height} x {width} pixels; give fewer or more pixels"
        )
    canvas = Canvas(height, width, round(dice.uniform(0.6, 0.95), 3), dice, _light(dice))
    facts = [_background(canvas)]
    zones = _layout(canvas, chosen, cells)
    roads = _join_roads(canvas, cells, zones)
    _woods(canvas, list(zones.values()))
    objects = [_boxed(canvas, name, PAINTERS[name](canvas, zone)) for name, zone in zones.items()]
    objects.sort(key=lambda o: (o.row_off + o.height // 2, o.col_off))
    facts.append(
        Fact("The areas are separated by open land and joined by {0}", (count_slot(roads, "long grey road"),))
    )
    facts.append(_light_fact(canvas.light))
    return _described(canvas, seed, objects, facts)


def _choice(dice: Dice) -> list[str]:
    chosen = dice.shuffled(CLASSES)
    for pair in CONFUSABLE:
        chosen.remove(dice.pick([p for p in pair if p in chosen]))
    return chosen[: dice.integer(8, 9)]


def _grid(n: int, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of cells for ``n`` zones."""
    best = (1, n)
    for rows in range(1, n + 1):
        cols = -(-n // rows)
        if min(height / rows, width / cols) > min(height / best[0], width / best[1]):
            best = (rows, cols)
    return best


def _layout(canvas: Canvas, names: Sequence[str], cells: tuple[int, int]) -> dict[str, Zone]:
    """A zone for each class: waterside ones at the border, rivers in the corners where there is room."""
    dice = canvas.dice
    rows, cols = cells
    ch, cw = canvas.height / rows, canvas.width / cols
    free = dice.shuffled([(r, c) for r in range(rows) for c in range(cols)])

    def border(cell: tuple[int, int]) -> tuple[str, ...]:
        r, c = cell
        return (
            *(("top",) if r == 0 else ()),
            *(("bottom",) if r == rows - 1 else ()),
            *(("left",) if c == 0 else ()),
            *(("right",) if c == cols - 1 else ()),
        )

    zones: dict[str, Zone] = {}
    order = sorted(names, key=lambda n: (n not in CORNERED, n not in WATERSIDE))
    for name in order:
        want = 2 if name in CORNERED else 1 if name in WATERSIDE else 0
        cell = next((c for c in free if len(border(c)) >= want), None) or next(
            (c for c in free if border(c)), free[0]
        )
        if want == 0:
            cell = next((c for c in free if len(border(c)) < 2), free[0])
        free.remove(cell)
        w, h = (min(2 * 300.0, side * dice.uniform(0.76, 0.86)) for side in (cw, ch))
        col = (cell[1] + 0.5) * cw + dice.uniform(-0.03, 0.03) * cw
        row = (cell[0] + 0.5) * ch + dice.uniform(-0.03, 0.03) * ch
        sides = border(cell) if want else ()
        if want == 1:
            sides = (dice.pick(sides),) if sides else ()
        if "left" in sides:
            col = w / 2
        if "right" in sides:
            col = canvas.width - w / 2
        if "top" in sides:
            row = h / 2
        if "bottom" in sides:
            row = canvas.height - h / 2
        zones[name] = Zone(col, row, w, h, sides)
    return zones


def _join_roads(canvas: Canvas, cells: tuple[int, int], zones: dict[str, Zone]) -> int:
    """Country roads between the cells and a drive to each built-up zone."""
    dice = canvas.dice
    rows, cols = cells
    asphalt = dice.vary(dice.pick(ASPHALT))
    grid: list[list[Point]] = []
    for r in range(1, rows):
        y = canvas.height * r / rows
        grid.append([(canvas.width * k / 6, y + dice.uniform(-13, 13)) for k in range(7)])
    for c in range(1, cols):
        x = canvas.width * c / cols
        grid.append([(x + dice.uniform(-13, 13), canvas.height * k / 6) for k in range(7)])
    for name, zone in zones.items():
        if name not in ("forest", "desert", "mountain", "river", "bridge", "beach"):
            col = canvas.width / cols * max(1, min(cols - 1, round(zone.col / canvas.width * cols)))
            draw_road(canvas, [(zone.col, zone.row), (col, zone.row)], 6, asphalt, marked=False)
    for path in grid:
        draw_road(canvas, smooth_path(path), 8, asphalt)
    return len(grid)


def _woods(canvas: Canvas, zones: Sequence[Zone]) -> None:
    """Single trees and small groups on the open land."""
    dice = canvas.dice
    spots = []
    for _ in range(90):
        col, row = dice.uniform(0, canvas.width), dice.uniform(0, canvas.height)
        if any(abs(col - z.col) < z.width / 2 + 20 and abs(row - z.row) < z.height / 2 + 20 for z in zones):
            continue
        for _ in range(dice.integer(1, 5)):
            spots.append(
                (
                    (col + dice.uniform(-14, 14), row + dice.uniform(-14, 14)),
                    dice.uniform(2.0, 4.2) * canvas.ppm,
                )
            )
    canvas.trees(spots, dice.vary(dice.pick(CANOPY)))

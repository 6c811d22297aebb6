"""What `lrsclip bench` measured, as three SVG pictures: what a precision costs, batches, and stages."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from lrsclip_rt.demonstration.markup import Child, Markup, element
from lrsclip_rt.errors import InputError

__all__ = ["latency_chart", "parity_chart", "stage_chart"]

Row = Mapping[str, Any]

WIDTH, HEIGHT = 760, 420
LEFT, RIGHT, TOP, BOTTOM = 84, 30, 78, 64
INK, PALE, GRID = "#22252b", "#5a606c", "#dfe2e8"
COLOURS = ("#2f6fb5", "#c2703a", "#3f9467", "#8a5bb0", "#b5445a", "#4a8f9c", "#8c7a2f", "#6b7280")
NEAREST = 1e-8
"""Left end of the axis of 1 - cosine: what is nearer to fp32 is drawn there."""


def parity_chart(checks: Sequence[Row], rows: Sequence[Row]) -> str:
    """Images a second against the distance of image embeddings from fp32, a point for each contender.

    Args:
        checks: Rows ``parity on the probe``.
        rows: Rows ``files to embeddings``.

    Raises:
        InputError: If no contender has both.
    """
    distances = {row["contender"]: 1.0 - row["image"]["mean"] for row in checks if row.get("image")}
    speeds = {row["contender"]: row["per_second"] for row in rows if row["contender"] in distances}
    if not speeds:
        raise InputError("no contender has a parity and a speed; nothing to draw")
    least = math.log10(NEAREST)
    most = max(math.log10(max(distances.values()) + NEAREST) + 0.5, -3.0)
    top = 1.15 * max(speeds.values())
    parts: list[Child] = [_frame("Image files to embeddings: speed against distance from fp32")]
    for decade in range(math.ceil(least), math.floor(most) + 1):
        at = _across((decade - least) / (most - least))
        parts += [_line(at, TOP, at, HEIGHT - BOTTOM), _below(at, f"1e{decade}")]
    parts += [*_heights(top, "images/s"), _axis_title("1 - cosine, mean of the probe")]
    for number, (name, speed) in enumerate(speeds.items()):
        distance = math.log10(max(distances[name], NEAREST))
        x, y = _across((distance - least) / (most - least)), _up(speed / top)
        parts.append(element("circle", cx=_short(x), cy=_short(y), r=6, fill=_colour(number)))
        beyond = x > WIDTH * 0.6
        parts.append(_text(x + (-10 if beyond else 10), y - 8, name, "end" if beyond else "start", INK))
    return _picture(parts)


def latency_chart(rows: Sequence[Row]) -> str:
    """Milliseconds of a run of the image tower against its batch, a line for each contender.

    Args:
        rows: Rows ``image tower``.

    Raises:
        InputError: If there are none.
    """
    if not rows:
        raise InputError("no runs of the image tower to draw")
    batches = sorted({row["batch"] for row in rows})
    names = list(dict.fromkeys(row["contender"] for row in rows))
    low, high = (math.log10(pick(row["p50_ms"] for row in rows)) for pick in (min, max))
    bottom, top = math.floor(low), max(math.ceil(high), math.floor(low) + 1)
    across = {batch: (i + 0.5) / len(batches) for i, batch in enumerate(batches)}
    parts: list[Child] = [_frame("Image tower: median latency against batch"), *_legend(names)]
    for decade in range(bottom, top + 1):
        y = _up((decade - bottom) / (top - bottom))
        parts += [_line(LEFT, y, WIDTH - RIGHT, y), _text(LEFT - 8, y + 4, f"{10.0**decade:g} ms", "end")]
    parts += [_below(_across(at), str(batch)) for batch, at in across.items()]
    parts.append(_axis_title("images a run"))
    for number, name in enumerate(names):
        points = [
            (_across(across[row["batch"]]), _up((math.log10(row["p50_ms"]) - bottom) / (top - bottom)))
            for row in sorted(rows, key=lambda row: int(row["batch"]))
            if row["contender"] == name
        ]
        path = " ".join(f"{_short(x)},{_short(y)}" for x, y in points)
        parts.append(element("polyline", points=path, fill="none", stroke=_colour(number), stroke_width=2))
        parts += [element("circle", cx=_short(x), cy=_short(y), r=4, fill=_colour(number)) for x, y in points]
    return _picture(parts)


def stage_chart(rows: Sequence[Row]) -> str:
    """Milliseconds an image of each stage, a bar for each contender; search and fusion below.

    Args:
        rows: Rows ``stage: ...``.

    Raises:
        InputError: If no tower is among them.
    """
    stages: dict[str, list[Row]] = {}
    for row in rows:
        stages.setdefault(row["what"].removeprefix("stage: "), []).append(row)
    if "tower" not in stages:
        raise InputError("no stages were timed; nothing to draw")
    shared = [(stage, _each(stages[stage][0])) for stage in ("decode", "resize") if stage in stages]
    bars = [(row["contender"], [*shared, ("tower", _each(row))]) for row in stages["tower"]]
    bars += [
        (f"{stage} (a query)", [(stage, _each(stages[stage][0]))])
        for stage in ("search", "fuse")
        if stage in stages
    ]
    left, step = 230, 34
    height = TOP + 30 + step * len(bars) + 30
    longest = max(sum(ms for _, ms in parts) for _, parts in bars)
    names = list(dict.fromkeys(stage for _, parts in bars for stage, _ in parts))
    drawn: list[Child] = [_title("One image, one query: where the time goes"), *_legend(names)]
    for index, (name, parts) in enumerate(bars):
        y, x = TOP + 24 + step * index, float(left)
        drawn.append(_text(left - 10, y + 15, name, "end", INK))
        for stage, ms in parts:
            wide = (WIDTH - RIGHT - 90 - left) * ms / longest
            fill = _colour(names.index(stage))
            drawn.append(
                element("rect", x=_short(x), y=y, width=_short(max(wide, 0.5)), height=22, fill=fill)
            )
            x += wide
        drawn.append(_text(x + 8, y + 15, f"{sum(ms for _, ms in parts):.2f} ms", "start"))
    return _picture(drawn, height=height)


def _each(row: Row) -> float:
    """Milliseconds of one item of a row."""
    return float(row["p50_ms"]) / int(row["batch"])


def _picture(parts: Child, *, height: int = HEIGHT) -> str:
    ground = element("rect", width=WIDTH, height=height, fill="#ffffff")
    return (
        element(
            "svg",
            ground,
            parts,
            xmlns="http://www.w3.org/2000/svg",
            viewBox=f"0 0 {WIDTH} {height}",
            font_family="system-ui, sans-serif",
            font_size="13",
        )
        + "\n"
    )


def _frame(title: str) -> list[Markup]:
    return [_title(title), _line(LEFT, HEIGHT - BOTTOM, WIDTH - RIGHT, HEIGHT - BOTTOM, PALE)]


def _title(title: str) -> Markup:
    return element("text", title, x=20, y=30, fill=INK, font_size="17", font_weight="600")


def _legend(names: Sequence[str]) -> list[Markup]:
    found, x = [], 20.0
    for number, name in enumerate(names):
        found.append(element("rect", x=_short(x), y=42, width=12, height=12, fill=_colour(number)))
        found.append(_text(x + 17, 53, name, "start"))
        x += 34 + 7.2 * len(name)
    return found


def _heights(top: float, unit: str) -> list[Markup]:
    """Lines of the vertical axis at round numbers."""
    step = 10 ** math.floor(math.log10(top / 2))
    step *= next(factor for factor in (1, 2, 5, 10) if top / (step * factor) <= 6)
    found = []
    for number in range(int(top / step) + 1):
        y = _up(number * step / top)
        found += [_line(LEFT, y, WIDTH - RIGHT, y), _text(LEFT - 8, y + 4, f"{number * step:g}", "end")]
    return [*found, _text(LEFT - 8, TOP - 8, unit, "end")]


def _below(x: float, words: str) -> Markup:
    return _text(x, HEIGHT - BOTTOM + 18, words, "middle")


def _axis_title(words: str) -> Markup:
    return _text(WIDTH / 2, HEIGHT - 16, words, "middle")


def _across(share: float) -> float:
    return LEFT + share * (WIDTH - LEFT - RIGHT)


def _up(share: float) -> float:
    return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)


def _line(x1: float, y1: float, x2: float, y2: float, stroke: str = GRID) -> Markup:
    return element("line", x1=_short(x1), y1=_short(y1), x2=_short(x2), y2=_short(y2), stroke=stroke)


def _text(x: float, y: float, words: str, anchor: str, fill: str = PALE) -> Markup:
    return element("text", words, x=_short(x), y=_short(y), text_anchor=anchor, fill=fill)


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


def _short(value: float) -> str:
    return f"{value:.1f}"

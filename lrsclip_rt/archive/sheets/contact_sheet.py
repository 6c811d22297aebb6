"""The hits of a search as one HTML page that loads nothing: pictures, scores, places and a map sketch."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from io import BytesIO
from pathlib import PurePath

from lrsclip_rt.archive.answer import Answer
from lrsclip_rt.archive.chips import ChipReader
from lrsclip_rt.archive.footprints import Bbox, Rings, rings_from_bbox
from lrsclip_rt.archive.hits import Hit, Hits
from lrsclip_rt.archive.sheets.map_sketch import Footprint, map_sketch
from lrsclip_rt.archive.sheets.style import STYLE
from lrsclip_rt.archive.store import Archive
from lrsclip_rt.archive.where import Where
from lrsclip_rt.demonstration.markup import Markup, document, element
from lrsclip_rt.errors import LrsclipError

__all__ = ["CHIP_SIDE", "contact_sheet"]

CHIP_SIDE = 320
"""Longest side of a picture [px]."""

_LONG_TITLE = 90
_MINUS = "\N{MINUS SIGN}"


def contact_sheet(archive: Archive, answer: Answer) -> tuple[str, list[tuple[str, str]]]:
    """Write the page; a hit whose source is gone has a card without a picture.

    Returns:
        HTML, and the sources that could not be read with the reason.
    """
    pictures, failures = _pictures(archive, answer.hits)
    main: list[Markup | None] = [_overview(answer)]
    if len(answer.hits):
        main.append(element("h2", "Hits"))
        cards = [_card(answer, index, pictures) for index in range(len(answer.hits))]
        main.append(element("div", cards, class_="cards"))
    else:
        main.append(element("p", _nothing(answer), class_="none"))
    page = document(
        title=f"{answer.title} - lrsclip search",
        style=STYLE,
        body=[_header(answer), element("main", main), element("footer", _closing(archive))],
    )
    return page, failures


def _pictures(archive: Archive, hits: Hits) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """Addresses of the pictures by id of the hit."""
    from PIL import Image

    found: dict[str, str] = {}
    failures: dict[str, str] = {}
    with ChipReader(archive) as reader:
        for hit in hits:
            try:
                pixels = reader.read(hit, longest=CHIP_SIDE).pixels
            except (LrsclipError, OSError) as error:
                failures.setdefault(hit.source, str(error))
                continue
            stream = BytesIO()
            Image.fromarray(pixels).save(stream, "JPEG", quality=84, optimize=True)
            found[hit.id] = "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
    return found, list(failures.items())


def _header(answer: Answer) -> Markup:
    hits = answer.hits
    found = f"{len(hits)} place{'' if len(hits) == 1 else 's'}"
    merged = sum(hit.count for hit in hits) - len(hits)
    about = f" among {hits.rows:,} tiles"
    if merged:
        about += f"; {merged} overlapping tiles are merged into them"
    lines = [element("p", element("b", found), f"{about}.", class_="lead")]
    if answer.asked:
        lines.append(element("ul", [element("li", text) for text in answer.asked], class_="pills"))
    long = "long" if len(answer.title) > _LONG_TITLE else None
    return element(
        "header",
        element("p", "lrsclip search", class_="eyebrow"),
        element("h1", answer.title, class_=long),
        lines,
    )


def _overview(answer: Answer) -> Markup | None:
    """The map on one side, presence and sentences on the other."""
    sketch = map_sketch(
        [Footprint(hit.rank, _rings(hit), f"{hit.rank}: {hit.source}") for hit in answer.hits],
        outlines=_outlines(answer.where),
    )
    parts = [_presence(answer), _sentences(answer)]
    told = [part for part in parts if part is not None]
    note = element("p", "Dashed: the area asked for.") if _outlines(answer.where) else None
    panels = [] if sketch is None else [element("section", sketch, note, class_="panel")]
    if told:
        panels.append(element("div", told))
    if not panels:
        return None
    return element("div", panels, class_="overview" if len(panels) > 1 else "overview alone")


def _rings(hit: Hit) -> Rings:
    if hit.footprint:
        return hit.footprint
    return () if hit.bbox is None else rings_from_bbox(hit.bbox)


def _outlines(where: Where) -> list[Rings]:
    outlines = [] if where.aoi is None else list(where.aoi.polygons)
    return outlines if where.box is None else [*outlines, rings_from_bbox(where.box)]


def _presence(answer: Answer) -> Markup | None:
    """A gauge of the mean of the best cosines, with the threshold on it."""
    presence, least = answer.hits.presence, answer.threshold
    if presence is None:
        return None
    said = f"The best tiles have a mean cosine of {presence:.3f}"
    gauge = None
    if least is not None and -1 < least < 1:
        said += ", above the threshold" if presence >= least else ", below the threshold: no match"
        gauge = _gauge(presence, least)
    return element(
        "section",
        element("h2", "Is it here?"),
        gauge,
        element("p", f"{said}."),
        class_="panel",
    )


def _gauge(presence: float, least: float) -> Markup:
    most = max(0.01, 1.15 * max(presence, least))
    at = _percent(least / most)
    return element(
        "div",
        element("i", style=f"width: {_percent(presence / most)}"),
        element("u", style=f"left: {at}"),
        element("span", f"threshold {least:.3f}", style=f"left: {at}"),
        class_="gauge absent" if presence < least else "gauge",
    )


def _sentences(answer: Answer) -> Markup | None:
    if not answer.sentences:
        return None
    lines = []
    for match in answer.sentences:
        gone = element("span", " matches nowhere", class_="gone") if match.nowhere else None
        lines.append(element("li", match.text, gone))
    return element(
        "section",
        element("h2", "Sentences"),
        element("ol", lines, class_="sentences"),
        class_="panel",
    )


def _nothing(answer: Answer) -> str:
    if answer.hits.present is False and answer.hits.presence is not None:
        few = answer.hits.best is not None and answer.hits.best >= (answer.threshold or 0.0)
        told = " The best tile alone reaches the threshold, so there may be a few." if few else ""
        return f"No match: what was asked for does not seem to be in the archive.{told}"
    return "No rows to search." if answer.where.is_empty else "No row passes the filter."


def _card(answer: Answer, index: int, pictures: Mapping[str, str]) -> Markup:
    hit = answer.hits[index]
    best = answer.hits[0].score
    name = PurePath(hit.source).name or hit.source
    if hit.id in pictures:
        shown = element("img", src=pictures[hit.id], alt=f"hit {hit.rank}, {name}", loading="lazy")
    else:
        shown = element("p", "No picture: the source cannot be read any more.")
    width = _percent(hit.score / best if best > 0 else 0.0)
    return element(
        "article",
        element("div", shown, element("b", str(hit.rank)), class_="picture"),
        element(
            "div",
            element(
                "div",
                element("strong", f"{hit.score:.3f}".replace("-", _MINUS), title="cosine"),
                element("span", f"z {_signed(hit.z)}", title="standard deviations above the archive's mean"),
                class_="numbers",
            ),
            element("div", element("i", style=f"width: {width}"), class_="bar"),
            element("div", name, class_="source", title=hit.source),
            element("dl", _facts(hit)),
            _sentence_bars(answer, index),
            class_="body",
        ),
        class_="card",
        id=f"hit-{hit.rank}",
    )


def _facts(hit: Hit) -> list[Markup]:
    window = hit.window
    facts = [("time", hit.datetime), ("place", None if hit.bbox is None else _place(hit.bbox))]
    facts.append(("window", f"{window.col_off}, {window.row_off}, {window.width} x {window.height} px"))
    if hit.count > 1:
        facts.append(("tiles", f"{hit.count} overlapping, the best shown"))
    parts = [
        part
        for name, value in facts
        if value is not None
        for part in (element("dt", name), element("dd", value))
    ]
    # Its beginning is enough for --like.
    return [*parts, element("dt", "id"), element("dd", hit.id[:12], title=hit.id)]


def _place(bbox: Bbox) -> str:
    """The middle of a box for people."""
    west, south, east, north = bbox
    lon = (west + (east if east >= west else east + 360.0)) / 2
    lon = lon - 360.0 if lon > 180.0 else lon
    lat = (south + north) / 2
    degree = "\N{DEGREE SIGN}"
    return (
        f"{abs(lat):.4f}{degree}{'N' if lat >= 0 else 'S'} {abs(lon):.4f}{degree}{'E' if lon >= 0 else 'W'}"
    )


def _sentence_bars(answer: Answer, index: int) -> Markup | None:
    """How far each sentence stands out at this hit, all hits on one scale."""
    if not answer.sentences:
        return None
    most = max((z for match in answer.sentences for z in match.z), default=1.0)
    rows = []
    for number, match in enumerate(answer.sentences, start=1):
        z = match.z[index]
        width = _percent(z / most if most > 0 else 0.0)
        rows += [
            element("span", str(number), title=match.text),
            element("div", element("i", style=f"width: {width}"), class_="bar"),
            element("span", _signed(z)),
        ]
    return element("div", rows, class_="zs")


def _closing(archive: Archive) -> str:
    return (
        f"Archive {archive.path}, model {archive.model.name} ({archive.model.identity[:12]}). "
        "Score is the cosine of query and tile; z counts standard deviations above the mean of a sample of "
        "the archive. Nothing here is loaded from a network."
    )


def _percent(share: float) -> str:
    return f"{100 * min(1.0, max(0.0, share)):.1f}%"


def _signed(value: float) -> str:
    return f"{value:+.1f}".replace("-", _MINUS)

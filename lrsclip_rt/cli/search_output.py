"""What ``lrsclip search`` gives out: a table, JSON lines, GeoJSON, GeoParquet or a page of pictures."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lrsclip_rt.cli.output import wants_json
from lrsclip_rt.errors import InputError

if TYPE_CHECKING:
    from lrsclip_rt.archive import Archive
    from lrsclip_rt.archive.answer import Answer

__all__ = ["COLUMNS", "FORMATS", "check_output", "tell", "write_answer"]

COLUMNS = ("rank", "score", "z", "id", "source", "window", "datetime", "bbox")
FORMATS = ("rows", "table", "jsonl", "geojson", "geoparquet", "html")

_SUFFIXES = {
    ".txt": "table",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".geojson": "geojson",
    ".json": "geojson",
    ".parquet": "geoparquet",
    ".geoparquet": "geoparquet",
    ".html": "html",
    ".htm": "html",
}
_FILES_ONLY = ("geoparquet", "html")
_TABLE_WIDTH = 180
_DIGITS = {"score": 3, "z": 1}
_ID_DIGITS = 12
"""Of an id in a table: its beginning is enough for --like."""


def check_output(chosen: str | None, output: Path | None, *, as_json: bool) -> str:
    """The format: as named, else by the file's ending, else rows.

    Raises:
        click.UsageError: If it needs a file and none is named, or ``--json`` contradicts it.
    """
    by_suffix = None if output is None else _SUFFIXES.get(output.suffix.lower())
    kind = chosen or by_suffix or ("jsonl" if output is not None else "rows")
    if as_json and kind == "rows":
        return "jsonl"
    if as_json and kind != "jsonl":
        raise click.UsageError(f"--json prints JSON lines, the format asked for is {kind}: leave one out")
    if output is None and kind in _FILES_ONLY:
        raise click.UsageError(f"--format {kind} writes a file: name it with -o")
    return kind


def write_answer(
    archive: Archive, answer: Answer, kind: str, output: Path | None, chips: Mapping[str, str] | None
) -> list[tuple[str, str]]:
    """Give the answer out.

    Args:
        archive: What was searched.
        answer: Hits and what was asked.
        kind: One of ``FORMATS``.
        output: The file; standard output without.
        chips: Path of the picture of a hit by its id, where one was written; None where none was asked for.

    Returns:
        Sources that had to be read and could not, with the reason.

    Raises:
        InputError: If the file cannot be written.
        DependencyError: If pyarrow is needed and not installed.
    """
    if kind == "geoparquet":
        _write_geoparquet(archive, answer, output)
        return []
    if kind == "rows":
        kind = "jsonl" if wants_json(False) else "table"
    rows = _rows(answer, chips)
    failures: list[tuple[str, str]] = []
    if kind == "html":
        from lrsclip_rt.archive.sheets.contact_sheet import contact_sheet

        text, failures = contact_sheet(archive, answer)
    elif kind == "geojson":
        text = json.dumps(_collection(answer, chips), ensure_ascii=False) + "\n"
    elif kind == "jsonl":
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    else:
        text = _table(rows)
    if output is None:
        click.echo(text, nl=False)
        return failures
    try:
        output.write_text(text, encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise InputError(f"{output} cannot be written: {error.strerror or error}") from error
    click.echo(f"{len(answer.hits)} hits in {output}", err=True)
    return failures


def _rows(answer: Answer, chips: Mapping[str, str] | None) -> list[dict[str, Any]]:
    return [{**hit.as_row(), **_extra(answer, index, chips)} for index, hit in enumerate(answer.hits)]


def _extra(answer: Answer, index: int, chips: Mapping[str, str] | None) -> dict[str, Any]:
    """What is there only where it was asked for."""
    extra: dict[str, Any] = {}
    if chips is not None:
        extra["chip"] = chips.get(answer.hits[index].id)
    if answer.sentences:
        extra["sentences"] = [
            {"text": match.text, "z": round(match.z[index], 4)} for match in answer.sentences
        ]
    return extra


def _collection(answer: Answer, chips: Mapping[str, str] | None) -> dict[str, Any]:
    features = []
    for index, hit in enumerate(answer.hits):
        feature = hit.as_feature()
        feature["properties"].update(_extra(answer, index, chips))
        features.append(feature)
    return {"type": "FeatureCollection", "features": features}


def _columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Those that a terminal shows; sentences as their z in order."""
    extra = [name for name in ("chip", "sentences") if rows and name in rows[0]]
    return [*COLUMNS, *extra]


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return ""
    from io import StringIO

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for column in _columns(rows):
        table.add_column(
            column, justify="right" if column in ("rank", "score", "z") else "left", overflow="fold"
        )
    for row in rows:
        table.add_row(*(Text(_cell(column, row[column])) for column in _columns(rows)))
    stream = StringIO()
    terminal = sys.stdout.isatty()
    Console(file=stream, width=None if terminal else _TABLE_WIDTH).print(table)
    return stream.getvalue()


def _cell(column: str, value: Any) -> str:
    """A value as people read it; the JSON lines hold all digits."""
    if value is None:
        return "-"
    if column in _DIGITS:
        return f"{value:.{_DIGITS[column]}f}"
    if column == "id":
        return str(value)[:_ID_DIGITS]
    if column == "bbox":
        return " ".join(f"{degree:.4f}" for degree in value)
    if column == "sentences":
        return " ".join(f"{part['z']:+.1f}" for part in value)
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def tell(answer: Answer) -> None:
    """Say on stderr what rows cannot."""
    hits, threshold = answer.hits, answer.threshold
    for count, what in (
        (hits.without_place, "have no place"),
        (hits.without_time, "have no time"),
        (hits.without_metadata, "have no such metadata"),
    ):
        if count:
            click.echo(f"{count} rows {what} and were left out", err=True)
    if hits.present is False and hits.presence is not None and threshold is not None:
        few = ""
        if hits.best is not None and hits.best >= threshold:
            few = f"the best alone reaches {hits.best:.3f}, so there may be a few; "
        click.echo(
            f"no match: the mean of the best cosines is {hits.presence:.3f}, below {threshold:.3f}; {few}"
            "--min-score -1 shows the nearest all the same",
            err=True,
        )
    elif not len(hits):
        click.echo("no rows to search" if answer.where.is_empty else "no row passes the filter", err=True)
    for number, match in enumerate(answer.sentences, start=1):
        if match.present is False and match.presence is not None:
            verdict = "matches nowhere" if match.nowhere else "matches at a few places at most"
            why = f"the mean of its best cosines is {match.presence:.3f}, below {threshold:.3f}"
            click.echo(f"sentence {number} {verdict} ({why}): {match.text}", err=True)


def _write_geoparquet(archive: Archive, answer: Answer, output: Path | None) -> None:
    from lrsclip_rt.archive.geoparquet.writing import GeoRow, write_geoparquet
    from lrsclip_rt.archive.times import time_us_from_text

    if output is None:
        raise InputError("GeoParquet needs a file; name it with -o")
    tiles = [archive.tile(hit.id) for hit in answer.hits]
    vectors = archive.vectors(tiles)
    rows = []
    for hit, tile, vector in zip(answer.hits, tiles, vectors, strict=True):
        content = archive.content(tile.source)
        rows.append(
            GeoRow(
                id=hit.id,
                source_href=hit.source,
                window=hit.window,
                level=hit.level,
                bbox=hit.bbox,
                footprint=hit.footprint,
                time_us=None if hit.datetime is None else time_us_from_text(hit.datetime),
                crs=content.crs,
                gsd_m=content.gsd_m,
                nodata_fraction=tile.tile.nodata_fraction,
                vector=vector,
                extra={"rank": hit.rank, "score": hit.score, "z": hit.z, "count": hit.count},
            )
        )
    write_geoparquet(
        output,
        rows,
        model_id=archive.model.identity,
        dim=archive.dim,
        extra={"rank": "int32", "score": "float64", "z": "float64", "count": "int32"},
        facts={"query": answer.title},
        overwrite=True,  # refused before the search where it may not be
    )
    click.echo(f"{len(rows)} hits in {output}", err=True)

"""``lrsclip search``: an archive asked by words, a picture, or examples of its own."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lrsclip_rt.cli.index import key_value_pairs
from lrsclip_rt.cli.options import bundle_option, json_option, model_options, overwrite_option
from lrsclip_rt.cli.output import emit, refuse_existing, report_failures
from lrsclip_rt.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from lrsclip_rt.archive import Archive, Hits, Where

__all__ = ["command"]

_COLUMNS = ["rank", "score", "z", "id", "source", "window", "datetime", "bbox"]


def _box(ctx: click.Context, parameter: click.Parameter, text: str | None) -> tuple[float, ...] | None:
    from lrsclip_rt.archive.footprints import check_bbox

    if text is None:
        return None
    try:
        return check_bbox([float(part) for part in text.split(",")])
    except ValueError as error:  # InputError is one too
        raise click.BadParameter(f"{error}; expected W,S,E,N") from error


@click.command("search")
@click.argument("archive", type=click.Path(path_type=Path))
@click.argument("text", required=False)
@bundle_option
@click.option("--image", type=click.Path(path_type=Path, dir_okay=False), help="Search by a picture.")
@click.option("--like", multiple=True, metavar="ID", help="More like this hit; repeats.")
@click.option("--unlike", multiple=True, metavar="ID", help="Less like this hit; repeats.")
@click.option("--bbox", callback=_box, metavar="W,S,E,N", help="Only footprints that touch this box [deg].")
@click.option("--since", metavar="DATE", help="Only from this moment on, UTC.")
@click.option("--until", metavar="DATE", help="Only before this moment, UTC; a bare date is that whole day.")
@click.option(
    "--where",
    "metadata",
    multiple=True,
    callback=key_value_pairs,
    metavar="KEY=VALUE",
    help="Only sources with this metadata; repeats.",
)
@click.option(
    "--source", "sources", multiple=True, metavar="PATTERN", help="Only sources at such a path; repeats."
)
@click.option("-k", "k", type=click.IntRange(min=1), default=10, show_default=True, help="Places to show.")
@click.option(
    "--min-score",
    type=float,
    help="No match where the mean of the ten best cosines is lower.  [default for texts: the model's]",
)
@click.option("--no-merge", is_flag=True, help="Show overlapping tiles one by one.")
@click.option(
    "--chips", type=click.Path(path_type=Path, file_okay=False), help="Write pictures of the hits here."
)
@click.option(
    "--format",
    "output_format",
    type=click.Choice(["rows", "geojson"]),
    default="rows",
    show_default=True,
    help="Rows (table or JSON lines), or one GeoJSON feature collection.",
)
@model_options
@json_option
@overwrite_option
def command(
    archive: Path,
    text: str | None,
    bundle: Path | None,
    image: Path | None,
    like: tuple[str, ...],
    unlike: tuple[str, ...],
    bbox: tuple[float, ...] | None,
    since: str | None,
    until: str | None,
    metadata: dict[str, str],
    sources: tuple[str, ...],
    k: int,
    min_score: float | None,
    no_merge: bool,
    chips: Path | None,
    output_format: str,
    backend: str,
    precision: str | None,
    device: str | None,
    threads: int | None,
    as_json: bool,
    overwrite: bool,
) -> None:
    """Find places in an archive by words, a picture, examples, or all of them.

    The text is embedded by the text tower that the archive keeps; a picture needs the whole bundle (-b, or
    where it was when the archive was made). TEXT - reads it from stdin. Overlapping tiles of a
    source are one place: the best is shown.

    \b
    Example:
        lrsclip search archive/ "a harbour with many ships" --bbox -5,40,10,50 --since 2024-05-01 -k 20
    """
    from lrsclip_rt.archive import Archive, Where

    if text is None and image is None and not like and not unlike:
        raise click.UsageError("nothing to search for: give TEXT, --image, --like or --unlike")
    if chips is not None:
        refuse_existing(chips, overwrite=overwrite)
    where = Where(bbox=bbox, start=since, end=until, sources=sources or None, metadata=metadata or None)
    opening = {"backend": backend, "precision": precision, "device": device, "threads": threads}
    with Archive.open(archive) as opened:
        parts = list(_parts(opened, text, image, like, unlike, bundle, opening))
        threshold = min_score
        if threshold is None and text is not None and len(parts) == 1:
            threshold = _calibrated_threshold(opened)
        hits = _search(opened, parts, k, where, merge=not no_merge, min_score=threshold)
        _tell(hits, where, threshold)
        if output_format == "geojson":
            click.echo(json.dumps(_collection(hits), ensure_ascii=False))
        else:
            rows = [hit.as_row() for hit in hits]
            emit(rows, columns=_COLUMNS, as_json=as_json)
        failures = [] if chips is None else _write_chips(opened, hits, chips)
    report_failures(failures)
    if failures:
        raise click.exceptions.Exit(1)


def _parts(
    archive: Archive,
    text: str | None,
    image: Path | None,
    like: tuple[str, ...],
    unlike: tuple[str, ...],
    bundle: Path | None,
    opening: dict[str, Any],
) -> Iterable[NDArray[np.float32]]:
    """The query vectors: of the text, of the picture, of the examples together."""
    from lrsclip_rt.archive.models import image_bundle, text_bundle
    from lrsclip_rt.archive.queries import examples_query
    from lrsclip_rt.embedder import load

    if text is not None:
        words = sys.stdin.read() if text == "-" else text
        model = load(text_bundle(archive), **opening)
        yield model.embed_texts([words])[0]
        if model.cut_count:
            limit = model.spec.context_length
            click.echo(f"the text is longer than {limit} tokens; the rest was left out", err=True)
    if image is not None:
        yield load(image_bundle(archive, bundle), **opening).embed_images([image])[0]
    if like or unlike:
        yield examples_query(
            archive.vectors([archive.tile(identifier) for identifier in like]),
            archive.vectors([archive.tile(identifier) for identifier in unlike]),
        )


def _search(
    archive: Archive, parts: list[Any], k: int, where: Where, *, merge: bool, min_score: float | None
) -> Hits:
    from lrsclip_rt.archive.queries import mixed_query

    query = mixed_query(parts, archive.sample)
    return archive.search(query[None], k, where, merge=merge, min_score=min_score)[0]


def _calibrated_threshold(archive: Archive) -> float | None:
    """The presence threshold of the model; calibrated on texts, so it says nothing about pictures."""
    from lrsclip_rt.archive.models import text_bundle

    return text_bundle(archive).manifest.presence_threshold


def _tell(hits: Hits, where: Where, threshold: float | None) -> None:
    """What rows cannot say, on stderr."""
    if hits.without_place:
        click.echo(f"{hits.without_place} rows have no place and were left out", err=True)
    if hits.without_time:
        click.echo(f"{hits.without_time} rows have no time and were left out", err=True)
    if hits.present is False and hits.presence is not None:
        click.echo(
            f"no match: the mean of the ten best cosines is {hits.presence:.3f}, below {threshold:.3f}; "
            "--min-score -1 shows the nearest all the same",
            err=True,
        )
    elif not len(hits):
        click.echo("no rows to search" if where.is_empty else "no row passes the filter", err=True)


def _collection(hits: Hits) -> dict[str, Any]:
    return {"type": "FeatureCollection", "features": [hit.as_feature() for hit in hits]}


def _write_chips(archive: Archive, hits: Hits, folder: Path) -> list[tuple[str, str]]:
    from lrsclip_rt.archive.chips import write_chips

    try:
        written, failures = write_chips(archive, hits, folder)
    except OSError as error:
        raise InputError(f"{folder} cannot be written: {error.strerror or error}") from error
    click.echo(f"{len(written)} chips in {folder}", err=True)
    return failures

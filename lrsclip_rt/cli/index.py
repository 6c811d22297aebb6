"""``lrsclip index``: images and scenes into an archive."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lrsclip_rt.cli.options import bundle_option, json_option, model_options
from lrsclip_rt.cli.output import emit, report_failures

if TYPE_CHECKING:
    from lrsclip_rt.archive.ingest import IndexReport

__all__ = ["command", "key_value_pairs"]

_COLUMNS = [
    "archive",
    "rows",
    "rows_added",
    "files",
    "sources_added",
    "sources_known",
    "windows_skipped",
    "failed",
]


def key_value_pairs(
    ctx: click.Context, parameter: click.Parameter, values: tuple[str, ...]
) -> dict[str, str]:
    """Parse repeated ``KEY=VALUE``; a usage mistake otherwise."""
    pairs = {}
    for text in values:
        key, sign, value = text.partition("=")
        if not sign or not key.strip():
            raise click.BadParameter(f"{text!r} is not KEY=VALUE")
        pairs[key.strip()] = value
    return pairs


def _numbers(kind: type, count: tuple[int, ...]) -> Callable[[Any, Any, str | None], tuple[Any, ...] | None]:
    def parse(ctx: click.Context, parameter: click.Parameter, text: str | None) -> tuple[Any, ...] | None:
        if text is None:
            return None
        try:
            values = tuple(kind(part) for part in text.split(","))
        except ValueError as error:
            raise click.BadParameter(f"{text!r} is not a list of numbers with commas") from error
        if len(values) not in count:
            raise click.BadParameter(
                f"{text!r} holds {len(values)} numbers, expected {' or '.join(map(str, count))}"
            )
        return values

    return parse


@click.command("index")
@click.argument("sources", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="SOURCE...")
@click.option(
    "-a",
    "--archive",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Archive folder; made where there is none.",
)
@bundle_option
@click.option(
    "--tile",
    "tiles",
    multiple=True,
    type=click.IntRange(min=1),
    metavar="PX",
    help="Tile edge; repeated, each is a level.  [default: 256 for georeferenced rasters, else none]",
)
@click.option(
    "--overlap",
    type=click.FloatRange(0.0, 1.0, max_open=True),
    default=0.25,
    show_default=True,
    help="Shared fraction of neighbouring tiles.",
)
@click.option("--bands", callback=_numbers(int, (1, 3)), metavar="R,G,B", help="Bands of rasters, from 1.")
@click.option("--nodata", type=float, help="Value of missing pixels, in place of the file's own.")
@click.option(
    "--stretch",
    callback=_numbers(float, (2,)),
    metavar="LOW,HIGH",
    help="Fixed limits for 16-bit rasters, so that scenes compare.  [default: 2-98 % of each raster]",
)
@click.option(
    "--meta",
    "metadata",
    multiple=True,
    callback=key_value_pairs,
    metavar="KEY=VALUE",
    help="Metadata of every source of this call, for search --where; repeats.",
)
@click.option(
    "--batch-size", type=click.IntRange(min=1), default=32, show_default=True, help="Images of one run."
)
@model_options
@json_option
def command(
    sources: tuple[Path, ...],
    archive: Path,
    bundle: Path | None,
    tiles: tuple[int, ...],
    overlap: float,
    bands: tuple[int, ...] | None,
    nodata: float | None,
    stretch: tuple[float, float] | None,
    metadata: dict[str, str],
    batch_size: int,
    backend: str,
    precision: str | None,
    device: str | None,
    threads: int | None,
    as_json: bool,
) -> None:
    """Embed images, folders of them and GeoTIFF scenes into an archive.

    A georeferenced raster is cut into tiles; any other image is one row unless --tile is given. Run it
    again after an interruption: what is complete is skipped by its content, the rest is finished.
    Inputs that cannot be used are listed on stderr and the exit status is 1.

    \b
    Example:
        lrsclip index scenes/ harbour.tif -a archive/ --tile 256 --tile 768
    """
    from lrsclip_rt.archive.ingest import index_sources
    from lrsclip_rt.archive.plans import IndexOptions
    from lrsclip_rt.embedder import load

    options = IndexOptions(
        tiles=tiles,
        overlap=overlap,
        bands=bands,
        nodata=nodata,
        stretch=stretch,
        metadata=metadata,
        batch_size=batch_size,
    )
    model = load(bundle, backend=backend, precision=precision, device=device, threads=threads)
    with _progress(sources) as progress:
        report = index_sources(archive, sources, model, options, progress=progress)
    for path in report.replaced:
        click.echo(f"changed since it was indexed, its former tiles stay: {path}", err=True)
    emit([_row(archive, report)], columns=_COLUMNS, as_json=as_json)
    report_failures(report.failures)
    if report.failures:
        raise click.exceptions.Exit(1)


def _row(archive: Path, report: IndexReport) -> dict[str, Any]:
    return {
        "archive": str(archive),
        "rows": report.archive_rows,
        "rows_added": report.rows,
        "files": report.files,
        "sources_added": report.new_sources,
        "sources_known": report.known_sources,
        "windows_skipped": report.skipped_windows,
        "replaced": report.replaced,
        "failed": len(report.failures),
        "failures": [{"source": name, "reason": reason} for name, reason in report.failures],
        "seconds": round(report.seconds, 3),
        "rows_per_s": round(report.rows / report.seconds, 1) if report.seconds else 0.0,
    }


@contextmanager
def _progress(sources: tuple[Path, ...]) -> Iterator[Callable[[IndexReport], None] | None]:
    """A bar over the files with the rate in rows, on a terminal only."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from lrsclip_rt.archive.inputs import list_inputs

    total = sum(1 for _ in list_inputs(sources))
    rate = TextColumn("{task.fields[rows]} rows, {task.fields[rate]:.0f}/s")
    columns = (TextColumn("Indexing"), BarColumn(), MofNCompleteColumn(), rate, TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=total, rows=0, rate=0.0)

        def show(report: IndexReport) -> None:
            rows_per_s = report.rows / report.seconds if report.seconds else 0.0
            bar.update(task, completed=report.files, rows=report.rows, rate=rows_per_s)

        yield show

"""``lrsclip archive import``: an archive from a GeoParquet file of embeddings."""

from __future__ import annotations

from pathlib import Path

import click

from lrsclip_rt.cli.options import json_option
from lrsclip_rt.cli.output import emit, progress_bar

__all__ = ["command"]

_COLUMNS = ["archive", "kind", "rows", "rows_added", "sources", "archive_rows", "model"]


@click.command("import")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "-a",
    "--archive",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Archive folder; made where there is none.",
)
@click.option(
    "--model-id",
    metavar="ID",
    help="Which model made the rows, where the file does not say so: a name for a new archive, "
    "the identity of its model for an existing one.",
)
@click.option(
    "-b",
    "--bundle",
    type=click.Path(path_type=Path),
    help="The model's bundle; a new archive keeps its text tower.",
)
@json_option
def command(file: Path, archive: Path, model_id: str | None, bundle: Path | None, as_json: bool) -> None:
    """Append the rows of a GeoParquet file: an exported archive, Major TOM, Clay v0, Planet or Earth Index.

    Every row is checked before the first is written. A new archive keeps the text tower of -b, or of the
    built-in model where the rows are its; without one it is searched by example.

    \b
    Example:
        lrsclip archive import tiles.parquet -a archive/
    """
    from lrsclip_rt.archive.geoparquet.importing import import_geoparquet
    from lrsclip_rt.archive.geoparquet.reading import ParquetTable
    from lrsclip_rt.bundle import Bundle

    opened = None if bundle is None else Bundle.open(bundle)
    with ParquetTable.open(file) as table:
        total = 2 * table.rows
    with progress_bar("Importing", total) as advance:
        report = import_geoparquet(archive, file, model_id=model_id, bundle=opened, progress=advance)
    if report.lossy:
        click.echo(
            "the file holds int8 vectors: its rows are near those of the archive it came from", err=True
        )
    if not report.text_tower:
        click.echo(
            f"{archive} keeps no text tower, so it cannot be searched by words: "
            "import into a new archive with -b BUNDLE of its model",
            err=True,
        )
    row = {
        "archive": str(archive),
        "kind": report.kind,
        "rows": report.rows,
        "rows_added": report.rows_added,
        "sources": report.sources,
        "archive_rows": report.archive_rows,
        "model": report.model.name,
        "model_identity": report.model.identity,
    }
    emit([row], columns=_COLUMNS, as_json=as_json)

"""``lrsclip archive export``: an archive as one GeoParquet file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from lrsclip_rt.cli.options import json_option, overwrite_option
from lrsclip_rt.cli.output import emit, progress_bar, refuse_existing

if TYPE_CHECKING:
    from lrsclip_rt.archive.geoparquet.columns import VectorType

__all__ = ["command"]

_COLUMNS = ["file", "rows", "rows_without_place", "row_groups", "bytes"]


@click.command("export")
@click.argument("archive", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path, dir_okay=False), help="GeoParquet file."
)
@click.option(
    "--vectors",
    type=click.Choice(["float16", "float32", "int8"]),
    default="float16",
    show_default=True,
    help="float16 is what the archive holds; int8 loses precision.",
)
@click.option("--stac", is_flag=True, help="Also write a STAC Collection and Item beside it.")
@overwrite_option
@json_option
def command(
    archive: Path, output: Path, vectors: VectorType, stac: bool, overwrite: bool, as_json: bool
) -> None:
    """Write every tile to one GeoParquet 1.1 file: footprint, time, source and vector.

    Rows without a place have no geometry; programs that draw maps leave them out. The text tower stays
    behind: `archive import` takes it from the model's bundle.

    \b
    Example:
        lrsclip archive export archive/ -o tiles.parquet --stac
    """
    from lrsclip_rt.archive import Archive
    from lrsclip_rt.archive.geoparquet.exporting import export_archive
    from lrsclip_rt.archive.stac.writing import stac_paths, write_stac

    for path in (output, *(stac_paths(output) if stac else ())):
        refuse_existing(path, overwrite=overwrite)
    with Archive.open(archive) as opened:
        with progress_bar("Exporting", len(opened)) as advance:
            written = export_archive(
                opened,
                output,
                vectors=vectors,
                overwrite=overwrite,
                progress=advance,
            )
        records = write_stac(opened, written, vectors=vectors, overwrite=overwrite) if stac else ()
    row = {
        "file": str(written.path),
        "rows": written.rows,
        "rows_without_place": written.rows_without_place,
        "row_groups": written.row_groups,
        "bytes": written.bytes,
        "stac": [str(path) for path in records],
    }
    emit([row], columns=_COLUMNS, as_json=as_json)

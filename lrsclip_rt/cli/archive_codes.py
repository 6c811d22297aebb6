"""``lrsclip archive codes``: what makes the search of a large archive fast."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lrsclip_rt.cli.options import json_option
from lrsclip_rt.cli.output import emit, progress_bar

if TYPE_CHECKING:
    from lrsclip_rt.archive.codes.building import CodesReport

__all__ = ["command"]


@click.command("codes")
@click.argument("archive", type=click.Path(path_type=Path))
@click.option("--rebuild", is_flag=True, help="Train and encode anew, also what has codes.")
@json_option
def command(archive: Path, rebuild: bool, as_json: bool) -> None:
    """Build the codes that find candidates in a large archive, and measure the recall they reach.

    lrsclip index does this by itself from 50,000 rows on. Rows that have codes already keep them. Codes are
    derived data: without them, or where they are damaged, every search is exact and only slower.

    \b
    Example:
        lrsclip archive codes archive/
    """
    from lrsclip_rt.archive import Archive
    from lrsclip_rt.archive.codes.building import build_codes

    with Archive.open(archive) as opened:
        rows = sum(record.rows for record in opened.segments)
    with progress_bar("Encoding", rows) as advance:
        report = build_codes(archive, rebuild=rebuild, progress=advance)
    if report.without_texts:
        click.echo(f"recall is measured with images alone: {report.without_texts}", err=True)
    if not report.calibration.reached:
        click.echo(
            "the codes do not find enough of the exact answers in this archive; it is searched exactly",
            err=True,
        )
    emit([_row(archive, report)], columns=list(_row(archive, report)), as_json=as_json)


def _row(archive: Path, report: CodesReport) -> dict[str, Any]:
    calibration = report.calibration
    return {
        "archive": str(archive),
        "rows": report.rows,
        "encoded": report.encoded_rows,
        "bytes": report.bytes,
        "recall_at_10": round(calibration.recall(10), 4),
        "candidates": calibration.candidates_for(10),
        "texts": calibration.texts,
        "images": calibration.images,
        "in_use": calibration.reached,
    }

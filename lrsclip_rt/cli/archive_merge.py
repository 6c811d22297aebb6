"""``lrsclip archive merge``: parts into one archive."""

from __future__ import annotations

from pathlib import Path

import click

from lrsclip_rt.cli.codes_reporting import refresh_and_tell
from lrsclip_rt.cli.options import json_option
from lrsclip_rt.cli.output import emit, progress_bar, report_failures

__all__ = ["command"]


@click.command("merge")
@click.argument("archive", type=click.Path(path_type=Path))
@click.argument("parts", nargs=-1, required=True, metavar="PART...", type=click.Path(path_type=Path))
@json_option
def command(archive: Path, parts: tuple[Path, ...], as_json: bool) -> None:
    """Append archives of the same model to ARCHIVE, without embedding anything again.

    ARCHIVE is made where there is none; the parts are only read. Tiles that it has are left out, so run it
    again after an interruption. Sources that cannot be taken are listed and the exit status is 1.

    \b
    Example:
        lrsclip archive merge archive/ part-0/ part-1/ part-2/
    """
    from lrsclip_rt.archive import Archive
    from lrsclip_rt.archive.merging import merge_archives

    total = 0
    for part in parts:
        with Archive.open(part) as opened:
            total += len(opened)
    with progress_bar("Merging", total) as advance:
        report = merge_archives(archive, parts, progress=advance)
    refresh_and_tell(archive)
    row = {
        "archive": str(archive),
        "rows": report.rows,
        "rows_added": report.added_rows,
        "rows_known": report.known_rows,
        "sources": report.sources,
        "failed": len(report.failures),
    }
    emit([row], columns=list(row), as_json=as_json)
    report_failures(report.failures)
    if report.failures:
        raise click.exceptions.Exit(1)

"""``lrsclip archive compact``: give back the space of deleted rows."""

from __future__ import annotations

from pathlib import Path

import click

from lrsclip_rt.cli.codes_reporting import refresh_and_tell
from lrsclip_rt.cli.options import json_option
from lrsclip_rt.cli.output import emit, progress_bar

__all__ = ["command"]


@click.command("compact")
@click.argument("archive", type=click.Path(path_type=Path))
@json_option
def command(archive: Path, as_json: bool) -> None:
    """Rewrite segments without deleted rows and join small ones; answers stay the same.

    Searches may go on meanwhile. It needs free space for the rows that are written again, whose checksums
    are verified on the way; interrupted at any moment, the archive is as before or as after.

    \b
    Example:
        lrsclip archive compact archive/
    """
    from lrsclip_rt.archive import ArchiveWriter
    from lrsclip_rt.archive.compacting import segments_to_rewrite

    with ArchiveWriter.of_existing(archive) as writer:
        groups = segments_to_rewrite(writer.segments, writer.info.segment_rows)
        total = sum(record.rows for group in groups.values() for record in group)
        with progress_bar("Compacting", total) as advance:
            report = writer.compact(progress=advance)
    refresh_and_tell(archive)
    row = {
        "archive": str(archive),
        "rows": report.rows,
        "rows_removed": report.removed_rows,
        "rows_moved": report.moved_rows,
        "segments_before": len(report.segments_before),
        "segments_after": len(report.segments_after),
    }
    emit([row], columns=list(row), as_json=as_json)

"""``lrsclip archive backup``: a copy of the last commit."""

from __future__ import annotations

from pathlib import Path

import click

from lrsclip_rt.cli.options import json_option
from lrsclip_rt.cli.output import emit, progress_bar

__all__ = ["command"]


@click.command("backup")
@click.argument("archive", type=click.Path(path_type=Path))
@click.argument("target", metavar="COPY", type=click.Path(path_type=Path))
@json_option
def command(archive: Path, target: Path, as_json: bool) -> None:
    """Copy an archive, also while it is being written; COPY is a whole archive of one moment.

    Every checksum is verified on the way. COPY must not exist, and appears when all of it is on the disk.

    \b
    Example:
        lrsclip archive backup archive/ archive-2024-06-01/
    """
    from lrsclip_rt.archive.backing_up import backup_archive

    total = sum(path.stat().st_size for path in (archive / "segments").glob("*"))
    with progress_bar("Copying", total) as advance:
        report = backup_archive(archive, target, progress=advance)
    row = {"copy": str(target), "rows": report.rows, "bytes": report.bytes}
    emit([row], columns=list(row), as_json=as_json)

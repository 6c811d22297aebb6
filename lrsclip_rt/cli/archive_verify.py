"""``lrsclip archive verify``: every byte against its record."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from lrsclip_rt.cli.options import json_option
from lrsclip_rt.cli.output import emit, progress_bar

__all__ = ["command"]


@click.command("verify")
@click.argument("archive", type=click.Path(path_type=Path))
@json_option
def command(archive: Path, as_json: bool) -> None:
    """Read every byte and compare it with its record; exit status 1 on damage, naming the file.

    What an interrupted writer left is listed as no damage: the next one tidies it up.

    \b
    Example:
        lrsclip archive verify archive/
    """
    from lrsclip_rt.archive.verifying import verify_archive

    total = sum(path.stat().st_size for path in (archive / "segments").glob("*"))
    with progress_bar("Verifying", total) as advance:
        report = verify_archive(archive, progress=advance)
    emit(
        [asdict(finding) for finding in report.findings],
        columns=["file", "problem", "damage"],
        as_json=as_json,
    )
    state = "damaged" if report.damaged else "sound"
    click.echo(f"{archive} is {state}: {report.rows} rows, {report.bytes} bytes of segments read", err=True)
    if report.damaged:
        raise click.exceptions.Exit(1)

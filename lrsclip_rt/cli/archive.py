"""``lrsclip archive``: look after an archive."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from lrsclip_rt.cli.options import json_option
from lrsclip_rt.cli.output import emit, progress_bar, wants_json

__all__ = ["command"]


@click.group("archive", context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Look into an archive and check it.

    \b
    Example:
        lrsclip archive info archive/
    """


@command.command("info")
@click.argument("archive", type=click.Path(path_type=Path))
@json_option
def info(archive: Path, as_json: bool) -> None:
    """Show rows, sources, levels, model, extent and times.

    \b
    Example:
        lrsclip archive info archive/ --json
    """
    from lrsclip_rt.archive import Archive
    from lrsclip_rt.archive.summary import summary_from_archive

    with Archive.open(archive) as opened:
        facts = asdict(summary_from_archive(opened))
    if wants_json(as_json):
        emit([facts], columns=[], as_json=True)
        return
    rows = [{"fact": key, "value": _text(value)} for key, value in facts.items()]
    emit(rows, columns=["fact", "value"], as_json=False)


@command.command("verify")
@click.argument("archive", type=click.Path(path_type=Path))
@json_option
def verify(archive: Path, as_json: bool) -> None:
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


def _text(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in value.items()) or "-"
    if isinstance(value, (list, tuple)):
        return "; ".join(_text(item) for item in value) or "-"
    return "-" if value is None else str(value)

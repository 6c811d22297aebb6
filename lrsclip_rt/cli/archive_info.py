"""``lrsclip archive info``: what an archive holds, at a glance."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from lrsclip_rt.cli.options import json_option
from lrsclip_rt.cli.output import emit, wants_json

__all__ = ["command"]


@click.command("info")
@click.argument("archive", type=click.Path(path_type=Path))
@json_option
def command(archive: Path, as_json: bool) -> None:
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


def _text(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in value.items()) or "-"
    if isinstance(value, (list, tuple)):
        return "; ".join(_text(item) for item in value) or "-"
    if isinstance(value, float):
        return f"{value:.7g}"
    return "-" if value is None else str(value)

"""``lrsclip archive relocate``: the files of an archive have moved."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from lrsclip_rt.cli.options import json_option
from lrsclip_rt.cli.output import emit

__all__ = ["command"]


@click.command("relocate")
@click.argument("archive", type=click.Path(path_type=Path))
@click.argument("old")
@click.argument("new")
@json_option
def command(archive: Path, old: str, new: str, as_json: bool) -> None:
    """Record that the files below OLD lie below NEW now.

    OLD is the name of a root, its folder, or a folder above roots: `lrsclip archive info` lists them. Neither
    has to exist here, and no file is moved.

    \b
    Example:
        lrsclip archive relocate archive/ /mnt/disk1/scenes /data/scenes
    """
    from lrsclip_rt.archive import ArchiveWriter

    with ArchiveWriter.of_existing(archive) as writer:
        relocations = writer.relocate(old, new)
        writer.commit()
    emit(
        [asdict(relocation) for relocation in relocations],
        columns=["name", "before", "after", "paths"],
        as_json=as_json,
    )

"""``lrsclip archive delete``: sources out of an archive."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lrsclip_rt.cli.index import key_value_pairs
from lrsclip_rt.cli.options import json_option
from lrsclip_rt.cli.output import emit

if TYPE_CHECKING:
    from lrsclip_rt.archive import Archive

__all__ = ["command"]


@click.command("delete")
@click.argument("archive", type=click.Path(path_type=Path))
@click.option(
    "--source",
    "patterns",
    multiple=True,
    metavar="PATH",
    help="Path of a source, whole or relative to its root, or a shell pattern of it; repeats.",
)
@click.option(
    "--id", "ids", multiple=True, metavar="ID", help="Id of a tile: its whole source goes; repeats."
)
@click.option(
    "--where",
    "metadata",
    multiple=True,
    callback=key_value_pairs,
    metavar="KEY=VALUE",
    help="Of these, or of all, only sources with this metadata; repeats.",
)
@click.option("--dry-run", is_flag=True, help="List what would go, and delete nothing.")
@json_option
def command(
    archive: Path,
    patterns: tuple[str, ...],
    ids: tuple[str, ...],
    metadata: dict[str, str],
    dry_run: bool,
    as_json: bool,
) -> None:
    """Delete sources with all their tiles; the files themselves stay.

    From then on no search finds them; `lrsclip archive compact` gives their space back. A file that is
    indexed again later gets the same tile ids.

    \b
    Example:
        lrsclip archive delete archive/ --source 'scenes/2019/*.tif' --dry-run
    """
    from lrsclip_rt.archive import Archive, ArchiveWriter
    from lrsclip_rt.archive.deleting import sources_to_delete

    if not (patterns or ids or metadata):
        raise click.UsageError("Say what to delete: --source, --id or --where.")
    with ExitStack() as stack:
        writer = None if dry_run else stack.enter_context(ArchiveWriter.of_existing(archive))
        opened = stack.enter_context(Archive.open(archive))
        numbers = sources_to_delete(opened, patterns=patterns, ids=ids, metadata=metadata)
        listed = [_row(opened, number, not dry_run) for number in numbers]
        if writer is not None:
            writer.delete_sources(numbers)
            writer.commit()
    emit(listed, columns=["source", "rows", "deleted"], as_json=as_json)


def _row(archive: Archive, number: int, deleted: bool) -> dict[str, Any]:
    [(rows,)] = archive.catalog.rows("SELECT count(*) FROM tiles WHERE source = ?", (number,))
    return {"source": archive.catalog.path_text(number), "rows": rows, "deleted": deleted}

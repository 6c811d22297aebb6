"""What commands say about the codes of an archive, on stderr."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from lrsclip_rt.cli.output import progress_bar
from lrsclip_rt.errors import ArchiveError, DependencyError

if TYPE_CHECKING:
    from lrsclip_rt.archive import Archive

__all__ = ["refresh_and_tell", "tell_unused_codes"]


def refresh_and_tell(archive: Path) -> None:
    """Build codes where a large archive lacks them. Where that fails the archive stands as it is."""
    from lrsclip_rt.archive.codes.building import CodesReport, refresh_codes

    try:
        with progress_bar("Encoding", None) as advance:
            found = refresh_codes(archive, progress=advance)
    except (ArchiveError, DependencyError) as error:
        click.echo(f"no codes were built, searches of {archive} are exact and slower: {error}", err=True)
        return
    if isinstance(found, CodesReport):
        recall = found.calibration.recall()
        click.echo(f"codes of {found.rows} rows built, recall@10 {recall:.4f} on its own vectors", err=True)


def tell_unused_codes(archive: Archive) -> None:
    """Say why a large archive is searched exactly all the same, wholly or in part."""
    from lrsclip_rt.archive.codes.summary import slow_share, unused_reason

    reason = unused_reason(archive)
    if reason is not None:
        click.echo(f"every row is scored, which is slower than need be: {reason}", err=True)
        return
    part = slow_share(archive)
    if part is not None:
        click.echo(f"the search is slower than need be: {part}", err=True)

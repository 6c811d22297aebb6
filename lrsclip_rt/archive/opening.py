"""Opening whatever an archive's name stands for: a folder, or a database that one was pushed to."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from lrsclip_rt.archive.store import Archive
from lrsclip_rt.errors import InputError

__all__ = ["measured_recall", "open_archive"]


def open_archive(
    name: str | Path,
    *,
    schema: str | None = None,
    approximate: bool = False,
    bundle: Path | None = None,
) -> Archive:
    """Open a folder, or a ``postgresql://`` URL.

    What comes back for a URL is a ``PostgresArchive``, which answers to everything that a search asks of an
    ``Archive``: ``search``, ``sample``, ``tile``, ``vectors``, ``content``, ``locations``, ``model``.

    Args:
        name: Folder or URL.
        schema: Schema of a database; default ``lrsclip``.
        approximate: Search a database by its approximate index.
        bundle: The model's bundle, for texts asked of a database; default where the archive's model was, then
            the built-in.

    Raises:
        InputError: If an option of databases is given with a folder, or the URL is malformed.
        ArchiveError: If it cannot be opened.
        DependencyError: If psycopg is not installed.
    """
    from lrsclip_rt.archive.postgres.connection import DEFAULT_SCHEMA, is_postgres_url

    if not is_postgres_url(name):
        if approximate or schema is not None:
            raise InputError(f"--approximate and --schema are for postgresql:// URLs, {name} is a folder")
        return Archive.open(name)
    from lrsclip_rt.archive.postgres.search import PostgresArchive

    opened = PostgresArchive.open(
        str(name), schema=schema or DEFAULT_SCHEMA, approximate=approximate, bundle=bundle
    )
    return cast("Archive", opened)


def measured_recall(archive: Archive) -> str | None:
    """What was measured of the approximate index that an open archive uses; None where it is exact."""
    from lrsclip_rt.archive.postgres.index import RECALL_GATE
    from lrsclip_rt.archive.postgres.search import PostgresArchive

    opened: object = archive
    if not isinstance(opened, PostgresArchive) or not opened.approximate or opened.pushed.approximate is None:
        return None
    facts = opened.pushed.approximate
    verdict = "reached" if facts["reached"] else "MISSED"
    grown = (
        "" if facts["rows"] == opened.pushed.rows else f", now {opened.pushed.rows}: push again with --hnsw"
    )
    return (
        f"approximate: recall@10 {facts['recall_at_10']:.4f} over {facts['queries']} texts, "
        f"{RECALL_GATE} {verdict}; measured at {facts['rows']} rows{grown}"
    )

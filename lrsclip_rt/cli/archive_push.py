"""``lrsclip archive push``: an archive to PostgreSQL."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lrsclip_rt.cli.options import json_option
from lrsclip_rt.cli.output import emit, progress_bar

if TYPE_CHECKING:
    from lrsclip_rt.archive import Archive
    from lrsclip_rt.archive.postgres.connection import Server

__all__ = ["command"]

_COLUMNS = ["database", "schema", "rows", "rows_sent", "rows_removed", "sources"]


@click.command("push")
@click.argument("archive", type=click.Path(path_type=Path))
@click.argument("url", metavar="postgresql://...")
@click.option("--schema", default="lrsclip", show_default=True, help="Schema of the tables.")
@click.option(
    "--keep", is_flag=True, help="Leave rows that this archive does not have: several in one schema."
)
@click.option(
    "--hnsw",
    is_flag=True,
    help="Also build an approximate index and measure its recall with texts (VectorChord's where installed).",
)
@click.option(
    "-b",
    "--bundle",
    type=click.Path(path_type=Path),
    help="The model's bundle, for the texts of --hnsw.  [default: what the archive keeps]",
)
@json_option
def command(
    archive: Path, url: str, schema: str, keep: bool, hnsw: bool, bundle: Path | None, as_json: bool
) -> None:
    """Bring a PostgreSQL database with pgvector to what the archive holds; only what changed is sent.

    Run it again after an interruption, or after the archive changed. The text tower stays behind: `search`
    takes it from -b, or from the built-in model.

    \b
    Example:
        lrsclip archive push archive/ postgresql://user@host/database --hnsw
    """
    from lrsclip_rt.archive import Archive
    from lrsclip_rt.archive.postgres.connection import Server
    from lrsclip_rt.archive.postgres.push import push_archive

    server = Server.from_url(url, schema)
    with Archive.open(archive) as opened:
        with progress_bar("Pushing", len(opened)) as advance:
            report = push_archive(opened, server, keep=keep, progress=advance)
        row: dict[str, Any] = {"database": server.name, "schema": schema, **asdict(report)}
        if hnsw:
            row["approximate"] = _index(opened, server, bundle)
    emit([row], columns=_COLUMNS, as_json=as_json)


def _index(archive: Archive, server: Server, bundle: Path | None) -> dict[str, Any]:
    from lrsclip_rt.archive.codes.calibration_texts import calibration_texts
    from lrsclip_rt.archive.models import text_bundle
    from lrsclip_rt.archive.postgres.index import RECALL_GATE, build_index
    from lrsclip_rt.embedder import load

    model = load(text_bundle(archive).path if bundle is None else bundle)
    queries = model.embed_texts(list(calibration_texts()))
    report = build_index(server, archive, queries, progress=lambda text: click.echo(text, err=True))
    said = "reaches" if report.reached else "MISSES"
    click.echo(
        f"{report.method}: recall@10 {report.recall_at_10:.4f} over {report.queries} texts {said} "
        f"{RECALL_GATE}; `search --approximate` uses it, exact search does not",
        err=True,
    )
    return asdict(report)

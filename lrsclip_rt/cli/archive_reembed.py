"""``lrsclip archive reembed``: the successor of an archive, by another model."""

from __future__ import annotations

from pathlib import Path

import click

from lrsclip_rt.cli.codes_reporting import refresh_and_tell
from lrsclip_rt.cli.options import bundle_option, json_option, model_options
from lrsclip_rt.cli.output import emit, progress_bar, report_failures

__all__ = ["command"]


@click.command("reembed")
@click.argument("archive", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    "successor",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the successor; made where there is none, gone on with where there is.",
)
@bundle_option
@click.option(
    "--batch-size", type=click.IntRange(min=1), default=32, show_default=True, help="Images of one run."
)
@model_options
@json_option
def command(
    archive: Path,
    successor: Path,
    bundle: Path | None,
    batch_size: int,
    backend: str,
    precision: str | None,
    device: str | None,
    threads: int | None,
    as_json: bool,
) -> None:
    """Embed every tile of an archive again with another model, into a successor.

    The archive is only read and serves on. Tiles keep their ids, places, times and metadata. Run it again
    after an interruption, or when more was indexed meanwhile. Sources that are gone or have changed are
    listed and the exit status is 1.

    \b
    Example:
        lrsclip archive reembed archive/ -b bundle/ -o archive-new/
    """
    from lrsclip_rt.archive import Archive
    from lrsclip_rt.archive.reembedding import ReembedReport, reembed_archive
    from lrsclip_rt.embedder import load

    with Archive.open(archive) as opened:
        total = len(opened)
    model = load(bundle, backend=backend, precision=precision, device=device, threads=threads)
    seen = 0
    with progress_bar("Embedding", total) as advance:

        def show(report: ReembedReport) -> None:
            nonlocal seen
            advance(report.added_rows + report.known_rows - seen)
            seen = report.added_rows + report.known_rows

        report = reembed_archive(archive, successor, model, batch_size=batch_size, progress=show)
    refresh_and_tell(successor)
    row = {
        "archive": str(successor),
        "rows": report.rows,
        "rows_added": report.added_rows,
        "rows_known": report.known_rows,
        "sources": report.sources,
        "failed": len(report.failures),
    }
    emit([row], columns=list(row), as_json=as_json)
    report_failures(report.failures)
    if report.failures:
        raise click.exceptions.Exit(1)

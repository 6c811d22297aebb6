"""What ``lrsclip index`` shows: the bar, the summary, and the estimate of a dry run."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lrsclip_rt.cli.output import emit, report_failures

if TYPE_CHECKING:
    from lrsclip_rt.archive.estimating import IndexEstimate
    from lrsclip_rt.archive.ingest import IndexReport
    from lrsclip_rt.archive.plans import IndexOptions

__all__ = ["index_progress", "seconds_left", "show_estimate", "show_report", "show_round"]

_COLUMNS = [
    "archive",
    "rows",
    "rows_added",
    "files",
    "sources_added",
    "sources_known",
    "windows_skipped",
    "failed",
]
_ESTIMATE_COLUMNS = ["source", "width", "height", "tiles", "bytes", "seconds"]


def show_report(archive: Path, report: IndexReport, *, replace: bool, as_json: bool) -> None:
    """Print the summary; exit with status 1 where inputs failed."""
    show_round(archive, report, replace=replace, as_json=as_json)
    if report.failures:
        raise click.exceptions.Exit(1)


def show_round(archive: Path, report: IndexReport, *, replace: bool, as_json: bool) -> None:
    """Print the summary, and on stderr what was replaced and what failed."""
    for path in report.replaced:
        fate = "its former tiles are deleted" if replace else "its former tiles stay"
        click.echo(f"changed since it was indexed, {fate}: {path}", err=True)
    emit([_row(archive, report)], columns=_COLUMNS, as_json=as_json)
    report_failures(report.failures)


def show_estimate(archive: Path, estimate: IndexEstimate, *, as_json: bool) -> None:
    """Print tiles, bytes and time of each source and of all; exit with status 1 where inputs failed."""

    def seconds(tiles: int) -> float | None:
        return None if estimate.tiles_per_s is None else round(tiles / estimate.tiles_per_s, 1)

    rows: list[dict[str, Any]] = [
        {
            "source": str(source.file.path),
            "width": source.width,
            "height": source.height,
            "tiles": source.tiles,
            "bytes": estimate.bytes_of(source),
            "seconds": seconds(source.tiles),
        }
        for source in estimate.sources
    ]
    total = {"source": "total", "width": None, "height": None, "tiles": estimate.tiles}
    rows.append({**total, "bytes": estimate.archive_bytes, "seconds": seconds(estimate.tiles)})
    emit(rows, columns=_ESTIMATE_COLUMNS, as_json=as_json)
    if estimate.tiles_per_s is None:
        click.echo(f"nothing to embed for {archive}; nothing was written", err=True)
    else:
        click.echo(
            f"{estimate.tiles} tiles at most for {archive}: those that are mostly nodata will be skipped. "
            f"The time is that of the encoder, which took {estimate.tiles_per_s:.1f} tiles/s on "
            f"{estimate.sampled} of these tiles. Nothing was written",
            err=True,
        )
    report_failures(estimate.failures)
    if estimate.failures:
        raise click.exceptions.Exit(1)


def _row(archive: Path, report: IndexReport) -> dict[str, Any]:
    return {
        "archive": str(archive),
        "rows": report.archive_rows,
        "rows_added": report.rows,
        "rows_deleted": report.deleted_rows,
        "files": report.files,
        "sources_added": report.new_sources,
        "sources_known": report.known_sources,
        "windows_skipped": report.skipped_windows,
        "replaced": report.replaced,
        "failed": len(report.failures),
        "failures": [{"source": name, "reason": reason} for name, reason in report.failures],
        "seconds": round(report.seconds, 3),
        "rows_per_s": round(report.rows / report.seconds, 1) if report.seconds else 0.0,
    }


@contextmanager
def index_progress(
    sources: Sequence[Path], options: IndexOptions
) -> Iterator[Callable[[IndexReport], None] | None]:
    """A bar over the files with rate and time left, on a terminal only."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    files, total_bytes = _files_and_bytes(sources, options)
    text = TextColumn("{task.fields[rows]} rows, {task.fields[rate]:.0f}/s, {task.fields[left]} left")
    columns = (TextColumn("Indexing"), BarColumn(), MofNCompleteColumn(), text, TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=files, rows=0, rate=0.0, left="?")

        def show(report: IndexReport) -> None:
            rows_per_s = report.rows / report.seconds if report.seconds else 0.0
            left = seconds_left(report, total_bytes)
            bar.update(
                task,
                completed=report.files,
                rows=report.rows,
                rate=rows_per_s,
                left="?" if left is None else _clock(left),
            )

        yield show


def seconds_left(report: IndexReport, total_bytes: int) -> float | None:
    """Time that the rest will take [s], if its bytes take as long as those that were read; None at first.

    Files that were known took no time and tell nothing.
    """
    if not report.bytes_done:
        return None
    rest = max(0, total_bytes - report.bytes_done - report.bytes_known)
    return report.seconds * rest / report.bytes_done


def _files_and_bytes(sources: Sequence[Path], options: IndexOptions) -> tuple[int, int]:
    from lrsclip_rt.archive.inputs import InputFile, list_inputs

    files = total_bytes = 0
    for file in list_inputs(sources, asset=options.asset):
        if not isinstance(file, InputFile):
            files += 1
        elif options.shard is None or options.shard.holds(file):
            files += 1
            try:
                total_bytes += file.path.stat().st_size
            except OSError:
                continue  # the run itself will name it
    return files, total_bytes


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"

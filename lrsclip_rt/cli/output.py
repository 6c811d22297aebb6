"""What commands print: tables on a terminal, JSON lines when piped, progress on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from lrsclip_rt.errors import OutputExistsError

__all__ = ["emit", "progress_bar", "refuse_existing", "report_failures", "wants_json"]


def wants_json(as_json: bool) -> bool:
    """JSON was asked for, or standard output is not a terminal."""
    return as_json or not sys.stdout.isatty()


def emit(
    rows: Iterable[Mapping[str, Any]], *, columns: Sequence[str], as_json: bool, title: str = ""
) -> None:
    """Print ``rows`` as one JSON object a line, or as a table of ``columns`` on a terminal.

    The table may leave keys out; the JSON lines always hold every key.
    """
    if wants_json(as_json):
        for row in rows:
            click.echo(json.dumps(row, ensure_ascii=False))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title or None, title_justify="left")
    materialised = list(rows)
    for column in columns:
        numeric = all(isinstance(row.get(column), (int, float)) for row in materialised)
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in materialised:
        # Plain Text: a bracket in a file name is no markup.
        table.add_row(*(Text(_cell(row.get(column))) for column in columns))
    Console().print(table)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"
    if isinstance(value, (list, tuple)):
        # Numbers of a list are coordinates: seven digits are a metre or so on the ground.
        return " ".join(f"{item:.7g}" if isinstance(item, float) else _cell(item) for item in value)
    return str(value)


@contextmanager
def progress_bar(description: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Yield ``advance(n)``; the bar lives on stderr and vanishes when stderr is not a terminal."""
    if not sys.stderr.isatty():
        yield lambda n: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(description, total=total)
        yield lambda n: progress.update(task, advance=n)


def report_failures(failures: Sequence[tuple[str, str]]) -> None:
    """List ``(name, reason)`` of inputs that failed on stderr; the caller exits with status 1."""
    for name, reason in failures:
        said = reason if reason.startswith(name) else f"{name}: {reason}"
        click.echo(f"failed: {said}", err=True)
    if failures:
        click.echo(f"{len(failures)} input(s) failed", err=True)


def refuse_existing(path: Path, *, overwrite: bool) -> None:
    """Raise ``OutputExistsError`` where ``path`` exists and may not be overwritten.

    An empty folder is not an output yet.
    """
    if overwrite or not path.exists():
        return
    if path.is_dir() and not any(path.iterdir()):
        return
    raise OutputExistsError(f"{path} exists. Choose another name, or pass --overwrite")

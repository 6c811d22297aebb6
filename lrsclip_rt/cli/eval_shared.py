"""What the sub-commands of ``lrsclip eval`` share: options, embedding files, the end of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from lrsclip_rt.cli.options import bundle_option, model_options
from lrsclip_rt.cli.output import progress_bar, report_failures
from lrsclip_rt.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from lrsclip_rt.embedder import Embedder
    from lrsclip_rt.intervals import Interval

__all__ = ["bounds", "data_options", "embed_files", "finish", "run_record", "split_option"]

F = TypeVar("F", bound=Callable[..., Any])


def data_options(function: F) -> F:
    """The argument DATA, the model's options and ``--batch-size``."""
    for option in (
        click.option(
            "--batch-size", type=click.IntRange(min=1), default=32, show_default=True, help="Images per run."
        ),
        model_options,
        bundle_option,
        click.argument("data", type=click.Path(path_type=Path)),
    ):
        function = option(function)
    return function


def split_option(function: F) -> F:
    """``--split``: a part of the data."""
    return click.option("--split", default=None, help="Use this split alone.  [default: every image]")(
        function
    )


def embed_files(
    model: Embedder, root: Path, names: Sequence[str], *, batch_size: int
) -> tuple[NDArray[np.float32], list[int], list[tuple[str, str]]]:
    """Embeddings (n, D), the indices they belong to, and ``(name, reason)`` of what could not be read.

    Raises:
        InputError: If nothing can be read.
    """
    import numpy as np

    parts: list[NDArray[np.float32]] = []
    kept: list[int] = []
    failures: list[tuple[str, str]] = []
    items = ((index, root / name) for index, name in enumerate(names))
    with progress_bar("images", len(names)) as advance:
        for part in model.stream_images(items, batch_size=batch_size):
            parts.append(part.embeddings)
            kept += part.keys
            failures += [(names[index], str(error)) for index, error in part.failures]
            advance(len(part.keys) + len(part.failures))
    if not kept:
        report_failures(failures)
        raise InputError(f"none of the {len(names)} images of {root} can be read; nothing to score")
    return np.concatenate(parts), kept, failures


def bounds(interval: Interval) -> list[float]:
    """The central 95 % as ``[low, high]``."""
    return [interval.low, interval.high]


def run_record(model: Embedder, data: Path, *, failed: int, **more: Any) -> dict[str, Any]:
    """What was scored: data, counts, model."""
    return {
        "data": str(data),
        **more,
        "failed": failed,
        "model": model.spec.name,
        "precision": model.precision,
        "backend": model.backend,
    }


def finish(failures: Sequence[tuple[str, str]]) -> None:
    """List what failed on stderr and end with status 1, or return.

    Raises:
        click.exceptions.Exit: If anything failed.
    """
    report_failures(failures)
    if failures:
        raise click.exceptions.Exit(1)

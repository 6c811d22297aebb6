"""``lrsclip embed``: texts and images to the rows of a NumPy file."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from lrsclip_rt.cli.options import bundle_option, json_option, model_options, overwrite_option
from lrsclip_rt.cli.output import emit, progress_bar, refuse_existing, report_failures
from lrsclip_rt.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from lrsclip_rt.embedder import Embedder

__all__ = ["command"]


@click.command("embed")
@click.argument("images", nargs=-1, type=click.Path(path_type=Path), metavar="[IMAGE]...")
@bundle_option
@click.option("--text", "texts", multiple=True, help="A text to embed; - reads one per line from stdin.")
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="NumPy file to write: (N, D) float32, unit rows.",
)
@click.option(
    "--batch-size", type=click.IntRange(min=1), default=32, show_default=True, help="Images of one run."
)
@model_options
@json_option
@overwrite_option
def command(
    images: tuple[Path, ...],
    bundle: Path | None,
    texts: tuple[str, ...],
    output: Path,
    batch_size: int,
    backend: str,
    precision: str | None,
    device: str | None,
    threads: int | None,
    as_json: bool,
    overwrite: bool,
) -> None:
    """Embed texts and images; rows in input order, texts first.

    A folder stands for the images in it, in sorted order. The row of an image that cannot be read is
    NaN, so that rows and inputs stay in step; it is listed on stderr and the exit status is 1.

    \b
    Example:
        lrsclip embed --text "a harbour with many ships" a.jpg b.tif -o rows.npy
    """
    from lrsclip_rt.embedder import load
    from lrsclip_rt.images import iter_image_paths

    refuse_existing(output, overwrite=overwrite)
    if not output.absolute().parent.is_dir():
        raise InputError(f"{output.parent} is no folder; make it first, or write elsewhere")
    all_texts = _texts_with_stdin(texts)
    paths = list(iter_image_paths(images))
    if not all_texts and not paths:
        raise InputError("nothing to embed: name images or folders of images, or pass --text")
    model = load(bundle, backend=backend, precision=precision, device=device, threads=threads)
    rows, failures = _embed(model, all_texts, paths, batch_size=batch_size)
    write_npy(output, rows)
    summary = {
        "output": str(output),
        "rows": len(rows),
        "dim": model.dim,
        "texts": len(all_texts),
        "images": len(paths),
        "failed": len(failures),
        "model": model.spec.name,
        "precision": model.precision,
        "backend": model.backend,
        "identity": model.identity,
    }
    emit([summary], columns=["output", "rows", "dim", "texts", "images", "failed", "model"], as_json=as_json)
    report_failures(failures)
    if failures:
        raise click.exceptions.Exit(1)


def write_npy(path: Path, rows: NDArray[np.float32]) -> None:
    """Write an array so that ``path`` holds all of it or what was there before.

    Raises:
        InputError: If the file cannot be written.
    """
    import numpy as np

    try:
        with _replacing(path) as stream:
            np.save(stream, rows, allow_pickle=False)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}") from error


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with part.open("xb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _texts_with_stdin(texts: tuple[str, ...]) -> list[str]:
    """The texts in their order, ``-`` replaced by the lines of stdin."""
    if texts.count("-") > 1:
        raise InputError("--text - was given twice, but stdin can be read once")
    result: list[str] = []
    for text in texts:
        result += sys.stdin.read().splitlines() if text == "-" else [text]
    return result


def _embed(
    model: Embedder, texts: list[str], paths: list[Path], *, batch_size: int
) -> tuple[NDArray[np.float32], list[tuple[str, str]]]:
    import numpy as np

    rows = np.full((len(texts) + len(paths), model.dim), np.nan, np.float32)
    if texts:
        rows[: len(texts)] = model.embed_texts(texts)
    failures = []
    with progress_bar("Embedding", len(paths)) as advance:
        for batch in model.stream_images(enumerate(paths), batch_size=batch_size):
            rows[[len(texts) + i for i in batch.keys]] = batch.embeddings
            failures += [(str(paths[i]), str(error)) for i, error in batch.failures]
            advance(len(batch) + len(batch.failures))
    return rows, failures

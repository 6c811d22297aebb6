"""``lrsclip export``: a bundle from a checkpoint, or another precision of a bundle."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lrsclip_rt.cli.options import json_option, overwrite_option, split_commas
from lrsclip_rt.cli.output import emit

if TYPE_CHECKING:
    from lrsclip_rt.bundle import Bundle

__all__ = ["command", "stages"]


@click.command(short_help="Make a bundle, or add a precision to one.")
@click.argument("source", type=click.Path(path_type=Path))
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="Folder of the bundle.")
@click.option(
    "--precision",
    "precisions",
    multiple=True,
    help="fp32, fp16, int8, int8-cpu or fp8; repeats or takes commas.  [default: fp32]",
)
@click.option("--name", default=None, help="Short name of the model.  [default: from the file's name]")
@click.option(
    "--template", "templates", multiple=True, help="Prompt template with the placeholder {}; repeats."
)
@click.option("--how-made", default=None, help="How the weights were made, for bundle.json.")
@click.option("--licence", default=None, help="Licence of the weights, for bundle.json.")
@click.option("--training-data", default=None, help="Training data and their terms, for bundle.json.")
@click.option(
    "--store-fp16", is_flag=True, help="Store float16 numbers in the fp32 files, where that loses nothing."
)
@click.option(
    "--calibration",
    type=click.Path(path_type=Path),
    default=None,
    help="Folder of real images, or a data set with pairs.jsonl; int8 and fp8 need it.",
)
@click.option(
    "--allow-failed", is_flag=True, help="Keep a precision that fell below its gate, with its report."
)
@overwrite_option
@json_option
def command(
    source: Path,
    out: Path,
    precisions: tuple[str, ...],
    name: str | None,
    templates: tuple[str, ...],
    how_made: str | None,
    licence: str | None,
    training_data: str | None,
    store_fp16: bool,
    calibration: Path | None,
    allow_failed: bool,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Make a bundle from a checkpoint, or add precisions to a bundle.

    SOURCE is a checkpoint file, or a bundle folder: from a bundle no PyTorch is needed, and with the same
    folder as -o the precision is added in place. Every graph is run against its source before anything
    is written. int8 and fp8, for TensorRT and OpenVINO, find their ranges on up to 256 images of
    --calibration; with pairs.jsonl its captions are used too.

    \b
    Example:
        lrsclip export DGTRS-CLIP-ViT-B-16.pt -o dgtrs-b16 --precision fp32,int8-cpu
        lrsclip export dgtrs-b16 -o dgtrs-b16 --precision int8 --calibration photos/
    """
    from lrsclip_export.exporting import Provenance, export_bundle

    origin = {"how_made": how_made, "licence": licence, "training_data": training_data}
    given = {key: value for key, value in origin.items() if value is not None}
    with stages() as progress:
        bundle = export_bundle(
            source,
            out,
            precisions=split_commas(precisions) or ["fp32"],
            name=name,
            templates=templates or None,
            provenance=Provenance(**given) if given else None,
            store_fp16=store_fp16,
            calibration=calibration,
            allow_failed=allow_failed,
            overwrite=overwrite,
            progress=progress,
        )
    if not source.is_dir():
        for note in bundle.record("fp32").notes.get("checkpoint", ()):
            click.echo(f"note: {note}", err=True)
    columns = ("precision", "files", "MB", "image_cosine", "text_cosine", "top1_agreement", "passed")
    emit(
        _rows(bundle), columns=columns, as_json=as_json, title=f"{bundle.path}  ({bundle.spec.architecture})"
    )


def _rows(bundle: Bundle) -> Iterator[dict[str, Any]]:
    for name, record in bundle.precisions.items():
        size = sum(bundle.files[file].bytes for file in record.files)
        parity = record.parity
        yield {
            "precision": name,
            "files": list(record.files),
            "MB": round(size / 1e6, 1),
            "image_cosine": parity.image.minimum if parity and parity.image else None,
            "text_cosine": parity.text.minimum if parity and parity.text else None,
            "top1_agreement": parity.top1_agreement if parity else None,
            "passed": bundle.passed(name),
            "bundle": str(bundle.path),
            "identity": bundle.identity,
        }


@contextmanager
def stages() -> Iterator[Callable[[str, float], None]]:
    """Yield ``progress(stage, fraction)``: on stderr, a bar on a terminal, else a line for each stage."""
    if not sys.stderr.isatty():
        shown: set[str] = set()

        def line(stage: str, fraction: float) -> None:
            if stage not in shown:
                shown.add(stage)
                click.echo(f"{stage} ...", err=True)

        yield line
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description:<24}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting", total=1.0)
        yield lambda stage, fraction: bar.update(task, description=stage, completed=fraction)

"""``lrsclip pull``: a published checkpoint, fetched and exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from lrsclip_rt.cli.options import json_option, overwrite_option, split_commas
from lrsclip_rt.cli.output import emit, refuse_existing

__all__ = ["command"]


@click.command(short_help="Fetch a published checkpoint and make a bundle of it.")
@click.argument("name")
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="Folder of the bundle.")
@click.option(
    "--precision",
    "precisions",
    multiple=True,
    help="fp32, fp16, int8, int8-cpu or fp8; repeats or takes commas.  [default: fp32]",
)
@click.option(
    "--calibration",
    type=click.Path(path_type=Path),
    default=None,
    help="Folder of real images, or a data set with pairs.jsonl; int8 and fp8 need it.",
)
@click.option(
    "--checkpoint-dir",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    help="Where the checkpoint is kept.  [default: the user's cache]",
)
@click.option(
    "--endpoint",
    envvar="HF_ENDPOINT",
    default=None,
    show_envvar=True,
    help="Hugging Face Hub, or a mirror of it.  [default: https://huggingface.co]",
)
@overwrite_option
@json_option
def command(
    name: str,
    out: Path,
    precisions: tuple[str, ...],
    calibration: Path | None,
    checkpoint_dir: Path | None,
    endpoint: str | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Fetch a published checkpoint and make a bundle of it.

    NAME is dgtrs-clip-vit-b-16, dgtrs-clip-vit-l-14, lrsclip-vit-b-16, lrsclip-vit-l-14, longclip-b or
    longclip-l, or the name of the authors' file. A fetch that broke goes on where it stopped when the command
    runs again; a checkpoint that is complete is not fetched twice.

    Example: lrsclip pull dgtrs-clip-vit-b-16 -o dgtrs-b16
    """
    from lrsclip_export.cli.export import stages
    from lrsclip_export.exporting import Provenance, check_calibration, export_bundle
    from lrsclip_export.precisions import check_precisions
    from lrsclip_export.published import download, published_model
    from lrsclip_rt.file_stamps import cache_folder

    model = published_model(name)
    refuse_existing(out, overwrite=overwrite)
    wanted = check_precisions(split_commas(precisions) or ["fp32"])
    check_calibration(wanted, calibration)
    fetched = download(model, checkpoint_dir or cache_folder() / "checkpoints", endpoint=endpoint)
    origin = Provenance(
        how_made=f"lrsclip pull {model.name}: {model.repository} at {fetched.revision}",
        licence=model.licence,
        training_data=model.training_data,
    )
    with stages() as progress:
        bundle = export_bundle(
            Path(fetched.path),
            out,
            precisions=wanted,
            calibration=calibration,
            name=model.name,
            provenance=origin,
            overwrite=overwrite,
            progress=progress,
        )
    row: dict[str, Any] = {
        "name": model.name,
        "bundle": str(bundle.path),
        "precisions": list(bundle.precisions),
        "checkpoint": fetched.path,
        "repository": fetched.repository,
        "revision": fetched.revision,
        "sha256": fetched.sha256,
        "bytes": fetched.bytes,
        "identity": bundle.identity,
    }
    emit([row], columns=("name", "bundle", "precisions", "checkpoint", "sha256"), as_json=as_json)

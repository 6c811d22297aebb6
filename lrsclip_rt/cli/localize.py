"""``lrsclip localize``: where in a scene each text fits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lrsclip_rt.cli.options import bundle_option, json_option, model_options, overwrite_option, split_commas
from lrsclip_rt.cli.output import emit, progress_bar

if TYPE_CHECKING:
    from lrsclip_rt.localization.heatmap import Heatmap
    from lrsclip_rt.raster import StretchChoice

__all__ = ["command"]

COLUMNS = ("text", "rank", "score", "z", "window", "lonlat", "area_m2", "area_px")


@click.command("localize")
@click.argument("scene", type=click.Path(path_type=Path))
@click.argument("texts", nargs=-1, required=True, metavar="TEXT...")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, file_okay=False), help="Folder for maps and pictures."
)
@click.option(
    "--mode",
    type=click.Choice(["selo"]),
    default="selo",
    show_default=True,
    help="selo: the published protocol, windows of 256, 512 and 768 px.",
)
@click.option("--full", is_flag=True, help="Write heat maps at source resolution.")
@click.option("--bands", help="One or three band numbers for R,G,B, e.g. 4,3,2.  [default: by their tags]")
@click.option("--nodata", type=float, help="Value of missing pixels.  [default: the file's]")
@click.option("--stretch", metavar="LOW,HIGH", help="Values that become black and white.  [default: 2-98 %]")
@click.option(
    "--batch-size", type=click.IntRange(min=1), default=32, show_default=True, help="Windows of one run."
)
@bundle_option
@model_options
@json_option
@overwrite_option
def command(
    scene: Path,
    texts: tuple[str, ...],
    output: Path | None,
    mode: str,
    full: bool,
    bands: str | None,
    nodata: float | None,
    stretch: str | None,
    batch_size: int,
    bundle: Path | None,
    backend: str,
    precision: str | None,
    device: str | None,
    threads: int | None,
    as_json: bool,
    overwrite: bool,
) -> None:
    """Find the places of SCENE that fit each TEXT.

    Prints one row per region, best first, and for a text without any the scene's best score. With -o each
    text also gets NN-heat.tif, NN-overlay.png, NN-regions.geojson and NN-selo.png, numbered from 01.

    \b
    Example:
        lrsclip localize scene.tif "a harbour with ships" "white storage tanks" -o maps/
    """
    if full and output is None:
        raise click.UsageError("--full says how files are written; give a folder with -o")
    chosen_bands = None if bands is None else _numbers(bands, "--bands", int)
    limits = None if stretch is None else _numbers(stretch, "--stretch", float)
    if limits is not None and len(limits) != 2:
        raise click.BadParameter(f"got {len(limits)} values; expected LOW,HIGH", param_hint="--stretch")

    from lrsclip_rt.embedder import load
    from lrsclip_rt.localization.outputs import output_paths, refuse_existing_outputs, write_outputs
    from lrsclip_rt.localization.pipeline import localize_scene
    from lrsclip_rt.localization.windows import selo_windows
    from lrsclip_rt.raster import open_scene

    if output is not None and not overwrite:
        refuse_existing_outputs(output_paths(output, len(texts), mode=mode))
    contrast: StretchChoice = "auto" if limits is None else (limits[0], limits[1])
    with open_scene(scene, bands=chosen_bands, nodata=nodata, stretch=contrast) as source:
        model = load(bundle, backend=backend, precision=precision, device=device, threads=threads)
        if source.lonlat(0.0, 0.0) is None:
            click.echo(f"{source.name} has no place on the Earth: coordinates are pixels", err=True)
        with progress_bar("Windows", len(selo_windows(source.height, source.width))) as advance:
            seen = [0]

            def progress(done: int, total: int) -> None:
                advance(done - seen[0])
                seen[0] = done

            found = localize_scene(model, source, texts, mode=mode, batch_size=batch_size, progress=progress)
        if output is not None:
            write_outputs(output, found, source, full=full, overwrite=overwrite, model_id=model.identity)
        rows = [row for heatmap in found.heatmaps for row in _rows(heatmap)]
    emit(rows, columns=COLUMNS, as_json=as_json)


def _rows(heatmap: Heatmap) -> Iterator[dict[str, Any]]:
    """One row a region; a row without a rank where nothing stands out."""
    from lrsclip_rt.localization.geojson import region_row

    for region in heatmap.regions:
        yield {"text": heatmap.text, **region_row(region)}
    if not heatmap.regions:
        nothing = dict.fromkeys(("window", "peak", "lonlat", "area_m2", "area_px"))
        score, z = round(heatmap.score_range[1], 6), round(heatmap.z, 3)
        yield {"text": heatmap.text, "rank": None, "score": score, "z": z, **nothing}


def _numbers(value: str, option: str, kind: type[Any]) -> tuple[Any, ...]:
    try:
        return tuple(kind(part) for part in split_commas((value,)))
    except ValueError:
        raise click.BadParameter(
            f"got {value!r}; expected numbers with commas between them", param_hint=option
        ) from None

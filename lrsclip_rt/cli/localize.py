"""``lrsclip localize``: where in a scene each text fits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lrsclip_rt.cli.localizing import Request, located
from lrsclip_rt.cli.options import bundle_option, json_option, model_options, overwrite_option, split_commas
from lrsclip_rt.cli.output import emit

if TYPE_CHECKING:
    from lrsclip_rt.localization.heatmap import Heatmap

__all__ = ["command"]

COLUMNS = ("text", "rank", "score", "z", "window", "lonlat", "area_m2", "area_px", "present")


@click.command("localize")
@click.argument("scene")
@click.argument("texts", nargs=-1, required=True, metavar="TEXT...")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, file_okay=False), help="Folder for maps and pictures."
)
@click.option(
    "--mode",
    type=click.Choice(["fast", "selo", "dense"]),
    default="fast",
    show_default=True,
    help="fast: coarsely everywhere, finely where the texts fit best.  selo: the published protocol.  "
    "dense: the patches inside windows of one size.",
)
@click.option(
    "--refine",
    type=click.FloatRange(0.0, 1.0),
    help="fast: share of the fine windows to look at.  [default: 1/16 for up to 5 texts, more for more]",
)
@click.option("--rotations", is_flag=True, help="fast: average over four rotations, at four times the cost.")
@click.option(
    "--gsd",
    type=click.FloatRange(0.0, min_open=True),
    metavar="METRES",
    help="fast: ground size of a pixel as the model sees it.  [default: fine windows of 128 px]",
)
@click.option("--full", is_flag=True, help="Write heat maps at source resolution.")
@click.option(
    "--explain",
    "explained",
    is_flag=True,
    help="Take one long TEXT apart: a map for each sentence and one for all together.",
)
@click.option("--gpkg", is_flag=True, help="Write the regions as GeoPackage too, in the scene's CRS.")
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
    scene: str,
    texts: tuple[str, ...],
    output: Path | None,
    mode: str,
    refine: float | None,
    rotations: bool,
    gsd: float | None,
    full: bool,
    explained: bool,
    gpkg: bool,
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
    text also gets NN-heat.tif, NN-overlay.png and NN-regions.geojson, numbered from 01, and in selo mode
    NN-selo.png. SCENE may be archive:PATH#SOURCE: the stored tiles of an archive's source are
    scored, and no image is embedded.

    \b
    Example:
        lrsclip localize scene.tif "a harbour with ships" "white storage tanks" -o maps/
        lrsclip localize archive:archive/#scene.tif "a harbour with ships"
    """
    if (full or gpkg) and output is None:
        raise click.UsageError("--full and --gpkg say how files are written; give a folder with -o")
    if mode != "fast" and (refine is not None or rotations or gsd is not None):
        raise click.UsageError("--refine, --rotations and --gsd belong to --mode fast")
    if explained and (mode == "selo" or len(texts) != 1):
        raise click.UsageError("--explain takes one description, with --mode fast or dense")
    chosen_bands = None if bands is None else _numbers(bands, "--bands", int)
    limits = None if stretch is None else _numbers(stretch, "--stretch", float)
    if limits is not None and len(limits) != 2:
        raise click.BadParameter(f"got {len(limits)} values; expected LOW,HIGH", param_hint="--stretch")

    from lrsclip_rt.localization.explaining import explain, sentences_of
    from lrsclip_rt.localization.outputs import output_paths, refuse_existing_outputs, write_outputs
    from lrsclip_rt.localization.pyramid import FastOptions

    asked = sentences_of(texts[0]) if explained else list(texts)
    if output is not None and not overwrite:
        count = len(asked) + explained
        refuse_existing_outputs(output_paths(output, count, mode=mode, geopackage=gpkg))
    request = Request(
        texts=asked,
        mode=mode,
        fast=FastOptions(refine=refine, rotations=rotations, gsd_m=gsd),
        batch_size=batch_size,
        bundle=bundle,
        opening={"backend": backend, "precision": precision, "device": device, "threads": threads},
        reading={
            "bands": chosen_bands,
            "nodata": nodata,
            "stretch": "auto" if limits is None else (limits[0], limits[1]),
        },
    )
    with located(scene, request) as (source, found):
        if source.lonlat(0.0, 0.0) is None:
            click.echo(f"{source.name} has no place on the Earth: coordinates are pixels", err=True)
        z_at_best: tuple[float, ...] = ()
        if explained:
            explanation = explain(found, source, texts[0])
            found, z_at_best = explanation.found, explanation.z_at_best
        if output is not None:
            write_outputs(output, found, source, full=full, geopackage=gpkg, overwrite=overwrite)
        rows = [row for heatmap in found.heatmaps for row in _rows(heatmap)]
    if explained:
        at_best = dict(zip(asked, z_at_best, strict=False))
        rows = [{**row, "z_at_best": at_best.get(row["text"])} for row in rows]
    emit(rows, columns=(*COLUMNS, "z_at_best") if explained else COLUMNS, as_json=as_json)


def _rows(heatmap: Heatmap) -> Iterator[dict[str, Any]]:
    """One row a region; a row without a rank where nothing stands out."""
    from lrsclip_rt.localization.geojson import presence_record, region_row

    presence = presence_record(heatmap)
    for region in heatmap.regions:
        yield {"text": heatmap.text, **region_row(region), **presence}
    if not heatmap.regions:
        nothing = dict.fromkeys(("window", "peak", "lonlat", "area_m2", "area_px"))
        score, z = round(heatmap.score_range[1], 6), round(heatmap.z, 3)
        yield {"text": heatmap.text, "rank": None, "score": score, "z": z, **nothing, **presence}


def _numbers(value: str, option: str, kind: type[Any]) -> tuple[Any, ...]:
    try:
        return tuple(kind(part) for part in split_commas((value,)))
    except ValueError:
        raise click.BadParameter(
            f"got {value!r}; expected numbers with commas between them", param_hint=option
        ) from None

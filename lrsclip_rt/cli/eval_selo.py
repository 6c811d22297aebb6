"""``lrsclip eval selo``: semantic localization in annotated scenes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lrsclip_rt.cli.eval_shared import data_options, finish, run_record
from lrsclip_rt.cli.localizing import window_progress
from lrsclip_rt.cli.options import json_option, overwrite_option
from lrsclip_rt.cli.output import emit, progress_bar, refuse_existing, report_failures, wants_json
from lrsclip_rt.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from lrsclip_rt.embedder import Embedder
    from lrsclip_rt.localization.pipeline import Localization
    from lrsclip_rt.localization.selo_annotations import MosaicTruth, SeloQuery
    from lrsclip_rt.localization.selo_evaluation import QueryResult
    from lrsclip_rt.localization.selo_metrics import SeloScores
    from lrsclip_rt.raster import Scene

__all__ = ["selo"]

COLUMNS = ("scene", "caption", "rsu", "ras", "rda", "rmi", "roc_auc", "peaks")
PICTURE_SIDE = 1280
"""Longest side of the scene in the picture of a query [px]."""

FILE = click.Path(path_type=Path, dir_okay=False)


@dataclass
class Run:
    """What was asked for, and what has come out so far."""

    model: Embedder
    mode: str
    batch_size: int
    plots: Path | None
    rows: list[dict[str, Any]] = field(default_factory=list)
    scores: list[SeloScores] = field(default_factory=list)
    failures: list[tuple[str, str]] = field(default_factory=list)
    scenes: int = 0
    windows: dict[str, int] = field(default_factory=dict)


@click.command()
@data_options
@click.option(
    "--annotations", type=FILE, help="Annotation file.  [default: the one *.json in DATA of that form]"
)
@click.option(
    "--mode",
    type=click.Choice(["fast", "selo", "dense"]),
    default="selo",
    show_default=True,
    help="selo: the published protocol, windows of 256, 512 and 768 px.  fast, dense: as localize does.",
)
@click.option("--mosaic", type=FILE, help="Truth of a mosaic scene: also report the mAP of its cells.")
@click.option(
    "--plot-dir", type=click.Path(path_type=Path, file_okay=False), help="Folder for a picture of each query."
)
@overwrite_option
@json_option
def selo(
    data: Path,
    bundle: Path | None,
    backend: str,
    precision: str | None,
    device: str | None,
    threads: int | None,
    batch_size: int,
    annotations: Path | None,
    mode: str,
    mosaic: Path | None,
    plot_dir: Path | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Score where the model finds texts in large scenes: Rsu, Ras, Rda, Rmi and the pixel ROC-AUC.

    DATA is a folder of scenes with an annotation file, a list of objects with caption, jpg_name and points.
    A scene is embedded once for all its captions. Scores are in [0, 1]; Ras is better low.

    \b
    Example:
        lrsclip eval selo scenes/ --plot-dir pictures/
        lrsclip eval selo scenes/ --annotations scenes/anno.json --mosaic scenes/mosaic.json --json
    """
    from lrsclip_rt.embedder import load
    from lrsclip_rt.localization.selo_annotations import (
        find_annotations,
        mosaic_from_file,
        selo_annotations_from_file,
    )
    from lrsclip_rt.localization.selo_evaluation import summary_of

    if plot_dir is not None:
        refuse_existing(plot_dir, overwrite=overwrite)
    truth = None if mosaic is None else mosaic_from_file(mosaic)
    annotated = selo_annotations_from_file(find_annotations(data) if annotations is None else annotations)
    model = load(bundle, backend=backend, precision=precision, device=device, threads=threads)
    run = Run(model, mode, batch_size, plot_dir, failures=list(annotated.failures))
    for name, queries in annotated.by_scene().items():
        _score_scene(run, data, name, queries)
    if not run.scores:
        report_failures(run.failures)
        raise InputError(f"no query of {annotated.path} can be scored; are its scenes in {data}?")
    summary = summary_of(run.scores)
    record: dict[str, Any] = {
        **summary.as_dict(),
        "queries": run.rows,
        "mosaic": None if truth is None else _mosaic_record(run, truth),
        "annotations": str(annotated.path),
        "mode": mode,
        "windows": run.windows,
        **run_record(model, data, scenes=run.scenes, failed=len(run.failures)),
    }
    _show(record, as_json=as_json)
    finish(run.failures)


def _score_scene(run: Run, data: Path, name: str, queries: Sequence[SeloQuery]) -> None:
    """Score the queries of one scene; what cannot be scored is listed."""
    from lrsclip_rt.localization.overlay import scene_thumbnail
    from lrsclip_rt.localization.selo_evaluation import refused_queries, scored_queries
    from lrsclip_rt.raster import open_scene

    path = data / name
    if not path.is_file():
        run.failures.append((name, f"{path} is missing; {len(queries)} queries of it were left out"))
        return
    try:
        with open_scene(path) as scene:
            refused = dict(refused_queries(queries, scene.height, scene.width))
            run.failures += refused.items()
            kept = [query for query in queries if query.label not in refused]
            if not kept:
                return
            found = _localized(run, scene, [query.caption for query in kept])
            thumbnail = scene_thumbnail(scene, longest=PICTURE_SIDE) if run.plots is not None else None
    except InputError as error:
        run.failures.append((name, f"{error}; {len(queries)} queries of it were left out"))
        return
    with progress_bar(f"{name} queries", len(kept)) as advance:
        for result in scored_queries(found, kept):
            run.rows.append(result.as_dict())
            run.scores.append(result.scores)
            if result.scores.constant:
                click.echo(f"{result.query.label}: the map is constant, it points nowhere", err=True)
            if run.plots is not None and thumbnail is not None:
                _write_picture(run.plots, result, thumbnail)
            advance(1)
    run.scenes += 1


def _localized(run: Run, scene: Scene, texts: Sequence[str]) -> Localization:
    from lrsclip_rt.localization.pipeline import localize_scene

    with window_progress(f"{scene.name} windows") as progress:
        found = localize_scene(
            run.model, scene, texts, mode=run.mode, batch_size=run.batch_size, progress=progress
        )
    run.windows[scene.name] = len(found.embedding)
    return found


def _write_picture(folder: Path, result: QueryResult, thumbnail: NDArray[np.uint8]) -> None:
    from lrsclip_rt.localization.selo_pictures import render_query

    folder.mkdir(parents=True, exist_ok=True)
    name = f"{result.query.number:03}-{Path(result.query.scene).stem}.png"
    render_query(result, thumbnail).save(folder / name, "PNG", optimize=True)


def _mosaic_record(run: Run, truth: MosaicTruth) -> dict[str, Any] | None:
    """The mAP of the cells; None, and a failure, where the scene cannot be used."""
    from lrsclip_rt.localization.selo_evaluation import class_phrase, mosaic_precisions, scene_of_mosaic
    from lrsclip_rt.raster import open_scene

    template = run.model.spec.templates[0] if run.model.spec.templates else "{}"
    prompts = [template.replace("{}", class_phrase(name)) for name in truth.names]
    try:
        path = scene_of_mosaic(truth)
        with open_scene(path) as scene:
            found = _localized(run, scene, prompts)
        precisions = mosaic_precisions(found, truth)
    except InputError as error:
        run.failures.append((truth.path.name, str(error)))
        return None
    shares = [truth.classes.count(name) / len(truth.classes) for name in truth.names]
    return {
        "map": sum(precisions.values()) / len(precisions),
        "chance": sum(shares) / len(shares),
        "per_class": precisions,
        "template": template,
        "scene": path.name,
        "cells": len(truth.windows),
    }


def _show(record: Mapping[str, Any], *, as_json: bool) -> None:
    if wants_json(as_json):
        click.echo(json.dumps(record, ensure_ascii=False))
        return
    rows = record["queries"]
    peaks = sum(row["peaks"] for row in rows) / len(rows)
    mean = {**record, "scene": "mean", "caption": f"{len(rows)} queries", "peaks": peaks}
    low, high = record["rmi_ci95"]
    title = f"Rmi {record['rmi']:.4f} [{low:.3f}, {high:.3f}]"
    if record["roc_auc"] is not None:
        low, high = record["roc_auc_ci95"]
        title += f", pixel ROC-AUC {record['roc_auc']:.4f} [{low:.3f}, {high:.3f}]"
    emit([*rows, mean], columns=COLUMNS, as_json=False, title=title)
    if record["mosaic"] is not None:
        mosaic = record["mosaic"]
        rows = [{"class": name, "AP": value} for name, value in mosaic["per_class"].items()]
        title = f"mosaic mAP {mosaic['map']:.4f} (chance {mosaic['chance']:.3f})"
        emit(rows, columns=["class", "AP"], as_json=False, title=title)

"""How well does each mode of localization find what a text says, and what does each part of it bring?

    python benchmarks/localization_quality.py ../shared/data                     # the built-in model
    python benchmarks/localization_quality.py DATA -b BUNDLE --rendered 40 --record

DATA holds ``scenes/`` with ``anno_hand.json`` (18 texts with outlines) and ``mosaic_val_1800.tif`` with the
class of each cell, and ``aid_rsicd/images/`` whose folders name the 30 classes, 18 of which the mosaic has.
Rendered landscapes of unseen seeds come with exact outlines.

Each setting differs from ``fast`` in one thing. Gains are over the first setting and paired: the same queries
are drawn for both. Presence is asked of the fast mode, for what the scenes show and for what they lack, every
text alone and all of a scene together; ``absent_accepted_at_90`` is the share of absent texts that pass where
90 % of the present ones do.

Every window that a setting needs is embedded once and kept in ``--cache``; the encodes that are told are
those that a setting takes alone. Nothing is timed. Prints tables, then the record; ``--record`` also appends
it to benchmarks/results/<device>/.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

# A script finds what lies beside it; the modules of this one are known from the folder above.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.localization_cases import CachedModel, Case, annotated_cases, mosaic_case, rendered_cases
from benchmarks.localization_presence import presence_rows
from lrsclip_rt.benchmarking import append_record, make_record
from lrsclip_rt.cpu import available_cpus
from lrsclip_rt.embedder import load
from lrsclip_rt.localization import FastOptions, Localization, localize_scene
from lrsclip_rt.localization.asking import ask
from lrsclip_rt.localization.fusion import cell_means
from lrsclip_rt.localization.pipeline import localize_embedding
from lrsclip_rt.localization.selo_annotations import mosaic_from_file
from lrsclip_rt.localization.selo_evaluation import class_phrase, levels_of, mosaic_precisions
from lrsclip_rt.localization.selo_metrics import SeloScores, score_levels
from lrsclip_rt.raster import Scene, open_scene
from lrsclip_rt.rendering import TEST_SEEDS

RESULTS = Path(__file__).resolve().parent / "results"
INDICATORS = ("rsu", "ras", "rda", "rmi", "roc_auc")


@dataclass(frozen=True)
class Setting:
    """One way to localize.

    Attributes:
        name: For people.
        mode: As of ``localize``.
        fast: How the fast mode looks.
        templates: Ask short texts in the bundle's templates.
        mean: Fuse by the plain mean of the windows over a place.
        shares: Count a window by the part of it that shows something.
    """

    name: str
    mode: str = "fast"
    fast: FastOptions = field(default_factory=FastOptions)
    templates: bool = True
    mean: bool = False
    shares: bool = True


SETTINGS = (
    Setting("selo", "selo"),
    Setting("fast"),
    Setting("dense", "dense"),
    Setting("256 px alone", fast=FastOptions(scales=(256,))),
    Setting("128 px alone", fast=FastOptions(scales=(128,))),
    Setting("from 512 px", fast=FastOptions(scales=(512, 256, 128))),
    Setting("eighth of fine windows", fast=FastOptions(refine=1 / 8)),
    Setting("quarter of fine windows", fast=FastOptions(refine=1 / 4)),
    Setting("all fine windows", fast=FastOptions(refine=1.0)),
    Setting("plain mean", mean=True),
    Setting("texts as they are", templates=False),
    Setting("without valid shares", shares=False),
    Setting("rotations", fast=FastOptions(rotations=True)),
    Setting("overlap 0.25", fast=FastOptions(overlap=0.25)),
)
"""The modes, then what differs from fast in one thing."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with scenes/ and aid_rsicd/")
    parser.add_argument("-b", "--bundle", type=Path, help="default: the built-in bundle")
    parser.add_argument("--precision", help="default: the bundle's")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--rendered", type=int, default=40, help="rendered scenes")
    parser.add_argument("--only", action="append", help="names of settings; default: all")
    parser.add_argument("--resamples", type=int, default=2000)
    parser.add_argument("--cache", type=Path, help="folder for embeddings; default: one for this run")
    parser.add_argument("--record", action="store_true", help="append the record to the results")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()

    model = load(
        arguments.bundle,
        backend=arguments.backend,
        precision=arguments.precision,
        threads=arguments.threads,
    )
    settings = [s for s in SETTINGS if arguments.only is None or s.name in arguments.only]
    with tempfile.TemporaryDirectory() as scratch:
        cached = CachedModel(model, arguments.cache or Path(scratch))
        real = list(annotated_cases(arguments.data / "scenes"))
        drawn = list(rendered_cases(arguments.rendered))
        results = []
        for cases, group in ((real, "annotated"), (drawn, "rendered")):
            if cases:
                results += measured_group(cached, settings, cases, group, resamples=arguments.resamples)
                cached.save()
        results += [measured_mosaic(cached, setting, arguments.data) for setting in settings]
        groups = {"mosaic": [mosaic_case(arguments.data)], "annotated": real, "rendered": drawn}
        threshold = model.bundle.manifest.presence_threshold
        results += presence_rows(cached, {name: cases for name, cases in groups.items() if cases}, threshold)
        cached.save()
    print_tables(results)
    record = make_record(
        "localization_quality",
        threads=arguments.threads or available_cpus(),
        settings={
            "model": model.spec.name,
            "identity": model.identity,
            "dense_recipe": model.spec.dense_recipe,
            "precision": model.precision,
            "backend": model.backend,
            "data": arguments.data.resolve().name,
            "rendered": arguments.rendered,
            "first_seed": TEST_SEEDS[0],
            "resamples": arguments.resamples,
        },
        results=results,
    )
    if arguments.record:
        append_record(record, arguments.results)
    print(record.to_json())


def measured_group(
    model: CachedModel, settings: Sequence[Setting], cases: Sequence[Case], group: str, *, resamples: int
) -> list[dict[str, Any]]:
    """Score every query under every setting, and each setting against the first of them."""
    rows, yardstick = [], None
    for setting in settings:
        scores: list[SeloScores] = []
        encodes: dict[str, int] = {}
        for case in cases:
            before = model.encodes
            with case.opened() as scene:
                found = localized(model, scene, case.texts, setting)
            encodes[case.name] = model.encodes - before
            scores += [
                score_levels(levels_of(found, index), outlines)
                for index, outlines in enumerate(case.outlines)
            ]
        table = np.array([[getattr(one, name) for name in INDICATORS] for one in scores], np.float64)
        yardstick = table if yardstick is None else yardstick
        rows.append(
            {
                "what": group,
                "setting": setting.name,
                "queries": len(scores),
                "encodes": encodes,
                **dict(zip(INDICATORS, table.mean(axis=0).tolist(), strict=True)),
                "gain": {
                    name: paired_gain(table[:, column] - yardstick[:, column], resamples)
                    for column, name in enumerate(INDICATORS)
                },
            }
        )
        print(f"{group}: {setting.name} done", flush=True)
    return rows


def localized(model: CachedModel, scene: Scene, texts: Sequence[str], setting: Setting) -> Localization:
    """The maps of one setting."""
    model.templates = setting.templates
    found = localize_scene(model, scene, texts, mode=setting.mode, fast=setting.fast)
    asked = ask(model, texts, templates=setting.mode != "selo")
    model.templates = True
    if not setting.shares:
        found = localize_embedding(replace(found.embedding, valid=None), scene, texts, asked)
    return by_plain_mean(found, asked.rows) if setting.mean else found


def by_plain_mean(found: Localization, rows: NDArray[np.float32]) -> Localization:
    """The same windows with the published fusion: the mean of those over a place, whatever their size."""
    embedding = found.embedding
    cells = cell_means(
        embedding.windows, embedding.scores(rows), height=embedding.height, width=embedding.width
    )
    heatmaps = []
    for index, heat in enumerate(found.heatmaps):
        scores = cells.on_grid(index, *heat.scores.shape)
        scores[np.isnan(heat.scores)] = np.nan
        span = (float(np.nanmin(scores)), float(np.nanmax(scores)))
        heatmaps.append(replace(heat, scores=scores, score_range=span))
    return replace(found, heatmaps=tuple(heatmaps))


def paired_gain(differences: NDArray[np.float64], resamples: int) -> list[float]:
    """Mean difference over the queries, and its 95 % interval from resampled queries."""
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, len(differences), (resamples, len(differences)))
    low, high = np.percentile(differences[drawn].mean(axis=1), [2.5, 97.5])
    return [float(differences.mean()), float(low), float(high)]


def measured_mosaic(model: CachedModel, setting: Setting, data: Path) -> dict[str, Any]:
    """Ask for the classes of the mosaic in one call, and rank its cells for each."""
    truth = mosaic_from_file(data / "scenes" / "mosaic_val_1800.json")
    before = model.encodes
    with open_scene(data / "scenes" / "mosaic_val_1800.tif") as scene:
        found = localized(model, scene, [class_phrase(name) for name in truth.names], setting)
    precisions = mosaic_precisions(found, truth)
    print(f"mosaic: {setting.name} done", flush=True)
    return {
        "what": "mosaic",
        "setting": setting.name,
        "encodes": model.encodes - before,
        "map": float(np.mean(list(precisions.values()))),
    }


def print_tables(results: Sequence[dict[str, Any]]) -> None:
    """What people read; the record holds more."""
    for group in ("annotated", "rendered"):
        rows = [row for row in results if row["what"] == group]
        if rows:
            names = " ".join(f"{name:>8}" for name in INDICATORS)
            print(f"\n{group:24} {'encodes':>8} {names}   gain of AUC")
        for row in rows:
            low, high = row["gain"]["roc_auc"][1:]
            values = " ".join(f"{row[name]:8.3f}" for name in INDICATORS)
            gain = f"{row['gain']['roc_auc'][0]:+.3f} [{low:+.3f}, {high:+.3f}]"
            print(f"{row['setting']:24} {sum(row['encodes'].values()):8} {values}   {gain}")
    print(f"\n{'mosaic':24} {'encodes':>8} {'mAP':>8}")
    for row in (row for row in results if row["what"] == "mosaic"):
        print(f"{row['setting']:24} {row['encodes']:8} {row['map']:8.3f}")
    print(f"\n{'presence':58} {'AUC':>6} {'accepted: present, absent':>26} {'absent at 90 %':>15}")
    for row in (row for row in results if row["what"] == "presence"):
        name = f"{row['group']}, {row['asked']}, {row['rule']}"
        there, gone = row["present_accepted"], row["absent_accepted"]
        shares = "" if there is None else f"{100 * there:.0f} %, {100 * gone:.0f} %"
        print(f"{name:58} {row['auc']:6.3f} {shares:>26} {100 * row['absent_accepted_at_90']:13.0f} %")


if __name__ == "__main__":
    main()

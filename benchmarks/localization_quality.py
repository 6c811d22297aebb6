"""How well does each mode of localization find what a text says, and what does each part of it bring?

    python benchmarks/localization_quality.py ../shared/data                     # the built-in model
    python benchmarks/localization_quality.py DATA -b BUNDLE --rendered 40 --record

DATA holds ``scenes/`` with ``anno_hand.json`` (18 texts with outlines) and ``mosaic_val_1800.tif`` with the
class of each cell, and ``aid_rsicd/images/`` whose folders name the 30 classes, 18 of which the mosaic has.
Rendered landscapes of unseen seeds come with exact outlines.

Every window that a setting needs is embedded once and kept in ``--cache``. Settings differ from ``fast`` in
one thing. Gains are over the first setting and paired: the same queries are drawn for both. Nothing is
timed. Prints tables, then the record; ``--record`` also appends it to benchmarks/results/<device>/.
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.archive.presence import separation
from lrsclip_rt.benchmarking import append_record, make_record
from lrsclip_rt.cpu import available_cpus
from lrsclip_rt.demonstration.judging import outlines_of
from lrsclip_rt.embedder import Embedder, load
from lrsclip_rt.localization import FastOptions, Localization, localize_scene
from lrsclip_rt.localization.presence import BEST_WINDOWS
from lrsclip_rt.localization.selo_annotations import Outline, mosaic_from_file, selo_annotations_from_file
from lrsclip_rt.localization.selo_evaluation import class_phrase, levels_of, mosaic_precisions
from lrsclip_rt.localization.selo_metrics import SeloScores, score_levels
from lrsclip_rt.raster import Scene, open_scene, scene_from_array
from lrsclip_rt.rendering import PHRASES, TEST_SEEDS, render_scene

RESULTS = Path(__file__).resolve().parent / "results"
INDICATORS = ("rsu", "ras", "rda", "rmi", "roc_auc")
LARGE_PX = 2000
"""Scenes with a side of this length count for the target on the cost."""


@dataclass(frozen=True)
class Setting:
    """One way to localize."""

    name: str
    mode: str = "fast"
    fast: FastOptions = field(default_factory=FastOptions)


SETTINGS = (
    Setting("selo", "selo"),
    Setting("fast"),
    Setting("fast, no refinement", fast=FastOptions(refine=0.0)),
    Setting("fast, all refined", fast=FastOptions(refine=1.0)),
    Setting("fast, from 512 px", fast=FastOptions(scales=(512, 256, 128))),
    Setting("fast, overlap 0.5", fast=FastOptions(overlap=0.5)),
    Setting("fast, rotations", fast=FastOptions(rotations=True)),
)


@dataclass(frozen=True)
class Case:
    """A scene and the outlines of what each text means."""

    name: str
    path: Path | None
    pixels: NDArray[np.uint8] | None
    texts: tuple[str, ...]
    outlines: tuple[tuple[Outline, ...], ...]

    def opened(self) -> Scene:
        if self.path is not None:
            return open_scene(self.path)
        assert self.pixels is not None
        return scene_from_array(self.pixels)


class CachedModel:
    """The model, with embeddings of windows kept by the hash of their pixels."""

    def __init__(self, model: Embedder, folder: Path) -> None:
        self.bundle = model.bundle
        self._model = model
        self._file = folder / f"{model.identity[:16]}-{model.precision}.npz"
        self._rows: dict[str, NDArray[np.float32]] = {}
        if self._file.is_file():
            with np.load(self._file) as stored:
                self._rows = dict(zip(stored["keys"].tolist(), stored["rows"], strict=True))

    @property
    def spec(self) -> Any:
        return self._model.spec

    def embed_texts(self, texts: str | Sequence[str]) -> NDArray[np.float32]:
        return self._model.embed_texts(texts)

    def stream_images(self, items: Any, *, batch_size: int = 32) -> Iterator[Any]:
        from lrsclip_rt.image_stream import EmbeddedBatch

        items = iter(items)
        while part := list(islice(items, batch_size)):
            names = [hashlib.sha256(str(p.shape).encode() + p.tobytes()).hexdigest()[:32] for _, p in part]
            new = {name: p for name, (_, p) in zip(names, part, strict=True) if name not in self._rows}
            if new:
                rows = self._model.embed_images(list(new.values()))
                self._rows |= dict(zip(new, rows, strict=True))
            keys = [key for key, _ in part]
            rows = np.stack([self._rows[name] for name in names])
            yield EmbeddedBatch(keys=keys, embeddings=rows, failures=[])

    def save(self) -> None:
        keys, rows = list(self._rows), list(self._rows.values())
        np.savez(self._file, keys=np.array(keys), rows=np.array(rows, np.float32))


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
        cached.save()
    print_tables(results)
    record = make_record(
        "localization_quality",
        threads=arguments.threads or available_cpus(),
        settings={
            "model": model.spec.name,
            "identity": model.identity,
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


def annotated_cases(folder: Path) -> Iterator[Case]:
    for name, queries in selo_annotations_from_file(folder / "anno_hand.json").by_scene().items():
        texts = tuple(query.caption for query in queries)
        yield Case(name, folder / name, None, texts, tuple(query.outlines for query in queries))


def rendered_cases(count: int) -> Iterator[Case]:
    for seed in TEST_SEEDS[:count]:
        scene = render_scene(seed)
        names = [thing.name for thing in scene.objects]
        outlines = tuple(tuple(outlines_of(scene, name)) for name in names)
        yield Case(f"seed {seed}", None, scene.pixels, tuple(PHRASES[name] for name in names), outlines)


def measured_group(
    model: CachedModel, settings: Sequence[Setting], cases: Sequence[Case], group: str, *, resamples: int
) -> list[dict[str, Any]]:
    """Score every query under every setting, and each setting against the first of them."""
    rows, yardstick = [], None
    for setting in settings:
        scores: list[SeloScores] = []
        windows: dict[str, int] = {}
        for case in cases:
            with case.opened() as scene:
                found = localized(model, scene, case.texts, setting)
            windows[case.name] = len(found.embedding) * (4 if setting.fast.rotations else 1)
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
                "windows": windows,
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
    return localize_scene(model, scene, texts, mode=setting.mode, fast=setting.fast)


def paired_gain(differences: NDArray[np.float64], resamples: int) -> list[float]:
    """Mean difference over the queries, and its 95 % interval from resampled queries."""
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, len(differences), (resamples, len(differences)))
    low, high = np.percentile(differences[drawn].mean(axis=1), [2.5, 97.5])
    return [float(differences.mean()), float(low), float(high)]


def measured_mosaic(model: CachedModel, setting: Setting, data: Path) -> dict[str, Any]:
    """Ask for all classes of the images, those that the mosaic lacks included, in one call."""
    truth = mosaic_from_file(data / "scenes" / "mosaic_val_1800.json")
    names = sorted(folder.name for folder in (data / "aid_rsicd" / "images").iterdir() if folder.is_dir())
    with open_scene(data / "scenes" / "mosaic_val_1800.tif") as scene:
        found = localized(model, scene, [class_phrase(name) for name in names], setting)
        own = localized(model, scene, [class_phrase(name) for name in truth.names], setting)
    there = np.array([name in truth.names for name in names])
    presence = np.array([heat.presence.score for heat in found.heatmaps if heat.presence is not None])
    kept = [index for index, name in enumerate(names) if name in truth.names]
    subset = replace(found, heatmaps=tuple(found[index] for index in kept)) if found.cells is None else None
    precisions = mosaic_precisions(own, truth)
    return {
        "what": "mosaic",
        "setting": setting.name,
        "classes_asked": len(names),
        "windows": len(found.embedding) * (4 if setting.fast.rotations else 1),
        "windows_own_classes": len(own.embedding) * (4 if setting.fast.rotations else 1),
        "map_own_classes": float(np.mean(list(precisions.values()))),
        "map": None
        if subset is None or [names[index] for index in kept] != list(truth.names)
        else float(np.mean(list(mosaic_precisions(subset, truth).values()))),
        "presence_auc": separation(presence[there], presence[~there]),
        "presence_windows": BEST_WINDOWS,
    }


def print_tables(results: Sequence[dict[str, Any]]) -> None:
    for group in ("annotated", "rendered"):
        rows = [row for row in results if row["what"] == group]
        if rows:
            print(
                f"\n{group:24} {'windows':>8} "
                + " ".join(f"{name:>8}" for name in INDICATORS)
                + "   gain of AUC"
            )
        for row in rows:
            gain = row["gain"]["roc_auc"]
            print(
                f"{row['setting']:24} {sum(row['windows'].values()):8} "
                + " ".join(f"{row[name]:8.3f}" for name in INDICATORS)
                + f"   {gain[0]:+.3f} [{gain[1]:+.3f}, {gain[2]:+.3f}]"
            )
    print(f"\n{'mosaic':24} {'windows':>8} {'mAP':>8} {'presence AUC':>13}")
    for row in (row for row in results if row["what"] == "mosaic"):
        print(
            f"{row['setting']:24} {row['windows_own_classes']:8} {row['map_own_classes']:8.3f} "
            f"{row['presence_auc']:13.3f}"
        )


if __name__ == "__main__":
    main()

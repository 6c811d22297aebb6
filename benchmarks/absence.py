"""Is "nothing here" an answer? Archives of real images with one class left out, asked for that class.

    python benchmarks/absence.py ../shared/data/aid_rsicd                  # the built-in model
    python benchmarks/absence.py DATA -b BUNDLE --record
    python benchmarks/absence.py DATA -b BUNDLE --store                    # and keep the threshold

DATA holds ``pairs.jsonl`` with classes and a val split. An archive is made of all images, and one more for
each class of all images but its own. A query is present in the first and absent from the archive without its
class. Queries are the class names in the bundle's prompt templates, in other words, and the captions.

Rules that decide on a number are compared at the threshold that accepts 90 % of present queries of a kind;
the rule in use, the mean cosine of the ten best rows (fewer in small archives), must agree with what
``Archive.search`` finds. One threshold for all, prompts and captions weighing the same, is calibrated on
four fifths of the classes and judged on the rest, five times, and then on all; that of the rule in use is
stored. What it says where an archive holds but a few images of the class is told too.

Nothing is timed. Prints tables, then the record; ``--record`` also appends it to
benchmarks/results/<device>/absence.jsonl.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.archive import Archive, ArchiveWriter, ContentRecord, ModelRecord, NewTile, Producer
from lrsclip_rt.archive.presence import ACCEPTED, acceptance, calibrated_threshold, presence_hits, separation
from lrsclip_rt.benchmarking import append_record, make_record
from lrsclip_rt.bundle import MANIFEST_FILE
from lrsclip_rt.cpu import available_cpus
from lrsclip_rt.datasets import PairSet, pair_set_from_folder
from lrsclip_rt.embedder import Embedder, load
from lrsclip_rt.errors import InputError
from lrsclip_rt.intervals import Interval, mean_interval
from lrsclip_rt.task_answers import class_phrase
from lrsclip_rt.tiles import Window

RESULTS = Path(__file__).resolve().parent / "results"
TARGET = 0.25
"""Most absent queries that may be accepted."""
IN_USE = "mean of ten best"
OTHER_WORDS = ("{}", "there is a {} in the picture", "a {} seen from above")
BACKGROUND = ("a satellite photo", "an aerial image", "a picture of the ground", "land seen from above")
FOLDS = 5
AVERAGED = {IN_USE: 10, "mean of three best": 3, "best": 1}
"""Rules that differ in how many rows they average."""
FEW = (1, 3, 10)
"""Images of a class that are left in an archive, to see what the threshold says of rare things."""
CALIBRATED_ON = ("prompts", "captions")
SETTINGS = ("split", "bank", "resamples", "seed")

Floats = NDArray[np.float32]
Values = dict[str, NDArray[np.float64]]


@dataclass(frozen=True, eq=False)
class Queries:
    """Queries of one kind.

    Attributes:
        kind: For people.
        vectors: (Q, D) float32.
        classes: (Q,) the class that each asks for.
    """

    kind: str
    vectors: Floats
    classes: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Yardsticks:
    """What rules besides the one in use look at: a bank of other images, and a background text."""

    bank: Floats
    background: Floats


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with pairs.jsonl")
    parser.add_argument("-b", "--bundle", type=Path, help="default: the built-in bundle")
    parser.add_argument("--precision", help="default: the bundle's")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--split", default="val")
    parser.add_argument(
        "--bank", type=int, default=512, help="images of other splits for the rule with a bank"
    )
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--store", action="store_true", help="write the threshold into the bundle")
    parser.add_argument("--record", action="store_true", help="append the record to the results")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()

    model = load(
        arguments.bundle,
        backend=arguments.backend,
        precision=arguments.precision,
        threads=arguments.threads,
    )
    pairs = pair_set_from_folder(arguments.data, split=arguments.split)
    names = sorted({item.category for item in pairs.items if item.category})
    if len(names) < FOLDS:
        raise InputError(f"{arguments.data} names {len(names)} classes, expected {FOLDS} or more")
    classes = np.array([names.index(item.category) for item in pairs.items])
    images = embedded(model, pairs).astype(np.float16).astype(np.float32)
    yardsticks = make_yardsticks(model, arguments)
    kinds = make_queries(model, pairs, names, classes)

    rows: list[dict[str, Any]] = []
    measurements: list[tuple[Queries, Values, Values]] = []
    for queries in kinds:
        present, absent = measured(queries, images, classes, yardsticks, len(names))
        check_against_archives(queries, images, classes, present[IN_USE], absent[IN_USE], len(names))
        measurements.append((queries, present, absent))
        rows += rule_rows(queries, present, absent, arguments)
    verdicts = [
        one_threshold(rule, measurements, len(names), seed=arguments.seed) for rule in measurements[0][1]
    ]
    verdict = next(found for found in verdicts if found["rule"] == IN_USE)
    few = [
        few_images(count, found, kinds, images, classes, seed=arguments.seed)
        for found in verdicts
        if found["rule"] in AVERAGED
        for count in FEW
    ]
    print_tables(rows, verdicts, few)
    if arguments.store:
        store(model, verdict["threshold"])

    settings = {
        "model": model.spec.name,
        "identity": model.identity,
        "precision": model.precision,
        "backend": model.backend,
        "data": arguments.data.resolve().name,
        "images": len(images),
        "classes": len(names),
        "accepted": ACCEPTED,
        **{name: getattr(arguments, name) for name in SETTINGS},
    }
    threads = arguments.threads or available_cpus()
    record = make_record("absence", threads=threads, settings=settings, results=[*rows, *verdicts, *few])
    if arguments.record:
        append_record(record, arguments.results)
    print(record.to_json())


def embedded(model: Embedder, pairs: PairSet, indices: Sequence[int] | None = None) -> Floats:
    items = pairs.items if indices is None else [pairs.items[index] for index in indices]
    return model.embed_images([pairs.image_path(item) for item in items])


def make_yardsticks(model: Embedder, arguments: argparse.Namespace) -> Yardsticks:
    """Images of other splits, drawn by a seed, and the mean of texts that fit any image."""
    everything = pair_set_from_folder(arguments.data)
    others = [i for i, item in enumerate(everything.items) if item.split != arguments.split]
    generator = np.random.default_rng(arguments.seed)
    chosen = generator.permutation(others)[: arguments.bank].tolist()
    texts = model.embed_texts(list(BACKGROUND)).mean(axis=0)
    return Yardsticks(embedded(model, everything, chosen), texts / np.linalg.norm(texts))


def make_queries(
    model: Embedder, pairs: PairSet, names: Sequence[str], classes: NDArray[np.int64]
) -> list[Queries]:
    def asked(kind: str, templates: Sequence[str]) -> Queries:
        texts = [template.replace("{}", class_phrase(name)) for name in names for template in templates]
        owners = np.repeat(np.arange(len(names)), len(templates))
        return Queries(kind, model.embed_texts(texts), owners)

    captions = [(text, classes[i]) for i, item in enumerate(pairs.items) for text in item.short]
    texts = model.embed_texts([text for text, _ in captions])
    return [
        asked("prompts", model.spec.templates),
        asked("other words", OTHER_WORDS),
        Queries("captions", texts, np.array([owner for _, owner in captions])),
    ]


def measured(
    queries: Queries, images: Floats, classes: NDArray[np.int64], yardsticks: Yardsticks, count: int
) -> tuple[Values, Values]:
    """What every rule gives each query: with its class in the archive, and without."""
    present = rule_values(queries.vectors, images, yardsticks)
    absent = {name: np.empty(len(queries.vectors)) for name in present}
    for number in range(count):
        own = queries.classes == number
        if own.any():
            found = rule_values(queries.vectors[own], images[classes != number], yardsticks)
            for name, values in found.items():
                absent[name][own] = values
    return present, absent


def rule_values(queries: Floats, images: Floats, yardsticks: Yardsticks) -> Values:
    """One number a query for each rule: (Q,) float64."""
    scores = (queries @ images.T).astype(np.float64)
    ordered = -np.sort(-scores, axis=1)
    best, ten = ordered[:, 0], ordered[:, : presence_hits(len(images))].mean(axis=1)
    mean, deviation = scores.mean(axis=1), scores.std(axis=1)
    bank = (queries @ yardsticks.bank.T).astype(np.float64)
    relative = -np.sort(-(scores - images @ yardsticks.background), axis=1)
    return {
        IN_USE: ten,
        "mean of three best": ordered[:, :3].mean(axis=1),
        "best": best,
        "z of the best": (best - mean) / deviation,
        "z of ten best": (ten - mean) / deviation,
        "ten best minus archive mean": ten - mean,
        "ten best minus background text": relative[:, :10].mean(axis=1),
        "ten best minus bank mean": ten - bank.mean(axis=1),
        "z of ten best over the bank": (ten - bank.mean(axis=1)) / bank.std(axis=1),
    }


def check_against_archives(
    queries: Queries,
    images: Floats,
    classes: NDArray[np.int64],
    present: NDArray[np.float64],
    absent: NDArray[np.float64],
    count: int,
) -> None:
    """The rule in use as an archive applies it must give what NumPy gives.

    Raises:
        InputError: If it does not.
    """
    for number in (None, *range(count)):
        own = np.flatnonzero(queries.classes == number)[:3] if number is not None else np.arange(3)
        if not len(own):
            continue
        kept = images if number is None else images[classes != number]
        expected = present[own] if number is None else absent[own]
        found = presences(kept, queries.vectors[own])
        if not np.allclose(found, expected, atol=1e-5):
            raise InputError(f"an archive finds presences {found}, NumPy {expected}")


def presences(images: Floats, queries: Floats) -> list[float]:
    """What ``Archive.search`` calls presence, from an archive of whole images."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "archive"
        model = ModelRecord("00" * 32, "absence", images.shape[1])
        with ArchiveWriter(path, model, Producer("fp32", "any")) as writer:
            source = writer.add_source(ContentRecord("00" * 32, 1, len(images), 1))
            tiles = [NewTile(0, Window(column, 0, 1, 1)) for column in range(len(images))]
            writer.append(source, tiles, images)
            writer.commit()
        with Archive.open(path) as archive:
            found = archive.search(queries, 1, merge=False)
    return [hits.presence for hits in found if hits.presence is not None]


def rule_rows(
    queries: Queries, present: Values, absent: Values, arguments: argparse.Namespace
) -> list[dict[str, Any]]:
    rows = []
    for name, there in present.items():
        threshold = calibrated_threshold({queries.kind: there})
        accepted = acceptance(threshold, there, absent[name])
        rows.append(
            {
                "what": "rule",
                "rule": name,
                "queries": queries.kind,
                "count": len(there),
                "threshold": threshold,
                "present_accepted": 100 * accepted.present,
                "absent_accepted": 100 * accepted.absent,
                "interval": dataclasses.asdict(interval(queries, absent[name] >= threshold, arguments)),
                "auc": separation(there, absent[name]),
            }
        )
    return rows


def interval(queries: Queries, wrong: NDArray[np.bool_], arguments: argparse.Namespace) -> Interval:
    """Classes are resampled, not queries: the captions of a class are much alike."""
    shares = [100 * wrong[queries.classes == number].mean() for number in np.unique(queries.classes)]
    return mean_interval(shares, resamples=arguments.resamples, seed=arguments.seed)


def one_threshold(
    rule: str, measurements: Sequence[tuple[Queries, Values, Values]], count: int, *, seed: int
) -> dict[str, Any]:
    """One threshold for all kinds: on classes that it was not calibrated on, and calibrated on all."""
    folds = np.random.default_rng(seed).permutation(count) % FOLDS
    outside: dict[str, list[tuple[bool, bool]]] = {queries.kind: [] for queries, _, _ in measurements}
    for fold in range(FOLDS):
        threshold = calibrated_threshold(
            {
                queries.kind: present[rule][folds[queries.classes] != fold]
                for queries, present, _ in measurements
                if queries.kind in CALIBRATED_ON
            }
        )
        for queries, present, absent in measurements:
            held = folds[queries.classes] == fold
            decisions = zip(present[rule][held] >= threshold, absent[rule][held] >= threshold, strict=True)
            outside[queries.kind] += decisions
    threshold = calibrated_threshold(
        {queries.kind: present[rule] for queries, present, _ in measurements if queries.kind in CALIBRATED_ON}
    )
    shares = {
        queries.kind: acceptance(threshold, present[rule], absent[rule])
        for queries, present, absent in measurements
    }
    return {
        "what": "one threshold",
        "rule": rule,
        "in_use": rule == IN_USE,
        "threshold": math.floor(1e4 * threshold) / 1e4,
        "all_classes": {kind: percentages(found.present, found.absent) for kind, found in shares.items()},
        "held_out_classes": {
            kind: percentages(*np.mean(decisions, axis=0).tolist()) for kind, decisions in outside.items()
        },
        "target": 100 * TARGET,
        "reached": all(found.absent <= TARGET for found in shares.values()),
    }


def few_images(
    count: int,
    verdict: Mapping[str, Any],
    kinds: Sequence[Queries],
    images: Floats,
    classes: NDArray[np.int64],
    *,
    seed: int,
) -> dict[str, Any]:
    """What the one threshold of a rule accepts where ``count`` images of a class are left."""
    generator = np.random.default_rng(seed)
    kept = {}
    for number in np.unique(classes).tolist():
        drawn = generator.permutation(np.flatnonzero(classes == number))[:count]
        kept[number] = np.concatenate([np.flatnonzero(classes != number), drawn])
    rule, threshold = verdict["rule"], verdict["threshold"]
    accepted = {}
    for queries in kinds:
        decisions = []
        for number, rows in kept.items():
            scores = queries.vectors[queries.classes == number] @ images[rows].T
            decisions.append((-np.sort(-scores, axis=1))[:, : AVERAGED[rule]].mean(axis=1) >= threshold)
        accepted[queries.kind] = 100 * float(np.concatenate(decisions).mean())
    return {
        "what": "few images",
        "rule": rule,
        "images": count,
        "threshold": threshold,
        "present_accepted": accepted,
    }


def percentages(present: float, absent: float) -> dict[str, float]:
    return {"present_accepted": 100 * present, "absent_accepted": 100 * absent}


def store(model: Embedder, threshold: float) -> None:
    """Write the threshold into bundle.json; identity and files stay as they are."""
    manifest = dataclasses.replace(model.bundle.manifest, presence_threshold=threshold)
    path = model.bundle.path / MANIFEST_FILE
    path.write_text(manifest.to_json(), encoding="utf-8")
    print(f"\nthreshold {threshold:.4f} is stored in {path.name} of {model.spec.name}")


def print_tables(
    rows: Sequence[Mapping[str, Any]],
    verdicts: Sequence[Mapping[str, Any]],
    few: Sequence[Mapping[str, Any]],
) -> None:
    print(f"absent queries accepted where {100 * ACCEPTED:.0f} % of present ones are [%]\n")
    print(f"{'rule':32} {'queries':12} {'count':>6} {'threshold':>10} {'absent':>7} {'95 %':>14} {'AUC':>6}")
    for row in rows:
        between = f"{row['interval']['low']:.1f} - {row['interval']['high']:.1f}"
        print(
            f"{row['rule']:32} {row['queries']:12} {row['count']:6} {row['threshold']:10.3f} "
            f"{row['absent_accepted']:7.1f} {between:>14} {row['auc']:6.3f}"
        )
    print("\none threshold for all: present and absent queries accepted, of held-out classes [%]\n")
    kinds = list(verdicts[0]["held_out_classes"])
    print(f"{'rule':32} {'threshold':>10}" + "".join(f"{kind:>22}" for kind in kinds))
    for found in verdicts:
        shares = [found["held_out_classes"][kind] for kind in kinds]
        cells = [f"{share['present_accepted']:.1f} / {share['absent_accepted']:.1f}" for share in shares]
        print(f"{found['rule']:32} {found['threshold']:10.3f}" + "".join(f"{cell:>22}" for cell in cells))
    print("\npresent queries accepted by the same thresholds where few images of the class are there [%]\n")
    for found in few:
        title = f"{found['rule']}, {found['images']} images"
        shares = [found["present_accepted"][kind] for kind in kinds]
        print(f"{title:32} {found['threshold']:10.3f}" + "".join(f"{share:>22.1f}" for share in shares))


if __name__ == "__main__":
    main()

"""The demonstration on a user's images: general queries, without a truth to hold the answers against."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lrsclip_rt.archive import Archive, Where
from lrsclip_rt.demonstration.asking import (
    Say,
    Stopwatch,
    ask,
    index_into,
    localized,
    machine_name,
    model_facts,
    warm_archive,
)
from lrsclip_rt.demonstration.precision_facts import facts_of_precisions
from lrsclip_rt.demonstration.results import Answer, DemoScene, FoundPlace, LocatedText, Story
from lrsclip_rt.errors import LrsclipError
from lrsclip_rt.localization.windows import SELO_STEPS
from lrsclip_rt.rendering import PHRASES

if TYPE_CHECKING:
    from lrsclip_rt.embedder import Embedder

__all__ = ["GENERAL_QUERIES", "LARGEST_LOCALIZED_PX", "tell_own_story"]

GENERAL_QUERIES = (
    *PHRASES.values(),
    "a railway station with many tracks",
    "a dense city centre with tall buildings",
    "a stadium",
    "a park with paths and lawns",
    "snow and ice",
    "clouds over the land",
    "open water",
)
"""Asked of any folder; what is not there is answered with the nearest all the same."""

HITS = 4
SHEET = 24
"""Pictures of the contact sheet at most."""
LOCALIZED_TEXTS = 3

LARGEST_LOCALIZED_PX = 64_000_000
"""Larger images are left to ``lrsclip localize``, since a demonstration should not take minutes more."""


@dataclass(frozen=True, slots=True)
class _Source:
    path: Path
    height: int
    width: int
    gsd_m: float | None


def tell_own_story(model: Embedder, folder: Path, images: Path, *, say: Say = lambda message: None) -> Story:
    """Index a folder of images and rasters, ask, and localize in the largest of them.

    Args:
        model: Answers.
        folder: From ``prepare_folder``.
        images: The folder to index.
        say: Told what happens next.

    Raises:
        LrsclipError: If anything but a single image fails; broken images are listed in the story.
    """
    watch = Stopwatch()
    say(f"Indexing {images} with {model.spec.name} ({model.precision} on {model.backend}) ...")
    report = index_into(folder / "archive", [images], model, watch, say=say)
    failures = list(report.failures)
    answers: tuple[Answer, ...] = ()
    scenes: tuple[DemoScene, ...] = ()
    located: tuple[LocatedText, ...] = ()
    sources: list[_Source] = []
    if report.rows:
        say("Asking ...")
        with warm_archive(folder / "archive", model) as archive:
            sources = _sources(archive)
            answers = tuple(_answer(model, archive, images, text, watch) for text in GENERAL_QUERIES)
            largest = _largest(sources)
            texts = [] if largest is None else _strongest(model, archive, largest.path)
        if largest is not None and texts:
            say(f"Localizing in {largest.path.name} ...")
            try:
                maps = localized(model, largest.path, texts, watch, steps=SELO_STEPS)
                scenes = (_scene(largest, images),)
                located = tuple(LocatedText(0, heatmap) for heatmap in maps)
            except LrsclipError as error:
                failures.append((str(largest.path), str(error)))
    return Story(
        model=model_facts(model),
        scenes=scenes,
        answers=tuple(sorted(answers, key=_standing_out, reverse=True)),
        rankings=(),
        example=None,
        absent=None,
        located=located,
        timings=watch.timings(),
        machine=machine_name(model),
        folder=folder,
        images=images,
        sources=len(sources),
        sheet=_spread([source.path for source in sources]),
        precisions=facts_of_precisions(model),
        failures=tuple(failures),
    )


def _answer(model: Embedder, archive: Archive, images: Path, text: str, watch: Stopwatch) -> Answer:
    hits, elapsed = ask(archive, lambda: model.embed_texts([text]), watch, k=HITS)
    places = tuple(FoundPlace(hit, _title(Path(hit.source), images)) for hit in hits)
    least = model.bundle.manifest.presence_threshold
    here = None if least is None or hits.presence is None else hits.presence >= least
    return Answer(text, places, elapsed, hits.presence, here=here)


def _standing_out(answer: Answer) -> tuple[bool, float]:
    return answer.here is True, answer.places[0].hit.z if answer.places else float("-inf")


def _spread(paths: list[Path]) -> tuple[Path, ...]:
    """At most ``SHEET`` of them, the first and evenly spread others."""
    count = min(SHEET, len(paths))
    return tuple(paths[i * len(paths) // count] for i in range(count))


def _title(path: Path, images: Path) -> str:
    """A file's path below the user's folder."""
    root = images.absolute()
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name


def _sources(archive: Archive) -> list[_Source]:
    query = "SELECT source, height, width, gsd_m FROM sources ORDER BY source"
    return [
        _Source(Path(archive.catalog.path_text(source)), height, width, gsd_m)
        for source, height, width, gsd_m in archive.catalog.rows(query)
    ]


def _largest(sources: list[_Source]) -> _Source | None:
    """The largest image that a demonstration localizes in; the first of equal ones."""
    fitting = [s for s in sources if s.height * s.width <= LARGEST_LOCALIZED_PX]
    return max(fitting, key=lambda s: s.height * s.width, default=None)


def _strongest(model: Embedder, archive: Archive, path: Path) -> list[str]:
    """The queries that stand out most among this image's tiles, compared with all tiles."""
    rows = model.embed_texts(GENERAL_QUERIES)
    found = archive.search(rows, k=1, where=Where(sources=[str(path)]))
    ranked = sorted(
        ((hits[0].z, text) for hits, text in zip(found, GENERAL_QUERIES, strict=True) if len(hits)),
        key=lambda entry: -entry[0],
    )
    return [text for _, text in ranked[:LOCALIZED_TEXTS]]


def _scene(source: _Source, images: Path) -> DemoScene:
    return DemoScene(_title(source.path, images), source.path, source.height, source.width, source.gsd_m)

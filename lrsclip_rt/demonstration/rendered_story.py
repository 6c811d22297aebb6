"""The demonstration on rendered scenes: every answer is held against the exact truth."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lrsclip_rt.archive import Archive, Hits
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
from lrsclip_rt.demonstration.judging import outlines_of, point_inside, shown_classes
from lrsclip_rt.demonstration.precision_facts import facts_of_precisions
from lrsclip_rt.demonstration.results import Answer, DemoScene, FoundPlace, LocatedText, SceneRanking, Story
from lrsclip_rt.demonstration.scenes import ABSENT_CLASS, SCENE_SEEDS, SCENE_SIDE, write_scenes
from lrsclip_rt.rendering import CLASSES, PHRASES, TEST_SEEDS, render_tile

if TYPE_CHECKING:
    from lrsclip_rt.embedder import Embedder

__all__ = ["tell_rendered_story"]

HITS = 4
"""Hits shown of a short query."""

USUAL_CONTEXT = 77
"""Tokens that most CLIP models read."""

EXAMPLE_CLASS = "storage_tanks"
EXAMPLE_SEED = TEST_SEEDS[0]

DRAWN_MAPS = 6
"""Heat maps in the report; all classes of all scenes are localized and count."""

DRAWN_FIRST = ("harbour", "sports_ground", "beach", "forest", "airport", "residential", "bridge", "pond")
"""Classes whose maps are drawn rather than others', chosen by their looks alone."""


def tell_rendered_story(
    model: Embedder,
    folder: Path,
    *,
    seeds: Sequence[int] = SCENE_SEEDS,
    side: int = SCENE_SIDE,
    tile: int = 256,
    say: Say = lambda message: None,
) -> Story:
    """Render scenes into a prepared folder, index them, ask, localize, and compare with the truth.

    Args:
        model: Answers.
        folder: From ``prepare_folder``.
        seeds: One a scene.
        side: Edge of a scene [px].
        tile: Edge of the archive's tiles and of the smallest window of the heat maps [px].
        say: Told what happens next.

    Raises:
        LrsclipError: If anything on the way fails.
    """
    watch = Stopwatch()
    say(f"Rendering {len(seeds)} scenes of {side} x {side} px ...")
    (folder / "scenes").mkdir()
    scenes = write_scenes(folder / "scenes", seeds=seeds, side=side)
    say(f"Indexing them with {model.spec.name} ({model.precision} on {model.backend}) ...")
    report = index_into(folder / "archive", [folder / "scenes"], model, watch, tiles=(tile,), say=say)
    say("Asking ...")
    with warm_archive(folder / "archive", model) as archive:
        answers = tuple(_short_answer(model, archive, scenes, name, watch) for name in _present(scenes))
        example = _example_answer(model, archive, scenes, watch)
        absent = _absent_answer(model, archive, scenes, watch)
        rankings = tuple(_ranking(model, archive, scenes, i, watch) for i in range(len(scenes)))
    say("Localizing ...")
    located = _located(model, scenes, watch, steps=(tile, 2 * tile, 3 * tile))
    return Story(
        model=model_facts(model),
        scenes=scenes,
        answers=answers,
        rankings=rankings,
        example=example,
        absent=absent,
        located=located,
        timings=watch.timings(),
        machine=machine_name(model),
        folder=folder,
        sources=len(scenes),
        precisions=facts_of_precisions(model),
        failures=tuple(report.failures),
    )


def _present(scenes: Sequence[DemoScene]) -> list[str]:
    """Classes that some scene shows, in the order of ``CLASSES``."""
    there = {name for scene in scenes for name in scene.classes}
    return [name for name in CLASSES if name in there]


def _judged(hits: Hits, scenes: Sequence[DemoScene], expected: str | None) -> tuple[FoundPlace, ...]:
    """Hits with what their tiles really show; without ``expected`` none is right or wrong."""
    by_name = {scene.path.name: scene for scene in scenes}
    places = []
    for hit in hits:
        scene = by_name[Path(hit.source).name]
        assert scene.truth is not None, "rendered scenes know their truth"
        shows = shown_classes(scene.truth, hit.window)
        places.append(FoundPlace(hit, scene.title, None if expected is None else expected in shows, shows))
    return tuple(places)


def _short_answer(
    model: Embedder, archive: Archive, scenes: Sequence[DemoScene], name: str, watch: Stopwatch
) -> Answer:
    text = PHRASES[name]
    hits, elapsed = ask(archive, lambda: model.embed_texts([text]), watch, k=HITS)
    return Answer(
        text=text,
        places=_judged(hits, scenes, name),
        query_ms=elapsed,
        presence=hits.presence,
        expected=name,
        scenes_with_it=_scenes_with(scenes, name),
    )


def _scenes_with(scenes: Sequence[DemoScene], name: str) -> int:
    return sum(scene.truth is not None and bool(outlines_of(scene.truth, name)) for scene in scenes)


def _example_answer(
    model: Embedder, archive: Archive, scenes: Sequence[DemoScene], watch: Stopwatch
) -> Answer:
    """A query by a rendered picture that is in no scene, of a class that some scene shows."""
    present = _present(scenes)
    name = EXAMPLE_CLASS if EXAMPLE_CLASS in present else present[0]
    picture = render_tile(name, EXAMPLE_SEED, size=256).pixels
    model.embed_images([picture])  # a single image may be the first of its batch size
    hits, elapsed = ask(archive, lambda: model.embed_images([picture]), watch, k=HITS)
    watch.query_ms.pop()  # shown on its own: an image query runs the other tower
    return Answer(
        text=name.replace("_", " "),
        places=_judged(hits, scenes, name),
        query_ms=elapsed,
        presence=hits.presence,
        expected=name,
        scenes_with_it=_scenes_with(scenes, name),
        example=picture,
    )


def _absent_answer(
    model: Embedder, archive: Archive, scenes: Sequence[DemoScene], watch: Stopwatch
) -> Answer | None:
    """A query for a class that no scene shows; None where they show all."""
    missing = [name for name in CLASSES if name not in _present(scenes)]
    if not missing:
        return None
    name = ABSENT_CLASS if ABSENT_CLASS in missing else missing[0]
    hits, elapsed = ask(archive, lambda: model.embed_texts([PHRASES[name]]), watch, k=HITS)
    return Answer(PHRASES[name], _judged(hits, scenes, None), elapsed, hits.presence)


def _ranking(
    model: Embedder, archive: Archive, scenes: Sequence[DemoScene], index: int, watch: Stopwatch
) -> SceneRanking:
    """How the full description of a scene ranks all scenes, each by the mean score of its tiles."""
    from lrsclip_rt.tokenizer import Tokenizer

    truth = scenes[index].truth
    assert truth is not None, "rendered scenes know their truth"
    hits, elapsed = ask(archive, lambda: model.embed_texts([truth.long]), watch, k=len(archive), merge=False)
    encoder = Tokenizer(model.bundle.vocabulary_path, context_length=USUAL_CONTEXT)
    beginning = model.embed_tokens(encoder.encode_batch([truth.long]))
    (cut,) = archive.search(beginning, k=len(archive), merge=False)
    tokens = model.tokenizer.encode_batch([truth.long])
    return SceneRanking(
        text=truth.long,
        tokens=int(tokens.eot[0]) + 1,
        expected=index,
        scores=_mean_scores(hits, scenes),
        short_scores=_mean_scores(cut, scenes),
        short_tokens=USUAL_CONTEXT,
        query_ms=elapsed,
    )


def _mean_scores(hits: Hits, scenes: Sequence[DemoScene]) -> tuple[float, ...]:
    """Mean score of each scene's tiles: every tile shows a part, the description speaks of all."""
    scores: dict[str, list[float]] = {scene.path.name: [] for scene in scenes}
    for hit in hits:
        scores[Path(hit.source).name].append(hit.score)
    return tuple(statistics.fmean(found) for found in scores.values())


def _located(
    model: Embedder, scenes: Sequence[DemoScene], watch: Stopwatch, *, steps: Sequence[int]
) -> tuple[LocatedText, ...]:
    """Every class of every scene."""
    drawn = _drawn_maps(scenes)
    found = []
    for number, scene in enumerate(scenes):
        assert scene.truth is not None, "rendered scenes know their truth"
        names = scene.classes
        maps = localized(model, scene.path, [PHRASES[name] for name in names], watch, steps=steps)
        for name, heatmap in zip(names, maps, strict=True):
            outlines = outlines_of(scene.truth, name)
            peak = heatmap.peak
            inside = peak is not None and any(point_inside(peak, outline) for outline in outlines)
            found.append(LocatedText(number, heatmap, name, outlines, inside, (number, name) in drawn))
    return tuple(found)


def _drawn_maps(scenes: Sequence[DemoScene]) -> set[tuple[int, str]]:
    """Which maps to draw: distinct classes, taken from the scenes in turn, whatever the answers are."""
    order = (*DRAWN_FIRST, *(name for name in CLASSES if name not in DRAWN_FIRST))
    drawn: set[tuple[int, str]] = set()
    for turn in range(DRAWN_MAPS * len(scenes)):
        number = turn % len(scenes)
        used = {name for _, name in drawn}
        name = next((n for n in order if n in scenes[number].classes and n not in used), None)
        if name is not None and len(drawn) < DRAWN_MAPS:
            drawn.add((number, name))
    return drawn

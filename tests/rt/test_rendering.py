"""Rendered scenes: the same for a seed, with exact truth and descriptions that agree with it."""

from __future__ import annotations

import itertools
import re
from functools import cache

import numpy as np
import pytest

from lrsclip_rt import rendering
from lrsclip_rt.errors import InputError
from lrsclip_rt.rendering import (
    CLASSES,
    DEMO_SEEDS,
    PHRASES,
    TEST_SEEDS,
    TRAIN_SEEDS,
    RenderedScene,
    contradict,
    describe_long,
    describe_short,
    render_scene,
    render_tile,
)
from lrsclip_rt.rendering.captions import NOUNS
from lrsclip_rt.rendering.descriptions import LONG_TOKENS, clip_token_count, facts_of
from lrsclip_rt.rendering.truth import COUNT_WORDS, count_phrase
from lrsclip_rt.tokenizer import Tokenizer

SEEDS = TEST_SEEDS[:3]


@cache
def tile_of(name: str, seed: int) -> RenderedScene:
    return render_tile(name, seed, size=96)


@cache
def scene_of(seed: int) -> RenderedScene:
    return render_scene(seed, height=768, width=768)


def all_scenes() -> list[RenderedScene]:
    return [
        *(tile_of(n, s) for n in CLASSES for s in SEEDS),
        scene_of(TEST_SEEDS[0]),
        scene_of(TEST_SEEDS[1]),
    ]


def sentences(text: str) -> list[str]:
    return [s for s in re.split(r"(?<=\.)\s", text) if s]


def number_of(phrase: str) -> int:
    word = phrase.split()[0].lower()
    return COUNT_WORDS.index(word) if word in COUNT_WORDS else int(word)


def test_public_names_exist_and_classes_have_phrases() -> None:
    assert all(hasattr(rendering, name) for name in rendering.__all__)
    assert 14 <= len(CLASSES) <= 16
    assert set(PHRASES) == set(CLASSES) == set(NOUNS)
    assert len(set(PHRASES.values())) == len(CLASSES)


def test_seed_ranges_share_no_seed() -> None:
    ranges = sorted((TRAIN_SEEDS, DEMO_SEEDS, TEST_SEEDS), key=lambda r: r.start)
    assert all(a.stop <= b.start for a, b in itertools.pairwise(ranges))
    assert all(len(r) > 0 for r in ranges)


@pytest.mark.parametrize("name", CLASSES)
def test_a_tile_is_the_same_for_the_same_seed_and_another_for_another(name: str) -> None:
    first, again = tile_of(name, SEEDS[0]), render_tile(name, SEEDS[0], size=96)
    assert first.pixels.tobytes() == again.pixels.tobytes()
    assert (first.objects, first.short, first.long) == (again.objects, again.short, again.long)
    assert np.abs(first.pixels.astype(int) - tile_of(name, SEEDS[1]).pixels).mean() > 3


@pytest.mark.parametrize("name", CLASSES)
def test_a_tile_is_a_picture_with_texture_and_one_object_of_its_class(name: str) -> None:
    for seed in SEEDS:
        tile = tile_of(name, seed)
        assert tile.pixels.shape == (96, 96, 3)
        assert tile.pixels.dtype == np.uint8
        assert tile.pixels.flags.c_contiguous
        assert [o.name for o in tile.objects] == [name]
        assert tile.gsd_m > 0
        assert 15 < tile.pixels.mean() < 240
        assert tile.pixels.std() > 4


def test_boxes_and_outlines_lie_inside_and_agree() -> None:
    for scene in all_scenes():
        height, width = scene.pixels.shape[:2]
        for obj in scene.objects:
            assert 0 <= obj.row_off < obj.row_off + obj.height <= height
            assert 0 <= obj.col_off < obj.col_off + obj.width <= width
            cols, rows = zip(*obj.polygon, strict=True)
            assert obj.col_off <= min(cols) <= max(cols) <= obj.col_off + obj.width
            assert obj.row_off <= min(rows) <= max(rows) <= obj.row_off + obj.height
            assert max(cols) - min(cols) > obj.width - 2.01
            assert max(rows) - min(rows) > obj.height - 2.01


def test_the_box_is_where_the_picture_differs_from_the_land() -> None:
    """Two scenes that differ in one class only must look different there, not merely say so."""
    for name in ("pond", "storage_tanks", "forest", "airport"):
        scene = render_scene(TEST_SEEDS[5], height=300, width=300, classes=[name])
        obj = scene.objects[0]
        inside = np.zeros(scene.pixels.shape[:2], dtype=bool)
        inside[obj.row_off : obj.row_off + obj.height, obj.col_off : obj.col_off + obj.width] = True
        middle = scene.pixels[obj.row_off + obj.height // 3 : obj.row_off + 2 * obj.height // 3]
        middle = middle[:, obj.col_off + obj.width // 3 : obj.col_off + 2 * obj.width // 3].reshape(-1, 3)
        land = scene.pixels[~inside]
        gap = np.abs(np.median(middle, axis=0) - np.median(land, axis=0)).max()
        assert gap > 8 or middle.std() > 1.5 * land.std(), name


def test_a_scene_holds_each_requested_class_once_and_apart() -> None:
    wanted = ["harbour", "river", "forest", "airport", "beach", "pond", "residential", "farmland"]
    scene = render_scene(TEST_SEEDS[2], height=768, width=900, classes=wanted)
    assert scene.pixels.shape == (768, 900, 3)
    assert sorted(o.name for o in scene.objects) == sorted(wanted)
    boxes = [(o.row_off, o.col_off, o.row_off + o.height, o.col_off + o.width) for o in scene.objects]
    for i, (r0, c0, r1, c1) in enumerate(boxes):
        for s0, d0, s1, d1 in boxes[i + 1 :]:
            assert r1 <= s0 or s1 <= r0 or c1 <= d0 or d1 <= c0


def test_a_default_scene_has_eight_to_ten_zones_of_useful_size() -> None:
    for seed in TEST_SEEDS[:2]:
        names = [o.name for o in scene_of(seed).objects]
        assert 8 <= len(names) == len(set(names)) <= 10
    full = render_scene(TEST_SEEDS[3])
    again = render_scene(TEST_SEEDS[3])
    assert full.pixels.tobytes() == again.pixels.tobytes()
    assert all(max(o.height, o.width) >= 120 and max(o.height, o.width) <= 340 for o in full.objects)


def test_wrong_arguments_are_refused_with_a_reason() -> None:
    with pytest.raises(InputError, match="unknown"):
        render_tile("volcano", 1)
    with pytest.raises(InputError, match="too small"):
        render_tile("pond", 1, size=8)
    with pytest.raises(InputError, match="distinct"):
        render_scene(1, classes=["pond", "pond"])
    with pytest.raises(InputError, match="room"):
        render_scene(1, height=200, width=200, classes=["pond", "river"])


def test_descriptions_name_every_object() -> None:
    for scene in all_scenes():
        for obj in scene.objects:
            assert NOUNS[obj.name].removeprefix("a ").removeprefix("an ") in scene.long.lower()
        assert describe_long(scene) == scene.long
        assert describe_short(scene) == scene.short


def test_every_count_in_a_description_is_a_count_of_the_truth() -> None:
    seen = 0
    for scene in all_scenes():
        for obj in scene.objects:
            known = {n for _, n in obj.counts}
            for fact in obj.facts:
                for slot in (s for s in fact.slots if s.kind == "count" and "lane" not in s.text):
                    phrase = re.sub(r"^(is|are) ", "", slot.text)
                    assert number_of(phrase) in known, (obj.name, phrase, obj.counts)
                    assert all(
                        number_of(re.sub(r"^(is|are) ", "", w)) != number_of(phrase) for w in slot.wrong
                    )
                    seen += 1
    assert seen > 60


def test_counts_read_naturally() -> None:
    assert count_phrase(1, "ship") == "one ship"
    assert count_phrase(12, "ship") == "twelve ships"
    assert count_phrase(31, "ship") == "31 ships"


def test_short_captions_have_the_length_of_rsicd_captions() -> None:
    for scene in all_scenes():
        words = [w for w in scene.short.split() if w != "." and w != ","]
        assert 5 <= len(words) <= 20, scene.short
        assert scene.short.endswith(" .")


def test_long_descriptions_take_80_to_220_tokens() -> None:
    texts = [scene.long for scene in all_scenes()]
    assert all(LONG_TOKENS[0] <= clip_token_count(t) <= LONG_TOKENS[1] for t in texts)
    batch = Tokenizer().encode_batch(texts)
    lengths = batch.eot + 1
    assert lengths.min() >= LONG_TOKENS[0]
    assert lengths.max() <= LONG_TOKENS[1]


def test_a_contradiction_differs_in_exactly_one_sentence() -> None:
    for scene in all_scenes():
        wrong = contradict(scene)
        assert wrong == contradict(scene)
        truth, false = sentences(scene.long), sentences(wrong)
        assert len(truth) == len(false)
        assert sum(a != b for a, b in zip(truth, false, strict=True)) == 1


def test_contradictions_touch_counts_colours_places_and_objects() -> None:
    kinds = set()
    for scene in all_scenes():
        truth, false = sentences(scene.long), sentences(contradict(scene))
        changed = next(i for i, (a, b) in enumerate(zip(truth, false, strict=True)) if a != b)
        for fact in facts_of(scene)[changed].slots:
            kinds.add(fact.kind)
    assert {"count", "colour", "position", "object"} <= kinds


def test_a_scene_of_all_classes_is_described_whole() -> None:
    scene = render_scene(TEST_SEEDS[4], height=600, width=600, classes=CLASSES)
    assert {o.name for o in scene.objects} == set(CLASSES)
    assert all(NOUNS[name].removeprefix("a ").removeprefix("an ") in scene.long.lower() for name in CLASSES)
    assert clip_token_count(scene.long) <= LONG_TOKENS[1]

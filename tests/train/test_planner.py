"""Plans of steps: who is shown, whose text is whose, and what is neither true nor false."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import training_makers as make

from lrsclip_rt.errors import InputError
from lrsclip_train.batches import Planner
from lrsclip_train.config import TrainConfig
from lrsclip_train.texts import phrases
from lrsclip_train.training_samples import Sample


def real(number: int, **texts: Any) -> Sample:
    values = {
        "category": "",
        "shorts": (f"picture {number}",),
        "long": f"A long text about picture {number}.",
    }
    return Sample(f"{number}.jpg", "real", **(values | texts))


def tile(number: int, name: str) -> Sample:
    long = f"Tile {number} shows a {name}."
    return Sample(
        f"tile-{number}", "tile", name, (f"a {name}",), long, (f"wrong of {number}", f"untrue {number}")
    )


def planner(
    tmp_path: Path,
    *sources: list[Sample],
    batch: int = 8,
    **changes: Any,
) -> Planner:
    config: TrainConfig = make.settings(tmp_path, tmp_path, "", batch=batch, **changes)
    filled = [*sources, *([[]] * (4 - len(sources)))]
    return Planner(config, filled)


def test_every_sample_is_shown_once_an_epoch_in_another_order_each_time(tmp_path: Path) -> None:
    samples = [real(number) for number in range(20)]
    plans = planner(tmp_path, samples, batch=5)
    epochs = [[draw.index for step in range(4) for draw in plans.draws(4 * epoch + step)] for epoch in (0, 1)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(20))] * 2
    assert epochs[0] != epochs[1]


def test_a_batch_that_does_not_divide_the_set_runs_over_the_end_of_the_epoch(tmp_path: Path) -> None:
    plans = planner(tmp_path, [real(number) for number in range(7)], batch=3)
    counts = Counter(draw.index for step in range(7) for draw in plans.draws(step))
    assert counts == dict.fromkeys(range(7), 3)


def test_a_plan_depends_on_seed_and_step_alone(tmp_path: Path) -> None:
    samples = [real(number, shorts=("a", f"b{number}"), category="Port") for number in range(30)]
    changes = {"data_word_drop": 0.3, "data_category_share": 0.4, "data_long_share": 0.5}
    early, late = (planner(tmp_path, samples, **changes) for _ in range(2))
    for step in range(5):
        early.plan(step)
    one, two = early.plan(6), late.plan(6)
    assert (one.draws, one.keys, one.short.texts, one.long.texts) == (
        two.draws,
        two.keys,
        two.short.texts,
        two.long.texts,
    )
    assert planner(tmp_path, samples, seed=1, **changes).plan(6).draws != one.draws


def test_shares_of_the_sources_are_kept_in_every_step(tmp_path: Path) -> None:
    mosaics = [Sample(f"m{n}", "mosaic", "", (), f"mosaic {n}") for n in range(3)]
    tiles = [tile(number, "forest") for number in range(5)]
    plans = planner(
        tmp_path, [real(n) for n in range(9)], mosaics, tiles, data_mosaic_share=0.25, data_tile_share=0.375
    )
    for step in range(6):
        assert Counter(draw.source for draw in plans.draws(step)) == {0: 3, 1: 2, 2: 3}


def test_a_share_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="2 of 8 images of a batch are tiles, but there are none"):
        planner(tmp_path, [real(1)], data_tile_share=0.25)


def test_an_image_that_cannot_be_read_gives_way_to_another_and_the_others_stay(tmp_path: Path) -> None:
    plans = planner(tmp_path, [real(number) for number in range(16)])
    whole = plans.plan(0)
    lost = whole.draws[3].index
    without = plans.plan(0, without={(0, lost)})
    assert [a == b for a, b in zip(whole.draws, without.draws, strict=True)] == [n != 3 for n in range(8)]
    assert without.draws[3].index == (lost + 1) % 16
    assert without.keys[3] == f"{(lost + 1) % 16}.jpg"
    with pytest.raises(InputError, match="not one image of a source can be read"):
        plans.draws(0, without={(0, number) for number in range(16)})


def test_texts_stay_with_their_images_and_an_image_without_one_shows_none(tmp_path: Path) -> None:
    samples = [
        real(n, shorts=() if n % 3 == 0 else (f"s{n}", f"t{n}"), long="" if n % 3 == 1 else f"long {n}")
        for n in range(12)
    ]
    plan = planner(tmp_path, samples, batch=12).plan(0)
    owners = [draw.index for draw in plan.draws]
    assert [owners[row] % 3 for row in plan.short.members].count(0) == 0
    assert {owners[row] for row in plan.long.members} == {n for n in range(12) if n % 3 != 1}
    for row, text in zip(plan.short.members, plan.short.texts, strict=True):
        assert text in samples[owners[row]].shorts
    for row, text in zip(plan.long.members, plan.long.texts, strict=True):
        assert text == samples[owners[row]].long
    assert list(plan.short.members) == sorted(plan.short.members)


def test_a_long_text_that_only_repeats_the_one_caption_is_not_shown(tmp_path: Path) -> None:
    plan = planner(tmp_path, [real(n, shorts=("words",), long="words") for n in range(8)]).plan(0)
    assert plan.long is None
    assert plan.short is not None


@pytest.mark.parametrize("multi", [True, False])
def test_an_image_owns_every_text_that_is_one_of_its_captions(tmp_path: Path, multi: bool) -> None:
    samples = [real(n, shorts=("a pond",) if n < 3 else ("a pond", f"other {n}")) for n in range(8)]
    plan = planner(tmp_path, samples, loss_multi_positive=multi).plan(0).short
    expected = np.eye(8, dtype=bool)
    if multi:
        expected |= np.array(plan.texts) == "a pond"  # every image has that caption
    assert np.array_equal(plan.positive, expected)
    assert not plan.ignore.any()


def test_equal_long_texts_are_matches_of_each_other(tmp_path: Path) -> None:
    samples = [real(n, long="the same words" if n % 2 else f"own words {n}") for n in range(8)]
    plan = planner(tmp_path, samples).plan(0).long
    texts = np.array(plan.texts)
    assert np.array_equal(plan.positive, texts[:, None] == texts[None, :])
    assert plan.positive.sum() == 4 * 4 + 4


def test_a_prompt_with_the_class_name_belongs_to_all_images_of_the_class(tmp_path: Path) -> None:
    samples = [real(n, category="StorageTanks" if n < 5 else "") for n in range(8)]
    plan = planner(tmp_path, samples, data_category_share=1.0).plan(0).short
    said = phrases("StorageTanks")
    prompted = np.array([any(phrase in text for phrase in said) for text in plan.texts])
    assert prompted.sum() == 5
    expected = np.eye(8, dtype=bool) | (prompted[:, None] & prompted[None, :])
    assert np.array_equal(plan.positive, expected)


def test_tiles_of_one_class_and_images_of_what_they_depict_are_neither_true_nor_false(tmp_path: Path) -> None:
    tiles = [tile(0, "harbour"), tile(1, "harbour"), tile(2, "forest"), tile(3, "desert")]
    # Other words for each, so that nothing is a match by its text.
    tiles = [Sample(t.key, t.source, t.category, (f"tile text {t.key}",), t.long) for t in tiles]
    photos = [real(n, category=name) for n, name in enumerate(("Port", "Forest", "School", "Desert"))]
    plan = planner(tmp_path, photos, [], tiles, data_tile_share=0.5).plan(0)
    names = [(photos if draw.source == 0 else tiles)[draw.index].category for draw in plan.draws]
    same = {("harbour", "harbour"), ("harbour", "Port"), ("forest", "Forest"), ("desert", "Desert")}
    known = np.array([[(a, b) in same or (b, a) in same for b in names] for a in names])
    expected = known & ~np.eye(8, dtype=bool)
    assert np.array_equal(plan.short.ignore, expected)
    assert expected.sum() == 2 + 4 + 2 + 2
    assert np.array_equal(plan.short.positive, np.eye(8, dtype=bool))


def test_a_hard_negative_contradicts_a_shown_text_and_belongs_to_no_image(tmp_path: Path) -> None:
    tiles = [tile(number, "pond") for number in range(8)]
    plans = planner(
        tmp_path, [real(n) for n in range(8)], [], tiles, data_tile_share=0.5, data_hard_negatives=1.0
    )
    plan = plans.plan(0)
    long = plan.long
    wrong = long.texts[len(long.members) :]
    assert len(wrong) == len(long.wrong_of) == 4
    for text, place in zip(wrong, long.wrong_of, strict=True):
        draw = plan.draws[long.members[place]]
        assert draw.source == 2
        assert text in tiles[draw.index].wrong
    assert not long.positive[:, len(long.members) :].any()
    assert np.array_equal(long.positive[:, : len(long.members)], np.eye(8, dtype=bool))
    assert plans.plan(0, long=False).long is None
    none = planner(tmp_path, [real(n) for n in range(8)], [], tiles, data_tile_share=0.5).plan(0)
    assert none.long.wrong_of == ()


def test_words_are_left_out_of_what_is_shown_and_never_all_of_them(tmp_path: Path) -> None:
    caption = "many planes are parked beside a long terminal building"
    samples = [real(n, shorts=(f"{caption} {n}", "pond")) for n in range(8)]
    plan = planner(tmp_path, samples, data_word_drop=0.6).plan(0).short
    assert plan.texts != plan.unthinned
    for thinned, whole in zip(plan.texts, plan.unthinned, strict=True):
        words = iter(whole.split())
        assert thinned
        assert all(word in words for word in thinned.split())  # in order


def test_a_branch_without_weight_is_not_planned(tmp_path: Path) -> None:
    plans = planner(tmp_path, [real(n) for n in range(8)])
    assert plans.plan(0, short=False).short is None
    assert plans.plan(0, long=False).long is None
    whole = plans.plan(0)
    assert plans.plan(0, short=False).long.texts == whole.long.texts
    assert plans.plan(0, long=False).short.texts == whole.short.texts

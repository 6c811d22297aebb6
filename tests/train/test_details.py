"""Right and wrong details: excerpts of texts, the images of a step that show them, and the loss."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import training_makers as make

from lrsclip_rt.errors import InputError
from lrsclip_train.batches import Planner
from lrsclip_train.details import excerpts, swapped_places
from lrsclip_train.losses import detail_loss
from lrsclip_train.mosaics import describe_mosaic
from lrsclip_train.training_samples import Sample

RIGHT = "There is a pond. It lies on the left. Five trees stand there. The ground is green."
WRONG = "There is a pond. It lies on the left. Nine trees stand there. The ground is green."


def drawn(count: int = 400) -> list[tuple[str, str]]:
    rng = np.random.default_rng(0)
    return [excerpts(RIGHT, WRONG, rng) for _ in range(count)]


def test_an_excerpt_holds_the_changed_sentence_and_the_same_others_in_order() -> None:
    sentences = [part + "." for part in RIGHT.rstrip(".").split(". ")]
    for right, wrong in drawn():
        assert "Five trees stand there." in right
        assert wrong == right.replace("Five", "Nine")
        places = [sentences.index(part + ".") for part in right.rstrip(".").split(". ")]
        assert places == sorted(set(places))


def test_most_excerpts_are_one_sentence_and_some_are_the_whole_text() -> None:
    lengths = Counter(right.count(".") for right, _ in drawn())
    assert lengths[1] > 200
    assert 20 < lengths[4] < 80


def test_texts_whose_sentences_do_not_match_are_shown_in_full() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        assert excerpts(RIGHT, "There is a pond.", rng) == (RIGHT, "There is a pond.")


def test_two_cells_of_a_mosaic_change_places_and_nothing_else() -> None:
    captions = ["a pond .", "Many planes.", "a farm with . a dot", "a bridge"]
    text = describe_mosaic(captions, 2, 2)
    rng = np.random.default_rng(1)
    found = {swapped_places(text, rng) for _ in range(60)}
    exchanged = [captions.copy() for _ in range(6)]
    pairs = [(a, b) for a in range(4) for b in range(a + 1, 4)]
    for rows, (a, b) in zip(exchanged, pairs, strict=True):
        rows[a], rows[b] = rows[b], rows[a]
    # The dot inside a caption ends a sentence; the part behind it stays where it was.
    plain = [rows for rows, pair in zip(exchanged, pairs, strict=True) if 2 not in pair]
    assert {describe_mosaic(rows, 2, 2) for rows in plain} <= found
    assert len(found) == 6
    assert all(Counter(one.lower().split()) == Counter(text.lower().split()) for one in found)


def test_a_mosaic_of_one_thing_has_no_wrong_places() -> None:
    text = describe_mosaic(["a pond"] * 4, 2, 2)
    assert swapped_places(text, np.random.default_rng(0)) == text


def made(source: str, number: int) -> Sample:
    wrong = () if source == "mosaic" else (WRONG, RIGHT.replace("left", "right"))
    long = describe_mosaic([f"a {number}", "b", "c", "d"], 2, 2) if source == "mosaic" else RIGHT
    return Sample(f"{source}-{number}", source, "pond" if source == "tile" else "", (), long, wrong)


def planner_of(folder: Path, details: int, mosaics: int = 6) -> Planner:
    config = make.settings(folder, folder, "", data_details=details)
    real = [Sample(f"{number}.jpg", "real", "", ("a pond",), "") for number in range(10)]
    sources = [
        [made(source, number) for number in range(count)]
        for source, count in (("mosaic", mosaics), ("tile", 9), ("scene", 7))
    ]
    return Planner(config, [real, *sources])


def test_a_step_compares_as_many_made_images_as_asked_and_none_twice(tmp_path: Path) -> None:
    planner = planner_of(tmp_path, 10)
    seen: Counter[int] = Counter()
    for step in range(40):
        plan = planner.plan(step).details
        assert plan is not None
        assert len(plan.draws) == len(plan.right) == len(plan.wrong) == 10
        assert len(set(plan.draws)) == 10
        assert Counter(draw.source for draw in plan.draws)[1] == 2
        seen.update(draw.source for draw in plan.draws)
        for draw, right, wrong in zip(plan.draws, plan.right, plan.wrong, strict=True):
            sample = planner.sources[draw.source][draw.index]
            assert right != wrong
            assert all(part in sample.long for part in right.split(". "))
            assert wrong not in sample.long
    assert seen[2] > seen[3] > 100


def test_the_plan_of_details_depends_on_seed_and_step_and_leaves_the_batch_alone(tmp_path: Path) -> None:
    with_details, again, without = (planner_of(tmp_path, count) for count in (10, 10, 0))
    one, two = with_details.plan(3), again.plan(3)
    assert one.details is not None
    assert two.details is not None
    assert (one.details.draws, one.details.wrong) == (two.details.draws, two.details.wrong)
    assert without.plan(3).details is None
    assert (without.plan(3).draws, without.plan(3).keys) == (one.draws, one.keys)
    assert with_details.plan(4).details.draws != one.details.draws  # type: ignore[union-attr]


def test_a_made_image_that_cannot_be_read_gives_way(tmp_path: Path) -> None:
    planner = planner_of(tmp_path, 10)
    draws = planner.detail_draws(0)
    lost = (draws[0].source, draws[0].index)
    assert lost not in {(d.source, d.index) for d in planner.detail_draws(0, without={lost})}


def test_more_details_than_made_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data\.details is 40, but there are 6 mosaics and 16 rendered"):
        planner_of(tmp_path, 40)
    assert len(planner_of(tmp_path, 16, mosaics=0).detail_draws(0)) == 16


def test_a_negative_number_of_details_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data\.details must not be negative, got -1"):
        make.settings(tmp_path, tmp_path, "", data_details=-1)


def test_the_loss_is_the_logistic_loss_of_the_margins() -> None:
    torch.manual_seed(0)
    rows = [F.normalize(torch.randn(5, 8, dtype=torch.float64), dim=1) for _ in range(3)]
    images, right, wrong = (part.tolist() for part in rows)
    expected = 0.0
    for image, true, false in zip(images, right, wrong, strict=True):
        margin = sum(a * b for a, b in zip(image, true, strict=True))
        margin -= sum(a * b for a, b in zip(image, false, strict=True))
        expected += math.log1p(math.exp(-7 * margin)) / 5
    assert float(detail_loss(*rows, scale=7.0)) == pytest.approx(expected, abs=1e-12)
    assert float(detail_loss(rows[0], rows[1], rows[1], scale=7.0)) == pytest.approx(math.log(2), abs=1e-12)


def test_unlike_shapes_and_no_rows_are_refused() -> None:
    rows = torch.eye(4)
    for images, right in ((rows, rows[:2]), (rows[:0], rows[:0])):
        with pytest.raises(InputError, match="must have the same shape and a row"):
            detail_loss(images, right, right, scale=1.0)


def test_training_on_details_lowers_their_loss(tmp_path: Path) -> None:
    data = make.tiles_folder(tmp_path / "data", train=8, val=2)
    init = make.tiny_checkpoint(tmp_path / "init.pt")
    config = make.settings(
        tmp_path / "run",
        data,
        init,
        steps=60,
        batch=2,
        data_tiles=8,
        data_details=8,
        loss_detail_weight=4.0,
        loss_detail_scale=10.0,
        save_every=60,
    )
    make.run_of(config)
    losses = [row["detail"] for row in make.log_of(config)]
    assert np.mean(losses[:4]) > 0.9 * math.log(2)
    assert np.mean(losses[-8:]) < 0.75 * math.log(2)


def test_images_whose_details_are_compared_keep_all_their_patches(tmp_path: Path) -> None:
    data = make.tiles_folder(tmp_path / "data", train=8, val=2)
    init = make.tiny_checkpoint(tmp_path / "init.pt")
    found: dict[float, tuple[float, float]] = {}
    for share in (0.0, 0.5):
        config = make.settings(
            tmp_path / f"{share}",
            data,
            init,
            steps=1,
            data_tiles=8,
            data_details=8,
            data_cache=str(tmp_path / "cache"),
            model_patch_dropout=share,
        )
        make.run_of(config)
        (row,) = make.log_of(config)
        found[share] = (row["detail"], row["short"])
    assert found[0.0][0] == found[0.5][0]
    assert found[0.0][1] != found[0.5][1]

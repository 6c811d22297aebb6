"""Retrieval metrics: worked by hand, held against a slow twin, and stable under ties."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrsclip_rt import evaluation
from lrsclip_rt.errors import InputError
from lrsclip_rt.evaluation import bootstrap_interval, retrieval_metrics, retrieval_ranks

EAST, NORTH = [1.0, 0.0], [0.0, 1.0]
NORTH_EAST = [0.6, 0.8]


def slow_ranks(images, captions, owner, texts):
    """The tie rule, word by word, one pair at a time in exact Python numbers."""

    def score(image, caption):
        return sum(float(a) * float(b) for a, b in zip(image, caption, strict=True))

    embedding = {}
    entries = []
    for caption, image, text in zip(captions, owner, texts, strict=True):
        embedding.setdefault(text, caption)
        if (image, text) not in entries:
            entries.append((image, text))
    t2i = []
    for image, text in entries:
        own = score(images[image], embedding[text])
        t2i.append(sum(score(images[j], embedding[text]) >= own for j in range(len(images)) if j != image))
    i2t = []
    for image in range(len(images)):
        own_scores = [score(images[image], embedding[text]) for i, text in entries if i == image]
        if not own_scores:
            i2t.append(-1)
            continue
        rivals = [score(images[image], embedding[text]) for i, text in entries if i != image]
        i2t.append(sum(rival >= max(own_scores) for rival in rivals))
    return t2i, i2t


def test_a_perfect_model_scores_one_hundred():
    rows = np.eye(12, dtype=np.float32)
    metrics = retrieval_metrics(rows, rows, np.arange(12), [f"caption {i}" for i in range(12)])
    assert metrics.mean_recall == 100
    assert metrics.t2i == metrics.i2t == evaluation.Recalls(100, 100, 100)


def test_a_hand_worked_case_gives_the_ranks_on_paper():
    images = np.array([EAST, NORTH, NORTH_EAST], np.float32)
    captions = np.array([EAST, NORTH, EAST], np.float32)
    # texts differ, so all three are entries: image 2's caption points east.
    ranks = retrieval_ranks(images, captions, np.array([0, 1, 2]), ["a", "b", "c"])
    # a: own 1, others 0 and 0.6 -> 0;  b: own 1, others 0 and 0.8 -> 0;  c: own 0.6, image 0 has 1 -> 1
    assert ranks.t2i.tolist() == [0, 0, 1]
    # image 0: own 1, rivals b 0, c 1 (a tie) -> 1;  image 1: own 1 -> 0;  image 2: own 0.6, a 0.6, b 0.8 -> 2
    assert ranks.i2t.tolist() == [1, 0, 2]


def test_an_equal_text_of_another_image_is_never_a_hit():
    images = np.array([EAST, NORTH], np.float32)
    captions = np.array([EAST, EAST], np.float32)
    ranks = retrieval_ranks(images, captions, np.array([0, 1]), ["many planes", "many planes"])
    assert ranks.i2t.tolist() == [1, 1]
    assert ranks.t2i.tolist() == [0, 1]


def test_a_caption_that_an_image_repeats_counts_once():
    images = np.array([EAST, NORTH], np.float32)
    captions = np.array([EAST, EAST, EAST, NORTH], np.float32)
    owner = np.array([0, 0, 0, 1])
    texts = ["a pier", "a pier", "a pier", "a dam"]
    ranks = retrieval_ranks(images, captions, owner, texts)
    assert ranks.entry_image.tolist() == [0, 1]
    assert ranks.i2t.tolist() == [0, 0]
    without_texts = retrieval_ranks(images, captions, owner)
    assert without_texts.entry_image.tolist() == [0, 0, 0, 1]


def test_several_captions_of_one_image_are_no_rivals_of_each_other():
    images = np.array([EAST, NORTH], np.float32)
    captions = np.array([EAST, NORTH_EAST, NORTH], np.float32)
    ranks = retrieval_ranks(images, captions, np.array([0, 0, 1]), ["a", "b", "c"])
    assert ranks.i2t.tolist() == [0, 0]
    assert ranks.t2i.tolist() == [0, 1, 0]


def test_a_constant_model_has_every_rival_tied_and_scores_nothing():
    images = np.repeat(np.array([EAST], np.float32), 20, axis=0)
    metrics = retrieval_metrics(images, images, np.arange(20), [f"caption {i}" for i in range(20)])
    assert metrics.mean_recall == 0


def test_equal_texts_score_equal_even_where_their_embeddings_differ_in_the_last_bit():
    images = np.array([EAST, NORTH], np.float32)
    nearly = np.nextafter(np.float32(1), np.float32(0))
    captions = np.array([[1, 0], [nearly, 0]], np.float32)
    one_text = retrieval_ranks(images, captions, np.array([0, 1]), ["a pier", "a pier"])
    assert one_text.i2t.tolist() == [1, 1]


def test_equal_images_tie_whatever_block_they_fall_into(monkeypatch):
    monkeypatch.setattr(evaluation, "BLOCK_BYTES", 8 * 7)
    generator = np.random.default_rng(3)
    images = unit_rows(generator, 9, 33)
    images[8] = images[0]
    captions = unit_rows(generator, 9, 33)
    ranks = retrieval_ranks(images, captions, np.arange(9), [f"caption {i}" for i in range(9)])
    slow_t2i, slow_i2t = slow_ranks(images, captions, range(9), [f"caption {i}" for i in range(9)])
    assert ranks.t2i.tolist() == slow_t2i
    assert ranks.i2t.tolist() == slow_i2t
    assert ranks.t2i[0] >= 1


def test_an_image_without_captions_is_a_rival_but_not_a_query():
    images = np.array([EAST, NORTH, EAST], np.float32)
    captions = np.array([EAST, NORTH], np.float32)
    ranks = retrieval_ranks(images, captions, np.array([0, 1]), ["a", "b"])
    assert ranks.i2t.tolist() == [0, 0, -1]
    assert ranks.t2i.tolist() == [1, 0]
    assert ranks.metrics().i2t.r1 == 100


def unit_rows(generator, number, dim):
    rows = generator.standard_normal((number, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_the_blocked_code_equals_the_slow_rule_where_many_scores_tie(data):
    # Signed axes make every score -1, 0 or 1: exact numbers, and ties everywhere.
    axes = np.concatenate([np.eye(3), -np.eye(3)]).astype(np.float32)
    number = data.draw(st.integers(1, 9))
    images = axes[data.draw(st.lists(st.integers(0, 5), min_size=number, max_size=number))]
    owner = data.draw(st.lists(st.integers(0, number - 1), min_size=1, max_size=20))
    words = data.draw(st.lists(st.integers(0, 6), min_size=len(owner), max_size=len(owner)))
    captions = axes[data.draw(st.lists(st.integers(0, 5), min_size=len(owner), max_size=len(owner)))]
    texts = [f"text {word}" for word in words]
    ranks = retrieval_ranks(images, captions, np.array(owner), texts)
    slow_t2i, slow_i2t = slow_ranks(images, captions, owner, texts)
    assert ranks.t2i.tolist() == slow_t2i
    assert ranks.i2t.tolist() == slow_i2t


@pytest.mark.parametrize("block_bytes", [8, 8 * 50, 64 << 20])
def test_the_size_of_a_block_changes_nothing(monkeypatch, block_bytes):
    generator = np.random.default_rng(0)
    images, captions = unit_rows(generator, 40, 16), unit_rows(generator, 130, 16)
    owner = generator.integers(0, 40, 130)
    texts = [f"text {word}" for word in generator.integers(0, 90, 130)]
    monkeypatch.setattr(evaluation, "BLOCK_BYTES", block_bytes)
    ranks = retrieval_ranks(images, captions, owner, texts)
    slow_t2i, slow_i2t = slow_ranks(images.tolist(), captions.tolist(), owner.tolist(), texts)
    assert ranks.t2i.tolist() == slow_t2i
    assert ranks.i2t.tolist() == slow_i2t


def test_recalls_count_ranks_below_the_cut():
    ranks = evaluation.RetrievalRanks(
        t2i=np.array([0, 1, 4, 5, 9, 10]), i2t=np.array([0, -1, 5, 20]), entry_image=np.zeros(6, np.int64)
    )
    metrics = ranks.metrics()
    assert (metrics.t2i.r1, metrics.t2i.r5, metrics.t2i.r10) == pytest.approx((100 / 6, 50, 500 / 6))
    assert (metrics.i2t.r1, metrics.i2t.r5, metrics.i2t.r10) == pytest.approx((100 / 3, 100 / 3, 200 / 3))
    assert metrics.mean_recall == pytest.approx((100 / 6 + 50 + 500 / 6 + 400 / 3) / 6)


def test_fewer_queries_search_the_same_gallery():
    generator = np.random.default_rng(4)
    images, captions = unit_rows(generator, 12, 4), unit_rows(generator, 30, 4)
    owner = np.concatenate([np.arange(12), generator.integers(0, 12, 18)])
    texts = [f"text {row}" for row in range(30)]
    ranks = retrieval_ranks(images, captions, owner, texts)
    slow_t2i, slow_i2t = slow_ranks(images.tolist(), captions.tolist(), owner.tolist(), texts)
    asking = np.arange(12) % 3 == 0
    fewer = ranks.asked_only(asking)
    assert fewer.t2i.tolist() == [rank for rank, image in zip(slow_t2i, owner, strict=True) if image % 3 == 0]
    assert fewer.i2t.tolist() == [rank if image % 3 == 0 else -1 for image, rank in enumerate(slow_i2t)]
    metrics = fewer.metrics()
    assert (metrics.images, metrics.captions) == (12, len(fewer.t2i))
    assert ranks.asked_only(np.ones(12, bool)).metrics() == ranks.metrics()
    kept = bootstrap_interval(fewer, resamples=40)
    assert kept.low <= metrics.mean_recall <= kept.high


def test_a_choice_of_queries_that_does_not_fit_is_named():
    ranks = retrieval_ranks(np.eye(3, dtype=np.float32), np.eye(3, dtype=np.float32)[:2], np.array([0, 1]))
    with pytest.raises(InputError, match="each of the 3 images"):
        ranks.asked_only(np.ones(2, bool))
    with pytest.raises(InputError, match="none of the 3 images asks"):
        ranks.asked_only(np.array([False, False, True]))


def test_the_dictionary_has_the_keys_of_the_command_line():
    rows = np.eye(2, dtype=np.float32)
    record = retrieval_metrics(rows, rows, np.arange(2)).as_dict()
    assert list(record) == ["t2i", "i2t", "mR"]
    assert list(record["t2i"]) == list(record["i2t"]) == ["r1", "r5", "r10"]


def test_results_are_frozen():
    rows = np.eye(2, dtype=np.float32)
    metrics = retrieval_metrics(rows, rows, np.arange(2))
    with pytest.raises(dataclasses.FrozenInstanceError):
        metrics.images = 3


@pytest.mark.parametrize(
    ("images", "captions", "owner", "texts", "message"),
    [
        ([EAST], [[1.0, 0.0, 0.0]], [0], ["a"], "must agree in D"),
        ([EAST], [EAST], [1], ["a"], "a caption names image 1 or 1, expected 0 to 0"),
        ([EAST], [EAST], [0, 0], ["a"], "as many image indices"),
        ([EAST], [EAST], [0], ["a", "b"], "as many image indices and texts"),
        ([[2.0, 0.0]], [EAST], [0], ["a"], "image row 0 has norm 2"),
        ([EAST], [EAST, [np.nan, 0.0]], [0, 0], ["a", "b"], "caption row 1 has norm nan"),
    ],
)
def test_arguments_that_do_not_fit_are_named(images, captions, owner, texts, message):
    with pytest.raises(InputError, match=message):
        retrieval_ranks(np.array(images, np.float32), np.array(captions, np.float32), np.array(owner), texts)


def test_nothing_to_search_is_an_error():
    with pytest.raises(InputError, match="0 images"):
        retrieval_ranks(np.zeros((0, 2), np.float32), np.zeros((0, 2), np.float32), np.zeros(0, int))


def test_the_bootstrap_is_seeded_and_surrounds_the_score():
    generator = np.random.default_rng(1)
    images = unit_rows(generator, 200, 8)
    captions = images + 0.35 * generator.standard_normal(images.shape).astype(np.float32)
    captions /= np.linalg.norm(captions, axis=1, keepdims=True)
    ranks = retrieval_ranks(images, captions, np.arange(200))
    interval = bootstrap_interval(ranks, resamples=400, seed=5)
    assert interval == bootstrap_interval(ranks, resamples=400, seed=5)
    assert interval != bootstrap_interval(ranks, resamples=400, seed=6)
    assert interval.low < ranks.metrics().mean_recall < interval.high
    assert interval.mean == pytest.approx(ranks.metrics().mean_recall, abs=0.5)


def test_the_bootstrap_equals_a_plain_loop_over_resampled_images():
    generator = np.random.default_rng(2)
    images, captions = unit_rows(generator, 15, 4), unit_rows(generator, 39, 4)
    owner = np.concatenate([np.arange(14), generator.integers(0, 14, 25)])  # the last image has no caption
    ranks = retrieval_ranks(images, captions, owner)
    draws = np.random.default_rng(9).multinomial(14, np.full(14, 1 / 14), size=50)
    values = []
    for draw in np.pad(draws, ((0, 0), (0, 1))):  # it asks nothing, so it is not drawn
        t2i = np.repeat(ranks.t2i, draw[ranks.entry_image])
        i2t = np.repeat(ranks.i2t, draw)
        parts = (t2i, i2t[i2t >= 0])
        values.append(np.mean([100 * np.mean(part < cut) for part in parts for cut in (1, 5, 10)]))
    interval = bootstrap_interval(ranks, resamples=50, seed=9)
    assert interval.mean == pytest.approx(np.mean(values))
    assert interval.std == pytest.approx(np.std(values))

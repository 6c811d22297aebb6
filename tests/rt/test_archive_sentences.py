"""Sentences of a long text, diverse hits, and the presence threshold."""

from __future__ import annotations

from collections.abc import Iterator

import archive_makers as makers
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrsclip_rt.archive import Archive, Where
from lrsclip_rt.archive.diversity import diverse_hits, diverse_order, pool_size
from lrsclip_rt.archive.presence import acceptance, calibrated_threshold, separation
from lrsclip_rt.archive.sentences import sentence_matches, split_sentences
from lrsclip_rt.errors import InputError


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    with Archive.open(makers.write(tmp_path_factory.mktemp("a") / "archive", range(30))) as opened:
        yield opened


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A river.", ["A river."]),
        ("many planes . some cars .", ["many planes .", "some cars ."]),
        ("A 3.5 km pier. Boats!", ["A 3.5 km pier.", "Boats!"]),
        ("Is it dry? yes; it is", ["Is it dry?", "yes; it is"]),
        (
            "Approx. 20 tanks, e.g. oil. St. Mary's church",
            ["Approx. 20 tanks, e.g. oil.", "St. Mary's church"],
        ),
        ("Cars, ships etc. The sea is calm.", ["Cars, ships etc.", "The sea is calm."]),
        ("Cars, ships etc. in a port.", ["Cars, ships etc. in a port."]),
        ("J. Smith farm. Fields", ["J. Smith farm.", "Fields"]),
        ('A sign says "stop." A road', ['A sign says "stop."', "A road"]),
        ("first line\nsecond line", ["first line", "second line"]),
        ("wait ... what?!", ["wait ...", "what?!"]),
        ("see scene.tif now. Then", ["see scene.tif now.", "Then"]),
        ("机场有飞机。还有汽车", ["机场有飞机。", "还有汽车"]),
    ],
)
def test_sentences_end_where_a_reader_ends_them(text: str, expected: list[str]) -> None:
    assert split_sentences(text) == expected


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="ab .!?\n1,'\")", max_size=60))
def test_splitting_loses_no_letter(text: str) -> None:
    if not any(map(str.isalnum, text)):
        with pytest.raises(InputError, match="holds no sentence"):
            split_sentences(text)
        return
    letters = "".join(filter(str.isalnum, text))
    assert "".join(filter(str.isalnum, "".join(split_sentences(text)))) == letters


def test_a_text_of_too_many_sentences_is_refused() -> None:
    with pytest.raises(InputError, match="has 65 sentences, expected 64 or fewer"):
        split_sentences("A ship. " * 65)


def test_every_sentence_has_its_own_z_at_every_hit(archive: Archive) -> None:
    vectors = makers.unit_rows(3, 99)
    where = Where(sources=["00*.tif"])
    [hits] = archive.search(vectors.mean(axis=0), 5, where)
    matches = sentence_matches(archive, hits, ["a", "b", "c"], vectors, where=where, min_score=0.3)
    sample = archive.sample.astype(np.float64)
    for match, vector in zip(matches, vectors.astype(np.float64), strict=True):
        scores = sample @ vector
        for hit, z in zip(hits, match.z, strict=True):
            [row] = archive.vectors([archive.tile(hit.id)]).astype(np.float64)
            assert z == pytest.approx((row @ vector - scores.mean()) / scores.std(), abs=1e-4)
        [own] = archive.search(vector, where=where)
        assert match.presence == pytest.approx(own.presence)
        assert own.presence is not None
        assert match.present == (own.presence >= 0.3)


def test_a_sentence_of_another_world_matches_nowhere(archive: Archive) -> None:
    vectors = np.stack([archive.sample[:10].mean(axis=0), -archive.sample.mean(axis=0)])
    [hits] = archive.search(vectors[0], 3)
    near, far = sentence_matches(archive, hits, ["near", "far"], vectors)
    assert (near.present, far.present) == (None, None)
    assert near.presence is not None
    assert far.presence is not None
    between = (near.presence + far.presence) / 2
    assert near.presence > between
    judged = sentence_matches(archive, hits, ["near", "far"], vectors, min_score=between)
    assert [match.present for match in judged] == [True, False]
    assert judged[0].nowhere is False
    assert near.nowhere is None
    with pytest.raises(InputError, match="must agree in number"):
        sentence_matches(archive, hits, ["one"], vectors)


def test_without_hits_sentences_are_still_looked_for(archive: Archive) -> None:
    [hits] = archive.search(makers.unit_rows(1), min_score=2.0)
    [match] = sentence_matches(archive, hits, ["a"], makers.unit_rows(1), min_score=2.0)
    assert (match.z, match.present, match.nowhere) == ((), False, True)


def test_a_sentence_that_only_the_best_row_reaches_is_not_nowhere(archive: Archive) -> None:
    vector = archive.sample[:1]
    [own] = archive.search(vector)
    assert own.best is not None
    assert own.best == pytest.approx(1.0, abs=1e-3)
    assert own.presence is not None
    between = (own.best + own.presence) / 2
    [hits] = archive.search(vector)
    [match] = sentence_matches(archive, hits, ["a"], vector, min_score=between)
    assert (match.present, match.nowhere) == (False, False)


def slow_order(scores: list[float], rows: np.ndarray, k: int, share: float) -> list[int]:
    """The definition, one candidate at a time."""
    low, high = min(scores), max(scores)
    relevance = [(s - low) / (high - low) if high > low else 1.0 for s in scores]
    chosen = [0]
    while len(chosen) < min(k, len(scores)):
        left = [i for i in range(len(scores)) if i not in chosen]
        worth = {
            i: (1 - share) * relevance[i] - share * max(float(rows[i] @ rows[j]) for j in chosen)
            for i in left
        }
        chosen.append(max(left, key=lambda i: (worth[i], -i)))
    return chosen


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 1.0])
def test_diverse_order_is_its_definition(share: float) -> None:
    rows = makers.unit_rows(40, 5).astype(np.float64)
    scores = np.sort(np.random.default_rng(1).uniform(0, 0.5, 40))[::-1]
    order = diverse_order(scores, rows, 12, share)
    assert order == slow_order(scores.tolist(), rows, 12, share)
    if share == 0.0:
        assert order == list(range(12))
    assert sorted(diverse_order(scores, rows, 100, share)) == list(range(40))


def test_diverse_hits_lead_with_the_best_and_are_less_alike(archive: Archive) -> None:
    query = makers.unit_rows(1, 3)
    [plain] = archive.search(query, 8)
    [pool] = archive.search(query, pool_size(8))
    diverse = diverse_hits(archive, pool, 8, 0.6)
    assert diverse[0] == plain[0]
    assert [hit.rank for hit in diverse] == list(range(1, 9))
    assert len({hit.id for hit in diverse}) == 8

    def likeness(ids: list[str]) -> float:
        rows = archive.vectors([archive.tile(name) for name in ids])
        return float((rows @ rows.T)[~np.eye(len(rows), dtype=bool)].mean())

    assert likeness([hit.id for hit in diverse]) < likeness([hit.id for hit in plain])
    assert [hit.id for hit in diverse_hits(archive, pool, 8, 0.0)] == [hit.id for hit in plain]
    [none] = archive.search(query, min_score=2.0)
    assert len(diverse_hits(archive, none, 5, 0.5)) == 0
    for share in (-0.1, 1.1, float("nan")):
        with pytest.raises(InputError, match=r"must lie in \[0, 1\]"):
            diverse_hits(archive, pool, 8, share)


def test_a_threshold_accepts_the_share_asked_for_and_no_higher_one_does() -> None:
    generator = np.random.default_rng(0)
    kinds = {"many": generator.normal(0.3, 0.1, 1000), "few": generator.normal(0.5, 0.05, 20)}

    def share(threshold: float) -> float:
        return float(np.mean([(values >= threshold).mean() for values in kinds.values()]))

    threshold = calibrated_threshold(kinds)
    assert share(threshold) >= 0.9
    assert share(np.nextafter(threshold, 1)) < 0.9
    assert calibrated_threshold({"one": [0.2, 0.4]}, accepted=1.0) == 0.2


def test_separation_counts_pairs() -> None:
    generator = np.random.default_rng(0)
    there, gone = generator.integers(0, 9, 40) / 9, generator.integers(0, 7, 30) / 9
    pairs = [(a > b) + 0.5 * (a == b) for a in there for b in gone]
    assert separation(there, gone) == pytest.approx(np.mean(pairs))
    assert acceptance(0.5, [0.5, 0.4], [0.6]).absent == 1.0


@pytest.mark.parametrize("values", [[], [float("nan")], [[0.1]]])
def test_presences_must_be_finite_lists(values: list[float]) -> None:
    for call in (
        lambda: calibrated_threshold({"a": values}),
        lambda: acceptance(0.1, [0.1], values),
        lambda: separation(values, [0.1]),
    ):
        with pytest.raises(InputError, match="finite presences"):
            call()
    with pytest.raises(InputError, match="got none"):
        calibrated_threshold({})
    with pytest.raises(InputError, match="accepted share"):
        calibrated_threshold({"a": [0.1]}, accepted=0.0)

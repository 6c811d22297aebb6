"""Teachers on data that are made here: what they learn, what they must not see, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from lrsclip_rt.errors import InputError, TrainingError
from lrsclip_rt.evaluation import retrieval_metrics
from lrsclip_train import losses, teaching
from lrsclip_train.pair_sources import TrainingPair
from lrsclip_train.teacher_towers import (
    Captions,
    TeachingConfig,
    TextTower,
    bags_from_texts,
    captions_from_pairs,
    gram_places,
    grams_from_text,
)
from lrsclip_train.teaching import (
    CrossFit,
    FittedTeacher,
    cross_fitted_images,
    fit_teacher,
    joint_space,
    unit_rows,
)

COLOURS = ("red", "green", "blue", "white", "grey")
THINGS = ("ship", "house", "bridge", "field", "tank")
SMALL = TeachingConfig(
    seed=1,
    epochs=25,
    batch=25,
    warmup=5,
    lr=3e-3,
    hidden=32,
    dimension=16,
    image_dropout=0.1,
    text_dropout=0.1,
)


def pairs(rounds: int, seed: int) -> tuple[np.ndarray, Captions]:
    """Images of every coloured thing: noisy features, and two captions that say the same."""
    rng = np.random.default_rng(seed)
    features, shorts = [], []
    for _ in range(rounds):
        for c, colour in enumerate(COLOURS):
            for t, thing in enumerate(THINGS):
                features.append(np.concatenate([np.eye(5)[c], np.eye(5)[t], np.zeros(3)]))
                shorts.append((f"a {colour} {thing} .", f"there is one {colour} {thing}"))
    noisy = np.array(features) + 0.15 * rng.normal(size=(len(features), 13))
    return noisy.astype(np.float32), captions_of(shorts)


def captions_of(shorts: Sequence[tuple[str, ...]]) -> Captions:
    places = {text: place for place, text in enumerate(dict.fromkeys(t for own in shorts for t in own))}
    return Captions(tuple(places), tuple(tuple(places[text] for text in own) for own in shorts))


@pytest.fixture(scope="module")
def train() -> tuple[np.ndarray, Captions]:
    return pairs(rounds=4, seed=0)


@pytest.fixture(scope="module")
def fitted(train: tuple[np.ndarray, Captions]) -> FittedTeacher:
    return fit_teacher(*train, SMALL)


def mean_recall(teacher: FittedTeacher, features: np.ndarray, captions: Captions) -> float:
    places, owner = captions.entries()
    texts = [captions.texts[place] for place in places]
    rows = teacher.text_rows(captions.texts)[places]
    return retrieval_metrics(teacher.image_rows(features), rows, owner, texts).mean_recall


def test_a_fit_ranks_images_that_it_never_saw(
    train: tuple[np.ndarray, Captions], fitted: FittedTeacher
) -> None:
    unseen = pairs(rounds=1, seed=5)
    idle = fit_teacher(*train, replace(SMALL, epochs=1, lr=0.0))
    assert mean_recall(idle, *unseen) < 35
    assert mean_recall(fitted, *unseen) > 80


def test_words_that_were_never_seen_together_are_still_understood(fitted: FittedTeacher) -> None:
    rows = fitted.text_rows(["green bridge", "a green bridge .", "a red tank ."])
    assert rows[0] @ rows[1] > rows[0] @ rows[2] + 0.3
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)


def test_a_text_has_the_same_row_alone_and_among_others(fitted: FittedTeacher) -> None:
    texts = ["a red ship .", "nothing known", "there is one blue field and a grey tank", "xyz"]
    alone = np.concatenate([fitted.text_rows([text]) for text in texts])
    np.testing.assert_allclose(fitted.text_rows(texts), alone, atol=1e-5)
    np.testing.assert_array_equal(alone[1], alone[3])  # no known word: one row for all of these


def test_a_fit_is_a_function_of_its_seed_and_leaves_the_generator_alone(
    train: tuple[np.ndarray, Captions],
) -> None:
    short = replace(SMALL, epochs=2)
    torch.manual_seed(77)
    before = torch.get_rng_state()
    first = fit_teacher(*train, short).image_rows(train[0])
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(78)
    np.testing.assert_array_equal(fit_teacher(*train, short).image_rows(train[0]), first)
    other = fit_teacher(*train, replace(short, seed=2)).image_rows(train[0])
    assert np.abs(other - first).max() > 0.01


def test_each_epoch_is_reported_and_the_loss_falls(train: tuple[np.ndarray, Captions]) -> None:
    seen: list[tuple[int, float]] = []
    fit_teacher(*train, replace(SMALL, epochs=6), report=lambda epoch, loss: seen.append((epoch, loss)))
    assert [epoch for epoch, _ in seen] == [1, 2, 3, 4, 5, 6]
    assert seen[-1][1] < seen[0][1] - 0.5


def test_a_shared_caption_is_a_match_of_every_image_that_owns_it(monkeypatch: pytest.MonkeyPatch) -> None:
    captions = captions_of([("a pier",), ("a pier",), ("a dam",)])
    features = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    matches = []
    real = losses.multi_positive_loss

    def watched(*rows: torch.Tensor, **options: object) -> torch.Tensor:
        matches.append(rows[3].numpy().copy())
        return real(*rows, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(teaching, "multi_positive_loss", watched)
    fit_teacher(features, captions, replace(SMALL, epochs=4))
    assert len(matches) == 4
    for positive in matches:
        assert sorted(positive.sum(axis=1)) == [1, 2, 2]
        assert positive.diagonal().all()
        np.testing.assert_array_equal(positive, positive.T)


@pytest.fixture(scope="module")
def texts(train: tuple[np.ndarray, Captions], fitted: FittedTeacher) -> np.ndarray:
    return fitted.text_rows(train[1].texts)


HEADS = replace(SMALL, epochs=4, seed=3)


@pytest.fixture(scope="module")
def crossed(train: tuple[np.ndarray, Captions], texts: np.ndarray) -> CrossFit:
    return cross_fitted_images(*train, texts, HEADS, folds=4)


def parameters(crossed: CrossFit, fold: int) -> list[torch.Tensor]:
    return list(crossed.heads[fold].state_dict().values())


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("image", [0, 41, 99])
def test_the_head_that_gives_an_image_its_row_knows_neither_its_pixels_nor_its_captions(
    train: tuple[np.ndarray, Captions], texts: np.ndarray, crossed: CrossFit, image: int
) -> None:
    features, captions = train
    altered = features.copy()
    altered[image] += 3.0
    owned = list(captions.owned)
    owned[image] = owned[image - 7]
    other = cross_fitted_images(altered, replace(captions, owned=tuple(owned)), texts, HEADS, folds=4)
    np.testing.assert_array_equal(other.folds, crossed.folds)
    own = int(crossed.folds[image])
    assert [same(parameters(other, fold), parameters(crossed, fold)) for fold in range(4)] == [
        fold == own for fold in range(4)
    ]
    rest = (crossed.folds == own) & (np.arange(len(features)) != image)
    np.testing.assert_array_equal(other.rows[rest], crossed.rows[rest])


def test_folds_are_even_and_every_row_is_its_own_head_s(
    train: tuple[np.ndarray, Captions], crossed: CrossFit
) -> None:
    assert np.bincount(crossed.folds).tolist() == [25, 25, 25, 25]
    for fold in range(4):
        mine = crossed.folds == fold
        np.testing.assert_allclose(crossed.rows[mine], crossed.heads[fold].rows(train[0])[mine], atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(crossed.rows, axis=1), 1, atol=1e-5)


def found(rows: np.ndarray, texts: np.ndarray, owned: list[set[int]]) -> float:
    """Share of images whose best text is one of their own."""
    best = (rows @ texts.T).argmax(axis=1)
    return float(np.mean([place in places for place, places in zip(best, owned, strict=True)]))


def test_cross_fitted_rows_find_their_captions_and_so_do_those_of_unseen_images(
    train: tuple[np.ndarray, Captions], texts: np.ndarray
) -> None:
    crossed = cross_fitted_images(*train, texts, replace(HEADS, epochs=25), folds=3)
    assert found(crossed.rows, texts, [set(places) for places in train[1].owned]) > 0.7
    features, captions = pairs(rounds=1, seed=6)
    assert captions.texts == train[1].texts
    unseen = crossed.unseen_rows(features)
    assert found(unseen, texts, [set(places) for places in captions.owned]) > 0.8
    mean = np.mean([head.rows(features) for head in crossed.heads], axis=0)
    np.testing.assert_allclose(unseen, mean / np.linalg.norm(mean, axis=1, keepdims=True), atol=1e-5)


def test_folds_are_reported_in_order_with_their_heads(
    train: tuple[np.ndarray, Captions], texts: np.ndarray
) -> None:
    seen = []
    made = cross_fitted_images(
        *train, texts, replace(HEADS, epochs=1), folds=2, report=lambda fold, head: seen.append((fold, head))
    )
    assert seen == list(enumerate(made.heads))


def test_the_joint_space_keeps_all_cosines_where_nothing_is_lost() -> None:
    rng = np.random.default_rng(4)
    # Rank 6 in 40 dimensions, all on one side: a centred PCA would change these cosines.
    basis = rng.normal(size=(6, 40))
    images, texts = ((rng.normal(size=(n, 6)) + 2) @ basis for n in (30, 50))
    a, b = unit_rows(images), unit_rows(texts)
    space = joint_space(a, b, 6)
    assert space.shape == (40, 6)
    assert space.dtype == np.float32
    np.testing.assert_allclose(space.T @ space, np.eye(6), atol=1e-5)
    np.testing.assert_allclose((a @ space) @ (b @ space).T, a @ b.T, atol=1e-5)


def test_the_joint_space_keeps_the_strongest_directions_first_and_texts_count_by_their_weight() -> None:
    strong, weak = np.eye(3, dtype=np.float32)[:1], np.eye(3, dtype=np.float32)[1:2]
    images, texts = np.repeat(strong, 3, axis=0), np.repeat(weak, 4, axis=0)
    np.testing.assert_allclose(np.abs(joint_space(images, texts, 2)), np.eye(3)[:, :2], atol=1e-6)
    heavy = joint_space(images, texts, 1, text_weight=1.0)
    np.testing.assert_allclose(np.abs(heavy), np.eye(3)[:, 1:2], atol=1e-6)


def test_unit_rows_leave_a_row_of_zeros_alone() -> None:
    np.testing.assert_array_equal(unit_rows(np.array([[0.0, 0.0], [0.0, -2.0]])), [[0, 0], [0, -1]])


def test_grams_that_occur_in_few_captions_are_not_known() -> None:
    captions = captions_of([("a red ship", "a red tank"), ("a red ship",), ("ship",)])
    places = gram_places(captions, 3)
    assert places == {"a": 1, "a red": 2, "red": 3, "ship": 4}
    assert gram_places(captions, 4) == {}
    assert [bag.tolist() for bag in bags_from_texts(["Red SHIP!", "boat", ""], places)] == [[3, 4], [0], [0]]


def test_grams_do_not_care_for_case_and_signs() -> None:
    assert grams_from_text("Two-storey HOUSES , 3 of them") == [
        *("two", "storey", "houses", "of", "them"),
        *("two storey", "storey houses", "houses of", "of them"),
    ]


def test_the_tower_sums_the_embeddings_of_a_bag() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tower = TextTower(5, SMALL).eval()
    rows = tower([torch.tensor([2, 5]), torch.tensor([0]), torch.tensor([1, 1, 4])])
    for row, places in zip(rows, ([2, 5], [0], [1, 1, 4]), strict=True):
        x = tower.norm(tower.bag.weight[places].sum(dim=0))
        expected = x + tower.residual(x)
        assert torch.allclose(row, expected / expected.norm(), atol=1e-5)


class Pairs:
    """Two pairs in memory."""

    def __init__(self, *shorts: tuple[str, ...]) -> None:
        self.shorts = shorts

    def __len__(self) -> int:
        return len(self.shorts)

    def __getitem__(self, index: int) -> TrainingPair:
        return TrainingPair(self.key(index), self.shorts[index])

    def key(self, index: int) -> str:
        return f"{index}.jpg"

    def image(self, index: int) -> object:
        raise AssertionError("captions need no image")


def test_repeated_captions_are_kept_once_per_image_and_shared_between_images() -> None:
    captions = captions_from_pairs(Pairs(("a", "b", "a"), ("c", "b")))  # type: ignore[arg-type]
    assert captions == Captions(("a", "b", "c"), ((0, 1), (2, 1)))
    places, owner = captions.entries()
    assert (places, owner.tolist()) == ([0, 1, 2, 1], [0, 0, 1, 1])


def test_an_image_without_a_caption_is_named() -> None:
    with pytest.raises(InputError, match=r"1\.jpg has no short caption"):
        captions_from_pairs(Pairs(("a",), ()))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="image 1 has no short caption"):
        Captions(("a",), ((0,), ()))


def test_arrays_that_do_not_fit_together_are_refused(
    train: tuple[np.ndarray, Captions], texts: np.ndarray
) -> None:
    features, captions = train
    for wrong in (features[1:], features[0]):
        with pytest.raises(InputError, match=r"must be \(N, F\) for 100 captioned images"):
            fit_teacher(wrong, captions, SMALL)
    broken = features.copy()
    broken[3, 1] = np.nan
    with pytest.raises(InputError, match="features hold NaN or infinite"):
        cross_fitted_images(broken, captions, texts, HEADS)
    with pytest.raises(InputError, match=r"text rows \(49, 16\) must be \(M, D\) for 50 texts"):
        cross_fitted_images(features, captions, texts[1:], HEADS)
    for folds in (1, 101):
        with pytest.raises(
            InputError, match=f"100 images cannot be held out in {folds} folds; give 2 to 100"
        ):
            cross_fitted_images(features, captions, texts, HEADS, folds=folds)
    with pytest.raises(InputError, match="must be rows of one width"):
        joint_space(features, texts, 4)
    for dimension in (0, 17):
        with pytest.raises(InputError, match=f"rows of width 16 cannot be reduced to {dimension}"):
            joint_space(texts, texts, dimension)


def test_a_fit_that_diverges_stops(train: tuple[np.ndarray, Captions]) -> None:
    with pytest.raises(TrainingError, match="the loss became nan in epoch 1; lower lr"):
        fit_teacher(*train, replace(SMALL, lr=1e30, warmup=0))


@pytest.mark.parametrize(
    ("name", "value"),
    [("epochs", 0), ("batch", 0), ("dimension", 0), ("image_dropout", 1.0), ("smoothing", -0.1)],
)
def test_numbers_out_of_their_bounds_are_refused(name: str, value: float) -> None:
    with pytest.raises(InputError, match=f"{name} must be .*, got {value}"):
        TeachingConfig(**{name: value})  # type: ignore[arg-type]

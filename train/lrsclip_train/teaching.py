"""How the built-in model's teacher is made: small towers on frozen features, several of them, made one.

An image is the pooled features of ImageNet networks, a text a bag of words and word pairs. Such towers are
fitted in minutes, and an ensemble of them ranks better than any one. Its image rows are then fitted anew
in folds, so that the row of every training image comes from a head that never saw that image: what a head
has memorised is no example to follow.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from lrsclip_rt.errors import InputError, TrainingError
from lrsclip_train.losses import multi_positive_loss
from lrsclip_train.schedules import learning_rate
from lrsclip_train.teacher_towers import (
    Captions,
    ImageHead,
    Rows,
    TeachingConfig,
    TextTower,
    bags_from_texts,
    gram_places,
)

__all__ = ["CrossFit", "FittedTeacher", "cross_fitted_images", "fit_teacher", "joint_space", "unit_rows"]

Report = Callable[[int, float], None]
"""Called with the number of an epoch, from 1, and the loss of its last step."""

_BETAS = (0.9, 0.98)
_FIRST_SCALE = 20.0
_LARGEST_SCALE = 100.0
_CHUNK = 2048


@dataclass(frozen=True, slots=True, eq=False)
class FittedTeacher:
    """A head and a tower that were fitted together, in evaluation mode.

    Attributes:
        head: Of images.
        tower: Of texts.
        grams: Words and pairs that the tower knows, with their places.
    """

    head: ImageHead
    tower: TextTower
    grams: Mapping[str, int]

    def image_rows(self, features: Rows) -> Rows:
        """(N, F) scaled features -> (N, D) float32 unit rows."""
        return self.head.rows(features)

    @torch.no_grad()
    def text_rows(self, texts: Sequence[str]) -> Rows:
        """M texts -> (M, D) float32 unit rows."""
        bags = bags_from_texts(texts, self.grams)
        parts = [self.tower(bags[start : start + _CHUNK]) for start in range(0, len(bags), _CHUNK)]
        out: Rows = torch.cat(parts).numpy()
        return out


def fit_teacher(
    features: Rows, captions: Captions, config: TeachingConfig, report: Report = lambda epoch, loss: None
) -> FittedTeacher:
    """Fit an image head and a text tower to each other by multi-positive InfoNCE.

    Args:
        features: (N, F) float32, scaled; see :class:`~lrsclip_train.pooled_features.FeatureScale`.
        captions: Of the N images.
        config: Of the fit; the same gives the same towers on as many threads.
        report: See :data:`Report`.

    Raises:
        InputError: If features and captions do not fit together.
        TrainingError: If the loss becomes NaN or infinite.
    """
    x = _checked(features, captions)
    grams = gram_places(captions, config.least_count)
    bags = bags_from_texts(captions.texts, grams)
    with _seeded(config.seed):
        head, tower = ImageHead(x.shape[1], config), TextTower(len(grams), config)

        def embed(images: NDArray[np.int64], shown: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
            kept = [_thinned(bags[place], config.text_dropout) for place in shown]
            return head(x[torch.from_numpy(images)]), tower(kept)

        _minimise((head, tower), embed, captions, np.arange(len(x)), config, report)
    return FittedTeacher(head.eval(), tower.eval(), grams)


def joint_space(images: Rows, texts: Rows, dimension: int, *, text_weight: float = 0.5) -> Rows:
    """The directions in which the rows of a wide ensemble lie, uncentred, so that cosines survive.

    Args:
        images: (N, W) rows.
        texts: (M, W) rows, those of a text that several images share as often as they do.
        dimension: D, at most W.
        text_weight: How much a text counts; an image has several.

    Returns:
        (W, D) float32 with orthonormal columns, the strongest first; ``rows @ it`` reduces rows.

    Raises:
        InputError: If the shapes do not fit together.
    """
    if images.ndim != 2 or texts.ndim != 2 or images.shape[1] != texts.shape[1]:
        raise InputError(f"images {images.shape} and texts {texts.shape} must be rows of one width")
    if not 1 <= dimension <= images.shape[1]:
        raise InputError(f"rows of width {images.shape[1]} cannot be reduced to {dimension}; give 1 to that")
    a, b = images.astype(np.float64), texts.astype(np.float64)
    vectors: NDArray[np.float64] = np.linalg.eigh(a.T @ a + text_weight * (b.T @ b))[1]
    return np.ascontiguousarray(vectors[:, ::-1][:, :dimension], dtype=np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class CrossFit:
    """Image rows by heads that did not see the image.

    Attributes:
        rows: (N, D) float32, unit.
        folds: (N,) int64, the fold of each image; its row is ``heads[fold]``'s.
        heads: One a fold, fitted to all images outside it.
    """

    rows: Rows
    folds: NDArray[np.int64]
    heads: tuple[ImageHead, ...]

    def unseen_rows(self, features: Rows) -> Rows:
        """(N, F) scaled features of other images -> (N, D), the mean of all heads."""
        return unit_rows(np.sum([head.rows(features) for head in self.heads], axis=0))


def cross_fitted_images(
    features: Rows,
    captions: Captions,
    text_rows: Rows,
    config: TeachingConfig,
    *,
    folds: int = 4,
    report: Callable[[int, ImageHead], None] = lambda fold, head: None,
) -> CrossFit:
    """Fit image heads to fixed text rows, one for each fold of the images that is held out.

    Args:
        features: (N, F) float32, scaled.
        captions: Of the N images.
        text_rows: (M, D) float32 unit rows of ``captions.texts``; ``config.dimension`` gives way to D.
        config: Of each fit; fold k adds k to the seed.
        folds: Number of folds, in [2, N].
        report: Called with the number of each fold, from 0, and its head.

    Raises:
        InputError: If the arrays do not fit together or ``folds`` is out of its bounds.
        TrainingError: If the loss becomes NaN or infinite.
    """
    x = _checked(features, captions)
    if text_rows.ndim != 2 or len(text_rows) != len(captions.texts):
        raise InputError(f"text rows {text_rows.shape} must be (M, D) for {len(captions.texts)} texts")
    if not 2 <= folds <= len(x):
        raise InputError(f"{len(x)} images cannot be held out in {folds} folds; give 2 to {len(x)}")
    fold_of = np.random.default_rng(config.seed).permutation(len(x)) % folds
    texts = torch.from_numpy(text_rows)
    rows = np.empty((len(x), text_rows.shape[1]), np.float32)
    heads = []
    for fold in range(folds):
        settings = replace(config, seed=config.seed + fold, dimension=text_rows.shape[1])
        head = _fit_head(x, texts, captions, np.flatnonzero(fold_of != fold), settings)
        rows[fold_of == fold] = head.rows(features[fold_of == fold])
        heads.append(head)
        report(fold, head)
    return CrossFit(rows, fold_of, tuple(heads))


def _fit_head(
    x: torch.Tensor,
    texts: torch.Tensor,
    captions: Captions,
    members: NDArray[np.int64],
    config: TeachingConfig,
) -> ImageHead:
    with _seeded(config.seed):
        head = ImageHead(x.shape[1], config)

        def embed(images: NDArray[np.int64], shown: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
            return head(x[torch.from_numpy(images)]), texts[torch.tensor(shown)]

        _minimise((head,), embed, captions, members, config, lambda epoch, loss: None)
    return head.eval()


def _minimise(
    modules: Sequence[nn.Module],
    embed: Callable[[NDArray[np.int64], Sequence[int]], tuple[torch.Tensor, torch.Tensor]],
    captions: Captions,
    members: NDArray[np.int64],
    config: TeachingConfig,
    report: Report,
) -> None:
    """Show each member one of its captions an epoch; shared captions are matches of all their images."""
    rng = np.random.default_rng(config.seed)
    log_scale = nn.Parameter(torch.tensor(math.log(_FIRST_SCALE)))
    optimizer = _optimizer(modules, log_scale, config)
    batch = min(config.batch, len(members))
    per_epoch = len(members) // batch
    for epoch in range(config.epochs):
        order = rng.permutation(members)
        for part in range(per_epoch):
            images = order[part * batch : (part + 1) * batch]
            owned = [captions.owned[image] for image in images]
            shown = [places[int(rng.integers(len(places)))] for places in owned]
            rate = learning_rate(
                epoch * per_epoch + part, config.epochs * per_epoch, config.warmup, config.lr
            )
            for group in optimizer.param_groups:
                group["lr"] = rate
            image_rows, text_rows = embed(images, shown)
            positive = torch.from_numpy(_matches(owned, shown))
            loss = multi_positive_loss(
                image_rows, text_rows, log_scale.exp(), positive, smoothing=config.smoothing
            )
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            with torch.no_grad():
                log_scale.clamp_(0, math.log(_LARGEST_SCALE))
        if not bool(torch.isfinite(loss)):
            raise TrainingError(f"the loss became {loss.item()} in epoch {epoch + 1}; lower lr")
        report(epoch + 1, loss.item())


def _matches(owned: Sequence[Sequence[int]], shown: Sequence[int]) -> NDArray[np.bool_]:
    """(N, N) bool, text j is one of image i's captions."""
    texts = np.array(shown)
    return np.stack([np.isin(texts, places) for places in owned])


def _thinned(bag: torch.Tensor, share: float) -> torch.Tensor:
    """A bag without some of its words, but never empty."""
    kept = bag[torch.rand(len(bag)) >= share]
    return kept if len(kept) else bag


def _optimizer(
    modules: Sequence[nn.Module], log_scale: nn.Parameter, config: TeachingConfig
) -> torch.optim.AdamW:
    parts = [part for module in modules for part in module.modules()]
    decayed = [part.weight for part in parts if isinstance(part, nn.Linear)]
    ids = {id(parameter) for parameter in decayed}
    others = [
        parameter for module in modules for parameter in module.parameters() if id(parameter) not in ids
    ]
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": [*others, log_scale], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.lr, betas=_BETAS)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Weights and dropout from ``seed``; the generator of everyone else stays where it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _checked(features: Rows, captions: Captions) -> torch.Tensor:
    if features.ndim != 2 or len(features) != len(captions.owned) or not len(features):
        raise InputError(
            f"features {features.shape} must be (N, F) for {len(captions.owned)} captioned images"
        )
    if not np.isfinite(features).all():
        raise InputError("features hold NaN or infinite numbers; check the network's weights")
    return torch.from_numpy(np.ascontiguousarray(features, dtype=np.float32))


def unit_rows(rows: NDArray[np.floating]) -> Rows:
    """(N, D) -> (N, D) float32 of length 1; a row of zeros stays one.

    Example:
        >>> unit_rows(np.array([[3.0, 4.0]])).round(2)
        array([[0.6, 0.8]], dtype=float32)
    """
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.maximum(lengths, np.finfo(np.float32).tiny), np.float32)

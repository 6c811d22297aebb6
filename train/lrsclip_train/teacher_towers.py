"""What a teacher is made of: captions, their words and word pairs, and two small towers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from lrsclip_rt.errors import InputError
from lrsclip_train.pair_sources import PairSource

__all__ = [
    "Captions",
    "ImageHead",
    "Rows",
    "TeachingConfig",
    "TextTower",
    "bags_from_texts",
    "captions_from_pairs",
    "gram_places",
    "grams_from_text",
]

Rows = NDArray[np.float32]

_CHUNK = 2048


@dataclass(frozen=True, slots=True)
class TeachingConfig:
    """One fit.

    Attributes:
        seed: Of weights, batches and dropout.
        epochs: Passes over the images.
        batch: Images of a step; all of them where there are fewer.
        warmup: Linear warm-up steps; then cosine to zero.
        lr: Peak learning rate.
        weight_decay: Decoupled; on matrices only, not on embeddings.
        smoothing: Label smoothing.
        hidden: Width of the hidden layers.
        dimension: D of the embeddings.
        image_dropout: Of the features and of the hidden layer.
        text_dropout: Of the words of a text and of the hidden layer.
        least_count: Captions in which a word or pair must occur to be known.

    Raises:
        InputError: If a number is out of its bounds.
    """

    seed: int = 0
    epochs: int = 25
    batch: int = 512
    warmup: int = 30
    lr: float = 1e-3
    weight_decay: float = 0.1
    smoothing: float = 0.05
    hidden: int = 1024
    dimension: int = 512
    image_dropout: float = 0.45
    text_dropout: float = 0.2
    least_count: int = 4

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "hidden", "dimension"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("image_dropout", "text_dropout", "smoothing"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise InputError(f"{name} must be in [0, 1), got {getattr(self, name)}")


@dataclass(frozen=True, slots=True)
class Captions:
    """Whose caption is whose.

    Attributes:
        texts: Distinct captions.
        owned: For each image, the places of its captions in ``texts``, at least one.

    Raises:
        InputError: If an image owns no caption.
    """

    texts: tuple[str, ...]
    owned: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        for number, places in enumerate(self.owned):
            if not places:
                raise InputError(f"image {number} has no short caption; leave it out or caption it")

    def entries(self) -> tuple[list[int], NDArray[np.int64]]:
        """Place of every caption of every image, and the image it belongs to."""
        pairs = [(place, image) for image, places in enumerate(self.owned) for place in places]
        return [place for place, _ in pairs], np.array([image for _, image in pairs], np.int64)


def captions_from_pairs(pairs: PairSource) -> Captions:
    """The short captions of all pairs.

    Raises:
        InputError: If a pair has none.
    """
    place_of: dict[str, int] = {}
    owned = []
    for index in range(len(pairs)):
        shorts = dict.fromkeys(pairs[index].shorts)
        if not shorts:
            raise InputError(f"{pairs.key(index)} has no short caption; leave it out or caption it")
        owned.append(tuple(place_of.setdefault(text, len(place_of)) for text in shorts))
    return Captions(tuple(place_of), tuple(owned))


def grams_from_text(text: str) -> list[str]:
    """Words in lower case, then pairs of neighbours.

    Example:
        >>> grams_from_text("Two planes, parked.")
        ['two', 'planes', 'parked', 'two planes', 'planes parked']
    """
    words = re.findall(r"[a-z]+", text.lower())
    return [*words, *(f"{first} {second}" for first, second in pairwise(words))]


def gram_places(captions: Captions, least: int) -> dict[str, int]:
    """Words and pairs that occur in at least ``least`` captions, with their places from 1."""
    grams = [set(grams_from_text(text)) for text in captions.texts]
    counts = Counter(gram for places in captions.owned for place in places for gram in grams[place])
    known = sorted(gram for gram, count in counts.items() if count >= least)
    return {gram: place for place, gram in enumerate(known, start=1)}


def bags_from_texts(texts: Sequence[str], places: Mapping[str, int]) -> list[torch.Tensor]:
    """The places of each text's words and pairs; place 0 alone where none is known."""
    bags = ([places[gram] for gram in grams_from_text(text) if gram in places] or [0] for text in texts)
    return [torch.tensor(bag) for bag in bags]


class TextTower(nn.Module):
    """The sum of the embeddings of a text's words and pairs, and one residual layer.

    Args:
        grams: Words and pairs that are known.
        config: Sizes and dropout.
    """

    def __init__(self, grams: int, config: TeachingConfig) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(grams + 1, config.dimension, mode="sum")
        nn.init.normal_(self.bag.weight, std=0.05)
        self.norm = nn.LayerNorm(config.dimension)
        self.residual = nn.Sequential(
            nn.Linear(config.dimension, config.hidden),
            nn.GELU(),
            nn.Dropout(config.text_dropout),
            nn.Linear(config.hidden, config.dimension),
        )

    def forward(self, bags: Sequence[torch.Tensor]) -> torch.Tensor:
        """M bags of places -> (M, D) unit rows."""
        starts = torch.tensor([0, *(len(bag) for bag in bags[:-1])]).cumsum(0)
        x = self.norm(self.bag(torch.cat(list(bags)), starts))
        return F.normalize(x + self.residual(x), dim=1)


class ImageHead(nn.Module):
    """A linear layer, and from it a linear and a non-linear way to the embedding.

    Args:
        features: F.
        config: Sizes and dropout.
    """

    def __init__(self, features: int, config: TeachingConfig) -> None:
        super().__init__()
        self.drop = nn.Dropout(config.image_dropout)
        self.first = nn.Linear(features, config.hidden)
        self.curved = nn.Sequential(
            nn.LayerNorm(config.hidden),
            nn.GELU(),
            nn.Dropout(config.image_dropout),
            nn.Linear(config.hidden, config.dimension),
        )
        self.straight = nn.Linear(config.hidden, config.dimension)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(N, F) -> (N, D) unit rows."""
        x = self.first(self.drop(features))
        return F.normalize(self.curved(x) + self.straight(x), dim=1)

    @torch.no_grad()
    def rows(self, features: Rows) -> Rows:
        """(N, F) float32 -> (N, D) float32 unit rows."""
        parts = torch.split(torch.from_numpy(features), _CHUNK)
        out: Rows = torch.cat([self(part) for part in parts]).numpy()
        return out

"""The words of a batch as tokens, trimmed; and the tokens that training texts hold."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from lrsclip_rt.tokenizer import Tokenizer

__all__ = ["PROMPTS", "TokenTable", "phrases", "readable"]

PROMPTS = (
    "a satellite photo of {}.",
    "a satellite image of {}.",
    "an aerial image of {}.",
    "{}.",
    "a photo of {}.",
)
"""Templates that turn a class name into a caption."""

_PHRASES = {
    "airport": ("an airport", "planes at an airport"),
    "bareland": ("bare land", "bare soil"),
    "baseballfield": ("a baseball field", "a baseball diamond"),
    "beach": ("a beach", "a sandy beach by the sea"),
    "bridge": ("a bridge", "a bridge over a river"),
    "center": ("a large building in a city center", "a center with a big roof"),
    "church": ("a church",),
    "commercial": ("a commercial area", "a business district with tall buildings"),
    "denseresidential": ("a dense residential area", "a residential area with many houses"),
    "desert": ("a desert", "sand dunes"),
    "farmland": ("farmland", "a farm field", "agricultural fields", "fields of crops"),
    "forest": ("a forest", "dense trees", "woods"),
    "industrial": ("an industrial area", "a factory", "industrial buildings"),
    "meadow": ("a meadow", "grass land", "grassland", "green grass"),
    "mediumresidential": ("a medium residential area", "a residential area with houses and trees"),
    "mountain": ("a mountain", "mountains"),
    "park": ("a park", "a park with trees and a lake"),
    "parking": ("a parking lot", "many parked cars", "a car park"),
    "playground": ("a playground", "a sports field with a running track"),
    "pond": ("a pond", "a small lake", "a lake"),
    "port": ("a port", "a harbor with boats", "a harbour"),
    "railwaystation": ("a railway station", "a train station"),
    "resort": ("a resort", "a hotel with a swimming pool"),
    "river": ("a river", "a river with water"),
    "school": ("a school", "school buildings with a playground"),
    "sparseresidential": ("a sparse residential area", "a few houses among trees"),
    "square": ("a square", "a city square"),
    "stadium": ("a stadium",),
    "storagetanks": ("storage tanks", "oil tanks"),
    "viaduct": ("a viaduct", "an overpass", "a road interchange"),
}
"""What people call the scene classes of AID, beside the name itself."""

_EOT = 49407


def phrases(category: str) -> tuple[str, ...]:
    """Ways to say a class in a prompt; the readable name comes first.

    Example:
        >>> phrases("Parking")
        ('parking', 'a parking lot', 'many parked cars', 'a car park')
        >>> phrases("sports_ground")
        ('sports ground',)
    """
    return (readable(category), *_PHRASES.get(category.replace("_", "").lower(), ()))


def readable(category: str) -> str:
    """``StorageTanks`` and ``storage_tanks`` -> ``storage tanks``.

    Example:
        >>> readable("DenseResidential"), readable("sports_ground")
        ('dense residential', 'sports ground')
    """
    spaced = "".join(f" {c}" if c.isupper() else c for c in category)
    return spaced.replace("_", " ").strip().lower()


class TokenTable:
    """Tokenises each text once and keeps its tokens without padding."""

    def __init__(self, *, kept: int = 200_000) -> None:
        self._tokenizer = Tokenizer()
        self._kept = kept
        self._tokens: dict[str, NDArray[np.int32]] = {}

    def tokens(self, texts: Sequence[str]) -> list[NDArray[np.int32]]:
        """The ids of each text from start to end token, at most 248."""
        unknown = [text for text in dict.fromkeys(texts) if text not in self._tokens]
        if len(self._tokens) + len(unknown) > self._kept:
            self._tokens.clear()
            unknown = list(dict.fromkeys(texts))
        for start in range(0, len(unknown), 4096):
            part = unknown[start : start + 4096]
            rows = self._tokenizer.encode(part)
            for text, row, end in zip(part, rows, rows.argmax(axis=1), strict=True):
                self._tokens[text] = row[: int(end) + 1].copy()
        return [self._tokens[text] for text in texts]

    def batch(self, texts: Sequence[str], context_length: int) -> torch.Tensor:
        """(N, T) int64, T the longest text or ``context_length``; a cut text ends with the end token."""
        rows = self.tokens(texts)
        longest = min(context_length, max(len(row) for row in rows))
        out = np.zeros((len(rows), longest), np.int64)
        for place, row in enumerate(rows):
            out[place, : len(row)] = row[:longest]
            if len(row) > longest:
                out[place, -1] = _EOT
        return torch.from_numpy(out)

    def seen(self, texts: Iterable[str]) -> NDArray[np.int64]:
        """Every id that occurs in the texts, ascending."""
        ids: set[int] = set()
        for text in texts:
            for row in self.tokens([text]):
                ids.update(row.tolist())
        return np.array(sorted(ids), np.int64)

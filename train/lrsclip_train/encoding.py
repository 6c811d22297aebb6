"""Both towers as training runs them: texts without padding, images without some of their patches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from lrsclip_train.features import SPLIT
from lrsclip_train.model import DualClip

__all__ = ["TextGroup", "image_embeddings", "text_chunks", "text_embeddings", "text_groups"]

_GROUP_TOKENS = 8192
"""Tokens that are encoded together: enough to keep the processor busy, little enough to stay in cache."""


@dataclass(frozen=True, slots=True)
class TextGroup:
    """Texts of like length: their rows, and the length of the longest."""

    rows: torch.Tensor
    length: int


def text_groups(tokens: torch.Tensor, *, limit: int = 0) -> list[TextGroup]:
    """Sort texts by length and cut them into groups that need little padding.

    Args:
        tokens: (N, T) ids; the largest id ends a text.
        limit: Most rows of a group; 0 for any number.
    """
    lengths = tokens.argmax(dim=1) + 1
    order = torch.argsort(lengths, stable=True)
    groups: list[TextGroup] = []
    start = 0
    # From the longest down, so that the first row of a group gives its length.
    order = order.flip(0)
    while start < len(order):
        longest = int(lengths[order[start]])
        rows = max(1, _GROUP_TOKENS // longest)
        if limit:
            rows = min(rows, limit)
        groups.append(TextGroup(order[start : start + rows], longest))
        start += rows
    return groups


def text_chunks(
    model: DualClip, tokens: torch.Tensor, groups: Sequence[TextGroup]
) -> list[Callable[[], torch.Tensor]]:
    """One function for each group: () -> (rows, D) float32 unit rows."""

    def chunk(group: TextGroup) -> Callable[[], torch.Tensor]:
        part = tokens[group.rows, : group.length]
        return lambda: F.normalize(model.encode_text(part).float(), dim=1)

    return [chunk(group) for group in groups]


def text_embeddings(model: DualClip, tokens: torch.Tensor) -> torch.Tensor:
    """(N, T) ids -> (N, D) float32 unit rows, the same as encoding all at once.

    Tokens behind the end of a text cannot change its embedding, so trimming is exact.
    """
    groups = text_groups(tokens)
    parts = torch.cat([chunk() for chunk in text_chunks(model, tokens, groups)])
    return parts[torch.argsort(torch.cat([group.rows for group in groups]))]


def image_embeddings(model: DualClip, images: torch.Tensor, *, patch_dropout: float = 0.0) -> torch.Tensor:
    """Pixels or cached features -> (N, D) float32 unit rows.

    Args:
        model: Any model.
        images: (N, 3, S, S) normalised pixels, or (N, 160, S / 32, S / 32) features of the stem's front.
        patch_dropout: Share of the patches left out, other ones for each image.
    """
    tower = model.visual
    if hasattr(tower, "stem"):
        features = images if images.shape[1] != 3 else tower.stem.early(images, SPLIT)
        images = tower.stem.bottlenecks(features, SPLIT)
    kept = None
    if patch_dropout:
        patches = model.config.grid**2
        number = max(1, round(patches * (1 - patch_dropout)))
        scores = torch.rand(len(images), patches, device=images.device)
        kept = scores.topk(number, dim=1).indices
        if hasattr(tower, "stem") and model.config.patch_size == 1:
            # The rest of the stem works on each position alone: leave the others out before it.
            flat = images.flatten(2)
            images = flat.gather(2, kept[:, None].expand(-1, flat.shape[1], -1))[..., None]
            tokens = tower.tokens_from_features(tower.stem.head(images), positions=kept)
            return F.normalize((tower.ln_post(tokens[:, 0]) @ tower.proj).float(), dim=1)
    if hasattr(tower, "stem"):
        images = tower.stem.head(images)
    tokens = tower.tokens_from_features(images, kept=kept)
    return F.normalize((tower.ln_post(tokens[:, 0]) @ tower.proj).float(), dim=1)

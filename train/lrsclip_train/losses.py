"""Contrastive losses over a batch of images and their texts."""

from __future__ import annotations

import torch
import torch.nn.functional as F

__all__ = ["multi_positive_loss"]


def multi_positive_loss(
    image: torch.Tensor,
    text: torch.Tensor,
    scale: torch.Tensor,
    positive: torch.Tensor,
    *,
    ignore: torch.Tensor | None = None,
    smoothing: float = 0.0,
) -> torch.Tensor:
    """Symmetric InfoNCE in which one image may own several texts of the batch and the other way round.

    With the identity as ``positive`` this is CLIP's loss. Captions repeat in remote-sensing sets, so
    a text that also describes another image of the batch counts as that image's own: the target of
    a row is spread evenly over its positives.

    Args:
        image: (N, D) unit rows.
        text: (N, D) unit rows.
        scale: Scalar that multiplies the cosines.
        positive: (N, N) bool, image i owns text j. The diagonal must be set.
        ignore: (N, N) bool, pairs that are neither positive nor negative and leave the softmax.
        smoothing: Share of the target spread evenly over the row's pairs that are not ignored.

    Returns:
        Scalar: the mean of the image->text and text->image cross entropies.
    """
    logits = scale * image @ text.T
    counted = torch.ones_like(positive) if ignore is None else positive | ~ignore
    logits = logits.masked_fill(~counted, -1e4)
    total = logits.new_zeros(())
    for rows, own, seen in ((logits, positive, counted), (logits.T, positive.T, counted.T)):
        target = _spread(own) * (1 - smoothing) + _spread(seen) * smoothing
        total = total - (target * F.log_softmax(rows, dim=1)).sum(dim=1).mean()
    return total / 2


def _spread(chosen: torch.Tensor) -> torch.Tensor:
    """(N, M) bool -> float32 rows that sum to one over the chosen entries."""
    weights = chosen.float()
    return weights / weights.sum(dim=1, keepdim=True)

"""Retrieval on the validation pairs while a run goes on, by the tie rule."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from lrsclip_rt.errors import TrainingError
from lrsclip_rt.evaluation import retrieval_ranks
from lrsclip_rt.pixels import PixelSpec
from lrsclip_train.encoding import image_embeddings, text_embeddings
from lrsclip_train.model import DualClip
from lrsclip_train.sources import ImageSource, plain_batches
from lrsclip_train.texts import TokenTable

__all__ = ["validate"]

_SAYS_MORE = 3
"""Captions that an image must have for its long text to be asked for."""


@torch.no_grad()
def validate(
    model: DualClip, val: ImageSource, table: TokenTable, *, spec: PixelSpec, device: torch.device
) -> dict[str, float]:
    """Mean recall of short captions, and of long texts that join three captions or more.

    The same numbers as ``lrsclip eval retrieval``, and as that with ``--min-captions 3`` for the long texts:
    the galleries are all images and all texts each time.

    Returns:
        ``val_mR`` and, where such long texts exist, ``val_long_mR`` [%].

    Raises:
        TrainingError: If an embedding is not finite.
    """
    images = np.concatenate(
        [image_embeddings(model, part.to(device)).cpu().numpy() for part in plain_batches(val, spec)]
    )
    shorts = [(text, row) for row, sample in enumerate(val.samples) for text in sample.shorts]
    longs = [(sample.long, row) for row, sample in enumerate(val.samples) if sample.long]
    says_more = np.array([bool(s.long) and len(s.shorts) >= _SAYS_MORE for s in val.samples])
    scores = {}
    for name, entries, asking in (("val_mR", shorts, None), ("val_long_mR", longs, says_more)):
        if not entries or (asking is not None and not asking.any()):
            continue
        texts = [text for text, _ in entries]
        owners = np.array([row for _, row in entries])
        rows = _text_rows(model, texts, table, device)
        if not (np.isfinite(images).all() and np.isfinite(rows).all()):
            raise TrainingError("the model gives embeddings that are not finite; lower optimizer.lr")
        ranks = retrieval_ranks(images, rows, owners, texts)
        found = (ranks if asking is None else ranks.asked_only(asking)).metrics()
        scores[name] = round(found.mean_recall, 2)
    return scores


def _text_rows(
    model: DualClip, texts: list[str], table: TokenTable, device: torch.device
) -> NDArray[np.float32]:
    distinct = list(dict.fromkeys(texts))
    parts = []
    for start in range(0, len(distinct), 512):
        tokens = table.batch(distinct[start : start + 512], model.config.context_length)
        parts.append(text_embeddings(model, tokens.to(device)).cpu().numpy())
    row_of = {text: row for row, text in enumerate(distinct)}
    return np.concatenate(parts)[[row_of[text] for text in texts]]

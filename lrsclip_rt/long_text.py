"""Does a model use all of a long text? The same texts in full and cut, over the same gallery of images.

A text that is cut at N tokens keeps its first N - 1 and ends in EOT there, as the tokenizer cuts what does
not fit. If what was cut away is understood, images are found less often without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.bootstrapping import Estimate, estimate_from_resamples, resampled_percentages
from lrsclip_rt.errors import InputError
from lrsclip_rt.evaluation import RetrievalMetrics, RetrievalRanks, retrieval_ranks
from lrsclip_rt.tokenizer import TokenBatch, Tokenizer

if TYPE_CHECKING:
    from lrsclip_rt.embedder import Embedder

__all__ = ["CUTS", "CutComparison", "CutScore", "compare_cuts", "encode_cut"]

CUTS = (77, 20)
"""Tokens at which texts are cut: CLIP's context, and the rows that stretching leaves alone."""


@dataclass(frozen=True, slots=True)
class CutScore:
    """Retrieval with texts of one length.

    Attributes:
        tokens: Most tokens of a text, SOT and EOT among them.
        cut: Texts that had more.
        metrics: Recalls of both directions by the tie rule.
        t2i_r1: Text to image R@1 [%].
        i2t_r1: Image to text R@1 [%].
    """

    tokens: int
    cut: int
    metrics: RetrievalMetrics
    t2i_r1: Estimate
    i2t_r1: Estimate

    def as_dict(self) -> dict[str, Any]:
        """Everything as JSON values [%]."""
        return {
            "tokens": self.tokens,
            "cut": self.cut,
            **self.metrics.as_dict(),
            "t2i_r1": self.t2i_r1.as_dict(),
            "i2t_r1": self.i2t_r1.as_dict(),
        }


@dataclass(frozen=True, slots=True)
class CutComparison:
    """The same texts at falling lengths.

    Attributes:
        scores: In full first, then by falling length.
        t2i_gains: R@1 of each length less that of the next shorter one, paired [points].
        i2t_gains: The same of the other direction.
    """

    scores: tuple[CutScore, ...]
    t2i_gains: tuple[Estimate, ...]
    i2t_gains: tuple[Estimate, ...]

    @property
    def longer_finds_more_images(self) -> bool:
        """Whether each length's text to image R@1 lies above the next shorter one's, intervals and all."""
        return all(longer.t2i_r1.is_above(shorter.t2i_r1) for longer, shorter in pairwise(self.scores))

    @property
    def longer_is_found_more(self) -> bool:
        """The same of image to text."""
        return all(longer.i2t_r1.is_above(shorter.i2t_r1) for longer, shorter in pairwise(self.scores))


def compare_cuts(
    model: Embedder,
    images: NDArray[np.float32],
    texts: Sequence[str],
    *,
    cuts: Sequence[int] = CUTS,
    resamples: int = 1000,
    seed: int = 0,
) -> CutComparison:
    """Retrieve with texts in full and cut, image i and text i belonging together.

    Args:
        model: Embeds the texts.
        images: (N, D) float32 unit rows, of the same model.
        texts: N texts that fit into the model's context.
        cuts: Falling lengths [tokens], the longest below the context.
        resamples: Bootstrap samples of the pairs.
        seed: Of the bootstrap; all lengths share its samples.

    Raises:
        InputError: If a text does not fit into the context, the cuts do not fall, or N differs.
    """
    context = model.spec.context_length
    lengths = (context, *cuts)
    if any(longer <= shorter for longer, shorter in pairwise(lengths)) or lengths[-1] < 3:
        raise InputError(
            f"cuts {tuple(cuts)} must fall from below the context of {context} tokens and stay above 2"
        )
    whole = encode_cut(model, texts, context)
    if whole.cut.any():
        raise InputError(
            f"text {int(whole.cut.argmax())} has more than the model's {context} tokens; "
            "give texts that fit, or in full would not be in full"
        )
    batches = [whole, *(encode_cut(model, texts, length) for length in cuts)]
    ranks = [_ranks(model, images, batch) for batch in batches]
    t2i = np.stack([found.t2i == 0 for found in ranks], axis=1)
    i2t = np.stack([found.i2t == 0 for found in ranks], axis=1)
    hits = np.concatenate([t2i, i2t], axis=1).astype(np.float64)  # (N, directions * lengths)
    resampled = resampled_percentages(hits, np.ones_like(hits), resamples=resamples, seed=seed)
    values = 100 * hits.mean(axis=0)

    def gains(first: int) -> tuple[Estimate, ...]:
        columns = pairwise(range(first, first + len(lengths)))
        return tuple(
            estimate_from_resamples(values[a] - values[b], resampled[:, a] - resampled[:, b])
            for a, b in columns
        )

    r1 = [estimate_from_resamples(v, column) for v, column in zip(values, resampled.T, strict=True)]
    scores = tuple(
        CutScore(length, int(batch.cut.sum()), found.metrics(), r1[i], r1[i + len(lengths)])
        for i, (length, batch, found) in enumerate(zip(lengths, batches, ranks, strict=True))
    )
    return CutComparison(scores, gains(0), gains(len(lengths)))


def encode_cut(model: Embedder, texts: Sequence[str], tokens: int) -> TokenBatch:
    """Texts as token rows that are cut at ``tokens``, (N, tokens) int32.

    Raises:
        InputError: If ``tokens`` is below 2.
    """
    return Tokenizer(model.bundle.vocabulary_path, context_length=tokens).encode_batch(texts)


def _ranks(model: Embedder, images: NDArray[np.float32], batch: TokenBatch) -> RetrievalRanks:
    # Texts that the cut has made equal must score equal, so they go by their tokens.
    names = [" ".join(map(str, row[: end + 1])) for row, end in zip(batch.tokens, batch.eot, strict=True)]
    return retrieval_ranks(images, model.embed_tokens(batch), np.arange(len(names)), names)

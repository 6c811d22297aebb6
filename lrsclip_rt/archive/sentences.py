"""Which sentence of a long text matched where: every sentence scored on its own against every hit."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.archive.hits import Hits
from lrsclip_rt.archive.scanning import row_scores
from lrsclip_rt.archive.store import Archive
from lrsclip_rt.archive.where import Where
from lrsclip_rt.errors import InputError

__all__ = ["MOST_SENTENCES", "SentenceMatch", "sentence_matches", "split_sentences"]

MOST_SENTENCES = 64
"""A text of 248 tokens has fewer."""

_END = re.compile(r"(?:[.!?]+|[。！？]|\n)[\"')\]\u201d\u2019]*")  # noqa: RUF001
_SHORT = frozenset(
    "approx ca cf dr e.g eg etc fig i.e ie incl inst jr max min mr mrs ms mt nr prof resp sq sr st vs".split()
)
"""Words that a full stop shortens rather than ends."""
_LONGEST_WORD = 64
"""Characters before a stop that are looked at: more could not be one of those."""
_NEXT = re.compile(r"\s*(\S?)")


@dataclass(frozen=True, slots=True)
class SentenceMatch:
    """How one sentence of a text fares.

    Attributes:
        text: The sentence.
        z: For each hit of the whole text, its score for this sentence in standard deviations above the mean
            of the archive's sample.
        presence: Mean of the best cosines of this sentence among the rows that passed, as ``Hits.presence``.
        present: Whether ``presence`` reaches the threshold; None where none was given.
        nowhere: Whether not even the best row reaches it; None where none was given.
    """

    text: str
    z: tuple[float, ...]
    presence: float | None
    present: bool | None
    nowhere: bool | None = None


def split_sentences(text: str) -> list[str]:
    """Cut a text behind full stops, exclamation and question marks, and line breaks.

    Stops inside numbers, names of files, abbreviations and initials end nothing.

    Raises:
        InputError: If there is nothing to say, or more than ``MOST_SENTENCES`` sentences.

    Example:
        >>> split_sentences("Approx. 3.5 km of beach. is there a pier? Ships, e.g. tankers ...")
        ['Approx. 3.5 km of beach.', 'is there a pier?', 'Ships, e.g. tankers ...']
    """
    sentences, start = [], 0
    for match in _END.finditer(text):
        if _ends(text, match):
            sentences.append(text[start : match.end()])
            start = match.end()
    sentences.append(text[start:])
    kept = [sentence.strip() for sentence in sentences if any(map(str.isalnum, sentence))]
    if not kept:
        raise InputError(f"{text!r:.60} holds no sentence; expected words")
    if len(kept) > MOST_SENTENCES:
        raise InputError(f"the text has {len(kept)} sentences, expected {MOST_SENTENCES} or fewer")
    return kept


def _ends(text: str, match: re.Match[str]) -> bool:
    """Whether a mark ends a sentence."""
    mark, after = match.group(), text[match.end() : match.end() + 1]
    if mark[0] != ".":
        return mark[0] in "\n。！？" or not after or after.isspace()  # noqa: RUF001
    if after and not after.isspace():
        return False
    head = text[max(0, match.start() - _LONGEST_WORD) : match.start()]
    word = head.rsplit(maxsplit=1)[-1] if head and not head[-1].isspace() else ""
    before = word.lstrip("([\"'").lower()
    if before in _SHORT:
        # What is shortened at the very end of a sentence is told by the capital behind it.
        following = _NEXT.match(text, match.end())
        return before == "etc" and following is not None and following[1].isupper()
    return not (len(before) == 1 and before.isalpha())


def sentence_matches(
    archive: Archive,
    hits: Hits,
    sentences: Sequence[str],
    vectors: NDArray[np.floating[Any]],
    *,
    where: Where | None = None,
    min_score: float | None = None,
) -> tuple[SentenceMatch, ...]:
    """Score every sentence of a text against the hits of the whole text.

    Args:
        archive: What was searched.
        hits: What was found.
        sentences: S texts.
        vectors: ``(S, D)`` their embeddings.
        where: The filter of the search; a sentence is looked for among the same rows.
        min_score: Presence threshold, applied to each sentence.

    Raises:
        InputError: If sentences and vectors disagree in number, or vectors and archive in D.
    """
    if len(sentences) != len(vectors):
        raise InputError(f"{len(sentences)} sentences and {len(vectors)} vectors must agree in number")
    found = archive.search(vectors, 1, where, merge=False, min_score=min_score)
    rows = archive.vectors([archive.tile(hit.id) for hit in hits])
    queries = np.asarray(vectors, np.float64)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    matches = []
    for text, query, own in zip(sentences, queries.astype(np.float32), found, strict=True):
        sample = row_scores(archive.sample, query).astype(np.float64)
        mean, deviation = (float(sample.mean()), float(sample.std())) if len(sample) else (0.0, 0.0)
        scores = row_scores(rows, query).astype(np.float64)
        z = (scores - mean) / deviation if deviation > 0 else np.zeros(len(scores))
        nowhere = None if min_score is None else own.best is None or own.best < min_score
        matches.append(SentenceMatch(text, tuple(z.tolist()), own.presence, own.present, nowhere))
    return tuple(matches)

"""True excerpts of long texts beside the same with one detail wrong: a count, a colour, a place, an object.

In a description of 150 tokens one wrong word moves the embedding little, and so teaches little. The sentence
around it, alone or among few others, shows the difference in about a quarter of the tokens; what is learnt
there holds in whole descriptions (docs/LOG.md).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

__all__ = ["excerpts", "swapped_places"]

_WHOLE = 0.1
"""Chance that a text is shown in full, as it will be asked."""
_CONTEXT = 0.08
"""Chance of every other sentence to stand beside those that differ."""
_SENTENCE_END = re.compile(r"(?<=\.)\s+")
_CELL = re.compile(r"(In the [^,]+, )(.+)")


def excerpts(right: str, wrong: str, rng: np.random.Generator) -> tuple[str, str]:
    """The sentences in which two texts differ, and some others, the same ones of both.

    Args:
        right: A text.
        wrong: The same with a detail changed, sentence for sentence.
        rng: Chooses the others.

    Returns:
        What is left of ``right`` and of ``wrong``; both in full where their sentences do not match.
    """
    ours, theirs = _SENTENCE_END.split(right.strip()), _SENTENCE_END.split(wrong.strip())
    if len(ours) != len(theirs) or rng.random() < _WHOLE:
        return right, wrong
    beside = rng.random(len(ours)) < _CONTEXT
    kept = [place for place in range(len(ours)) if beside[place] or ours[place] != theirs[place]]
    return " ".join(ours[place] for place in kept), " ".join(theirs[place] for place in kept)


def swapped_places(text: str, rng: np.random.Generator) -> str:
    """The text of a mosaic with what two of its cells show exchanged.

    Returns:
        ``text`` itself where no two cells say different things.
    """
    sentences = _SENTENCE_END.split(text.strip())
    cells = [_CELL.fullmatch(sentence) for sentence in sentences]
    places = [place for place, cell in enumerate(cells) if cell]
    pairs = [(a, b) for a in places for b in places if a < b and _body(cells, a) != _body(cells, b)]
    if not pairs:
        return text
    one, other = pairs[int(rng.integers(len(pairs)))]
    for place, source in ((one, other), (other, one)):
        cell = cells[place]
        assert cell is not None
        sentences[place] = cell[1] + _body(cells, source)
    return " ".join(sentences)


def _body(cells: Sequence[re.Match[str] | None], place: int) -> str:
    cell = cells[place]
    assert cell is not None
    return cell[2]

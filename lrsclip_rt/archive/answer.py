"""An answer with what was asked: all that an output needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from lrsclip_rt.archive.hits import Hits
from lrsclip_rt.archive.sentences import SentenceMatch
from lrsclip_rt.archive.where import Where

__all__ = ["Answer"]


@dataclass(frozen=True, slots=True)
class Answer:
    """Hits and the question behind them.

    Attributes:
        title: What was asked, in words.
        hits: What was found.
        where: The filter.
        asked: Its conditions for people, such as "since 2024-05-01".
        threshold: Least presence; None where presence was not decided.
        sentences: How the sentences of the text fared; empty where that was not asked.
    """

    title: str
    hits: Hits
    where: Where = field(default_factory=Where)
    asked: Sequence[str] = ()
    threshold: float | None = None
    sentences: Sequence[SentenceMatch] = ()

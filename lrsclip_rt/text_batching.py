"""Which texts run together, and which answers are remembered."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.errors import InputError

__all__ = ["RecentRows", "TextRow", "refuse_blank", "text_runs"]

_TEXT_LENGTHS = (8, 16, 24, 32, 48, 64, 96, 128, 192, 248)
"""Texts up to the same of these run together."""
_TOKENS_PER_RUN = 4096
"""Bounds the memory of a run: 16 texts of 248 tokens, or 256 of 16."""
_LONGEST_REMEMBERED = 10_000
"""[characters]; several times what 248 tokens hold."""


def refuse_blank(texts: Sequence[str]) -> None:
    """Every text says something.

    Raises:
        InputError: If one says nothing once cleaned (empty, white space, control characters) or is no text;
            names its index.
    """
    from lrsclip_rt.tokenizer import blank_texts

    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise InputError(f"texts[{i}] is {type(text).__name__}, expected a text")
    blank = blank_texts(texts)
    if blank:
        raise InputError(
            f"texts[{blank[0]}] is empty or only white space; leave it out, or write what to look for"
        )


def text_runs(eot: NDArray[np.int32], *, full: int | None) -> Iterator[NDArray[np.intp]]:
    """Rows that run together: of one bucket of lengths, and within the token budget.

    Args:
        eot: ``(N,)`` columns of EOT; a text needs one column more.
        full: The length of the fixed graph, which pads every text to it; None pads to the run's longest.

    Yields:
        Indices into ``eot``, each row once.

    Example:
        >>> [rows.tolist() for rows in text_runs(np.array([9, 3, 200, 12], np.int32), full=None)]
        [[1], [0, 3], [2]]
    """
    needed = eot.astype(np.int64) + 1 if full is None else np.full(len(eot), full)
    table = np.array([*_TEXT_LENGTHS, *range(_TEXT_LENGTHS[-1] + 1, int(needed.max(initial=0)) + 1)])
    buckets = table[np.searchsorted(table, needed)]
    order = np.argsort(needed, kind="stable")
    start = 0
    while start < len(order):
        bucket = buckets[order[start]]
        same = int(np.searchsorted(buckets[order], bucket, side="right"))
        stop = min(same, start + max(1, _TOKENS_PER_RUN // int(bucket)))
        yield order[start:stop]
        start = stop


class TextRow(NamedTuple):
    """What a text was embedded as: its row ``(D,) float32``, and whether it had to be cut for it."""

    embedding: NDArray[np.float32]
    cut: bool


class RecentRows:
    """The embeddings of the last queries; people type the same words again. Safe to share between threads.

    Calls with many texts (the captions of a data set) are neither looked up nor remembered, and neither are
    texts beyond 10,000 characters, so that the texts themselves take little memory.

    Args:
        capacity: Texts remembered; those that were used longest ago go first. 0 remembers none.
        largest_call: Distinct texts of a call up to which it counts as queries.
    """

    def __init__(self, *, capacity: int = 256, largest_call: int = 32) -> None:
        self._capacity = capacity
        self._largest_call = largest_call
        self._rows: OrderedDict[str, TextRow] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._rows)

    def recall(self, texts: Sequence[str]) -> dict[str, TextRow]:
        """What is remembered of these texts, which are distinct; the rows are not to be written to."""
        if len(texts) > self._largest_call:
            return {}
        with self._lock:
            found = {text: self._rows[text] for text in texts if text in self._rows}
            for text in found:
                self._rows.move_to_end(text)
        return found

    def remember(self, rows: Mapping[str, TextRow]) -> None:
        """Keep copies of the rows, and forget those that were used longest ago."""
        if len(rows) > self._largest_call:
            return
        with self._lock:
            for text, row in rows.items():
                if len(text) <= _LONGEST_REMEMBERED:
                    self._rows[text] = TextRow(row.embedding.copy(), row.cut)
                    self._rows.move_to_end(text)
            while len(self._rows) > self._capacity:
                self._rows.popitem(last=False)

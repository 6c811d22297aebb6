"""Byte-pair encoding of single words, in O(n log n).

The vocabulary is CLIP's: 256 byte symbols, the same 256 ending a word, 48,894 learned merges and two
special tokens, 49,408 ids in all. The file lists the merges, most frequent first.
"""

from __future__ import annotations

import gzip
import hashlib
import heapq
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from itertools import pairwise
from pathlib import Path

from lrsclip_rt.errors import BundleError

__all__ = ["EOT", "MERGES", "PAD", "SOT", "VOCABULARY_SIZE", "Vocabulary", "vocabulary_from_file"]

MERGES = 48894
SOT = 49406
EOT = 49407
PAD = 0
VOCABULARY_SIZE = 49408

_MAX_FILE_BYTES = 16 << 20  # the true file is 1.4 MB packed, 3.2 MB unpacked
_WORD_END = "</w>"


@dataclass(frozen=True, slots=True, eq=False)
class Vocabulary:
    """A read vocabulary file.

    Attributes:
        sha256: Hex digest of the file as it lies on disk.
        ids: Symbol to id, for the 49,406 ordinary symbols. The special tokens are left out, so that no
            text can ever reach them.
        symbols: Id to symbol, the inverse of ``ids``.
        ranks: Pair of symbols to its place in the list of merges; lower merges first.
    """

    sha256: str
    ids: Mapping[str, int]
    symbols: tuple[str, ...]
    ranks: Mapping[tuple[str, str], int]

    def ids_from_word(self, word: str) -> tuple[int, ...]:
        """Encode one word (a run without white space, already split from its neighbours)."""
        table = _byte_symbols()
        symbols = [table[byte] for byte in word.encode("utf-8")]
        symbols[-1] += _WORD_END
        ids = self.ids
        return tuple([ids[symbol] for symbol in _merged(symbols, self.ranks)])

    def bytes_from_ids(self, ids: list[int]) -> bytes:
        """Undo :meth:`ids_from_word` for a row of ordinary ids; a space follows each word."""
        table = _symbol_bytes()
        text = "".join([self.symbols[i] for i in ids])
        return b" ".join(bytes([table[c] for c in word]) for word in text.split(_WORD_END))


def vocabulary_from_file(path: Path) -> Vocabulary:
    """Read ``vocabulary.txt.gz``; files that did not change are read once per process.

    Raises:
        BundleError: If the file is missing, is not gzip or does not hold CLIP's merges.
    """
    try:
        stat = path.stat()
    except OSError as error:
        raise BundleError(
            f"vocabulary {path} cannot be read ({error.strerror}); expected the bundle's vocabulary.txt.gz"
        ) from error
    if stat.st_size > _MAX_FILE_BYTES:
        raise BundleError(
            f"vocabulary {path} has {stat.st_size} bytes, expected about 1.4 MB; "
            "copy it again from the model's bundle"
        )
    return _read(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=4)
def _read(path: Path, _mtime_ns: int, _size: int) -> Vocabulary:
    try:
        packed = path.read_bytes()
        with gzip.GzipFile(fileobj=BytesIO(packed)) as stream:
            text = stream.read(_MAX_FILE_BYTES).decode("utf-8")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise BundleError(
            f"vocabulary {path} is not a gzip text file ({error}); copy it again from the model's bundle"
        ) from error
    # The first line is a title; what follows the 48,894th merge was never part of the model.
    merges = [tuple(line.split()) for line in text.split("\n", MERGES + 1)[1 : MERGES + 1]]
    pairs = [(merge[0], merge[1]) for merge in merges if len(merge) == 2]
    if len(pairs) != MERGES:
        raise BundleError(
            f"vocabulary {path} holds {len(pairs)} merges, expected {MERGES}; "
            "copy bpe_simple_vocab_16e6.txt.gz of CLIP into the bundle"
        )
    letters = list(_byte_symbols().values())
    symbols = (*letters, *[c + _WORD_END for c in letters], *[first + second for first, second in pairs])
    return Vocabulary(
        sha256=hashlib.sha256(packed).hexdigest(),
        ids={symbol: i for i, symbol in enumerate(symbols)},
        symbols=symbols,
        ranks={pair: i for i, pair in enumerate(pairs)},
    )


@lru_cache(maxsize=1)
def _byte_symbols() -> dict[int, str]:
    """Byte to a printable character: itself where Latin-1 prints it, else the next one from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in set(printable)]
    return {**{b: chr(b) for b in printable}, **{b: chr(0x100 + i) for i, b in enumerate(rest)}}


@lru_cache(maxsize=1)
def _symbol_bytes() -> dict[str, int]:
    return {symbol: byte for byte, symbol in _byte_symbols().items()}


def _merged(symbols: list[str], ranks: Mapping[tuple[str, str], int]) -> list[str]:
    """Apply merges until none fits: always the lowest rank, all its places from left to right.

    The word is a linked list and the candidate pairs lie on a heap, so that a word of n bytes costs
    O(n log n), not O(n^2). A heap entry is stale once its left symbol was swallowed or changed.
    """
    count = len(symbols)
    after = list(range(1, count + 1))
    before = list(range(-1, count - 1))
    alive = [True] * count
    heap = [(rank, i) for i, pair in enumerate(pairwise(symbols)) if (rank := ranks.get(pair)) is not None]
    heapq.heapify(heap)
    while heap:
        # All places of one rank before any new pair is looked at: two merges can spell the same symbol,
        # so a new pair may rank lower than the merge that made it.
        rank = heap[0][0]
        changed: list[int] = []
        while heap and heap[0][0] == rank:
            _, left = heapq.heappop(heap)
            right = after[left]
            if not alive[left] or right == count or ranks.get((symbols[left], symbols[right])) != rank:
                continue
            symbols[left] += symbols[right]
            alive[right] = False
            after[left] = after[right]
            if after[left] < count:
                before[after[left]] = left
            changed.append(left)
        for left in changed:
            for first in {before[left], left}:
                if first >= 0 and after[first] < count:
                    new = ranks.get((symbols[first], symbols[after[first]]))
                    if new is not None:
                        heapq.heappush(heap, (new, first))
    return [symbol for symbol, living in zip(symbols, alive, strict=True) if living]

"""Text to token ids, identical to CLIP's tokenizer, without torch.

Text is cleaned (mojibake mended, HTML entities resolved, white space collapsed, lower case), split into
words, byte-pair encoded and laid out as ``SOT ids EOT 0 0 ...``. A text longer than the context is cut and
its last token set to EOT, as Long-CLIP does.

One deliberate difference: strings such as ``<|endoftext|>`` inside a text are ordinary text here. Ids 49406
and 49407 come from this module's layout only, never from what a user wrote.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.bpe import EOT, PAD, SOT, VOCABULARY_SIZE, Vocabulary, vocabulary_from_file
from lrsclip_rt.errors import InputError

__all__ = ["CONTEXT_LENGTH", "TokenBatch", "Tokenizer", "blank_texts", "clean_text"]

CONTEXT_LENGTH = 248

_BUILT_IN = Path(__file__).parent / "bundles" / "mini" / "vocabulary.txt.gz"
_CACHED_WORDS = 1 << 16
_CACHED_WORD_LENGTH = 64
# ftfy and html.unescape leave such text alone: ASCII without the control characters and escape sequences
# that ftfy removes, and without an "&" that could start an entity.
_PLAIN = re.compile(r"[\t\n\r\x20-\x25\x27-\x7e]*(?:&(?![#0-9A-Za-z])[\t\n\r\x20-\x25\x27-\x7e]*)*")
# What ``_parts_finder`` does with a word of ASCII; the module that knows all letters takes long to import.
_ASCII_PARTS = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d|[a-z]+|[0-9]|[^\sa-z0-9]+", re.IGNORECASE | re.ASCII)
# An ampersand escaped many times over: "&amp;amp;amp;...".
_NESTED_AMPERSAND = re.compile(r"&(?:(?:amp|AMP|#38|#[xX]26);){16,}")


@dataclass(frozen=True, slots=True, eq=False)
class TokenBatch:
    """Encoded texts.

    Attributes:
        tokens: ``(N, 248) int32``, padded with 0.
        eot: ``(N,) int32``, column of each row's first EOT.
        cut: ``(N,) bool``, whether the text did not fit into the context.
    """

    tokens: NDArray[np.int32]
    eot: NDArray[np.int32]
    cut: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.tokens)

    def __repr__(self) -> str:
        longest = int(self.eot.max()) + 1 if len(self) else 0
        return f"TokenBatch({len(self)} texts, longest {longest} tokens, {int(self.cut.sum())} cut)"


class Tokenizer:
    """Encoder and decoder of one vocabulary; safe to share between threads.

    Nothing is read before the first use.

    Args:
        vocabulary: A ``vocabulary.txt.gz``; ``None`` takes the built-in bundle's.
        context_length: Columns of the encoded rows, at least 2.

    Raises:
        InputError: If ``context_length`` is below 2.

    Example:
        >>> Tokenizer().encode("a harbour with many ships")[0, :8].tolist()
        [49406, 320, 10011, 593, 1346, 3262, 49407, 0]
    """

    def __init__(self, vocabulary: str | Path | None = None, *, context_length: int = CONTEXT_LENGTH) -> None:
        if context_length < 2:
            raise InputError(f"context_length must be at least 2 (SOT and EOT), got {context_length}")
        self.path = _BUILT_IN if vocabulary is None else Path(vocabulary)
        self.context_length = context_length
        self._loaded: Vocabulary | None = None
        self._words: dict[str, tuple[int, ...]] = {}

    def __repr__(self) -> str:
        return f"Tokenizer({str(self.path)!r}, context_length={self.context_length})"

    @property
    def sha256(self) -> str:
        """Hex digest of the vocabulary file."""
        return self._vocabulary.sha256

    def encode(self, texts: str | Sequence[str]) -> NDArray[np.int32]:
        """Encode texts to ``(N, 248) int32``; the empty text is ``SOT EOT``.

        Args:
            texts: One text, which gives one row, or several.

        Raises:
            InputError: If an item is not a string.
            BundleError: If the vocabulary cannot be read.
        """
        return self.encode_batch(texts).tokens

    def encode_batch(self, texts: str | Sequence[str]) -> TokenBatch:
        """Encode texts and say where each ends and whether it was cut.

        Raises:
            InputError: If an item is not a string.
            BundleError: If the vocabulary cannot be read.
        """
        rows = _texts_list(texts)
        tokens = np.full((len(rows), self.context_length), PAD, dtype=np.int32)
        eot = np.zeros(len(rows), dtype=np.int32)
        cut = np.zeros(len(rows), dtype=np.bool_)
        room = self.context_length - 2
        for i, text in enumerate(rows):
            ids = self._ids(text, stop=room)
            cut[i] = len(ids) > room
            row = [SOT, *ids[:room], EOT]
            tokens[i, : len(row)] = row
            eot[i] = len(row) - 1
        return TokenBatch(tokens, eot, cut)

    def decode(self, ids: Iterable[int]) -> str:
        r"""Turn ids back into cleaned text; SOT is skipped, and what follows the first EOT is padding.

        Raises:
            InputError: If an id lies outside the vocabulary.

        Example:
            >>> tokenizer = Tokenizer()
            >>> tokenizer.decode(tokenizer.encode("White  storage\ntanks!")[0])
            'white storage tanks !'
        """
        ordinary: list[int] = []
        for item in ids:
            token = int(item)
            if not 0 <= token < VOCABULARY_SIZE:
                raise InputError(f"token id {token} is not in the vocabulary of {VOCABULARY_SIZE} ids")
            if token == EOT:
                break
            if token != SOT:
                ordinary.append(token)
        return self._vocabulary.bytes_from_ids(ordinary).decode("utf-8", errors="replace").strip()

    @property
    def _vocabulary(self) -> Vocabulary:
        # Two threads may both read it at first use; they get the same, so no lock is needed.
        loaded = self._loaded
        if loaded is None:
            loaded = self._loaded = vocabulary_from_file(self.path)
        return loaded

    def _ids(self, text: str, *, stop: int) -> list[int]:
        """Ids of a text without SOT and EOT; beyond ``stop`` ids the rest of the text is not encoded."""
        ids: list[int] = []
        known = self._words
        for word in clean_text(text).split():
            found = known.get(word)
            ids += self._word_ids(word) if found is None else found
            if len(ids) > stop:
                break
        return ids

    def _word_ids(self, word: str) -> tuple[int, ...]:
        vocabulary = self._vocabulary
        find = _ASCII_PARTS.findall if word.isascii() else _parts_finder()
        ids = tuple([i for part in find(word) for i in vocabulary.ids_from_word(part)])
        if len(word) <= _CACHED_WORD_LENGTH:
            if len(self._words) >= _CACHED_WORDS:
                self._words = {}  # a new dict, since another thread may be reading the old one
            self._words[word] = ids
        return ids


def clean_text(text: str) -> str:
    r"""Mend, unescape, collapse white space and lower a text, exactly as CLIP does.

    Example:
        >>> clean_text("  Boats &amp;\n HARBOUR ")
        'boats & harbour'
    """
    if _PLAIN.fullmatch(text) is None:
        import ftfy  # slow to import, and most texts never need it

        text = html.unescape(html.unescape(ftfy.fix_text(_flat_ampersands(text)))).strip()
    return " ".join(text.split()).lower()


def _flat_ampersands(text: str) -> str:
    """Shorten what ftfy would unescape anyway, one level per pass over the whole text: minutes for 100 kB.

    ftfy unescapes until nothing changes, in the lines before the first ``<``; so there, and only there,
    16 levels and 16,000 end alike.
    """
    if _NESTED_AMPERSAND.search(text) is None:
        return text
    end = text.find("<")
    end = len(text) if end < 0 else text.rfind("\n", 0, end) + 1
    return _NESTED_AMPERSAND.sub("&" + "amp;" * 16, text[:end]) + text[end:]


def blank_texts(texts: str | Sequence[str]) -> tuple[int, ...]:
    """Positions of texts that encode to no token at all: empty, white space or control characters only.

    Raises:
        InputError: If an item is not a string.

    Example:
        >>> blank_texts(["a field", " ", ""])
        (1, 2)
    """
    return tuple(i for i, text in enumerate(_texts_list(texts)) if not clean_text(text))


def _texts_list(texts: str | Sequence[str]) -> list[str]:
    rows = [texts] if isinstance(texts, str) else list(texts)
    for i, text in enumerate(rows):
        if not isinstance(text, str):
            raise InputError(
                f"text {i} is a {type(text).__name__}, expected a str; decode or convert it first"
            )
    return rows


@lru_cache(maxsize=1)
def _parts_finder() -> Callable[[str], list[str]]:
    """The split of a word into what is byte-pair encoded on its own."""
    import regex

    parts = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+", regex.IGNORECASE)
    find: Callable[[str], list[str]] = parts.findall
    return find

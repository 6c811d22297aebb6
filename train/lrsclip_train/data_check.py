"""Look through training data before a run: what is broken, repeated, too long or out of balance.

Of millions of pairs only hashes and counts are kept; the few texts and keys that the report names are fetched
by a second pass over the texts.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.cpu import available_cpus
from lrsclip_rt.errors import ImageError, InputError
from lrsclip_rt.file_stamps import sha256_of_file
from lrsclip_rt.image_decoding import one_line, shown_name
from lrsclip_rt.tokenizer import Tokenizer
from lrsclip_train.augment import orientation_bound
from lrsclip_train.data_records import DataRecord, records_from_folder
from lrsclip_train.data_report import (
    MAX_COUNTED_TOKENS,
    DataReport,
    Finding,
    SharedCaptions,
    TextLengths,
)
from lrsclip_train.pair_sources import PairSource, ShardPairs, data_files_from_spec
from lrsclip_train.training_pairs import TrainingPair

__all__ = ["check_data"]

_MOST_THREADS = 8
_TOP = 10
_TEXTS_AT_A_TIME = 256

_Report = Callable[[str, str], None]
_Records = Callable[[_Report], Iterator[DataRecord]]
_ImageState = tuple[bytes, str, bool]
"""SHA-256 of an image file, why the image cannot be used, and whether that is because it is not there."""


def check_data(
    source: PairSource | str | Path,
    *,
    tokenizer: Tokenizer,
    split: str | None = None,
    contexts: Sequence[int] = (20, 77, 248),
    decode: bool = True,
    advance: Callable[[int], None] = lambda n: None,
) -> DataReport:
    """Look at every pair and every image.

    Args:
        source: What :func:`~lrsclip_train.pair_sources.data_files_from_spec` takes, which is read past
            everything that a run would refuse; or a source that is open already.
        tokenizer: Counts the tokens of the texts.
        split: Look at this split of a ``pairs.jsonl`` alone.
        contexts: Context lengths [tokens] for which cut texts are counted.
        decode: Decode every image; otherwise images are read and compared, not decoded.
        advance: Called with the number of images done.

    Returns:
        What was found.

    Raises:
        InputError: If there is no such data, a shard cannot be opened, a split is asked of a source that has
            none, or a context lies outside 1 to :data:`~lrsclip_train.data_report.MAX_COUNTED_TOKENS`.
    """
    outside = [context for context in contexts if not 1 <= context <= MAX_COUNTED_TOKENS]
    if outside:
        raise InputError(f"contexts must lie between 1 and {MAX_COUNTED_TOKENS} tokens, got {outside[0]}")
    name, records, opened = _opened(source, split)
    bad: list[Finding] = []
    tally = _Tally(Tokenizer(tokenizer.path, context_length=MAX_COUNTED_TOKENS))
    found = records(lambda where, reason: bad.append(Finding(where, reason)))
    for record, (digest, reason, missing) in _with_images(found, opened, decode=decode):
        tally.add(record, digest, reason, missing=missing)
        advance(1)
    groups = _groups(tally.image_hashes())
    shared, wanted = tally.shared_captions()
    keys, texts = _fetched(records, {p for group in groups for p in group}, set(wanted))
    return DataReport(
        source=name,
        split=split,
        decoded=decode,
        images=tally.images,
        bad_records=tuple(bad),
        missing_files=tuple(tally.missing),
        broken_images=tuple(tally.broken),
        empty_captions=tally.empty,
        images_with_captions=(tally.with_captions[0], tally.with_captions[1], tally.with_captions[2]),
        shared_captions=SharedCaptions(*shared, top=tuple((texts[h], n) for h, n in wanted.items())),
        duplicate_images=tuple(tuple(keys[position] for position in group) for group in groups),
        orientation_bound_captions=tally.bound_captions,
        orientation_bound_images=tally.bound_images,
        short=TextLengths.from_counts(tally.short.counts(), contexts),
        long=TextLengths.from_counts(tally.long.counts(), contexts),
        classes=tuple(sorted(tally.classes.items(), key=lambda item: (-item[1], item[0]))),
    )


def _opened(source: PairSource | str | Path, split: str | None) -> tuple[str, _Records, PairSource | None]:
    """A name, the records as often as they are asked for, and the source that decodes what is not stored."""
    name = str(source) if isinstance(source, (str, Path)) else repr(source)
    if isinstance(source, (str, Path)):
        found = data_files_from_spec(source)
        if isinstance(found, Path):
            return name, lambda report: _nonempty(found, split, report), None
        source = ShardPairs(found, strict=False)
    if split is not None:
        raise InputError(f"{name} knows no splits, so split {split!r} selects nothing; leave it out")
    pairs = source

    def records(report: _Report) -> Iterator[DataRecord]:
        for problem in pairs.problems if isinstance(pairs, ShardPairs) else ():
            report(
                f"{problem.shard.name}:{problem.key}" if problem.key else problem.shard.name, problem.reason
            )
        for index in range(len(pairs)):
            yield DataRecord(pairs[index])

    return name, records, pairs


def _nonempty(folder: Path, split: str | None, report: _Report) -> Iterator[DataRecord]:
    """The folder's records; none at all is refused by a run, so it is reported."""
    anything = False
    for record in records_from_folder(folder, split=split, report=report):
        anything = True
        yield record
    if not anything:
        report("pairs.jsonl", "names no image" + ("" if split is None else f" of split {split!r}"))


def _with_images(
    records: Iterator[DataRecord], source: PairSource | None, *, decode: bool
) -> Iterator[tuple[DataRecord, _ImageState]]:
    """Look at the images with a pool of threads, in order and a bounded number ahead."""
    threads = min(_MOST_THREADS, available_cpus())
    waiting: deque[tuple[DataRecord, Future[_ImageState]]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="lrsclip-check")
    try:
        for index, record in enumerate(records):
            waiting.append((record, pool.submit(_image_state, record.pair, index, source, decode)))
            if len(waiting) >= 4 * threads:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _image_state(pair: TrainingPair, index: int, source: PairSource | None, decode: bool) -> _ImageState:
    stored = pair.image
    digest = b""
    try:
        if stored is None:
            if decode and source is not None:
                source.image(index)
        elif stored.size is not None:
            digest = hashlib.sha256(stored.read()).digest()
        elif not stored.path.exists():
            return b"", "", True
        elif not stored.path.is_file():
            return b"", f"{shown_name(stored.path)} is not a regular file", False
        else:
            digest = bytes.fromhex(sha256_of_file(stored.path))
        if decode and stored is not None:
            stored.rgb()
    except ImageError as error:
        return digest, str(error), False
    except OSError as error:
        return digest, f"{shown_name(pair.key)} cannot be read ({one_line(error)})", False
    return digest, "", False


class _Tally:
    """What is counted on the way."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.images = self.empty = self.bound_captions = self.bound_images = 0
        self.missing: list[str] = []
        self.broken: list[Finding] = []
        self.with_captions = [0, 0, 0]
        self.classes: Counter[str] = Counter()
        self.short, self.long = _Lengths(tokenizer), _Lengths(tokenizer)
        self._captions, self._owners = array("Q"), array("Q")
        self._files, self._positions = array("Q"), array("Q")

    def add(self, record: DataRecord, digest: bytes, reason: str, *, missing: bool) -> None:
        pair, position = record.pair, self.images
        self.images += 1
        self.empty += record.empty
        self.classes[pair.category] += 1
        self.with_captions[min(2, len(set(pair.shorts)))] += 1
        longs = (pair.long,) if pair.long else ()
        self.short.add(pair.shorts)
        self.long.add(longs)
        bound = sum(map(orientation_bound, (*pair.shorts, *longs)))
        self.bound_captions += bound
        self.bound_images += bound > 0
        for text in dict.fromkeys((*pair.shorts, *longs)):
            self._captions.append(_text_hash(text))
            self._owners.append(position)
        if missing:
            self.missing.append(pair.key)
        elif reason:
            self.broken.append(Finding(pair.key, reason))
        if digest:
            self._files.extend((int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:16], "little")))
            self._positions.append(position)

    def image_hashes(self) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
        """(N, 2) halves of the images' hashes and the (N,) positions of the images."""
        return np.array(self._files, np.uint64).reshape(-1, 2), np.array(self._positions, np.uint64)

    def shared_captions(self) -> tuple[tuple[int, int], dict[int, int]]:
        """Number of shared texts and of their images; hash and number of images of the most shared ones."""
        hashes, owners = np.array(self._captions, np.uint64), np.array(self._owners, np.uint64)
        distinct, first, inverse, counts = np.unique(
            hashes, return_index=True, return_inverse=True, return_counts=True
        )
        shared = counts > 1
        order = np.lexsort((first, -counts))[:_TOP]
        top = {int(distinct[i]): int(counts[i]) for i in order if shared[i]}
        return (int(shared.sum()), len(np.unique(owners[shared[inverse]]))), top


class _Lengths:
    """Counts texts by their number of tokens."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._counts = np.zeros(MAX_COUNTED_TOKENS + 1, np.int64)
        self._texts: list[str] = []

    def add(self, texts: Sequence[str]) -> None:
        self._texts += texts
        if len(self._texts) >= _TEXTS_AT_A_TIME:
            self.counts()

    def counts(self) -> NDArray[np.int64]:
        lengths = self._tokenizer.encode_batch(self._texts).eot + 1
        self._counts += np.bincount(lengths, minlength=len(self._counts))
        self._texts = []
        return self._counts


def _text_hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "little")


def _groups(images: tuple[NDArray[np.uint64], NDArray[np.uint64]]) -> list[list[int]]:
    """Positions of images with the same hash, group by group, in the order of the first of each."""
    halves, positions = images
    order = np.lexsort((positions, halves[:, 1], halves[:, 0]))
    same = (halves[order[1:]] == halves[order[:-1]]).all(axis=1)
    groups: list[list[int]] = []
    for at in np.flatnonzero(same):
        if not at or not same[at - 1]:
            groups.append([int(positions[order[at]])])
        groups[-1].append(int(positions[order[at + 1]]))
    return sorted(groups)


def _fetched(
    records: _Records, positions: set[int], hashes: set[int]
) -> tuple[dict[int, str], dict[int, str]]:
    """Keys of the records at ``positions`` and texts with ``hashes``, by a second pass."""
    keys: dict[int, str] = {}
    texts: dict[int, str] = {}
    if not positions and not hashes:
        return keys, texts
    for position, record in enumerate(records(lambda where, reason: None)):
        if position in positions:
            keys[position] = record.pair.key
        for text in (*record.pair.shorts, record.pair.long) if len(texts) < len(hashes) else ():
            digest = _text_hash(text)
            if digest in hashes:
                texts[digest] = text
    return keys, texts

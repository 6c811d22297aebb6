"""What a look through training data found: a record for programs, a page of text for people."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.image_decoding import shown_name

__all__ = ["MAX_COUNTED_TOKENS", "DataReport", "Finding", "SharedCaptions", "TextLengths"]

MAX_COUNTED_TOKENS = 1024
"""Texts longer than this count as this long."""

_BINS = (10, 20, 40, 77, 120, 248)
_BAR = 30
_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that cannot be used: where (a line, a sample, an image's key) and why."""

    where: str
    reason: str


@dataclass(frozen=True, slots=True)
class SharedCaptions:
    """Texts that several images have in common: in a batch they are no negatives of each other.

    Attributes:
        texts: Number of such texts.
        images: Number of images that have at least one.
        top: The most shared texts, each with the number of its images.
    """

    texts: int
    images: int
    top: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class TextLengths:
    """Lengths of texts [tokens], SOT and EOT counted, as the model gets them.

    Attributes:
        texts: Number of texts.
        median: Half of the texts have at most this length.
        p95: 95 % have at most this length.
        longest: At most :data:`MAX_COUNTED_TOKENS`.
        bins: Upper end of each bin of the histogram and the number of texts in it.
        cut: Context length and number of texts that do not fit into it.
    """

    texts: int
    median: int
    p95: int
    longest: int
    bins: tuple[tuple[int, int], ...]
    cut: tuple[tuple[int, int], ...]

    @classmethod
    def from_counts(cls, counts: NDArray[np.int64], contexts: Sequence[int]) -> TextLengths:
        """Summarise ``counts[length]``, the (MAX_COUNTED_TOKENS + 1,) numbers of texts of each length."""
        up_to = np.cumsum(counts)
        total = int(up_to[-1])
        ends = sorted({*_BINS, *contexts} | {MAX_COUNTED_TOKENS})
        below = [0, *(int(up_to[end]) for end in ends)]
        return cls(
            texts=total,
            median=int(np.searchsorted(up_to, 0.5 * total)),
            p95=int(np.searchsorted(up_to, 0.95 * total)),
            longest=int(np.flatnonzero(counts)[-1]) if total else 0,
            bins=tuple((end, below[i + 1] - below[i]) for i, end in enumerate(ends)),
            cut=tuple((context, total - int(up_to[context])) for context in contexts),
        )


@dataclass(frozen=True, slots=True)
class DataReport:
    """Findings about training data.

    Attributes:
        source: What was looked through.
        split: The split, None for all.
        decoded: Whether the images were decoded, not only read.
        images: Images that a line names, even a bad one, or that a shard holds in a usable sample.
        bad_records: Every line or sample that a run would refuse; a line may occur with several reasons.
        missing_files: Keys of the images without a file.
        broken_images: Images that cannot be read or decoded.
        empty_captions: Short captions without any text.
        images_with_captions: Number of images with none, one, and two or more distinct short captions.
        shared_captions: Texts, short or long, of several images.
        duplicate_images: Keys of images whose files are the same byte for byte, group by group.
        orientation_bound_captions: Texts that say where something lies.
        orientation_bound_images: Images with such a text.
        short: Lengths of the short captions.
        long: Lengths of the long captions.
        classes: Each class and its number of images, the largest first; "" stands for none.
    """

    source: str
    split: str | None
    decoded: bool
    images: int
    bad_records: tuple[Finding, ...]
    missing_files: tuple[str, ...]
    broken_images: tuple[Finding, ...]
    empty_captions: int
    images_with_captions: tuple[int, int, int]
    shared_captions: SharedCaptions
    duplicate_images: tuple[tuple[str, ...], ...]
    orientation_bound_captions: int
    orientation_bound_images: int
    short: TextLengths
    long: TextLengths
    classes: tuple[tuple[str, int], ...]

    @property
    def ok(self) -> bool:
        """Whether a run could use all of it: no bad record, no image missing or broken."""
        return not (self.bad_records or self.missing_files or self.broken_images)

    def as_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        record = dataclasses.asdict(self)
        record["classes"] = dict(self.classes)
        for name in ("short", "long"):
            lengths: TextLengths = getattr(self, name)
            record[name] |= {"bins": dict(lengths.bins), "cut": dict(lengths.cut)}
        return record | {"ok": self.ok}

    def lines(self) -> list[str]:
        """A page of text; long lists are cut, with the number of what is left out."""
        none, one, more = self.images_with_captions
        shared = self.shared_captions
        copies = sum(map(len, self.duplicate_images))
        rows: list[tuple[str, int | str]] = [
            ("images", self.images),
            ("  bad lines or samples", len(self.bad_records)),
            ("  missing files", len(self.missing_files)),
            ("  broken images" + ("" if self.decoded else " (not decoded)"), len(self.broken_images)),
            ("  same file as another", f"{copies} in {len(self.duplicate_images)} groups"),
            ("  with 0 / 1 / 2+ short captions", f"{none} / {one} / {more}"),
            ("  kept upright by a caption", self.orientation_bound_images),
            ("captions", self.short.texts + self.long.texts),
            ("  empty", self.empty_captions),
            ("  shared by several images", f"{shared.texts} in {shared.images} images"),
            ("  that say where something lies", self.orientation_bound_captions),
            ("classes", sum(1 for name, _ in self.classes if name)),
        ]
        split = "" if self.split is None else f", split {self.split}"
        return [
            f"{shown_name(self.source)}{split}",
            "",
            *(f"{name:<36}{value:>24}" for name, value in rows),
            *_length_lines("short captions", self.short),
            *_length_lines("long captions", self.long),
            *_list("bad lines or samples", [f"{f.where}: {f.reason}" for f in self.bad_records]),
            *_list("missing files", self.missing_files),
            *_list("broken images", [f"{f.where}: {f.reason}" for f in self.broken_images]),
            *_list("images that are the same file", [" = ".join(group) for group in self.duplicate_images]),
            *_list("most shared captions", [f"{images:>6}  {text}" for text, images in shared.top]),
            *_list("classes", [f"{images:>6}  {name or '(none)'}" for name, images in self.classes]),
        ]


def _length_lines(title: str, lengths: TextLengths) -> Iterator[str]:
    yield ""
    yield f"{title} [tokens, start and end marks counted]"
    if not lengths.texts:
        yield "  none"
        return
    yield f"  median {lengths.median}, 95 % up to {lengths.p95}, longest {lengths.longest}"
    most = max(count for _, count in lengths.bins)
    start = 0
    for end, count in lengths.bins:
        name = f"{start + 1}-{end}" if end < MAX_COUNTED_TOKENS else f"over {start}"
        yield f"  {name:>9} {count:>9}  {'#' * -(-_BAR * count // most)}".rstrip()
        start = end
    for context, cut in lengths.cut:
        yield f"  cut at {context} tokens: {cut} ({100 * cut / lengths.texts:.1f} %)"


def _list(title: str, items: Sequence[str]) -> Iterator[str]:
    if items:
        yield ""
        yield title
        yield from (f"  {shown_name(item)}" for item in items[:_SHOWN])
        if len(items) > _SHOWN:
            yield f"  ... and {len(items) - _SHOWN} more"

"""Where training pairs come from: a folder with ``pairs.jsonl``, or shards.

A source is a sequence of pairs whose images are decoded on demand, in any order and in any process.
"""

from __future__ import annotations

import os
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from lrsclip_rt.datasets import pair_set_from_folder
from lrsclip_rt.errors import ImageError, InputError
from lrsclip_rt.image_decoding import shown_name
from lrsclip_train.shard_sidecars import shard_with_sidecar
from lrsclip_train.shards import ShardProblem, shard_from_tar
from lrsclip_train.training_pairs import StoredImage, TrainingPair

if TYPE_CHECKING:
    from PIL import Image

__all__ = [
    "FolderPairs",
    "JoinedPairs",
    "PairSource",
    "ShardPairs",
    "StoredImage",
    "TrainingPair",
    "data_files_from_spec",
    "pair_source_from",
]

_MOST_SHARDS = 1_000_000
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


class PairSource(Protocol):
    """A sequence of training pairs; it can be sent to another process."""

    def __len__(self) -> int:
        """Number of pairs."""

    def __getitem__(self, index: int) -> TrainingPair:
        """The pair, its texts read and its image not; IndexError behind the last."""

    def key(self, index: int) -> str:
        """The pair's unique name, without reading its texts."""

    def image(self, index: int) -> Image.Image:
        """The decoded image, upright and RGB; ImageError if this one cannot be had."""


class FolderPairs:
    """The pairs of a folder with ``pairs.jsonl``; a pair's key is the path of its image.

    Args:
        folder: The data set.
        split: Keep this split alone; None keeps every pair.

    Raises:
        InputError: As :func:`~lrsclip_rt.datasets.pair_set_from_folder`.
    """

    def __init__(self, folder: str | Path, *, split: str | None = None) -> None:
        self.pairs = pair_set_from_folder(folder, split=split)

    def __len__(self) -> int:
        return len(self.pairs)

    def __repr__(self) -> str:
        return f"FolderPairs({str(self.pairs.root)!r}, split={self.pairs.split!r}: {len(self)} pairs)"

    def __getitem__(self, index: int) -> TrainingPair:
        item = self.pairs.items[_checked(index, len(self))]
        image = StoredImage(self.pairs.image_path(item))
        return TrainingPair(item.image, item.short, item.long or "", item.category, image)

    def key(self, index: int) -> str:
        """Path of the image, relative to the folder."""
        return self.pairs.items[_checked(index, len(self))].image

    def image(self, index: int) -> Image.Image:
        """Decode the image.

        Raises:
            ImageError: If it cannot be read or decoded.
        """
        return StoredImage(self.pairs.root / self.key(index)).rgb()


class ShardPairs:
    """The pairs of tar archives; a pair's key is the shard's name and the sample's, ``000012.tar:000345``.

    About 60 bytes a pair are held in memory; texts and images stay in the shards.

    Args:
        shards: The archives, see :mod:`lrsclip_train.shards`.
        cache: Folder that keeps what the first walk through each shard finds; None walks at every start.
        strict: Raise for the first sample or shard that cannot be used; otherwise leave it out and list it.

    Attributes:
        problems: What was left out.

    Raises:
        InputError: If no shard is given, one is given twice, a shard cannot be opened or no sample is left;
            if ``strict``, for any broken shard or unusable sample.
    """

    def __init__(
        self, shards: Sequence[str | Path], *, cache: str | Path | None = None, strict: bool = True
    ) -> None:
        paths = [Path(path) for path in shards]
        if not paths:
            raise InputError("no shard is given, expected at least one tar archive")
        resolved = [path.resolve() for path in paths]
        if len(set(resolved)) < len(resolved):
            again = next(path for path, count in Counter(resolved).items() if count > 1)
            raise InputError(f"the shard {shown_name(again)} is given twice")
        self.shards = tuple(
            shard_from_tar(path, strict=strict)
            if cache is None
            else shard_with_sidecar(path, cache, strict=strict)
            for path in paths
        )
        self.problems: tuple[ShardProblem, ...] = tuple(p for shard in self.shards for p in shard.problems)
        self._ends = list(accumulate(len(shard) for shard in self.shards))
        # Shards of one name in two folders are told apart by as much of their paths as differs.
        common = os.path.commonpath([path.parent for path in resolved])
        self._names = [path.relative_to(common).as_posix() for path in resolved]
        if not len(self):
            raise InputError(f"{shown_name(paths[0])} and all other shards hold no usable sample")

    def __len__(self) -> int:
        return self._ends[-1]

    def __repr__(self) -> str:
        return f"ShardPairs({len(self.shards)} shards: {len(self)} pairs, {len(self.problems)} problems)"

    def __getitem__(self, index: int) -> TrainingPair:
        number, position = self._place(index)
        pair = self.shards[number].pair(position)
        return TrainingPair(self.key(index), pair.shorts, pair.long, pair.category, pair.image)

    def key(self, index: int) -> str:
        """Name of the shard and of the sample in it."""
        number, position = self._place(index)
        return f"{self._names[number]}:{self.shards[number].key(position)}"

    def image(self, index: int) -> Image.Image:
        """Decode the image.

        Raises:
            ImageError: If it cannot be decoded.
            InputError: If the shard cannot be read or has changed.
        """
        number, position = self._place(index)
        try:
            return self.shards[number].image(position).rgb()
        except ImageError as error:
            raise ImageError(f"{shown_name(self.key(index))}: {error}") from error

    def _place(self, index: int) -> tuple[int, int]:
        number = bisect_right(self._ends, _checked(index, len(self)))
        return number, index - (self._ends[number - 1] if number else 0)


class JoinedPairs:
    """Several pair sources as one, one behind the other."""

    def __init__(self, sources: Sequence[PairSource]) -> None:
        self.sources = tuple(sources)
        self.starts = list(accumulate((len(source) for source in sources), initial=0))

    def __len__(self) -> int:
        return self.starts[-1]

    def place(self, index: int) -> tuple[int, int]:
        """Source and index there."""
        number = bisect_right(self.starts, _checked(index, len(self))) - 1
        return number, index - self.starts[number]

    def __getitem__(self, index: int) -> TrainingPair:
        number, inner = self.place(index)
        return self.sources[number][inner]

    def key(self, index: int) -> str:
        """The pair's name in its source."""
        number, inner = self.place(index)
        return self.sources[number].key(inner)

    def image(self, index: int) -> Image.Image:
        """The decoded image."""
        number, inner = self.place(index)
        return self.sources[number].image(inner)


def _checked(index: int, length: int) -> int:
    if not 0 <= index < length:
        raise IndexError(f"pair {index} of {length}")
    return index


def pair_source_from(
    spec: str | Path, *, split: str | None, cache: str | Path | None = None, strict: bool = True
) -> FolderPairs | ShardPairs:
    """Open training pairs by what is found at ``spec``.

    Args:
        spec: As for :func:`data_files_from_spec`.
        split: Keep this split of ``pairs.jsonl`` alone. Shards know no splits.
        cache: For shards, as :class:`ShardPairs`.
        strict: For shards, as :class:`ShardPairs`; a ``pairs.jsonl`` is always read strictly.

    Raises:
        InputError: If nothing usable is found, or a split is asked of shards.
    """
    found = data_files_from_spec(spec)
    if isinstance(found, Path):
        return FolderPairs(found, split=split)
    if split is not None:
        raise InputError(
            f"{spec} are shards, which know no splits, so split {split!r} selects nothing; "
            "name the shards of that split and leave split out"
        )
    return ShardPairs(found, cache=cache, strict=strict)


def data_files_from_spec(spec: str | Path) -> Path | tuple[Path, ...]:
    """Tell what ``spec`` names.

    Args:
        spec: A folder with ``pairs.jsonl`` or that file; one shard, a folder of shards, a glob such as
            ``shards/*.tar`` or a range such as ``shards/{000..012}.tar``.

    Returns:
        The folder of a ``pairs.jsonl``, or shards in the order of their names.

    Raises:
        InputError: If there is no such thing, or a folder holds both.

    Example:
        >>> data_files_from_spec("no/such/{0..1}.tar")
        Traceback (most recent call last):
        lrsclip_rt.errors.InputError: no/such/{0..1}.tar: 2 of 2 shards do not exist, first no/such/0.tar
    """
    path = Path(spec)
    if path.is_dir():
        return _from_folder(path)
    if path.is_file():
        if path.name == "pairs.jsonl":
            return path.parent
        if path.suffix == ".tar":
            return (path,)
        raise InputError(f"{shown_name(path)} is neither pairs.jsonl nor a shard; a shard ends in .tar")
    text = str(spec)
    if not any(sign in text for sign in "*?[{"):
        raise InputError(
            f"{shown_name(text)} does not exist; expected a folder with pairs.jsonl, or shards such as "
            "shards/*.tar or shards/{000..012}.tar"
        )
    named = [item for name in _expanded(text) for item in _matches(name)]
    if not named:
        raise InputError(f"{shown_name(text)} matches no file; expected shards (*.tar)")
    absent = [shown_name(item) for item in named if not item.is_file()]
    if absent:
        raise InputError(
            f"{shown_name(text)}: {len(absent)} of {len(named)} shards do not exist, first {absent[0]}"
        )
    return tuple(dict.fromkeys(named))


def _from_folder(folder: Path) -> Path | tuple[Path, ...]:
    shards = tuple(sorted(folder.glob("*.tar")))
    has_pairs = (folder / "pairs.jsonl").is_file()
    if has_pairs and shards:
        raise InputError(
            f"{shown_name(folder)} holds both pairs.jsonl and shards; name pairs.jsonl or *.tar in it"
        )
    if not has_pairs and not shards:
        raise InputError(f"{shown_name(folder)} holds neither pairs.jsonl nor shards (*.tar)")
    return folder if has_pairs else shards


def _expanded(text: str) -> Iterator[str]:
    """``{08..10}`` -> ``08``, ``09``, ``10``; as wide as the first number is written."""
    found = _RANGE.search(text)
    if found is None:
        yield text
        return
    first, last = int(found[1]), int(found[2])
    if not first <= last <= first + _MOST_SHARDS:
        raise InputError(
            f"{shown_name(text)}: {found[0]} is no range of shards, expected such as {{000..012}}"
        )
    for number in range(first, last + 1):
        yield from _expanded(f"{text[: found.start()]}{number:0{len(found[1])}d}{text[found.end() :]}")


def _matches(name: str) -> list[Path]:
    path = Path(name)
    if not any(sign in name for sign in "*?["):
        return [path]
    return sorted(Path(path.anchor or ".").glob(str(path.relative_to(path.anchor))))

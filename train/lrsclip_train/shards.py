"""Shards: training pairs in tar archives, as the webdataset project lays them out.

Members whose names are alike up to the first dot behind the last slash are one sample::

    KEY.jpg | jpeg | png | webp | tif | tiff    the image
    KEY.json                                    {"short": ["..."], "long": "...", "class": "..."}
    KEY.txt  and, optionally, KEY.long.txt      one short caption, one long one

Where both are there, ``KEY.json`` counts if it has ``short`` or ``long``. Other members are passed over. A
shard is walked through once; from then on a sample is one seek and one read, in any order.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.errors import ImageError, InputError, OutputExistsError
from lrsclip_rt.image_decoding import one_line, recognised_format, shown_name
from lrsclip_train.tar_members import TarMember, tar_members
from lrsclip_train.training_pairs import StoredImage, TrainingPair

__all__ = ["MAX_IMAGE_BYTES", "MAX_TEXT_BYTES", "Shard", "ShardProblem", "shard_from_tar", "write_shards"]

MAX_IMAGE_BYTES = 1 << 28
MAX_TEXT_BYTES = 1 << 20

_IMAGE_ENDINGS = frozenset({"jpg", "jpeg", "png", "webp", "tif", "tiff"})
_ENDING_OF_FORMAT = {"JPEG": "jpg", "PNG": "png", "WebP": "webp", "TIFF": "tif"}


@dataclass(frozen=True, slots=True)
class ShardProblem:
    """What is wrong in a shard: the sample's key, empty for the shard itself, and the reason."""

    shard: Path
    key: str
    reason: str


@dataclass(frozen=True, slots=True, eq=False)
class Shard:
    """A tar archive and where its usable samples lie.

    Attributes:
        path: The archive.
        version: Its size [bytes] and modification time [ns] when it was walked through.
        places: (N, 3, 2) int64, offset and size [bytes] of image, caption and long caption; -1 where absent.
        json: (N,) bool, the caption is ``KEY.json``.
        names: All keys in UTF-8, one behind the other.
        name_ends: (N,) int64, where each key ends in ``names``.
        problems: What was left out.
    """

    path: Path
    version: tuple[int, int]
    places: NDArray[np.int64]
    json: NDArray[np.bool_]
    names: bytes
    name_ends: NDArray[np.int64]
    problems: tuple[ShardProblem, ...]

    def __len__(self) -> int:
        return len(self.places)

    def key(self, index: int) -> str:
        """The sample's key, unique in this shard."""
        start = int(self.name_ends[index - 1]) if index else 0
        return self.names[start : int(self.name_ends[index])].decode("utf-8")

    def image(self, index: int) -> StoredImage:
        """Where the sample's image lies."""
        return self._part(index, 0)

    def pair(self, index: int) -> TrainingPair:
        """The sample; its texts are read now, its image is not.

        Raises:
            InputError: If the shard cannot be read or has changed.
        """
        first = self._part(index, 1).read()
        second = self._part(index, 2).read() if self.places[index, 2, 0] >= 0 else None
        key = self.key(index)
        shorts, long, category = _texts(first, second, json_text=bool(self.json[index]))
        return TrainingPair(key, shorts, long, category, self.image(index))

    def _part(self, index: int, part: int) -> StoredImage:
        offset, size = self.places[index, part].tolist()
        return StoredImage(self.path, offset, size, self.version)


def shard_from_tar(path: str | Path, *, strict: bool = True) -> Shard:
    """Walk through a shard, check the texts of every sample and note where everything lies.

    Args:
        path: A plain tar archive.
        strict: Raise for the first problem; otherwise keep what can be used and list the problems.

    Raises:
        InputError: If the shard cannot be opened; if ``strict``, also for a broken archive and for a sample
            without an image, without a caption or with one that cannot be used.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"shard {shown_name(path)} does not exist or is no regular file; check the path")
    try:
        status = path.stat()
        with path.open("rb") as stream:
            return _walked(path, (status.st_size, status.st_mtime_ns), stream, strict=strict)
    except OSError as error:
        raise InputError(f"shard {shown_name(path)} cannot be read ({one_line(error)})") from error


def _walked(path: Path, version: tuple[int, int], stream: IO[bytes], *, strict: bool) -> Shard:
    problems: list[ShardProblem] = []

    def report(key: str, reason: str) -> None:
        if strict:
            where = f": sample {shown_name(key)!r}" if key else ""
            raise InputError(f"shard {shown_name(path)}{where}: {reason}")
        problems.append(ShardProblem(path, key, reason))

    samples: dict[str, dict[str, TarMember]] = {}
    twice: set[str] = set()
    try:
        for member in tar_members(stream, shown_name(path.name)):
            key, ending = _key_and_ending(member.name)
            if not key or ending not in _IMAGE_ENDINGS | {"json", "txt", "long.txt"}:
                continue
            parts = samples.setdefault(key, {})
            if ending in parts:
                twice.add(key)
            parts[ending] = member
    except InputError as error:
        report("", str(error))

    places: list[list[tuple[int, int]]] = []
    is_json: list[bool] = []
    keys: list[bytes] = []
    for key, parts in samples.items():
        try:
            if key in twice:
                raise InputError("it occurs twice in the shard; give each sample a name of its own")
            place, from_json = _places(parts, stream)
        except InputError as error:
            report(key, str(error))
            continue
        places.append(place)
        is_json.append(from_json)
        keys.append(key.encode("utf-8"))
    return Shard(
        path,
        version,
        np.array(places, np.int64).reshape(-1, 3, 2),
        np.array(is_json, bool),
        b"".join(keys),
        np.cumsum([len(key) for key in keys], dtype=np.int64),
        tuple(problems),
    )


def _key_and_ending(name: str) -> tuple[str, str]:
    folder, slash, file = name.rpartition("/")
    stem, _, ending = file.partition(".")
    return (folder + slash + stem if stem else ""), ending.lower()


def _places(parts: dict[str, TarMember], stream: IO[bytes]) -> tuple[list[tuple[int, int]], bool]:
    """Offset and size of a sample's image, caption and long caption, once its texts are known to be good."""
    images = [member for ending, member in parts.items() if ending in _IMAGE_ENDINGS]
    if len(images) != 1:
        raise InputError(f"it has {len(images)} images, expected one ({', '.join(sorted(_IMAGE_ENDINGS))})")
    for member in parts.values():
        most = MAX_IMAGE_BYTES if member is images[0] else MAX_TEXT_BYTES
        if member.size > most:
            raise InputError(f"{shown_name(member.name)} has {member.size} bytes, more than {most}")
    chosen = _caption_members(parts, stream)
    contents = [_content(stream, member) for member in chosen]
    from_json = chosen[0] is parts.get("json")
    _texts(contents[0], contents[1] if len(contents) > 1 else None, json_text=from_json)
    place = [(member.offset, member.size) for member in (images[0], *chosen)]
    return place + [(-1, -1)] * (3 - len(place)), from_json


def _caption_members(parts: dict[str, TarMember], stream: IO[bytes]) -> list[TarMember]:
    if "json" in parts:
        # Other tools put a record without our keys beside the caption in KEY.txt.
        record = _record(_content(stream, parts["json"]))
        if "txt" not in parts or record.get("short") or record.get("long"):
            return [parts["json"]]
    if "txt" not in parts:
        raise InputError("it has no caption, expected KEY.json or KEY.txt beside the image")
    return [parts[ending] for ending in ("txt", "long.txt") if ending in parts]


def _content(stream: IO[bytes], member: TarMember) -> bytes:
    stream.seek(member.offset)
    return stream.read(member.size)


def _texts(first: bytes, second: bytes | None, *, json_text: bool) -> tuple[tuple[str, ...], str, str]:
    """Short captions, long caption and class of one sample."""
    if not json_text:
        short, long = _plain(first, "KEY.txt"), "" if second is None else _plain(second, "KEY.long.txt")
        if not short:
            raise InputError("its caption is empty (KEY.txt); write one or leave the sample out")
        return (short,), long, ""
    record = _record(first)
    shorts, long_text, category = (
        record.get("short") or [],
        record.get("long") or "",
        record.get("class") or "",
    )
    if not isinstance(shorts, list) or not all(isinstance(s, str) and s.strip() for s in shorts):
        raise InputError(f"short is {shorts!r:.60}, expected a list of captions, none empty")
    if not isinstance(long_text, str) or not isinstance(category, str):
        raise InputError(f"long and class are {long_text!r:.60} and {category!r:.60}, expected texts")
    if not shorts and not long_text.strip():
        raise InputError("it has no caption, expected short (a list), long or both in KEY.json")
    return tuple(shorts), long_text if long_text.strip() else "", category


def _plain(content: bytes, name: str) -> str:
    try:
        return content.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise InputError(f"{name} is not UTF-8 (byte {error.start}); save it as UTF-8") from None


def _record(content: bytes) -> dict[str, Any]:
    text = _plain(content, "KEY.json")
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"KEY.json is not JSON ({one_line(error)})") from None
    if not isinstance(record, dict):
        raise InputError(f"KEY.json is {record!r:.60}, expected an object")
    return record


def write_shards(
    pairs: Iterable[TrainingPair], out_dir: str | Path, *, samples_per_shard: int = 10_000
) -> tuple[Path, ...]:
    """Write pairs to ``000000.tar``, ``000001.tar``, ...; the images are copied as they are.

    Samples are numbered through; the key that a pair had is kept as ``key`` in its JSON.

    Args:
        pairs: Pairs with stored images, read one at a time.
        out_dir: Receives the shards; made if it is not there.
        samples_per_shard: Samples of each shard but the last.

    Returns:
        The shards, in order.

    Raises:
        InputError: If there is no pair, ``samples_per_shard`` is not positive, or an image is none of the
            kinds that a shard holds.
        ImageError: If an image cannot be read.
        OutputExistsError: If a shard of that name is there already.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     picture = Path(folder, "pond.png")
        ...     Image.new("RGB", (8, 8)).save(picture)
        ...     pair = TrainingPair("pond", ("a pond",), image=StoredImage(picture))
        ...     [path.name for path in write_shards([pair, pair], folder, samples_per_shard=1)]
        ['000000.tar', '000001.tar']
    """
    if samples_per_shard < 1:
        raise InputError(f"samples_per_shard must be at least 1, got {samples_per_shard}")
    folder = Path(out_dir)
    folder.mkdir(parents=True, exist_ok=True)
    numbered = enumerate(pairs)
    shards: list[Path] = []
    while group := list(islice(numbered, samples_per_shard)):
        path = folder / f"{len(shards):06d}.tar"
        if path.exists():
            raise OutputExistsError(f"{path} exists already; choose an empty folder")
        _write_shard(path, group)
        shards.append(path)
    if not shards:
        raise InputError("there is no pair to write")
    return tuple(shards)


def _write_shard(path: Path, group: Iterable[tuple[int, TrainingPair]]) -> None:
    """Write beside and rename, so that a shard is there whole or not at all."""
    temporary = path.with_suffix(".partial")
    try:
        # The oldest of the formats: nothing here needs more, and everything reads it.
        with tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as tar:
            for number, pair in group:
                for ending, content in _members(pair):
                    info = tarfile.TarInfo(f"{number:09d}.{ending}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _members(pair: TrainingPair) -> Iterator[tuple[str, bytes]]:
    if pair.image is None:
        raise ImageError(f"{pair.key} has no stored image; save it to a file first")
    image = pair.image.read()
    kind = recognised_format(image[:32], pair.key).name
    if kind not in _ENDING_OF_FORMAT:
        raise ImageError(
            f"{pair.key} is {kind}; a shard holds {', '.join(_ENDING_OF_FORMAT)}: save it as PNG"
        )
    yield _ENDING_OF_FORMAT[kind], image
    record = {"short": list(pair.shorts), "long": pair.long, "class": pair.category, "key": pair.key}
    yield "json", json.dumps(record).encode("ascii")

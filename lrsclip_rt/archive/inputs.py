"""Files to index: which there are, below which root, and what they are without decoding them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lrsclip_rt.archive.records import Location
from lrsclip_rt.archive.stac.reading import ItemFacts, RefusedItem, assets_from_stac, is_stac, stac_in_folder
from lrsclip_rt.errors import ImageError, InputError, LrsclipError

__all__ = [
    "ImageHeader",
    "InputFile",
    "Shard",
    "header_from_image",
    "is_raster",
    "list_inputs",
    "sha256_and_size",
]

_RASTER_SUFFIXES = frozenset({".tif", ".tiff", ".jp2", ".j2k", ".vrt", ".img", ".ntf", ".nitf"})
_EXIF_IFD, _DATETIME_ORIGINAL = 0x8769, 0x9003
_NO_FACTS = ItemFacts()


@dataclass(frozen=True, slots=True)
class InputFile:
    """A file, the root that its recorded path is relative to, and what a STAC item says of it."""

    path: Path
    root: Path
    facts: ItemFacts = _NO_FACTS

    def location(self) -> Location:
        """Root, relative path and modification time.

        Raises:
            InputError: If the name is not UTF-8.
        """
        relative = self.relative
        try:
            str(self.path).encode()
        except UnicodeEncodeError as error:
            raise InputError(
                f"the name {str(self.path)!r} is not UTF-8, which an archive needs; rename it"
            ) from error
        return Location(str(self.root), relative, self.path.stat().st_mtime_ns)

    @property
    def relative(self) -> str:
        """Path below the root, with ``/``."""
        return self.path.relative_to(self.root).as_posix()


@dataclass(frozen=True, slots=True)
class Shard:
    """One of ``count`` parts of the work; ``number`` counts from 1.

    Raises:
        InputError: If there is no such part.
    """

    number: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise InputError(f"shard {self.number}/{self.count} does not exist; give 1/N to N/N")

    def holds(self, file: InputFile) -> bool:
        """Whether a file is of this part: by a hash of its path below the root, so no file is read.

        Example:
            >>> file = InputFile(Path("/data/a.tif"), Path("/data"))
            >>> [Shard(number, 3).holds(file) for number in (1, 2, 3)]
            [False, True, False]
        """
        digest = hashlib.sha256(file.relative.encode(errors="surrogateescape")).digest()
        return int.from_bytes(digest[:8], "big") % self.count == self.number - 1


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """What an image says before it is decoded: its upright size [px] and its time (ISO 8601, UTC)."""

    width: int
    height: int
    datetime: str | None


def list_inputs(
    sources: Sequence[Path | InputFile], *, asset: str | None = None
) -> Iterator[InputFile | RefusedItem]:
    """Every file of ``sources``: folders are walked and are roots; a file's root is its folder.

    JSON files, and folders with a STAC catalogue, stand for the files that their items name; their folder is
    the root of what lies below it. A folder without images appears itself, to fail like a file.

    Args:
        sources: Files and folders; an ``InputFile`` stands for itself.
        asset: Key of the asset that is taken of STAC items.
    """
    from lrsclip_rt.images import iter_image_paths

    for source in sources:
        if isinstance(source, InputFile):
            yield source
            continue
        if not source.is_dir():
            if is_stac(source) and source.is_file():
                yield from _files_of_items(source, asset)
                continue
            root = source.parent.resolve()
            yield InputFile(root / source.name, root)
            continue
        catalogue = stac_in_folder(source)
        if catalogue is not None:
            yield from _files_of_items(catalogue, asset)
            continue
        root, found = source.resolve(), False
        for path in iter_image_paths([root]):
            found = True
            yield InputFile(path, root)
        if not found:
            yield InputFile(root, root)


def _files_of_items(document: Path, asset: str | None) -> Iterator[InputFile | RefusedItem]:
    home = document.parent.resolve()
    for found in assets_from_stac(document, asset=asset):
        if isinstance(found, RefusedItem):
            yield found
            continue
        # Not Path.resolve, which raises where links that somebody laid lead in a circle.
        folder = Path(os.path.realpath(found.path.parent))
        path = folder / found.path.name
        yield InputFile(path, home if path.is_relative_to(home) else folder, found.facts)


def is_raster(path: Path) -> bool:
    """Whether a file may have a georeference, so that GDAL must be asked.

    Example:
        >>> is_raster(Path("scene.TIF")), is_raster(Path("photo-without-world-file.jpg"))
        (True, False)
    """
    from lrsclip_rt.images import IMAGE_SUFFIXES

    stem, ending = os.path.splitext(path)  # noqa: PTH122 - thousands of small files: a Path for each name costs
    suffix = ending.lower()
    if suffix in _RASTER_SUFFIXES or suffix not in IMAGE_SUFFIXES:
        return True
    # Either ending of a world file: .jgw and .jpgw for .jpg; or what GDAL itself writes.
    beside = (suffix[:2] + suffix[-1] + "w", suffix + "w", ".wld")
    names = [stem + end for end in (*beside, *(end.upper() for end in beside))]
    return any(map(os.path.isfile, (*names, f"{path}.aux.xml")))


def header_from_image(path: Path) -> ImageHeader:
    """Size and time of an image file, from its first bytes.

    Raises:
        ImageError: If it cannot be read or is too large.
    """
    from lrsclip_rt.image_decoding import check_pixels, one_line, orientation, recognised_format
    from lrsclip_rt.raster_time import datetime_from_name, datetime_from_tiff_tag

    try:
        with path.open("rb") as stream:
            image = recognised_format(stream.read(32), str(path)).open(stream)
            check_pixels(image.height, image.width, str(path))
            turned = orientation(image) >= 5
            taken = str(image.getexif().get_ifd(_EXIF_IFD).get(_DATETIME_ORIGINAL, ""))
    except LrsclipError:
        raise
    except Exception as error:  # Pillow's readers raise nearly anything on damaged files
        raise ImageError(f"{path} cannot be read ({one_line(error)}); check the file") from error
    width, height = (image.height, image.width) if turned else (image.width, image.height)
    return ImageHeader(width, height, datetime_from_name(path.name) or datetime_from_tiff_tag(taken))


def sha256_and_size(path: Path) -> tuple[str, int]:
    """SHA-256 of a file's bytes (a VRT: with those of its sources) and their number.

    Raises:
        InputError: If it is missing or cannot be read.
    """
    digest, size = hashlib.sha256(), 0
    try:
        if not path.is_file():
            found = "holds no images" if path.is_dir() else "is no ordinary file"
            found = found if path.exists() else "does not exist"
            raise InputError(f"{path} {found}; give an image, a raster or a folder of them")
        if path.suffix.lower() == ".vrt":
            from lrsclip_rt.raster import open_scene

            with open_scene(path) as scene:
                return scene.content_sha256, path.stat().st_size
        with path.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
                size += len(block)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}); check its rights") from error
    return digest.hexdigest(), size

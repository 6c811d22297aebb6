"""Files to index: which there are, below which root, and what they are without decoding them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lrsclip_rt.archive.records import Location
from lrsclip_rt.errors import ImageError, InputError, LrsclipError

__all__ = ["ImageHeader", "InputFile", "header_from_image", "is_raster", "list_inputs", "sha256_and_size"]

_RASTER_SUFFIXES = frozenset({".tif", ".tiff", ".jp2", ".j2k", ".vrt", ".img", ".ntf", ".nitf"})
_EXIF_IFD, _DATETIME_ORIGINAL = 0x8769, 0x9003


@dataclass(frozen=True, slots=True)
class InputFile:
    """A file and the root that its recorded path is relative to."""

    path: Path
    root: Path

    def location(self) -> Location:
        """Root, relative path and modification time.

        Raises:
            InputError: If the name is not UTF-8.
        """
        relative = self.path.relative_to(self.root).as_posix()
        try:
            str(self.path).encode()
        except UnicodeEncodeError as error:
            raise InputError(
                f"the name {str(self.path)!r} is not UTF-8, which an archive needs; rename it"
            ) from error
        return Location(str(self.root), relative, self.path.stat().st_mtime_ns)


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """What an image says before it is decoded: its upright size [px] and its time (ISO 8601, UTC)."""

    width: int
    height: int
    datetime: str | None


def list_inputs(sources: Sequence[Path]) -> Iterator[InputFile]:
    """Every file of ``sources``: folders are walked and are roots; a file's root is its folder.

    A folder without images appears itself, to fail like a file.
    """
    from lrsclip_rt.images import iter_image_paths

    for source in sources:
        if not source.is_dir():
            root = source.parent.resolve()
            yield InputFile(root / source.name, root)
            continue
        root, found = source.resolve(), False
        for path in iter_image_paths([root]):
            found = True
            yield InputFile(path, root)
        if not found:
            yield InputFile(root, root)


def is_raster(path: Path) -> bool:
    """Whether a file may have a georeference, so that GDAL must be asked.

    Example:
        >>> is_raster(Path("scene.TIF")), is_raster(Path("photo-without-world-file.jpg"))
        (True, False)
    """
    from lrsclip_rt.images import IMAGE_SUFFIXES

    suffix = path.suffix.lower()
    if suffix in _RASTER_SUFFIXES or suffix not in IMAGE_SUFFIXES:
        return True
    # Either ending of a world file: .jgw and .jpgw for .jpg; or what GDAL itself writes.
    beside = (suffix[:2] + suffix[-1] + "w", suffix + "w", ".wld")
    names = [path.with_suffix(end) for end in (*beside, *(end.upper() for end in beside))]
    return any(name.is_file() for name in (*names, path.with_name(path.name + ".aux.xml")))


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

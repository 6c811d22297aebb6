"""The folder ``codes/`` of an archive: derived data that speeds searching up and is never the truth.

``codes.json`` names the codebook and, for every segment with codes, a plain file of ``(rows, G)`` uint8. One
counts while its length and CRC-32 are as recorded and the checksums of the rows that it was made from are
those that the database holds now; whatever does not count is left aside and its rows are scanned
exactly. Files are written under another name and renamed, ``codes.json`` last.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import zlib
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.archive.catalog import Catalog
from lrsclip_rt.archive.codes.codebooks import Codebook, groups_of, import_faiss
from lrsclip_rt.archive.codes.recall import Calibration
from lrsclip_rt.archive.codes.scanning import CodePiece
from lrsclip_rt.archive.records import SegmentRecord
from lrsclip_rt.archive.schema import ArchiveInfo
from lrsclip_rt.errors import ArchiveCorruptError, DependencyError

__all__ = [
    "CODES",
    "CODES_VERSION",
    "CodeFile",
    "CodeManifest",
    "Codes",
    "CodesObstacle",
    "Once",
    "codes_from_folder",
    "covered_rows",
    "manifest_and_codebook",
    "read_manifest",
    "write_checked",
    "write_manifest",
]

T = TypeVar("T")
CODES, CODES_VERSION = "codes", 1
_MANIFEST = "codes.json"
_REBUILD = "Rebuild them: lrsclip archive codes ARCHIVE --rebuild"


@dataclass(frozen=True, slots=True)
class CodeFile:
    """A file of the folder, as ``codes.json`` records it.

    Attributes:
        name: In the folder.
        bytes: Its length.
        crc32: Of its bytes.
        segment: Number of the segment that its codes belong to; 0 for the codebook.
        rows: Rows of that segment that have codes, from its first.
        digest: Of the checksums of these rows.
    """

    name: str
    bytes: int
    crc32: int
    segment: int = 0
    rows: int = 0
    digest: str = ""


@dataclass(frozen=True, slots=True)
class CodeManifest:
    """``codes.json``.

    Attributes:
        model_identity: Of the archive.
        dim: D.
        codebook: Its file.
        pieces: Files of codes.
        calibration: What recall was measured and how many candidates it takes.
    """

    model_identity: str
    dim: int
    codebook: CodeFile
    pieces: tuple[CodeFile, ...]
    calibration: Calibration


@dataclass(frozen=True, slots=True, eq=False)
class Codes:
    """Loaded codes.

    Attributes:
        codebook: What made them.
        pieces: By segment number.
        calibration: How many candidates a search takes.
        left_aside: Why further files do not count.
    """

    codebook: Codebook
    pieces: Mapping[int, CodePiece]
    calibration: Calibration
    left_aside: tuple[str, ...] = ()

    @property
    def rows(self) -> int:
        """Rows that have codes."""
        return sum(piece.rows for piece in self.pieces.values())


@dataclass(frozen=True, slots=True)
class CodesObstacle:
    """Why an archive is searched without codes; ``missing`` where there never were any."""

    reason: str
    missing: bool = False


class Once(Generic[T]):
    """Calls ``make`` when first asked, and from several threads at once all the same only once."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._made: T | None = None

    def __call__(self) -> T:
        """What was made."""
        with self._lock:
            if self._made is None:
                self._made = self._make()
            return self._made


def codes_from_folder(
    folder: Path, catalog: Catalog, info: ArchiveInfo, records: Iterable[SegmentRecord]
) -> Codes | CodesObstacle:
    """Load what counts of an archive's codes.

    Args:
        folder: ``codes/`` of the archive.
        catalog: Holds the checksums of the rows.
        info: Of the archive.
        records: Segments of the snapshot.

    Returns:
        The codes, or why there are none.
    """
    if not (folder / _MANIFEST).is_file():
        return CodesObstacle("no codes were built", missing=True)
    try:
        faiss = import_faiss()
        manifest, codebook = manifest_and_codebook(folder, info)
    except (ArchiveCorruptError, DependencyError) as error:
        return CodesObstacle(str(error))
    left_aside, current = [], []
    held = {record.number: record.rows for record in records}
    for file in manifest.pieces:
        covered = covered_rows(catalog, file.segment, info.block_rows, file.rows)
        if held.get(file.segment, 0) < file.rows or covered != (file.rows, file.digest):
            left_aside.append(f"{file.name} has codes of rows that the archive no longer holds")
        else:
            current.append(file)

    def load(file: CodeFile) -> CodePiece | str:
        faiss.omp_set_num_threads(1)  # of this thread: files are loaded side by side
        try:
            content = _checked_content(folder, file, file.rows * codebook.groups)
        except ArchiveCorruptError as error:
            return str(error)
        codes = content.reshape(file.rows, codebook.groups)
        return CodePiece(file.rows, codebook.index_from_codes(codes))

    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as workers:
        loaded = list(workers.map(load, current))
    left_aside += [piece for piece in loaded if isinstance(piece, str)]
    pieces = {f.segment: p for f, p in zip(current, loaded, strict=True) if isinstance(p, CodePiece)}
    if not pieces:
        return CodesObstacle("; ".join(left_aside[:1]) or f"{folder} holds no codes. {_REBUILD}")
    return Codes(codebook, pieces, manifest.calibration, tuple(left_aside))


def manifest_and_codebook(folder: Path, info: ArchiveInfo) -> tuple[CodeManifest, Codebook]:
    """What ``codes.json`` says, and what made the codes; the codes themselves may be outdated.

    Raises:
        ArchiveCorruptError: If either is missing, damaged or of another model; the text says so.
    """
    manifest = read_manifest(folder)
    if (manifest.model_identity, manifest.dim) != (info.model.identity, info.model.dim):
        raise ArchiveCorruptError(f"{folder / _MANIFEST} belongs to another model. {_REBUILD}")
    return manifest, _codebook(folder, manifest)


def covered_rows(catalog: Catalog, segment: int, block_rows: int, most: int | None = None) -> tuple[int, str]:
    """Rows of a segment in complete checksum blocks, at most ``most``, and the digest of their checksums.

    Rows of the last, growing block get codes once it is complete: its checksum still changes.
    """
    query = (
        "SELECT block, crc32 FROM blocks WHERE segment = ? AND column_name = 'f16' AND rows = ?"
        " ORDER BY block"
    )
    blocks = catalog.rows(query, (segment, block_rows))
    if most is not None:
        blocks = blocks[: most // block_rows]
    digest = hashlib.sha256(json.dumps([block_rows, blocks]).encode()).hexdigest()[:16]
    complete = all(block == position for position, (block, _) in enumerate(blocks))
    return (len(blocks) * block_rows if complete else 0), digest


def read_manifest(folder: Path) -> CodeManifest:
    """Parse ``codes.json``.

    Raises:
        ArchiveCorruptError: If it is damaged or of another version; the text says so.
    """
    path = folder / _MANIFEST
    try:
        text = path.read_text(encoding="utf-8")
        held = json.loads(text)
        version, crc = held["codes_version"], held.pop("crc32")
        if version != CODES_VERSION:
            raise ArchiveCorruptError(f"{path} is of version {version}, not {CODES_VERSION}. {_REBUILD}")
        if zlib.crc32(_canonical(held)) != crc:
            raise ArchiveCorruptError(f"{path} differs from its checksum. {_REBUILD}")
        return CodeManifest(
            held["model_identity"],
            held["dim"],
            _code_file(held["codebook"]),
            tuple(_code_file(piece) for piece in held["pieces"]),
            Calibration.from_record(held["calibration"]),
        )
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        OverflowError,
        RecursionError,
    ) as error:
        raise ArchiveCorruptError(
            f"{path} cannot be read ({type(error).__name__}: {error}). {_REBUILD}"
        ) from error


def _code_file(record: Mapping[str, Any]) -> CodeFile:
    """A file as ``codes.json`` records it.

    Raises:
        ValueError: If a value is of another type, or negative.
        TypeError: If a key is missing or unknown.
    """
    file = CodeFile(**record)
    numbers = (file.bytes, file.crc32, file.segment, file.rows)
    if not all(type(n) is int and 0 <= n < 1 << 62 for n in numbers):
        raise ValueError(f"of a file's bytes, crc32, segment and rows {numbers!r:.80} one is no count")
    if not isinstance(file.name, str) or not isinstance(file.digest, str) or "\0" in file.name:
        raise ValueError(f"{file.name!r:.60} is no name of a file")
    return file


def write_manifest(folder: Path, manifest: CodeManifest) -> None:
    """Put ``codes.json`` in place and remove the files that it does not name."""
    record = {"codes_version": CODES_VERSION, **asdict(manifest)}
    record = json.loads(json.dumps(record))
    text = json.dumps({**record, "crc32": zlib.crc32(_canonical(record))}, indent=1)
    _replace(folder / _MANIFEST, text.encode())
    named = {_MANIFEST, manifest.codebook.name, *(piece.name for piece in manifest.pieces)}
    for path in folder.iterdir():
        if path.name not in named:
            path.unlink()


def write_checked(folder: Path, name: str, content: NDArray[Any], **facts: Any) -> CodeFile:
    """Write an array's bytes as a file of the folder.

    Args:
        folder: ``codes/``.
        name: Its name.
        content: C-contiguous, little-endian.
        **facts: ``segment``, ``rows`` and ``digest`` of codes.
    """
    data = np.ascontiguousarray(content).reshape(-1).view(np.uint8)
    _replace(folder / name, data.data)
    return CodeFile(name, len(data), zlib.crc32(data.data), **facts)


def _replace(path: Path, content: bytes | memoryview) -> None:
    temporary = path.with_name(f".{path.name}.new")
    with temporary.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)


def _canonical(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, sort_keys=True).encode()


def _checked_content(folder: Path, file: CodeFile, expected: int) -> NDArray[np.uint8]:
    path = folder / Path(file.name).name
    try:
        content = np.fromfile(path, np.uint8, count=expected + 1)
    except OSError as error:
        raise ArchiveCorruptError(f"{path} cannot be read ({error.strerror}). {_REBUILD}") from error
    if len(content) != expected or file.bytes != expected:
        raise ArchiveCorruptError(f"{path} has not the {expected} bytes that it should have. {_REBUILD}")
    if zlib.crc32(content.data) != file.crc32:
        raise ArchiveCorruptError(f"{path} differs from its checksum. {_REBUILD}")
    return content


def _codebook(folder: Path, manifest: CodeManifest) -> Codebook:
    dim, groups = manifest.dim, groups_of(manifest.dim)
    shapes = ((dim,), (2, 8 * groups, dim), (2, groups, 16, 8))
    sizes = [int(np.prod(shape)) for shape in shapes]
    content = _checked_content(folder, manifest.codebook, 4 * sum(sizes)).view("<f4")
    mean, rotations, centroids = (
        part.reshape(shape)
        for part, shape in zip(np.split(content, np.cumsum(sizes)[:2]), shapes, strict=True)
    )
    return Codebook(mean, rotations, centroids)

"""Records of a PyTorch zip archive, checked before anything is read or allocated."""

from __future__ import annotations

import mmap
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from lrsclip_rt.errors import CheckpointError

__all__ = ["Record", "TorchArchive", "open_archive"]

_LOCAL_HEADER = struct.Struct("<4s22xHH")
_CHUNK_BYTES = 1 << 24
# A state dict of 450 tensors pickles to about 60 kB, a TorchScript model to about 200 kB.
_PICKLE_LIMIT_BYTES = 1 << 23


@dataclass(frozen=True, slots=True)
class Record:
    """Where one stored record's bytes lie: offset and size [bytes] in the file."""

    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class TorchArchive:
    """A zip file as ``torch.save`` and ``torch.jit.save`` write it.

    Attributes:
        path: The file.
        records: ``data.pkl``, ``byteorder`` and ``data/<key>``, without the archive's own root folder.
        torchscript: Whether the archive also carries code, which is never read.
    """

    path: Path
    records: dict[str, Record]
    torchscript: bool

    def read(self, name: str) -> bytes:
        """Bytes of a record."""
        record = self.records[name]
        with self.path.open("rb") as file:
            file.seek(record.offset)
            return file.read(record.size)


def open_archive(path: Path) -> TorchArchive:
    """List the records that hold tensors and check their sizes and checksums.

    Records that are never read (code, constants, version) are not looked at.

    Args:
        path: A file that begins like a zip archive.

    Raises:
        CheckpointError: If the file is truncated or damaged, is no PyTorch archive, or holds
            compressed, doubled or overlong records.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, ValueError, OverflowError, struct.error, NotImplementedError) as error:
        raise CheckpointError(
            f"{path} begins like a PyTorch archive but its directory cannot be read ({error}). It is "
            "truncated or damaged: fetch it again"
        ) from error
    names = [member.filename for member in members]
    pickles = [name for name in names if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1 or len(set(names)) != len(names):
        raise CheckpointError(
            f"{path} is a zip archive with {len(names)} records, {len(set(names))} of them distinct, and "
            f"{len(pickles)} data.pkl; expected one data.pkl and no doubled names, as torch.save writes them"
        )
    root = pickles[0].removesuffix("data.pkl")
    wanted = [m for m in members if _holds_data(m.filename.removeprefix(root))]
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        records = {m.filename.removeprefix(root): _checked_record(path, content, m) for m in wanted}
    found = TorchArchive(
        path,
        records,
        torchscript=any(name == f"{root}constants.pkl" or name.startswith(f"{root}code/") for name in names),
    )
    _check_pickle_and_byte_order(found)
    return found


def _holds_data(name: str) -> bool:
    return name in ("data.pkl", "byteorder") or name.startswith("data/")


def _checked_record(path: Path, content: mmap.mmap, member: zipfile.ZipInfo) -> Record:
    if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
        raise CheckpointError(
            f"{path}: record {member.filename} is compressed ({member.compress_size} bytes for "
            f"{member.file_size}); PyTorch stores records as they are, so this file is not read"
        )
    header = content[member.header_offset : member.header_offset + _LOCAL_HEADER.size]
    offset = -1
    if len(header) == _LOCAL_HEADER.size:
        magic, name_length, extra_length = _LOCAL_HEADER.unpack(header)
        if magic == b"PK\x03\x04":
            offset = member.header_offset + _LOCAL_HEADER.size + name_length + extra_length
    if offset < 0 or offset + member.file_size > len(content):
        raise CheckpointError(
            f"{path}: record {member.filename} should hold {member.file_size} bytes, which do not lie in "
            f"the file of {len(content)} bytes. It is truncated or damaged: fetch it again"
        )
    checksum = 0
    end = offset + member.file_size
    with memoryview(content) as view:
        for start in range(offset, end, _CHUNK_BYTES):
            checksum = zlib.crc32(view[start : min(start + _CHUNK_BYTES, end)], checksum)
    if checksum != member.CRC:
        raise CheckpointError(
            f"{path}: record {member.filename} has checksum {checksum:08x}, its directory says "
            f"{member.CRC:08x}. The file is damaged: fetch it again"
        )
    return Record(offset, member.file_size)


def _check_pickle_and_byte_order(archive: TorchArchive) -> None:
    size = archive.records["data.pkl"].size
    if size > _PICKLE_LIMIT_BYTES:
        raise CheckpointError(
            f"{archive.path}: data.pkl has {size} bytes; a state dict needs less than {_PICKLE_LIMIT_BYTES}. "
            "Save the weights alone: torch.save(model.state_dict(), path)"
        )
    if "byteorder" in archive.records and archive.read("byteorder") != b"little":
        raise CheckpointError(
            f"{archive.path} was saved with byte order {archive.read('byteorder')[:16]!r}; expected little. "
            "Save it again on a little-endian machine"
        )

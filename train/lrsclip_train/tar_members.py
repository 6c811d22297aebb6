"""The regular files of a plain tar archive and where they lie in it.

``tarfile`` parses each header; the walk over them is our own, because ``tarfile`` takes a damaged header in
the middle of an archive for its end, and reads name headers of any size into memory. Nothing is
extracted, and the names are only names.
"""

from __future__ import annotations

import os
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from lrsclip_rt.errors import InputError

__all__ = ["TarMember", "tar_members"]

_BLOCK = tarfile.BLOCKSIZE
_NAME_HEADER_BYTES = 1 << 20
_PADDING_BYTES = 1 << 20
_PAX_RECORD = re.compile(rb"(\d{1,7}) ([^=\n]+)=")
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


@dataclass(frozen=True, slots=True)
class TarMember:
    """A regular file of an archive.

    Attributes:
        name: As the archive says it, undecodable bytes escaped; not to be used as a path.
        offset: First byte of its content in the archive.
        size: Its length [bytes].
    """

    name: str
    offset: int
    size: int


def tar_members(stream: IO[bytes], name: str) -> Iterator[TarMember]:
    """Walk through a tar archive; links, devices and folders are passed over.

    Args:
        stream: The archive, seekable; its position moves.
        name: What messages call it.

    Yields:
        Regular files in their order. Those in front of a break come before the error.

    Raises:
        InputError: If the archive is compressed, cut short or damaged.

    Example:
        >>> import io, tarfile
        >>> stream = io.BytesIO()
        >>> with tarfile.open(fileobj=stream, mode="w") as tar:
        ...     tar.addfile(tarfile.TarInfo("a.txt"))
        >>> [member.name for member in tar_members(stream, "a.tar")]
        ['a.txt']
    """
    end = stream.seek(0, os.SEEK_END)
    position = 0
    given: dict[str, str] = {}  # what a name header says about the member behind it
    while True:
        header = _header(stream, position, name)
        if header is None:
            if given:
                raise _broken(name, position, "a name header stands at its end")
            return
        position += _BLOCK
        size = _size(header, given, position, name)
        if position + size > end:
            missing = position + size - end
            raise _broken(name, position, f"{missing} bytes of the member {header.name!r:.80} are missing")
        if header.type in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME):
            given |= _name_header(stream, header, position, name)
        elif header.type not in (tarfile.XGLTYPE, tarfile.GNUTYPE_LONGLINK):
            if header.isreg():
                yield TarMember(given.get("path", header.name), position, size)
            given = {}
        position += -(-size // _BLOCK) * _BLOCK


def _header(stream: IO[bytes], position: int, name: str) -> tarfile.TarInfo | None:
    """The header at ``position``, None for the end mark."""
    stream.seek(position)
    block = stream.read(_BLOCK)
    if position == 0:
        for signature, kind in _COMPRESSED.items():
            if block.startswith(signature):
                raise InputError(f"{name} is compressed by {kind}; unpack it, samples are read in any order")
    if len(block) < _BLOCK:
        raise _broken(name, position, "it ends without the end mark of a tar archive")
    if not any(block):
        if any(stream.read(_PADDING_BYTES)):
            raise _broken(name, position, "it goes on behind its end mark; keep joined archives apart")
        return None
    try:
        header = tarfile.TarInfo.frombuf(block, "utf-8", "backslashreplace")
    except tarfile.HeaderError as error:
        raise _broken(name, position, f"{error} where a member should begin") from None
    if header.type == tarfile.GNUTYPE_SPARSE:
        raise InputError(f"{name} holds the sparse file {header.name!r:.80}; write it again without --sparse")
    return header


def _size(header: tarfile.TarInfo, given: dict[str, str], position: int, name: str) -> int:
    """Length of what follows the header; links, folders and devices have a size, but nothing follows."""
    if not header.isreg() and header.type in tarfile.SUPPORTED_TYPES and header.type not in tarfile.GNU_TYPES:
        return 0
    size = given.get("size", "") if header.isreg() else ""
    if size and not (size.isascii() and size.isdigit() and len(size) < 19):
        raise _broken(name, position, f"a size of {size!r:.40}")
    length = int(size) if size else header.size
    if length < 0:
        raise _broken(name, position, f"a size of {length} bytes")
    return length


def _name_header(stream: IO[bytes], header: tarfile.TarInfo, position: int, name: str) -> dict[str, str]:
    if header.size > _NAME_HEADER_BYTES:
        raise _broken(name, position, f"a name header of {header.size} bytes")
    content = stream.read(header.size)
    if header.type == tarfile.GNUTYPE_LONGNAME:
        return {"path": content.split(b"\0", 1)[0].decode("utf-8", "backslashreplace")}
    records: dict[str, str] = {}
    start = 0
    while start < len(content) and content[start]:
        found = _PAX_RECORD.match(content, start)
        stop = start + int(found[1]) if found else 0
        if found is None or not found.end() < stop <= len(content):
            raise _broken(name, position, "a name header that cannot be parsed")
        key = found[2].decode("utf-8", "backslashreplace")
        if key.startswith("GNU.sparse"):
            raise InputError(f"{name} holds a sparse file; write it again without --sparse")
        records[key] = content[found.end() : stop - 1].decode("utf-8", "backslashreplace")
        start = stop
    return {key: records[key] for key in ("path", "size") if key in records}


def _broken(name: str, position: int, what: str) -> InputError:
    return InputError(f"{name} is broken at byte {position}: {what}. Fetch it again")

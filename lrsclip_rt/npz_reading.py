"""Arrays out of an ``.npz`` that nobody vouches for."""

from __future__ import annotations

import tokenize
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["MOST_BYTES", "arrays_from_npz"]

MOST_BYTES = 256 << 20
_LAST_CHARACTER = 0x10FFFF

_UNREADABLE = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    EOFError,
    MemoryError,
    OverflowError,
    RuntimeError,  # an encrypted archive, or one with an unknown compression
    RecursionError,
    SyntaxError,
    tokenize.TokenError,  # of NumPy's reader of old headers
    zipfile.BadZipFile,
    zlib.error,
)


def arrays_from_npz(
    path: Path, names: Sequence[str], *, most_bytes: int = MOST_BYTES
) -> tuple[NDArray[Any], ...]:
    """Read the named arrays; objects in them are refused and never unpickled.

    Args:
        path: The file.
        names: Arrays to read, without ``.npy``.
        most_bytes: What all members may unpack to [bytes].

    Returns:
        The arrays in the order of ``names``.

    Raises:
        ValueError: If it cannot be read, lacks one of them, or unpacks to more; the text says which.
    """
    try:
        # Opened here, since NumPy leaves a file open that turns out to be no archive.
        with path.open("rb") as stream:
            with zipfile.ZipFile(stream) as archive:
                unpacked = sum(entry.file_size for entry in archive.infolist())
            if unpacked > most_bytes:
                raise ValueError(f"it unpacks to {unpacked} bytes, at most {most_bytes} are allowed")
            stream.seek(0)
            with np.load(stream, allow_pickle=False) as arrays:
                found = tuple(arrays[name] for name in names)
    except _UNREADABLE as error:
        raise ValueError(str(error) or type(error).__name__) from error
    for name, array in zip(names, found, strict=True):
        if not isinstance(array, np.ndarray):  # NumPy hands a member that is no array over as bytes
            raise ValueError(f"{name} is no array")
        # NumPy makes a text of any four bytes, and Python dies of what is no character.
        if array.dtype.kind == "U" and array.size and array.dtype.itemsize:
            codes = np.ascontiguousarray(array).view(array.dtype.byteorder.replace("|", "=") + "u4")
            if int(codes.max()) > _LAST_CHARACTER:
                raise ValueError(f"{name} holds texts of what are no characters")
    return found

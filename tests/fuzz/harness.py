"""What every harness has: input to start from, a way to damage it, and the parser that is fed."""

from __future__ import annotations

import contextlib
import shutil
import struct
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import ClassVar

from fuzz.mutation import mutated_bytes

__all__ = ["FilesHarness", "Harness", "packed", "unpacked"]

_HEAD = struct.Struct("<BI")
_LINK = 0x80
"""Added to a file's number: its content is where a symbolic link points."""


class Harness:
    """One parser.

    Args:
        folder: An empty folder of its own.

    Attributes:
        name: How reports call it.
        allowed: What the parser may raise beside ``LrsclipError``.
        case_seconds: Processor time that a case may take; sound ones take milliseconds.
        seeds: Sound input.
    """

    name: ClassVar[str]
    allowed: ClassVar[tuple[type[Exception], ...]] = ()
    case_seconds: ClassVar[float] = 20.0

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seeds: list[bytes] = []

    def feed(self, data: bytes) -> None:
        """Hand one input to the parser and use what it made of it."""
        raise NotImplementedError

    def mutate(self, data: bytes, rng: Random) -> bytes:
        """Another input, from one that may be sound, damaged or random."""
        return mutated_bytes(data, rng)

    def guided_seeds(self) -> list[bytes]:
        """What a coverage run starts from."""
        return self.seeds

    def case(self, rng: Random) -> bytes:
        """A case without any memory of earlier ones."""
        data = rng.choice(self.seeds)
        for _ in range(rng.choice((1, 1, 1, 2, 5))):
            data = self.mutate(data, rng)
        return data


def packed(files: Mapping[int, bytes]) -> bytes:
    """Some files of a folder as one input: number, length and content of each."""
    return b"".join(_HEAD.pack(number, len(content)) + content for number, content in files.items())


def unpacked(data: bytes) -> dict[int, bytes]:
    """The files of an input; any bytes are one, the last file may be short."""
    files: dict[int, bytes] = {}
    offset = 0
    while offset + _HEAD.size <= len(data):
        number, length = _HEAD.unpack_from(data, offset)
        offset += _HEAD.size
        files[number] = data[offset : offset + length]
        offset += length
    return files


class FilesHarness(Harness):
    """A parser of several files: an input holds those that differ from the sound ones in ``self.sound``.

    Subclasses fill ``sound`` (the files' names and content, in the order of their numbers) and ``root``,
    where they lie.

    Attributes:
        links: Whether a file may become a symbolic link as well.
    """

    links: ClassVar[bool] = True

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.root = folder / "root"
        self.sound: dict[str, bytes] = {}
        self._changed: set[str] = set()

    def mutate_file(self, name: str, content: bytes, rng: Random) -> bytes:
        """Another content of one file."""
        return mutated_bytes(content, rng)

    def mutate(self, data: bytes, rng: Random) -> bytes:
        """Change a file that the input holds already, or one more."""
        files, names = unpacked(data), list(self.sound)
        held = [number for number in files if number < len(names)]
        number = rng.choice(held) if held and rng.randrange(3) else rng.randrange(len(names))
        if self.links and rng.randrange(60) == 0:
            target = rng.choice(("/etc/passwd", "/dev/zero", "../outside", names[number], "."))
            files[number | _LINK] = target.encode()
        else:
            content = files.get(number, self.sound[names[number]])
            files[number] = self.mutate_file(names[number], content, rng)
        return packed(files)

    def put(self, data: bytes) -> dict[str, bytes]:
        """Lay out the files of an input, all others sound; returns those that were changed."""
        names = list(self.sound)
        files = {n: c for n, c in unpacked(data).items() if n & ~_LINK < len(names)}
        plain = {names[number]: content for number, content in files.items() if number < len(names)}
        for name in self._changed - plain.keys():
            self.write(name, self.sound[name])
        self._changed = set(plain)
        for name, content in plain.items():
            self.write(name, content)
        for number, content in files.items():
            if number >= _LINK:
                self._link(names[number & ~_LINK], content)
        return plain

    def write(self, name: str, content: bytes) -> None:
        """Put a file in place, whatever lies there."""
        path = self.root / name
        if path.is_symlink() or path.is_dir():
            path.unlink() if path.is_symlink() else shutil.rmtree(path)
        path.write_bytes(content)

    def _link(self, name: str, target: bytes) -> None:
        path = self.root / name
        self._changed.add(name)
        with contextlib.suppress(OSError, ValueError):
            path.unlink(missing_ok=True)
            path.symlink_to(target.decode("utf-8", "replace"))

"""What a disk may hold after a power cut: a recorded log of file operations, cut and replayed.

Of a file's writes and truncations since it was last synced, and of a folder's names since that folder was
last synced, any may have been lost, kept, cut short or reordered; what was synced is there. The log is
that of ``file_recorder.c``.
"""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

RECORDER = Path(__file__).with_name("file_recorder.c")
SECTOR_BYTES = 512


def build_recorder(folder: Path) -> Path:
    """The recorder as a library to preload; skips where it cannot be."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("recording file operations needs Linux and a C compiler")
    library = folder / "recorder.so"
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(RECORDER), "-ldl"]
    subprocess.run(command, check=True, timeout=120)
    return library


@dataclass(frozen=True, slots=True)
class Operation:
    """One record of the log; ``kind`` is its letter."""

    kind: str
    inode: int
    offset: int
    content: bytes
    path: str


def read_log(path: Path) -> Iterator[Operation]:
    with path.open("rb") as stream:
        while line := stream.readline():
            kind, inode, offset, length, name = line.decode().rstrip("\n").split(" ", 4)
            content = stream.read(int(length)) if int(length) else b""
            yield Operation(kind, int(inode), int(offset), content, name)


@dataclass(slots=True, eq=False)
class File:
    """Bytes that are on the disk, and the writes and truncations that may be."""

    durable: bytearray = field(default_factory=bytearray)
    pending: list[Operation] = field(default_factory=list)

    def sync(self) -> None:
        for operation in self.pending:
            _apply(self.durable, operation)
        self.pending = []

    def after_power_cut(self, rng: random.Random) -> bytes:
        content = bytearray(self.durable)
        for operation in _survivors(self.pending, rng, reorder=True):
            _apply(content, operation, rng)
        return bytes(content)


@dataclass(slots=True, eq=False)
class Folder:
    """Names that are on the disk, and changes of names that may be."""

    durable: dict[str, File | Folder] = field(default_factory=dict)
    pending: list[tuple[dict[str, File | Folder], tuple[str, ...]]] = field(default_factory=list)

    def change(self, added: dict[str, File | Folder], removed: tuple[str, ...] = ()) -> None:
        self.pending.append((added, removed))

    def now(self) -> dict[str, File | Folder]:
        return self._with(self.pending)

    def sync(self) -> None:
        self.durable, self.pending = self.now(), []

    def after_power_cut(self, rng: random.Random) -> dict[str, File | Folder]:
        return self._with(_survivors(self.pending, rng, reorder=False))

    def _with(
        self, changes: list[tuple[dict[str, File | Folder], tuple[str, ...]]]
    ) -> dict[str, File | Folder]:
        names = dict(self.durable)
        for added, removed in changes:
            for name in removed:
                names.pop(name, None)
            names.update(added)
        return names


class Disk:
    """The disk below ``root`` while a log is replayed, from an empty folder on."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._top = Folder()
        self._inodes: dict[int, File | Folder] = {root.stat().st_ino: self._top}

    def replay(self, operation: Operation) -> None:
        """Do what was recorded; marks do nothing."""
        kind = operation.kind
        if kind == "X":
            raise AssertionError(f"the recorder saw {operation.path}, which it does not understand")
        if operation.path.endswith("-shm"):
            self._inodes.pop(operation.inode, None)
        elif kind in "CM":
            node: File | Folder = File() if kind == "C" else Folder()
            self._inodes[operation.inode] = node
            self._parent(operation.path).change({Path(operation.path).name: node})
        elif kind == "U":
            self._parent(operation.path).change({}, (Path(operation.path).name,))
        elif kind == "R":
            self._rename(operation.path, operation.content.decode())
        elif kind in "WT":
            file = self._inodes.get(operation.inode)
            if isinstance(file, File):
                file.pending.append(operation)
        elif kind == "S" and operation.inode in self._inodes:
            self._inodes[operation.inode].sync()

    def write_image(self, target: Path, rng: random.Random) -> None:
        """Make ``target`` what the disk may hold if power fails now."""
        self._write(self._top, target, rng)

    def _write(self, folder: Folder, target: Path, rng: random.Random) -> None:
        target.mkdir()
        for name, node in folder.after_power_cut(rng).items():
            if isinstance(node, Folder):
                self._write(node, target / name, rng)
            else:
                (target / name).write_bytes(node.after_power_cut(rng))

    def _rename(self, old: str, new: str) -> None:
        before, after = self._parent(old), self._parent(new)
        if before is not after:
            raise AssertionError(f"{old} was renamed into another folder, which is not replayed")
        before.change({Path(new).name: before.now()[Path(old).name]}, (Path(old).name,))

    def _parent(self, path: str) -> Folder:
        folder = self._top
        for part in Path(path).relative_to(self._root).parts[:-1]:
            below = folder.now()[part]
            assert isinstance(below, Folder)
            folder = below
        return folder


def marks(operations: list[Operation]) -> list[dict[str, Any]]:
    """What the program said up to some moment."""
    return [json.loads(operation.content) for operation in operations if operation.kind == "K"]


def _survivors(pending: list[Any], rng: random.Random, *, reorder: bool) -> list[Any]:
    """Which of the changes since the last sync reached the disk, in the order in which they did."""
    fate = rng.choice(("none", "all", "beginning", "some", "reordered" if reorder else "some"))
    if fate == "none":
        return []
    if fate == "beginning":
        return pending[: rng.randint(0, len(pending))]
    kept = [change for change in pending if fate == "all" or rng.random() < 0.5]
    if fate == "reordered":
        rng.shuffle(kept)
    return kept


def _apply(content: bytearray, operation: Operation, rng: random.Random | None = None) -> None:
    if operation.kind == "T":
        grown = operation.offset - len(content)
        content.extend(bytes(max(0, grown)))
        del content[operation.offset :]
        return
    data = operation.content
    if rng is not None and rng.random() < 0.2:
        # A write may end at any sector.
        data = data[: SECTOR_BYTES * rng.randint(0, len(data) // SECTOR_BYTES)]
    content.extend(bytes(max(0, operation.offset - len(content))))
    content[operation.offset : operation.offset + len(data)] = data

"""Roots that moved: the recorded folder changes, everything below it is found again."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from pathlib import Path

from lrsclip_rt.errors import ArchiveError, InputError

__all__ = ["Relocation", "relocate_roots"]


@dataclass(frozen=True, slots=True)
class Relocation:
    """A root that got another folder, and how many paths lie below it."""

    name: str
    before: str
    after: str
    paths: int


def relocate_roots(database: sqlite3.Connection, old: str, new: str) -> list[Relocation]:
    """Give roots another folder, in the open transaction of the one writer.

    Args:
        database: The writer's connection.
        old: Name of a root, its folder, or a folder that roots lie below.
        new: The folder in its place.

    Raises:
        InputError: If no root is meant.
        ArchiveError: If a path would stand for two sources.
    """
    roots = database.execute("SELECT root, name, path FROM roots ORDER BY root").fetchall()
    target, below = str(Path(new).absolute()), Path(old).absolute()
    meant = [(root, name, path, target) for root, name, path in roots if name == old]
    if not meant:
        for root, name, path in roots:
            if Path(path).is_relative_to(below):
                meant.append((root, name, path, str(Path(target) / Path(path).relative_to(below))))
    if not meant:
        known = "; ".join(f"{name}: {path}" for _, name, path in roots) or "none"
        raise InputError(f"{old} is no root of this archive and none lies below it. Its roots are {known}")
    relocations = []
    database.execute("SAVEPOINT relocation")
    try:
        for root, name, before, after in meant:
            (paths,) = database.execute("SELECT count(*) FROM locations WHERE root = ?", (root,)).fetchone()
            _move_root(database, root, after)
            relocations.append(Relocation(name, before, after, paths))
    except ArchiveError:
        database.execute("ROLLBACK TO relocation")
        raise
    database.execute("RELEASE relocation")
    return relocations


def _move_root(database: sqlite3.Connection, root: int, path: str) -> None:
    other = database.execute("SELECT root FROM roots WHERE path = ? AND root != ?", (path, root)).fetchone()
    if other is None:
        database.execute("UPDATE roots SET path = ? WHERE root = ?", (path, root))
        return
    query = (
        "SELECT a.path FROM locations a JOIN locations b ON a.path = b.path"
        " WHERE a.root = ? AND b.root = ? AND a.source != b.source LIMIT 1"
    )
    clash = database.execute(query, (root, other[0])).fetchone()
    if clash is not None:
        raise ArchiveError(
            f"{path}/{clash[0]} is recorded as another source already; delete one of the two first"
        )
    database.execute("UPDATE OR IGNORE locations SET root = ? WHERE root = ?", (other[0], root))
    database.execute("DELETE FROM locations WHERE root = ?", (root,))
    database.execute("DELETE FROM roots WHERE root = ?", (root,))

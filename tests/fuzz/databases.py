"""archive.db: damaged pages, values of other types, tables that are something else, and logs beside it."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from random import Random

import numpy as np

from fuzz.archives import ask, fold, small_archive
from fuzz.harness import FilesHarness, packed
from fuzz.mutation import HOSTILE_TEXTS, mutated_bytes
from lrsclip_rt.archive import Archive, Where
from lrsclip_rt.archive.schema import DATABASE
from lrsclip_rt.archive.summary import summary_from_archive
from lrsclip_rt.errors import LrsclipError

__all__ = ["DatabaseHarness"]

_VALUES = (
    None,
    0,
    -1,
    1,
    7,
    2**31,
    2**53,
    2**63 - 1,
    -(2**63),
    0.5,
    1e308,
    -1e308,
    float("inf"),
    b"",
    b"\0\xff" * 9,
)
_FILTERS = (
    Where(metadata={"platform": "landsat-8"}),
    Where(conditions=("eo:cloud_cover<=20", "platform=landsat-8")),
    Where(sources=["*.tif"]),
)
_REPLACEMENTS = (
    "DROP TABLE {table}",
    "DELETE FROM {table}",
    "ALTER TABLE {table} RENAME COLUMN {column} TO other",
    "ALTER TABLE {table} RENAME TO other",
    "CREATE TRIGGER t AFTER INSERT ON {table} BEGIN DELETE FROM {table}; END",
    "PRAGMA user_version = 99",
    "PRAGMA user_version = -1",
    "PRAGMA user_version = 1",
    "PRAGMA application_id = 0",
    "PRAGMA encoding = 'UTF-16'",
)
_FOREVER = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT x FROM n"


class DatabaseHarness(FilesHarness):
    """An archive whose vectors are sound and whose database is not."""

    name = "archive.db"
    links = False

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        small_archive(self.root, 40)
        fold(self.root)
        for beside in ("-wal", "-shm"):
            (self.root / f"{DATABASE}{beside}").unlink(missing_ok=True)
        self.sound = {DATABASE: (self.root / DATABASE).read_bytes()}
        self.seeds = [packed({0: self.sound[DATABASE]})]
        self._made = folder / "made.db"

    def mutate(self, data: bytes, rng: Random) -> bytes:
        """Half by SQL, half by bytes; never a link."""
        content = data[5:] or self.sound[DATABASE]
        if rng.randrange(2):
            return packed({0: mutated_bytes(content, rng)})
        return packed({0: self._rewritten(content, rng)})

    def put(self, data: bytes) -> dict[str, bytes]:
        """The database of an input, without what SQLite left beside the last one."""
        for beside in ("-wal", "-shm", "-journal"):
            (self.root / f"{DATABASE}{beside}").unlink(missing_ok=True)
        return super().put(data)

    def feed(self, data: bytes) -> None:
        """Everything that readers do, and what people ask of metadata."""
        self.put(data)
        refused: list[LrsclipError] = []
        for use in (ask, _summarise):
            try:
                use(self.root)
            except LrsclipError as error:
                refused.append(error)
        if refused:
            raise refused[0]

    def _rewritten(self, content: bytes, rng: Random) -> bytes:
        """What somebody who has SQLite makes of it; as it was where SQLite refuses."""
        self._made.write_bytes(content)
        database = sqlite3.connect(self._made, isolation_level=None)
        try:
            database.execute("PRAGMA foreign_keys = OFF")
            for _ in range(rng.choice((1, 1, 2, 5))):
                self._change(database, rng)
        except (sqlite3.Error, UnicodeError, OverflowError):
            pass
        finally:
            database.close()
        return self._made.read_bytes()

    def _change(self, database: sqlite3.Connection, rng: Random) -> None:
        tables = [row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        table = rng.choice([name for name in tables if not name.startswith("sqlite_")] or ["tiles"])
        columns = [row[1] for row in database.execute(f'PRAGMA table_info("{table}")')]
        column = rng.choice(columns or ["rowid"])
        kind = rng.randrange(10)
        if kind == 0:
            database.execute(rng.choice(_REPLACEMENTS).format(table=table, column=column))
        elif kind == 1:
            self._as_view(database, table, columns, rng)
        else:
            value = rng.choice((*_VALUES, *HOSTILE_TEXTS[:-1], rng.randrange(100), rng.randbytes(20)))
            some = rng.choice(("", " WHERE rowid = 1", " WHERE rowid % 2"))
            database.execute(f'UPDATE OR IGNORE "{table}" SET "{column}" = ?{some}', (value,))

    def _as_view(self, database: sqlite3.Connection, table: str, columns: list[str], rng: Random) -> None:
        """A view in place of a table: it looks the same and can do anything that a query can."""
        database.execute(f'ALTER TABLE "{table}" RENAME TO "real_{table}"')
        select = rng.choice((f'SELECT * FROM "real_{table}"', self._endless(len(columns))))
        database.execute(f'CREATE VIEW "{table}" ({", ".join(columns)}) AS {select}')

    @staticmethod
    def _endless(columns: int) -> str:
        return f"SELECT {', '.join(['x'] * columns)} FROM ({_FOREVER})"


def _summarise(folder: Path) -> None:
    with Archive.open(folder) as archive:
        summary_from_archive(archive)
        query = np.ones((1, archive.dim), np.float32)
        for where in _FILTERS:
            archive.search(query, where=where)

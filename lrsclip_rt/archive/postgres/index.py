"""An approximate index in PostgreSQL, and what it loses: measured against the exact answers of the archive.

pgvector's HNSW over half-precision rows, or VectorChord's index where the extension ``vchord`` is installed.
Its effort is the least that reaches the gate on the queries given; what was reached is recorded either way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.archive.postgres.connection import Server, connect, server_errors
from lrsclip_rt.archive.postgres.schema import query, read_pushed, set_fact
from lrsclip_rt.archive.postgres.search import PostgresArchive
from lrsclip_rt.archive.store import Archive
from lrsclip_rt.errors import InputError

if TYPE_CHECKING:
    from psycopg import Connection

__all__ = ["LEAST_QUERIES", "RECALL_GATE", "IndexReport", "build_index", "drop_index"]

RECALL_GATE = 0.99
LEAST_QUERIES = 200
_K = 10
_TIE = 1e-6
"""Rows whose scores differ by less are equally right: they differ by rounding alone."""

_HNSW_MOST_DIM = 4_000
_HNSW_EFFORTS = (40, 80, 160, 320, 640, 1000)
_CHORD_EFFORTS = (10, 20, 40, 80, 160, 320)
_BUILD = {
    "hnsw": "CREATE INDEX {name} ON {s}.tiles USING hnsw (embedding halfvec_ip_ops)"
    " WITH (m = 16, ef_construction = 128)",
    "vchordrq": "CREATE INDEX {name} ON {s}.tiles USING vchordrq (embedding halfvec_ip_ops)",
}
_INDEX = "tiles_embedding"


@dataclass(frozen=True, slots=True)
class IndexReport:
    """What was built and measured.

    Attributes:
        method: ``hnsw`` or ``vchordrq``.
        settings: Settings of every approximate search.
        recall_at_10: Share of the ten best rows that it finds, over the queries.
        queries: How many queries it was measured on.
        rows: Rows at that time.
        reached: Whether ``RECALL_GATE`` was reached.
        measured: When, ISO 8601.
    """

    method: str
    settings: dict[str, str]
    recall_at_10: float
    queries: int
    rows: int
    reached: bool
    measured: str


def build_index(
    server: Server,
    archive: Archive,
    queries: NDArray[np.float32],
    *,
    least_queries: int = LEAST_QUERIES,
    progress: Callable[[str], None] | None = None,
) -> IndexReport:
    """Make the index where there is none, choose its effort, and record what it loses.

    Args:
        server: Where the archive was pushed to.
        archive: The same archive, which gives the exact answers.
        queries: ``(Q, D)`` float32 unit rows of texts: pictures of the archive would be found too easily.
        least_queries: Fewer queries than this say too little.
        progress: Called with what is being done.

    Raises:
        InputError: If there are too few queries, or rows too long for the index.
        ArchiveError: If the database cannot be reached or refuses.
    """
    if len(queries) < least_queries:
        raise InputError(f"recall is measured on at least {least_queries} texts, got {len(queries)}")
    tell = progress or (lambda _: None)
    with connect(server) as connection, server_errors(server, "indexing"):
        rows = read_pushed(connection, server).rows or 0
        method = _method(connection)
        if method == "hnsw" and archive.dim > _HNSW_MOST_DIM:
            raise InputError(f"HNSW takes rows of up to {_HNSW_MOST_DIM} numbers, these have {archive.dim}")
        tell(f"building {method} over {rows} rows")
        _build(connection, server, method)
        tell(f"measuring recall on {len(queries)} texts")
        exact = _exact_scores(archive, queries)
        report = _calibrated(server, connection, method, queries, exact, rows)
        set_fact(connection, server, "approximate", asdict(report))
    return report


def drop_index(server: Server) -> None:
    """Remove the approximate index.

    Raises:
        ArchiveError: If the database cannot be reached or refuses.
    """
    from psycopg import sql

    with connect(server) as connection, server_errors(server, "indexing"), connection.transaction():
        connection.execute(query("DROP INDEX IF EXISTS {s}.{name}", server, name=sql.Identifier(_INDEX)))
        set_fact(connection, server, "approximate", None)


def _method(connection: Connection[Any]) -> str:
    found = connection.execute("SELECT 1 FROM pg_extension WHERE extname = 'vchord'").fetchone()
    return "hnsw" if found is None else "vchordrq"


def _build(connection: Connection[Any], server: Server, method: str) -> None:
    from psycopg import sql

    asked = "SELECT indexdef FROM pg_indexes WHERE schemaname = %s AND indexname = %s"
    found = connection.execute(asked, (server.schema, _INDEX)).fetchone()
    name = sql.Identifier(_INDEX)
    if found is not None and f"USING {method} " not in found[0]:
        connection.execute(query("DROP INDEX {s}.{name}", server, name=name))
        found = None
    if found is None:
        connection.execute("SET maintenance_work_mem = '512MB'")
        connection.execute(query(_BUILD[method], server, name=name))
        connection.execute("RESET maintenance_work_mem")


def _exact_scores(archive: Archive, queries: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """The ten best scores of every query, best first."""
    found = archive.search(queries, _K, merge=False, exact=True)
    return [np.array([hit.score for hit in hits], np.float32) for hits in found]


def _calibrated(
    server: Server,
    connection: Connection[Any],
    method: str,
    queries: NDArray[np.float32],
    exact: Sequence[NDArray[np.float32]],
    rows: int,
) -> IndexReport:
    best: IndexReport | None = None
    for effort in _HNSW_EFFORTS if method == "hnsw" else _CHORD_EFFORTS:
        settings = _settings(method, effort)
        recall = _recall(server, connection, queries, exact, settings)
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        report = IndexReport(method, settings, recall, len(queries), rows, recall >= RECALL_GATE, now)
        if best is None or recall > best.recall_at_10:
            best = report
        if report.reached:
            return report
    assert best is not None
    return best


def _settings(method: str, effort: int) -> dict[str, str]:
    if method == "vchordrq":
        return {"vchordrq.probes": str(effort)}
    return {
        "hnsw.ef_search": str(effort),
        # Under a filter the scan goes on until enough rows pass, best first.
        "hnsw.iterative_scan": "strict_order",
        "hnsw.max_scan_tuples": "200000",
    }


def _recall(
    server: Server,
    connection: Connection[Any],
    queries: NDArray[np.float32],
    exact: Sequence[NDArray[np.float32]],
    settings: dict[str, str],
) -> float:
    """Of the ten best rows the share that the index finds; equal scores count as found."""
    set_fact(connection, server, "approximate", {"method": "", "settings": settings, "recall_at_10": 0.0})
    archive = PostgresArchive(server, connection, approximate=True)
    shares = []
    for row, best in zip(queries, exact, strict=True):
        with connection.transaction():
            archive.tune(_K)
            found = archive.ranking(row, _K, approximate=True).scores
        if len(best):
            shares.append(min(1.0, float((found >= best[-1] - _TIE).sum()) / len(best)))
    return float(np.mean(shares)) if shares else 1.0

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import archive_makers as makers
import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray
from postgres_server import running_server

from lrsclip_rt.archive import Archive, ArchiveWriter, Hits, Location, ModelRecord, NewTile, Where
from lrsclip_rt.archive.areas.area import Area
from lrsclip_rt.archive.codes.calibration_texts import calibration_texts
from lrsclip_rt.archive.geoparquet.exporting import living_rows
from lrsclip_rt.archive.models import model_from_bundle
from lrsclip_rt.bundle import BUILT_IN, Bundle
from lrsclip_rt.cli.archive import command
from lrsclip_rt.cli.search import command as search_command
from lrsclip_rt.embedder import load
from lrsclip_rt.errors import ArchiveError, ArchiveLockedError, ArchiveModelError, InputError
from lrsclip_rt.tiles import Window

psycopg = pytest.importorskip("psycopg", reason="PostgreSQL needs psycopg")

from lrsclip_rt.archive.postgres import push as postgres_push  # noqa: E402
from lrsclip_rt.archive.postgres import search as postgres_search  # noqa: E402
from lrsclip_rt.archive.postgres.connection import Server, connect, is_postgres_url  # noqa: E402
from lrsclip_rt.archive.postgres.index import build_index, drop_index  # noqa: E402
from lrsclip_rt.archive.postgres.push import push_archive  # noqa: E402
from lrsclip_rt.archive.postgres.schema import query  # noqa: E402
from lrsclip_rt.archive.postgres.search import PostgresArchive, search_postgres  # noqa: E402

DIM = 64
MODEL = ModelRecord("cd" * 32, "made-64", DIM)
ROWS_OF_A_SOURCE = 40
DAY_US = 86_400_000_000


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running_server() as found:
        yield found


def rows_of(count: int, seed: int) -> NDArray[np.float32]:
    """Rows in groups, as tiles of like places are."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(5).standard_normal((30, DIM))
    rows = centres[rng.integers(0, 30, count)] + 0.8 * rng.standard_normal((count, DIM))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def queries_of(count: int) -> NDArray[np.float32]:
    """Queries whose mean lies elsewhere than that of the rows, as that of texts does."""
    rng = np.random.default_rng(77)
    centres = np.random.default_rng(5).standard_normal((30, DIM))
    rows = centres[rng.integers(0, 30, count)] + rng.standard_normal((count, DIM)) + 0.7
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def add_source(writer: ArchiveWriter, number: int) -> int:
    source = writer.add_source(makers.content(number, crs="EPSG:4326", transform=(1.0, 0, 2, 0, -1, 3)))
    writer.add_location(source, Location("/data/scenes", f"{number % 5}/{number:03d}.tif", 5))
    cover = {"eo:cloud_cover": str(number)} if number % 3 else {}
    writer.add_metadata(source, {"sensor": "naip" if number % 2 else 'it\'s "planet"', **cover})
    tiles = []
    for index in range(ROWS_OF_A_SOURCE):
        window = Window(80 * (index % 8), 80 * (index // 8), 128, 128)
        west, south = -180.0 + (number * 7.3 + 0.1 * index) % 359.0, -60.0 + number
        east = west + 0.4 if west + 0.4 <= 180 else west + 0.4 - 360.0
        bbox = (west, south, east, south + 0.3)
        rings = (makers.square(bbox),) if east > west and index % 2 else ()
        time_us = None if number % 7 == 0 else number * DAY_US + index
        tiles.append(NewTile(128, window, None if number % 11 == 5 else bbox, rings, time_us, 0.125))
    tiles = [t if t.bbox is not None else replace(t, footprint=()) for t in tiles]
    writer.append(source, tiles, rows_of(ROWS_OF_A_SOURCE, number))
    return source


def make(folder: Path, sources: range) -> Path:
    with ArchiveWriter(folder, MODEL, makers.FP32, segment_rows=500, block_rows=64) as writer:
        for number in sources:
            add_source(writer, number)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("push") / "archive", range(50))


@pytest.fixture(scope="module")
def archive(folder: Path) -> Iterator[Archive]:
    with Archive.open(folder) as opened:
        yield opened


@pytest.fixture(scope="module")
def pushed(url: str, archive: Archive) -> Server:
    server = Server.from_url(url, "main")
    report = push_archive(archive, server)
    assert (report.rows_sent, report.rows_removed, report.rows) == (2000, 0, 2000)
    return server


def assert_same(local: list[Hits], remote: list[Hits]) -> None:
    """The same places, except where two scores are nearer to each other than 1e-5."""
    assert len(local) == len(remote)
    for ours, theirs in zip(local, remote, strict=True):
        assert len(ours) == len(theirs)
        assert (ours.rows, ours.without_place, ours.without_time) == (
            theirs.rows,
            theirs.without_place,
            theirs.without_time,
        )
        assert ours.without_metadata == theirs.without_metadata
        assert ours.presence == pytest.approx(theirs.presence, abs=1e-6)
        assert ours.present == theirs.present
        for one, two in zip(ours, theirs, strict=True):
            assert one.score == pytest.approx(two.score, abs=1e-5)
            if one.id == two.id:
                assert replace(one, z=0.0) == replace(two, z=0.0)


@pytest.mark.parametrize("merge", [True, False])
def test_two_hundred_queries_find_the_same_as_in_the_folder(
    archive: Archive, pushed: Server, merge: bool
) -> None:
    queries = queries_of(200)
    with PostgresArchive.open(pushed.url, schema="main") as remote:
        assert len(remote) == len(archive)
        theirs = remote.search(queries, k=10, merge=merge)
    ours = archive.search(queries, k=10, merge=merge)
    assert_same(ours, theirs)
    same = [[hit.id for hit in one] == [hit.id for hit in two] for one, two in zip(ours, theirs, strict=True)]
    assert sum(same) == 200
    if merge:
        assert any(hit.count > 1 for hits in ours for hit in hits)


FILTERS: dict[str, Where] = {
    "a box": Where(bbox=(-100, -50, 20, -20)),
    "a box across the antimeridian": Where(bbox=(150, -60, -150, 0)),
    "a box of nothing": Where(bbox=(0, 80, 1, 81)),
    "a time": Where(start="1970-01-05", end="1970-01-20"),
    "a moment": Where(start="1970-01-09T00:00:00.000007Z"),
    "a path": Where(sources=["/data/scenes/3/003.tif"]),
    "a pattern": Where(sources=["2/*"]),
    "metadata": Where(metadata={"sensor": 'it\'s "planet"'}),
    "a comparison": Where(conditions=["eo:cloud_cover<=20", "sensor!=naip"]),
    "all at once": Where(
        bbox=(-180, -60, 180, 0),
        start="1970-01-02",
        end="1970-02-10",
        sources=["*.tif"],
        metadata={"sensor": "naip"},
        conditions=["eo:cloud_cover>=1"],
    ),
}


@pytest.mark.parametrize("name", FILTERS)
def test_filters_are_the_same_filters(archive: Archive, pushed: Server, name: str) -> None:
    queries = queries_of(20)
    remote = search_postgres(pushed.url, queries, 7, FILTERS[name], schema="main")
    assert_same(archive.search(queries, 7, FILTERS[name]), remote)


def test_an_area_of_interest_is_the_same_area(
    archive: Archive, pushed: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A thin diagonal: its box holds most rows, itself few, so that many rankings have to be asked for.
    band = ((-175.0, -60.0), (-170.0, -60.0), (175.0, -12.0), (170.0, -12.0), (-175.0, -60.0))
    where = Where(aoi=Area(((band,),)))
    monkeypatch.setattr(postgres_search, "_MOST_AT_ONCE", 100)
    queries = queries_of(5)
    ours = archive.search(queries, 20, where)
    theirs = search_postgres(pushed.url, queries, 20, where, schema="main")
    assert_same([replace(hits, rows=0) for hits in ours], [replace(hits, rows=0) for hits in theirs])
    assert len(ours[0]) == 20
    assert ours[0].rows <= theirs[0].rows < 2000


def test_hostile_values_are_values(archive: Archive, pushed: Server) -> None:
    nasty = "'; DROP SCHEMA main CASCADE; --%s{s}"
    for where in (
        Where(sources=[nasty]),
        Where(metadata={"sensor": nasty}),
        Where(conditions=[f"sensor={nasty}"]),
    ):
        [hits] = search_postgres(pushed.url, queries_of(1), 3, where, schema="main")
        assert len(hits) == 0
    with pytest.raises(InputError, match="no source of this archive has metadata"):
        search_postgres(pushed.url, queries_of(1), 3, Where(metadata={nasty: "x"}), schema="main")
    with PostgresArchive.open(pushed.url, schema="main") as remote:
        assert len(remote) == 2000


def test_presence_is_decided_as_in_the_folder(archive: Archive, pushed: Server) -> None:
    [query_row] = queries_of(1)
    [open_hits] = archive.search(query_row)
    assert open_hits.presence is not None
    for least in (open_hits.presence - 0.01, open_hits.presence + 0.01):
        ours = archive.search(query_row, min_score=least)
        assert_same(ours, search_postgres(pushed.url, query_row, schema="main", min_score=least))


def test_examples_and_their_vectors_come_from_the_database(archive: Archive, pushed: Server) -> None:
    tile = archive.catalog.tiles([7], archive.segments)[7]
    with PostgresArchive.open(pushed.url, schema="main") as remote:
        found = remote.tile(tile.id[:12])
        assert found.id == tile.id
        assert found.tile == tile.tile
        assert (remote.vectors([found]) == archive.vectors([tile])).all()
        assert remote.sample.shape == (2000, DIM)
        with pytest.raises(InputError, match="belongs to no tile"):
            remote.tile("00" * 16)
        with pytest.raises(InputError, match="begins more than one"):
            remote.tile(tile.id[:1])
        with pytest.raises(InputError, match="is no tile id"):
            remote.tile("x")
        source = found.source
        assert remote.content(source) == archive.content(tile.source)
        assert remote.locations(source) == archive.locations(tile.source)
        with pytest.raises(InputError, match="no source number"):
            remote.content(-1)


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (np.ones((2, 8)), r"archive \(N, 64\) and queries \(2, 8\)"),
        (np.zeros((1, DIM)), "zero or not finite"),
        (np.full((1, DIM), np.nan), "zero or not finite"),
    ],
)
def test_queries_that_cannot_be_meant_are_refused(pushed: Server, vectors: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        search_postgres(pushed.url, vectors, schema="main")
    with pytest.raises(InputError, match="k must be at least 1"):
        search_postgres(pushed.url, queries_of(1), 0, schema="main")


# -- push ----------------------------------------------------------------------------------------------


def held(server: Server) -> dict[str, bytes]:
    """The vectors of the database by id."""
    with connect(server) as connection, connection.cursor(binary=True) as cursor:
        cursor.execute(query("SELECT id, embedding FROM {s}.tiles", server))
        return {row[0].hex: np.frombuffer(row[1][4:], ">f2").astype(np.float16).tobytes() for row in cursor}


def local(archive: Archive) -> dict[str, bytes]:
    found = {}
    for segment in archive.mapped_segments:
        rows = living_rows(segment)
        tiles = archive.catalog.tiles((rows + segment.record.base).tolist(), archive.segments)
        for row in rows.tolist():
            found[tiles[row + segment.record.base].id] = segment.f16[row].tobytes()
    return found


def test_a_push_sends_what_is_new_and_removes_what_is_gone(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_push, "PAGE_ROWS", 64)
    server = Server.from_url(url, "steps")
    with Archive.open(make(tmp_path / "a", range(10))) as archive:
        assert push_archive(archive, server).rows_sent == 400
        assert held(server) == local(archive)
        again = push_archive(archive, server)
        assert (again.rows_sent, again.rows_removed, again.rows) == (0, 0, 400)
    with Archive.open(make(tmp_path / "a", range(12))) as archive:
        assert push_archive(archive, server).rows_sent == 80
        assert held(server) == local(archive)
    with Archive.open(make(tmp_path / "b", range(8, 14))) as archive:
        kept = push_archive(archive, server, keep=True)
        assert (kept.rows_sent, kept.rows_removed, kept.rows) == (80, 0, 560)
        mirrored = push_archive(archive, server)
        assert (mirrored.rows_sent, mirrored.rows_removed, mirrored.rows) == (0, 320, 240)
        assert held(server) == local(archive)
        with connect(server) as connection:
            counted = connection.execute(query("SELECT count(*) FROM {s}.sources", server)).fetchone()
            assert counted == (6,)


def test_what_was_deleted_goes_and_what_was_compacted_stays(url: str, tmp_path: Path) -> None:
    server = Server.from_url(url, "deleted")
    with Archive.open(make(tmp_path / "a", range(6))) as archive:
        push_archive(archive, server)
    with ArchiveWriter(tmp_path / "a", MODEL, makers.FP32) as writer:
        writer.delete_source(2)
    with Archive.open(tmp_path / "a") as archive:
        report = push_archive(archive, server)
        assert (report.rows_sent, report.rows_removed, report.rows) == (0, 40, 200)
        assert held(server) == local(archive)
        with ArchiveWriter(tmp_path / "a", MODEL, makers.FP32) as writer:
            writer.compact()
        # This reader was opened before; its snapshot still tells what to push.
        assert push_archive(archive, server).rows_removed == 0
    with Archive.open(tmp_path / "a") as archive:
        again = push_archive(archive, server)
        assert (again.rows_sent, again.rows_removed) == (0, 0)
        assert_same(archive.search(queries_of(5)), search_postgres(url, queries_of(5), schema="deleted"))


def test_changed_metadata_of_a_source_goes_over(url: str, tmp_path: Path) -> None:
    server = Server.from_url(url, "changes")
    with Archive.open(make(tmp_path / "a", range(2))) as archive:
        push_archive(archive, server)
    with ArchiveWriter(tmp_path / "a", MODEL, makers.FP32) as writer:
        writer.add_metadata(1, {"sensor": "drone"})
    with Archive.open(tmp_path / "a") as archive:
        assert push_archive(archive, server).rows_sent == 0
    [hits] = search_postgres(url, queries_of(1), where=Where(metadata={"sensor": "drone"}), schema="changes")
    assert hits.rows == ROWS_OF_A_SOURCE


def test_an_interrupted_push_is_finished_by_the_next(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_push, "PAGE_ROWS", 50)
    server = Server.from_url(url, "interrupted")

    def stop(count: int) -> None:
        done.append(count)
        if len(done) == 4:
            raise KeyboardInterrupt

    done: list[int] = []
    with Archive.open(make(tmp_path / "a", range(10))) as archive:
        with pytest.raises(KeyboardInterrupt):
            push_archive(archive, server, progress=stop)
        assert len(held(server)) == 200
        assert push_archive(archive, server).rows_sent == 200
        assert held(server) == local(archive)


PUSHER = """
import sys
from lrsclip_rt.archive import Archive
from lrsclip_rt.archive.postgres import push as postgres_push  # noqa: E402
from lrsclip_rt.archive.postgres.connection import Server
postgres_push.PAGE_ROWS = 40
with Archive.open(sys.argv[2]) as archive:
    server = Server.from_url(sys.argv[1], "killed")
    postgres_push.push_archive(archive, server, progress=lambda rows: print(rows, flush=True))
"""


def test_a_killed_push_leaves_whole_pages_and_the_next_finishes_it(url: str, tmp_path: Path) -> None:
    folder = make(tmp_path / "a", range(30))
    child = subprocess.Popen([sys.executable, "-c", PUSHER, url, str(folder)], stdout=subprocess.PIPE)
    assert child.stdout is not None
    with child:
        assert [child.stdout.readline() for _ in range(5)] == [b"40\n"] * 5
        child.kill()
    server = Server.from_url(url, "killed")
    with Archive.open(folder) as archive:
        left = held(server)
        assert 200 <= len(left) < 1200
        assert len(left) % 40 == 0
        assert left.items() <= local(archive).items()
        while True:
            try:
                report = push_archive(archive, server)
                break
            except ArchiveLockedError:
                time.sleep(0.05)  # the server has not noticed the death of its client yet
        assert (report.rows_sent, report.rows) == (1200 - len(left), 1200)
        assert held(server) == local(archive)


def test_values_that_postgresql_cannot_hold_are_one_named_error(url: str, tmp_path: Path) -> None:
    make(tmp_path / "a", range(1))
    with ArchiveWriter(tmp_path / "a", MODEL, makers.FP32) as writer:
        writer.add_metadata(1, {"note": "a\0b"})
    server = Server.from_url(url, "nul")
    with (
        Archive.open(tmp_path / "a") as archive,
        pytest.raises(ArchiveError, match="pushing into schema nul"),
    ):
        push_archive(archive, server)


def test_another_model_is_refused(url: str, pushed: Server, tmp_path: Path) -> None:
    makers.write(tmp_path / "other", range(1))
    with (
        Archive.open(tmp_path / "other") as archive,
        pytest.raises(ArchiveModelError, match="another --schema"),
    ):
        push_archive(archive, pushed)


def test_a_second_push_into_the_same_schema_has_to_wait(archive: Archive, pushed: Server) -> None:
    with connect(pushed) as other:
        other.execute("SELECT pg_advisory_lock(hashtextextended('lrsclip:main', 0))")
        with pytest.raises(ArchiveLockedError, match="another push"):
            push_archive(archive, pushed)


def test_a_schema_of_something_else_is_refused(url: str, archive: Archive) -> None:
    server = Server.from_url(url, "theirs")
    with connect(server) as connection:
        connection.execute("CREATE SCHEMA theirs")
        connection.execute("CREATE TABLE theirs.tiles (x int)")
    with pytest.raises(ArchiveError, match="tables of something else"):
        push_archive(archive, server)
    with pytest.raises(ArchiveError, match="tables of something else"):
        PostgresArchive.open(url, schema="theirs")
    with pytest.raises(ArchiveError, match="holds no archive"):
        PostgresArchive.open(url, schema="nobody")
    odd = Server.from_url(url, 'a "quoted" näme')
    assert push_archive(archive, odd).rows == 2000


# -- the approximate index -----------------------------------------------------------------------------


def test_the_index_is_measured_and_used_only_when_asked(archive: Archive, pushed: Server) -> None:
    with pytest.raises(ArchiveError, match="no approximate index"):
        PostgresArchive.open(pushed.url, schema="main", approximate=True)
    queries = queries_of(220)
    with pytest.raises(InputError, match="at least 200 texts, got 10"):
        build_index(pushed, archive, queries[:10])
    report = build_index(pushed, archive, queries)
    assert (report.method, report.queries, report.rows) == ("hnsw", 220, 2000)
    assert report.reached
    assert report.recall_at_10 >= 0.99
    exact = archive.search(queries, merge=False)
    near = search_postgres(pushed.url, queries, schema="main", merge=False, approximate=True)
    shares = [
        len({hit.id for hit in one} & {hit.id for hit in two}) / 10
        for one, two in zip(exact, near, strict=True)
    ]
    assert np.mean(shares) == pytest.approx(report.recall_at_10, abs=0.005)
    exactly = search_near(pushed, queries[:5])
    assert [[hit.id for hit in hits] for hits in exactly] == [[hit.id for hit in hits] for hits in exact[:5]]
    # Under a filter the scan goes on until enough rows pass.
    where = Where(metadata={"sensor": "naip"}, start="1970-01-05", end="1970-01-20")
    for one, two in zip(
        archive.search(queries[:20], 5, where, merge=False),
        search_postgres(pushed.url, queries[:20], 5, where, schema="main", merge=False, approximate=True),
        strict=True,
    ):
        assert [hit.id for hit in one] == [hit.id for hit in two]
    plan = explained(pushed, queries[0])
    assert "tiles_embedding" in plan[True]
    assert "tiles_embedding" not in plan[False]
    drop_index(pushed)
    with pytest.raises(ArchiveError, match="no approximate index"):
        PostgresArchive.open(pushed.url, schema="main", approximate=True)


def search_near(server: Server, queries: NDArray[np.float32]) -> list[Hits]:
    with PostgresArchive.open(server.url, schema="main", approximate=True) as remote:
        return remote.search(queries, merge=False, exact=True)


def explained(server: Server, row: NDArray[np.float32]) -> dict[bool, str]:
    """How the database runs an approximate and an exact search."""
    text = "[" + ",".join(map(str, row.astype(np.float16).tolist())) + "]"
    rough = "EXPLAIN SELECT id FROM {s}.tiles ORDER BY embedding <#> %s::halfvec LIMIT 10"
    exact = (
        "EXPLAIN SELECT id FROM {s}.tiles ORDER BY (embedding <#> %s::halfvec) + (embedding <#> %s::halfvec)"
        " / 1024, id LIMIT 10"
    )
    plans = {}
    with connect(server) as connection:
        for approximate, statement, values in ((True, rough, (text,)), (False, exact, (text, text))):
            plans[approximate] = str(connection.execute(query(statement, server), values).fetchall())
    return plans


# -- partitions ----------------------------------------------------------------------------------------


def test_the_same_statements_run_over_partitions(url: str, archive: Archive, pushed: Server) -> None:
    server = Server.from_url(url, "parts")
    push_archive(archive, server)
    with connect(server) as connection:
        for statement in partition_statements():
            connection.execute(query(statement, server))
    queries = queries_of(10)
    assert_same(archive.search(queries), search_postgres(url, queries, schema="parts"))
    with connect(server) as connection:
        counted = "SELECT count(DISTINCT tableoid) FROM {s}.tiles"
        assert connection.execute(query(counted, server)).fetchone() == (4,)
    assert push_archive(archive, server).rows_sent == 0


def partition_statements() -> list[str]:
    """The SQL that docs/scale.md shows, with our schema's name in place of the example's."""
    page = (Path(__file__).resolve().parents[2] / "docs" / "scale.md").read_text(encoding="utf-8")
    block = page.split("<!-- partitions -->")[1].split("```sql\n")[1].split("```")[0]
    return [part.strip().replace("lrsclip.", "{s}.") for part in block.split(";") if part.strip()]


# -- reaching it ---------------------------------------------------------------------------------------


def test_urls_are_told_from_folders() -> None:
    assert is_postgres_url("postgresql://h/d")
    assert is_postgres_url("postgres://h/d")
    assert is_postgres_url(Path("postgresql://h/d"))
    assert not is_postgres_url("archive/postgresql")
    assert Server.from_url(str(Path("postgresql://u:pw@h:1/d"))).url == "postgresql://u:pw@h:1/d"


@pytest.mark.parametrize(
    "target",
    [
        "postgresql://bob:s3cret@127.0.0.1:9/shop",
        "postgresql://bob:s3cret@no-such-host.invalid/shop",
        "postgresql://bob:s3cret@/shop?host=/no/such/folder",
    ],
)
def test_what_cannot_be_reached_is_named_without_its_password(target: str) -> None:
    with pytest.raises(ArchiveError, match=r"PostgreSQL at .*/shop: ") as refused:
        connect(Server.from_url(target))
    said = str(refused.value)
    assert "s3cret" not in said
    assert "bob" not in said
    assert refused.value.__suppress_context__
    assert "s3cret" not in repr(Server.from_url(target))
    done = CliRunner().invoke(command, ["push", "nowhere", target])
    assert "s3cret" not in done.output + str(done.exception)


@pytest.mark.parametrize("target", ["archive/", "postgresql://[::1/x", "postgresql://u:%zz@h/d"])
def test_what_is_no_url_is_refused(target: str) -> None:
    with pytest.raises(InputError) as refused:
        Server.from_url(target)
    assert "%zz" not in str(refused.value)


def test_a_database_or_user_that_is_not_there_is_named(url: str) -> None:
    with pytest.raises(ArchiveError, match="/nothing: there is no such database"):
        connect(Server.from_url(url.replace("/postgres?", "/nothing?")))
    with pytest.raises(InputError, match="name of a schema"):
        Server.from_url(url, "pg_toast")


# -- commands ------------------------------------------------------------------------------------------


def test_the_command_pushes(url: str, folder: Path) -> None:
    done = CliRunner().invoke(command, ["push", str(folder), url, "--schema", "command", "--json"])
    assert done.exit_code == 0, done.output
    row = json.loads(done.stdout)
    assert (row["rows"], row["rows_sent"], row["sources"]) == (2000, 2000, 50)
    assert url not in done.output


def test_words_find_the_same_in_the_database_as_in_the_folder(
    url: str, made_bundle: Path, tmp_path: Path
) -> None:
    bundle = Bundle.open(made_bundle)
    model = model_from_bundle(bundle)
    with ArchiveWriter(tmp_path / "a", model, makers.FP32, bundle=bundle) as writer:
        for number in range(60):
            source = writer.add_source(makers.content(number))
            writer.add_location(source, Location("/data", f"{number}.tif"))
            writer.add_metadata(source, {"parity": str(number % 2)})
            writer.append(source, makers.grid(number), makers.unit_rows(6, number, model.dim))
    pushing = [str(tmp_path / "a"), url, "--schema", "words", "--hnsw", "--json"]
    done = CliRunner().invoke(command, ["push", *pushing])
    assert done.exit_code == 0, done.output
    measured = json.loads(done.stdout)["approximate"]
    assert (measured["queries"], measured["rows"]) == (len(calibration_texts()), 360)
    assert f"recall@10 {measured['recall_at_10']:.4f}" in done.stderr

    def found(name: str, *options: str) -> list[dict[str, Any]]:
        asked = [name, "a harbour with many ships", "--min-score", "-1", "-k", "5", "--json", *options]
        answer = CliRunner().invoke(search_command, asked)
        assert answer.exit_code == 0, answer.output
        return [{**json.loads(line), "z": 0} for line in answer.stdout.splitlines()]

    remote = ("--schema", "words", "-b", str(made_bundle))
    for filters in ((), ("--where", "parity=1"), ("--bbox", "3,-1,9,1")):
        assert found(str(tmp_path / "a"), *filters) == found(url, *remote, *filters)
        assert len(found(url, *remote, *filters, "--approximate")) == 5
    told = CliRunner().invoke(search_command, [url, "x", *remote, "--approximate", "--json"]).stderr
    assert f"recall@10 {measured['recall_at_10']:.4f} over 300 texts" in told
    with ArchiveWriter(tmp_path / "a", model, makers.FP32) as writer:
        writer.append(
            writer.add_source(makers.content(99)), [makers.whole()], makers.unit_rows(1, 99, model.dim)
        )
    assert CliRunner().invoke(command, ["push", *pushing[:4]]).exit_code == 0
    told = CliRunner().invoke(search_command, [url, "x", *remote, "--approximate", "--json"]).stderr
    assert "measured at 360 rows, now 361: push again with --hnsw" in told
    first = found(url, *remote)[0]["id"]
    like = CliRunner().invoke(
        search_command, [url, "--like", first, "-k", "1", "--json", "--schema", "words"]
    )
    assert json.loads(like.stdout)["id"] == first
    assert len(found(url, "--schema", "words")) == 5  # its bundle is where it was
    other = CliRunner().invoke(search_command, [url, "x", "--schema", "words", "-b", str(BUILT_IN)])
    assert isinstance(other.exception, ArchiveModelError)
    refused = CliRunner().invoke(search_command, [str(tmp_path / "a"), "x", "--approximate"])
    assert isinstance(refused.exception, InputError)


@pytest.mark.slow
def test_a_hundred_thousand_rows_answer_texts_as_the_folder_does(url: str, tmp_path: Path) -> None:
    """Rows between embeddings of pairs of texts of the built-in model, asked by its texts."""
    model = load()
    queries = model.embed_texts(list(calibration_texts()))
    rng = np.random.default_rng(9)
    anchors = queries + 0.03 * rng.standard_normal(queries.shape).astype(np.float32)
    folder, rows = tmp_path / "a", 100_000
    with ArchiveWriter(folder, model_from_bundle(model.bundle), makers.FP32) as writer:
        for number in range(rows // 1000):
            first, second = anchors[rng.integers(0, len(anchors), (2, 1000))]
            share = rng.uniform(0.2, 0.8, (1000, 1)).astype(np.float32)
            mixed = share * first + (1 - share) * second + 0.02 * rng.standard_normal(first.shape)
            vectors = (mixed / np.linalg.norm(mixed, axis=1, keepdims=True)).astype(np.float32)
            source = writer.add_source(makers.content(number))
            tiles = [NewTile(256, Window(80 * (i % 40), 80 * (i // 40), 128, 128)) for i in range(1000)]
            writer.append(source, tiles, vectors)
    with Archive.open(folder) as archive:
        server = Server.from_url(url, "large")
        assert push_archive(archive, server).rows_sent == rows
        ours = archive.search(queries)
        assert_same(ours, search_postgres(url, queries, schema="large"))
        report = build_index(server, archive, queries)
    print(report)
    assert report.rows == rows

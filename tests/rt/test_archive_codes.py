from __future__ import annotations

import builtins
import json
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import archive_makers as makers
import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray

from lrsclip_rt.archive import Archive, ArchiveWriter, ModelRecord, NewTile, Where
from lrsclip_rt.archive.codes.files import CODES, Codes, CodesObstacle
from lrsclip_rt.archive.codes.recall import CALIBRATED_K, WANTED_RECALL
from lrsclip_rt.archive.scanning import best_rows
from lrsclip_rt.archive.summary import summary_from_archive
from lrsclip_rt.errors import ArchiveError, ArchiveLockedError, DependencyError, InputError
from lrsclip_rt.tiles import Window

faiss = pytest.importorskip("faiss", reason="codes need faiss")

from lrsclip_rt.archive.codes.building import build_codes, refresh_codes  # noqa: E402

DIM = 48
MODEL = ModelRecord("cd" * 32, "made", DIM)
ROWS = 12_000


def embeddings(rows: int, seed: int) -> NDArray[np.float32]:
    """Rows as a tower makes them: a mean, and a spectrum that falls."""
    rng = np.random.default_rng(seed)
    spread = rng.standard_normal((rows, DIM)) / np.arange(1, DIM + 1) ** 0.7
    spread[:, 3] += 0.8
    return (spread / np.linalg.norm(spread, axis=1, keepdims=True)).astype(np.float32)


def texts(count: int, seed: int = 77) -> NDArray[np.float32]:
    """Queries with another mean than the rows, as texts have."""
    rng = np.random.default_rng(seed)
    asked = rng.standard_normal((count, DIM)) / np.arange(1, DIM + 1) ** 0.4
    asked[:, 7] -= 1.5
    return (asked / np.linalg.norm(asked, axis=1, keepdims=True)).astype(np.float32)


def append(writer: ArchiveWriter, number: int, vectors: NDArray[np.float32]) -> int:
    """One source: tiles in a row, each a hundredth of a degree wide, from longitude ``number``."""
    source = writer.add_source(makers.content(number, width=len(vectors), height=1))
    tiles = []
    for i in range(len(vectors)):
        west = number + i / 100 % 1
        bbox = (west, 0.0, west + 0.01, 0.01)
        tiles.append(NewTile(1, Window(i, 0, 1, 1), bbox, (makers.square(bbox),), 1_000_000 * i, 0.0))
    writer.append(source, tiles, vectors)
    return source


def make(folder: Path, rows: int = ROWS, first: int = 0) -> Path:
    with ArchiveWriter(folder, MODEL, makers.FP32, segment_rows=4096, block_rows=512) as writer:
        for number in range(first, first + rows // 1000):
            append(writer, number, embeddings(1000, number))
    return folder


@pytest.fixture(scope="module")
def coded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make(tmp_path_factory.mktemp("codes") / "archive")
    build_codes(folder, texts=texts(250))
    return folder


@pytest.fixture
def own(coded: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    shutil.copytree(coded, tmp_path / "own")
    return tmp_path / "own"


def ids(archive: Archive, queries: NDArray[np.float32], **options: Any) -> list[list[str]]:
    return [[hit.id for hit in hits] for hits in archive.search(queries, merge=False, **options)]


def recall(archive: Archive, queries: NDArray[np.float32], **options: Any) -> float:
    found, truth = ids(archive, queries, **options), ids(archive, queries, exact=True, **options)
    assert all(truth)
    return float(np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found, truth, strict=True)]))


def test_texts_that_took_no_part_in_the_calibration_reach_the_recall(coded: Path) -> None:
    with Archive.open(coded) as archive:
        assert isinstance(archive.codes, Codes)
        assert archive.codes.calibration.candidates_for(10) * 4 < ROWS, "codes must take part here"
        assert recall(archive, texts(200, seed=1)) >= 0.99
        assert recall(archive, texts(50, seed=2), k=100) >= 0.98


def test_the_calibration_measures_texts_and_images_apart(coded: Path) -> None:
    with Archive.open(coded) as archive:
        assert isinstance(archive.codes, Codes)
        calibration = archive.codes.calibration
    assert (calibration.rows, calibration.texts, calibration.images) == (ROWS, 250, 250)
    assert set(calibration.text_recall) == set(calibration.image_recall) == set(CALIBRATED_K)
    assert calibration.reached
    assert calibration.recall(10) == min(calibration.text_recall[10], calibration.image_recall[10])
    assert WANTED_RECALL <= calibration.recall(10) <= 1.0
    assert calibration.candidates[10] <= calibration.candidates[100]


def test_what_codes_find_is_scored_exactly(coded: Path) -> None:
    queries = texts(20, seed=3)
    with Archive.open(coded) as archive:
        for some, every in zip(archive.search(queries), archive.search(queries, exact=True), strict=True):
            exact = {hit.id: hit for hit in every}
            shared = [hit for hit in some if hit.id in exact]
            assert len(shared) >= 8
            assert all(hit.score == exact[hit.id].score for hit in shared)
            assert all(hit.z == exact[hit.id].z for hit in shared)
            assert some.presence == pytest.approx(every.presence, abs=5e-3)


def test_an_exact_search_is_the_plain_scan(coded: Path) -> None:
    queries = texts(5, seed=4)
    with Archive.open(coded) as archive:
        plain = best_rows(archive.mapped_segments, queries, 10)
        for ranked, hits in zip(plain, archive.search(queries, merge=False, exact=True), strict=True):
            rows = [archive.tile(hit.id).row for hit in hits]
            assert rows == ranked.rows.tolist()
            assert [hit.score for hit in hits] == ranked.scores.tolist()


def test_filters_that_few_rows_pass_are_exact(coded: Path) -> None:
    where = Where(bbox=(2.001, 0, 3.999, 0.005))
    with Archive.open(coded) as archive:
        queries = texts(100, seed=5)
        assert archive.search(queries[:1], where=where)[0].rows == 2000
        assert recall(archive, queries, where=where) == 1.0


@pytest.mark.parametrize("share", [0.1, 0.6])
def test_filters_take_part_among_the_candidates(
    coded: Path, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the limit of exact filters moved out of the way: the same code as above the limit."""
    from lrsclip_rt.archive import ranking

    monkeypatch.setattr(ranking, "EXACT_ROWS", 100)
    monkeypatch.setattr(ranking, "_USED_SHARE", 1)
    where = Where(
        start="1970-01-01", end=f"1970-01-01T00:{int(share * 1000) // 60:02}:{share * 1000 % 60:02.0f}"
    )
    with Archive.open(coded) as archive:
        queries = texts(100, seed=6)
        assert archive.search(queries[:1], where=where)[0].rows == int(share * ROWS)
        assert recall(archive, queries, where=where) >= 0.99


def test_a_filter_against_the_query_still_finds_its_rows(
    coded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows that pass are those that answer worst, so that no candidate of the first round passes."""
    from lrsclip_rt.archive.codes.scanning import CodePiece

    with Archive.open(coded) as archive:
        codes = archive.codes
        assert isinstance(codes, Codes)
        number, piece = next(iter(codes.pieces.items()))
        assert isinstance(piece, CodePiece)
        [query] = texts(1, seed=7)
        scanned = codes.codebook.scanned_queries(query[None])
        rows, scores = piece.best(scanned, piece.rows, None)
        assert sorted(rows.tolist()) == list(range(piece.rows))
        worst = rows[np.argsort(scores)][:200]
        passing = np.zeros(piece.rows, bool)
        passing[worst] = True
        found, _ = piece.best(scanned, 50, passing)
        assert len(found) == 50
        assert passing[found].all()
        assert number == archive.segments[0].number
        nothing, _ = piece.best(scanned, 50, np.zeros(piece.rows, bool))
        assert len(nothing) == 0


@pytest.mark.parametrize("rows", [640, 1000, 1023])
@pytest.mark.parametrize(
    "passing", ["first rows", "last rows", "a band", "every 40th row", "one row", "half"]
)
def test_picked_blocks_hold_what_a_scan_of_all_finds(rows: int, passing: str) -> None:
    from lrsclip_rt.archive.codes.codebooks import train_codebook
    from lrsclip_rt.archive.codes.scanning import CodePiece

    vectors = embeddings(rows, 3)
    book = train_codebook(vectors)
    piece = CodePiece(rows, book.index_from_codes(book.codes_from_rows(vectors)))
    chosen = {
        "first rows": np.arange(40),
        "last rows": np.arange(rows - 7, rows),
        "a band": np.arange(100, 300),
        "every 40th row": np.arange(5, rows, 40),
        "one row": np.array([rows - 1]),
        "half": np.arange(rows // 2),
    }[passing]
    mask = np.zeros(rows, bool)
    mask[chosen] = True
    for query in texts(5, seed=11):
        scanned = book.scanned_queries(query[None])
        every, scores = piece.best(scanned, rows, None)
        expected = {int(row): score for row, score in zip(every, scores, strict=True) if mask[row]}
        for count in (1, 10, rows):
            found, held = piece.best(scanned, count, mask)
            assert len(found) == len(set(found.tolist())) == min(count, len(chosen))
            assert {
                int(row): score for row, score in zip(found, held, strict=True)
            }.items() <= expected.items()
            assert held.min() >= sorted(expected.values(), reverse=True)[len(found) - 1]


def test_a_piece_smaller_than_a_block_is_filtered() -> None:
    from lrsclip_rt.archive.codes.codebooks import train_codebook
    from lrsclip_rt.archive.codes.scanning import CodePiece

    vectors = embeddings(100, 3)
    book = train_codebook(vectors)
    piece = CodePiece(20, book.index_from_codes(book.codes_from_rows(vectors[:20])))
    mask = np.arange(20) % 7 == 3
    rows, _ = piece.best(book.scanned_queries(texts(1, seed=11)), 5, mask)
    assert sorted(rows.tolist()) == [3, 10, 17]


def test_deleted_rows_are_not_found(own: Path) -> None:
    queries = texts(30, seed=8)
    with Archive.open(own) as archive:
        best = {archive.tile(name).source for found in ids(archive, queries, k=1) for name in found}
        gone = min(best)
    with ArchiveWriter(own, MODEL, makers.FP32) as writer:
        writer.delete_source(gone)
    with Archive.open(own) as archive:
        assert isinstance(archive.codes, Codes), "deletion leaves codes as they are"
        assert len(archive) == ROWS - 1000
        for hits in archive.search(queries, merge=False):
            assert hits.rows == ROWS - 1000
            assert all(archive.tile(hit.id).source != gone for hit in hits)
        assert recall(archive, queries) >= 0.99
        assert gone not in {
            archive.tile(name).source for found in ids(archive, queries, exact=True) for name in found
        }


def test_rows_that_came_later_are_found_exactly(own: Path) -> None:
    queries = texts(40, seed=9)
    with ArchiveWriter(own, MODEL, makers.FP32) as writer:
        append(writer, 500, np.repeat(queries, 20, axis=0)[:700])
    with Archive.open(own) as archive:
        codes = archive.codes
        assert isinstance(codes, Codes)
        assert sum(record.rows for record in archive.segments) - codes.rows >= 700
        for hits in archive.search(queries[:35], k=5, merge=False):
            assert {hit.source for hit in hits} == {f"sha256:{makers.content(500).content_sha256}"}
        assert summary_from_archive(archive).search["rows_scanned_exactly"] >= 700


def test_codes_grow_with_the_archive(own: Path) -> None:
    before = sorted(path.name for path in (own / CODES).iterdir())
    make(own, 3000, first=100)
    report = build_codes(own, texts=texts(250))
    kept = [name for name in before if name.endswith(".pq4") and (own / CODES / name).exists()]
    assert kept, "codes of full segments stay"
    assert 3000 - 512 <= report.encoded_rows < 3000 + 4096
    with Archive.open(own) as archive:
        assert isinstance(archive.codes, Codes)
        assert archive.codes.calibration.rows == ROWS + 3000
        assert recall(archive, texts(60, seed=10)) >= 0.99


def test_a_rebuild_makes_the_same_codes_anew(own: Path) -> None:
    before = {path.name: path.read_bytes() for path in (own / CODES).iterdir() if path.suffix == ".pq4"}
    report = build_codes(own, texts=texts(250), rebuild=True)
    assert report.encoded_rows == report.rows == ROWS // 512 * 512 - sum_of_tails()
    after = {path.name: path.read_bytes() for path in (own / CODES).iterdir() if path.suffix == ".pq4"}
    assert after == before


def sum_of_tails() -> int:
    """Segments of 4,096 rows end with a block; only the last one may not."""
    last = ROWS % 4096
    return ROWS // 512 * 512 - (ROWS - last + last // 512 * 512)


Damage = Callable[[Path], None]


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(content)


def first(folder: Path, suffix: str) -> Path:
    return sorted(folder.glob(f"*{suffix}"))[0]


def older(folder: Path) -> None:
    path = folder / "codes.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "codes_version": 0}))


def of_another_model(folder: Path) -> None:
    import zlib

    path = folder / "codes.json"
    record = {**json.loads(path.read_text()), "model_identity": "00" * 32}
    del record["crc32"]
    crc = zlib.crc32(json.dumps(record, sort_keys=True).encode())
    path.write_text(json.dumps({**record, "crc32": crc}))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda f: flip(f / "codes.json"), "codes.json (differs|cannot be read)"),
        (lambda f: (f / "codes.json").write_text("[]"), "codes.json cannot be read"),
        (lambda f: (f / "codes.json").write_bytes(b"\xff\xfe"), "codes.json cannot be read"),
        (older, "is of version 0, not 1"),
        (of_another_model, "belongs to another model"),
        (lambda f: flip(first(f, ".f32")), "differs from its checksum"),
        (lambda f: first(f, ".f32").unlink(), "cannot be read"),
        (lambda f: first(f, ".f32").write_bytes(b"1234"), "has not the"),
        (lambda f: [path.unlink() for path in f.glob("*.pq4")], "cannot be read"),
    ],
)
def test_damaged_codes_are_named_and_the_search_is_exact(own: Path, damage: Damage, reason: str) -> None:
    queries = texts(5, seed=11)
    with Archive.open(own) as archive:
        expected = ids(archive, queries, exact=True)
    damage(own / CODES)
    with Archive.open(own) as archive:
        assert isinstance(archive.codes, CodesObstacle)
        assert not archive.codes.missing
        assert re.search(reason, archive.codes.reason), archive.codes.reason
        assert ids(archive, queries) == expected
        facts = summary_from_archive(archive).search
        assert facts == {"mode": "exact", "reason": archive.codes.reason}
    build_codes(own, texts=texts(250))
    with Archive.open(own) as archive:
        assert isinstance(archive.codes, Codes)


@pytest.mark.parametrize("damage", [flip, Path.unlink, lambda path: path.write_bytes(b"")])
def test_one_damaged_file_costs_its_rows_only(own: Path, damage: Damage) -> None:
    damage(first(own / CODES, ".pq4"))
    queries = texts(60, seed=12)
    with Archive.open(own) as archive:
        codes = archive.codes
        assert isinstance(codes, Codes)
        assert len(codes.left_aside) == 1
        assert codes.rows < ROWS - 4000
        assert recall(archive, queries) >= 0.99
    build_codes(own, texts=texts(250))
    with Archive.open(own) as archive:
        assert isinstance(archive.codes, Codes)
        assert archive.codes.left_aside == ()


def test_codes_of_other_rows_do_not_count(own: Path, tmp_path: Path) -> None:
    """Codes of one archive in the folder of another of the same model."""
    other = make(tmp_path / "other", first=300)
    shutil.copytree(own / CODES, other / CODES)
    with Archive.open(other) as archive:
        assert isinstance(archive.codes, CodesObstacle)
        assert "no longer holds" in archive.codes.reason
        assert recall(archive, texts(5, seed=13)) == 1.0


def test_closing_waits_for_what_is_being_prepared(coded: Path) -> None:
    """Codes are found through the database: a connection closed under that would end the process."""
    for _ in range(30):
        with Archive.open(coded) as archive:
            archive.prepare()
        assert "prepare" not in {thread.name for thread in threading.enumerate()}


def test_without_faiss_the_search_is_exact_and_says_why(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    queries = texts(3, seed=14)
    with Archive.open(own) as archive:
        expected = ids(archive, queries, exact=True)
    real = builtins.__import__

    def refuse(name: str, *arguments: Any, **keywords: Any) -> Any:
        if name == "faiss":
            raise ImportError(name)
        return real(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with Archive.open(own) as archive:
        assert isinstance(archive.codes, CodesObstacle)
        assert "pip install 'lrsclip-rt[search]'" in archive.codes.reason
        assert ids(archive, queries) == expected
    with pytest.raises(DependencyError, match="faiss-cpu is not installed"):
        build_codes(own, texts=texts(250))


def test_a_small_archive_is_left_alone(tmp_path: Path) -> None:
    folder = make(tmp_path / "small", 2000)
    found = refresh_codes(folder)
    assert isinstance(found, CodesObstacle)
    assert "2000 rows are searched exactly" in found.reason
    assert not (folder / CODES).exists()
    with Archive.open(folder) as archive:
        assert summary_from_archive(archive).search == {"mode": "exact", "reason": "fewer than 50000 rows"}


def test_codes_are_refreshed_when_a_tenth_lacks_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lrsclip_rt.archive.codes import building as code_building

    monkeypatch.setattr(code_building, "CODES_FROM_ROWS", 5000)
    folder = make(tmp_path / "growing", 6000)
    assert not isinstance(refresh_codes(folder), CodesObstacle)
    same = refresh_codes(folder)
    assert isinstance(same, CodesObstacle)
    assert "up to date" in same.reason
    make(folder, 1000, first=50)
    again = refresh_codes(folder)
    assert not isinstance(again, CodesObstacle)
    assert again.rows > 6000


def compacted(folder: Path) -> Result:
    """Delete the second source and compact: every segment from its on is written anew."""
    with ArchiveWriter.of_existing(folder) as writer:
        writer.delete_source(2)
    return run("compact", folder)


def facts_of(folder: Path) -> dict[str, Any]:
    with Archive.open(folder) as archive:
        return summary_from_archive(archive).search


def test_a_compaction_gives_moved_rows_codes(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lrsclip_rt.archive.codes import building as code_building

    monkeypatch.setattr(code_building, "CODES_FROM_ROWS", 5000)
    before = json.loads((own / CODES / "codes.json").read_text(encoding="utf-8"))
    result = compacted(own)
    assert "codes of 10752 rows built" in result.stderr, result.output
    after = json.loads((own / CODES / "codes.json").read_text(encoding="utf-8"))
    assert after["codebook"] == before["codebook"]
    assert after["calibration"] == before["calibration"], "the size is about the same"
    facts = facts_of(own)
    assert (facts["coded_rows"], facts["rows_scanned_exactly"], facts["left_aside"]) == (10752, 248, [])
    assert (facts["coded_share"], facts["measured_rows"]) == (0.9775, ROWS)
    with Archive.open(own) as archive:
        assert recall(archive, texts(60, seed=12)) >= 0.99


def test_a_merge_gives_its_rows_codes(own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lrsclip_rt.archive.codes import building as code_building

    monkeypatch.setattr(code_building, "CODES_FROM_ROWS", 5000)
    result = run("merge", own, make(tmp_path / "part", 4000, first=300))
    assert "codes of " in result.stderr, result.output
    facts = facts_of(own)
    assert facts["measured_rows"] == ROWS + 4000, "the archive has grown by a third"
    assert facts["rows_scanned_exactly"] < 2 * 512


def test_a_share_without_codes_is_told(
    own: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from lrsclip_rt.archive.codes import summary as codes_summary
    from lrsclip_rt.cli.codes_reporting import tell_unused_codes

    assert compacted(own).exit_code == 0, "too small an archive to be given codes"
    monkeypatch.setattr(codes_summary, "CODES_FROM_ROWS", 5000)
    monkeypatch.setattr(codes_summary, "UNCODED_ROWS", 1000)
    make(own, 6000, first=400)
    build_codes(own, texts=texts(250))
    make(own, 3000, first=500)
    with Archive.open(own) as archive:
        tell_unused_codes(archive)
    told = capsys.readouterr().err
    assert re.search(r"slower than need be: 3\d\d\d rows \(1[5-9] %\) have no codes yet", told), told


def test_images_alone_calibrate_where_no_text_tower_is_kept(tmp_path: Path) -> None:
    report = build_codes(make(tmp_path / "plain", 6000))
    assert "keeps no text tower" in report.without_texts
    assert (report.calibration.texts, report.calibration.text_recall) == (0, {})
    assert report.calibration.recall() == report.calibration.image_recall[10]


def test_equal_rows_do_not_spoil_the_measured_recall(tmp_path: Path) -> None:
    """Empty tiles are all alike: thousands of rows tie for the first place."""
    with ArchiveWriter(tmp_path, MODEL, makers.FP32, segment_rows=4096, block_rows=512) as writer:
        append(writer, 0, np.repeat(embeddings(4, 1), 1500, axis=0))
    report = build_codes(tmp_path, texts=embeddings(250, 2))
    assert report.calibration.reached
    assert report.calibration.text_recall[10] == 1.0


def test_a_writer_keeps_codes_from_being_built(own: Path) -> None:
    with (
        ArchiveWriter(own, MODEL, makers.FP32),
        pytest.raises(ArchiveLockedError, match="is being written by"),
    ):
        build_codes(own, texts=texts(250))


def test_too_few_rows_are_refused(tmp_path: Path) -> None:
    folder = makers.write(tmp_path / "tiny")
    with pytest.raises(ArchiveError, match="no complete block of 4096 rows"):
        build_codes(folder, texts=makers.unit_rows(3))
    small = makers.write(tmp_path / "small", block_rows=4)
    with pytest.raises(InputError, match="too few to train"):
        build_codes(small, texts=makers.unit_rows(3))


@pytest.fixture
def reader(coded: Path) -> Iterator[Archive]:
    with Archive.open(coded) as archive:
        yield archive


def test_rows_of_any_length_have_codes() -> None:
    from lrsclip_rt.archive.codes.codebooks import groups_of, train_codebook

    for dim in (3, 16, 20, 100):
        rows = makers.unit_rows(400, dim, dim=dim)
        book = train_codebook(rows)
        codes = book.codes_from_rows(rows)
        assert codes.shape == (400, groups_of(dim))
        [query] = makers.unit_rows(1, 5, dim=dim)
        index = book.index_from_codes(codes)
        scores, numbers = index.search(book.scanned_queries(query[None]), 400)
        expected = (rows - book.mean) @ query
        correlation = np.corrcoef(expected[numbers[0]], scores[0])[0, 1]
        assert correlation > 0.8


def test_info_tells_the_recall(reader: Archive) -> None:
    facts = summary_from_archive(reader).search
    assert facts["mode"] == "codes"
    assert facts["text_queries"] == facts["image_queries"] == 250
    assert min(facts["text_recall"]["10"], facts["image_recall"]["10"]) >= WANTED_RECALL
    json.dumps(facts)


def run(*arguments: object) -> Result:
    from lrsclip_rt.cli.archive import command

    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def test_the_command_builds_codes_and_tells_what_they_reach(tmp_path: Path) -> None:
    folder = make(tmp_path / "archive", 6000)
    result = run("codes", folder)
    assert result.exit_code == 0, result.output
    assert "recall is measured with images alone" in result.stderr
    row = json.loads(result.stdout)
    assert (row["rows"], row["encoded"], row["bytes"]) == (5632, 5632, 5632 * 6)
    assert row["recall_at_10"] >= WANTED_RECALL
    assert row["in_use"] is True
    assert json.loads(run("codes", folder).stdout)["encoded"] == 0
    assert json.loads(run("codes", folder, "--rebuild").stdout)["encoded"] == 5632
    facts = json.loads(run("info", folder, "--json").stdout)["search"]
    assert (facts["mode"], facts["coded_rows"], facts["rows_scanned_exactly"]) == ("codes", 5632, 368)


def test_unused_codes_are_told(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from lrsclip_rt.cli.codes_reporting import tell_unused_codes

    with Archive.open(own) as archive:
        tell_unused_codes(archive)
    assert capsys.readouterr().err == ""
    flip(own / CODES / "codes.json")
    with Archive.open(own) as archive:
        tell_unused_codes(archive)
    assert "every row is scored" in capsys.readouterr().err


def test_indexing_refreshes_codes_and_tells(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lrsclip_rt.archive.codes import building as code_building
    from lrsclip_rt.cli.codes_reporting import refresh_and_tell

    folder = make(tmp_path / "archive", 2000)
    refresh_and_tell(folder)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(code_building, "CODES_FROM_ROWS", 1000)
    with ArchiveWriter(folder, MODEL, makers.FP32):
        refresh_and_tell(folder)
    assert "no codes were built" in capsys.readouterr().err
    refresh_and_tell(folder)
    assert "codes of 1536 rows built, recall@10" in capsys.readouterr().err


def test_an_archive_can_be_prepared_and_closed_at_once(coded: Path) -> None:
    for _ in range(3):
        archive = Archive.open(coded)
        archive.prepare()
        archive.close()
    with Archive.open(coded) as archive:
        archive.prepare()
        assert len(archive.search(texts(1))[0]) == 10

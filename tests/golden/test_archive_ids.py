"""Bytes that other programs and other versions rely on: tile ids, column files, footprints."""

from __future__ import annotations

import hashlib
import sqlite3
from pathlib import Path

import numpy as np
import pytest

from lrsclip_rt.archive import ArchiveWriter, ContentRecord, ModelRecord, NewTile, Producer, tile_id
from lrsclip_rt.archive.footprints import rings_from_wkb, wkb_from_rings
from lrsclip_rt.archive.schema import APPLICATION_ID
from lrsclip_rt.errors import InputError
from lrsclip_rt.tiles import Window

CONTENT = hashlib.sha256(b"a scene").hexdigest()
SQUARE = ((10.0, 20.0), (11.0, 20.0), (11.0, 21.0), (10.0, 21.0), (10.0, 20.0))


@pytest.mark.parametrize(
    ("level", "window", "expected"),
    [
        (256, Window(0, 0, 256, 256), "d6e88c8cad1e9b48ed6adbbe5fe2cdb4"),
        (256, Window(192, 384, 256, 256), "554807451a865638defd4fc45278d306"),
        (0, Window(0, 0, 150, 150), "bb27330b139a88787e70d224964e8fc3"),
    ],
)
def test_tile_ids_never_change(level: int, window: Window, expected: str) -> None:
    assert tile_id(CONTENT, level, window) == expected


def test_a_tile_id_is_the_hash_of_a_text_that_anything_can_write() -> None:
    text = f"{CONTENT}/256/192,384,256,200"
    expected = hashlib.sha256(text.encode("ascii")).hexdigest()[:32]
    assert tile_id(CONTENT, 256, Window(192, 384, 256, 200)) == expected


def test_every_part_of_an_id_matters() -> None:
    ids = {
        tile_id(CONTENT, 256, Window(0, 0, 256, 256)),
        tile_id(CONTENT[::-1], 256, Window(0, 0, 256, 256)),
        tile_id(CONTENT, 512, Window(0, 0, 256, 256)),
        tile_id(CONTENT, 256, Window(1, 0, 256, 256)),
        tile_id(CONTENT, 256, Window(0, 1, 256, 256)),
        tile_id(CONTENT, 256, Window(0, 0, 255, 256)),
        tile_id(CONTENT, 256, Window(0, 0, 256, 255)),
    }
    assert len(ids) == 7


@pytest.mark.parametrize("content", ["", "ab", "AB" * 32, "zz" * 32, "ab" * 33])
def test_an_id_needs_a_real_content_hash(content: str) -> None:
    with pytest.raises(InputError, match="64 lower-case hex"):
        tile_id(content, 0, Window(0, 0, 1, 1))


def test_the_bytes_of_a_segment_never_change(tmp_path: Path) -> None:
    rows = np.array([[0.6, -0.8, 0.0], [0.0, 0.0, 1.0]], np.float32)
    tiles = [
        NewTile(256, Window(0, 0, 256, 256), (10.0, 20.0, 11.0, 21.0), (SQUARE,), 86_400_000_000, 0.25),
        NewTile(256, Window(192, 0, 256, 256)),
    ]
    with ArchiveWriter(tmp_path, ModelRecord("ab" * 32, "m", 3), Producer("fp32", "onnxruntime")) as writer:
        source = writer.add_source(ContentRecord(CONTENT, 7, 448, 256))
        writer.append(source, tiles, rows)
    nan, none = "000000000000f87f", "0000000000000080"
    scale = np.array([0.7998046875, 1.0], "<f4") / np.float32(127)
    expected = {
        "f16": "cd38" + "66ba" + "0000" + "0000" + "0000" + "003c",
        "i8": "5f8100" + "00007f",
        "scale": scale.tobytes().hex(),
        "box": "0000000000002440" + "0000000000003440" + "0000000000002640" + "0000000000003540" + nan * 4,
        "time": "0060d71d14000000" + none,
        "source": "0100000000000000" * 2,
        "level": "00010000" * 2,
    }
    found = {name: (tmp_path / "segments" / f"000001.{name}").read_bytes().hex() for name in expected}
    assert found == expected


def test_codes_are_symmetric_and_round_halves_to_even(tmp_path: Path) -> None:
    from lrsclip_rt.archive.segments import int8_from_rows

    codes, scale = int8_from_rows(np.array([[1.0, 0.5, -0.5, -1.0], [0.0, 0.0, 0.0, 0.0]], np.float16))
    assert codes.tolist() == [[127, 64, -64, -127], [0, 0, 0, 0]]
    assert scale[1] == 0


def test_the_database_says_what_it_is(tmp_path: Path) -> None:
    with ArchiveWriter(tmp_path, ModelRecord("ab" * 32, "m", 3), Producer("fp32", "onnxruntime")):
        pass
    database = sqlite3.connect(tmp_path / "archive.db")
    assert database.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
    assert APPLICATION_ID.to_bytes(4, "big") == b"LRSA"
    assert database.execute("PRAGMA user_version").fetchone() == (2,)
    assert database.execute("SELECT value FROM info WHERE key = 'format_version'").fetchone() == ("2",)
    assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    columns = [row[1] for row in database.execute("PRAGMA table_info(tiles)")]
    database.close()
    assert columns[:10] == "tile id source level col_off row_off width height segment row".split()


def test_footprints_are_well_known_binary() -> None:
    one = wkb_from_rings((SQUARE,))
    assert one[:13].hex() == "01" + "03000000" + "01000000" + "05000000"
    two = wkb_from_rings((SQUARE, SQUARE))
    assert two[:9].hex() == "01" + "06000000" + "02000000"
    assert two[9:] == one + one
    assert rings_from_wkb(one) == (SQUARE,)
    assert rings_from_wkb(two) == (SQUARE, SQUARE)
    for cut in (b"", one[:4], one[:30], two[:-1]):
        with pytest.raises(InputError, match="cut off"):
            rings_from_wkb(cut)

"""Whatever the bytes are, an image or one ImageError comes out, naming the file."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from lrsclip_rt.errors import ImageError
from lrsclip_rt.image_decoding import MAX_IMAGE_PIXELS
from lrsclip_rt.images import rgb_from_source

WRITERS: dict[str, dict[str, Any]] = {
    "JPEG": {},
    "PNG": {},
    "TIFF": {},
    "TIFF-lzw": {"compression": "tiff_lzw"},
    "GIF": {},
    "WEBP": {"lossless": True},
    "BMP": {},
    "PPM": {},
    "JPEG2000": {},
}


def sample(kind: str) -> bytes:
    stream = io.BytesIO()
    samples = np.random.default_rng(8).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    options = WRITERS[kind] | ({"exif": exif} if kind in ("JPEG", "PNG", "TIFF", "WEBP") else {})
    Image.fromarray(samples).save(stream, kind.partition("-")[0], **options)
    return stream.getvalue()


SAMPLES = {kind: sample(kind) for kind in WRITERS}


def outcome(source: Any) -> str:
    """``image`` or the error's message; anything else that is raised fails the test."""
    message = "image"
    try:
        image = rgb_from_source(source)
    except ImageError as error:
        message = str(error)
    else:
        assert image.mode == "RGB"
        assert np.asarray(image).ndim == 3
    assert message.isprintable()
    return message


@st.composite
def damaged(draw: st.DrawFn, kind: str) -> bytes:
    data = bytearray(SAMPLES[kind])
    # Headers are where the damage tells, so half of it goes there.
    places = st.one_of(st.integers(0, min(len(data), 120) - 1), st.integers(0, len(data) - 1))
    for _ in range(draw(st.integers(0, 6))):
        data[draw(places)] = draw(st.sampled_from([0, 1, 2, 8, 0x7F, 0x80, 0xFF]) | st.integers(0, 255))
    if draw(st.booleans()):
        del data[draw(places) :]
    if draw(st.booleans()):
        start = draw(places)
        data[start:start] = draw(st.binary(max_size=40))
    return bytes(data)


@pytest.mark.filterwarnings("ignore")  # of Pillow, about damaged tags
@pytest.mark.parametrize("kind", WRITERS)
@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_damaged_files_give_an_image_or_an_image_error(
    kind: str, data: st.DataObject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lrsclip_rt.image_decoding.MAX_IMAGE_PIXELS", 1 << 20)
    outcome(data.draw(damaged(kind)))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", WRITERS)
@settings(max_examples=5000, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_many_damaged_files_give_an_image_or_an_image_error(
    kind: str, data: st.DataObject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lrsclip_rt.image_decoding.MAX_IMAGE_PIXELS", 1 << 20)
    outcome(data.draw(damaged(kind)))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", WRITERS)
def test_files_cut_anywhere_give_an_image_or_an_image_error(kind: str) -> None:
    data = SAMPLES[kind]
    assert outcome(data) == "image"
    for end in range(0, len(data), max(1, len(data) // 150)):
        outcome(data[:end])


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "TIFF-lzw", "BMP", "WEBP", "PPM", "JPEG2000"])
def test_a_file_cut_in_half_is_an_error_that_names_it(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"half.{kind}"
    path.write_bytes(SAMPLES[kind][: len(SAMPLES[kind]) // 2])
    message = outcome(path)
    assert message.startswith(f"{path} cannot be decoded as ")
    assert "fetch it again" in message


def test_an_empty_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "empty.jpg"
    path.touch()
    assert outcome(path) == f"{path} is empty (0 bytes); fetch it again or leave it out"
    assert outcome(b"").startswith("image bytes is empty")


@pytest.mark.parametrize(
    "content", [b"hello world\n", b"<html>404</html>", b"%!PS-Adobe", b"%PDF-1.7", b"\0" * 100, b"P7\n", b"B"]
)
def test_what_is_no_image_is_an_error_whatever_its_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "page.jpg"
    path.write_bytes(content)
    message = outcome(path)
    assert message.startswith(f"{path} is no image of a known format (it starts with {content[:8]!r})")
    assert "expected JPEG, PNG" in message


def test_a_folder_a_missing_file_and_a_pipe_are_errors(tmp_path: Path) -> None:
    assert outcome(tmp_path) == f"{tmp_path} is a folder; name the image files in it"
    assert outcome(tmp_path / "no.jpg") == f"{tmp_path / 'no.jpg'} does not exist; check the path"
    pipe = tmp_path / "pipe.jpg"
    os.mkfifo(pipe)
    assert "is not a regular file" in outcome(pipe)
    (tmp_path / "file").touch()
    assert "cannot be read" in outcome(tmp_path / "file" / "below.jpg")
    assert "cannot be read" in outcome("a\0b.jpg")
    assert "cannot be read" in outcome("x" * 5000)


def bomb(kind: str, width: int, height: int) -> bytes:
    """A file of some bytes that claims a size."""
    if kind == "PNG":
        header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
        crc = struct.pack(">I", zlib.crc32(b"IHDR" + header))
        body = zlib.compress(b"\0" * 1000)
        idat = struct.pack(">I", len(body)) + b"IDAT" + body + struct.pack(">I", zlib.crc32(b"IDAT" + body))
        return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + header + crc + idat
    if kind == "BMP":
        return b"BM" + struct.pack("<IIIIiiHHIIIIII", 100, 0, 54, 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    if kind == "GIF":
        screen = b"GIF89a" + struct.pack("<HHBBB", width, height, 0, 0, 0)
        return screen + b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x08\x01\x00\0;"
    return f"P6 {width} {height} 255\n".encode()


@pytest.mark.parametrize("kind", ["PNG", "BMP", "GIF", "PPM"])
def test_a_bomb_is_refused_from_its_header(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "bomb"
    path.write_bytes(bomb(kind, 60_000, 50_000))
    message = outcome(path)
    assert message.startswith(f"{path} is 60000 x 50000 px, more than the {MAX_IMAGE_PIXELS} px")
    assert "open it as a scene" in message


@pytest.mark.parametrize("kind", WRITERS)
def test_an_image_above_pillows_limit_and_below_ours_gives_no_warning(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    with pytest.warns(Image.DecompressionBombWarning):
        Image.open(io.BytesIO(SAMPLES[kind]))
    assert outcome(SAMPLES[kind]) == "image"


@pytest.mark.slow
def test_an_image_that_pillow_calls_a_bomb_is_read_below_our_limit() -> None:
    data = io.BytesIO()
    Image.new("1", (15_000, 12_000)).save(data, "PNG")
    assert rgb_from_source(data.getvalue()).size == (15_000, 12_000)


def test_a_huge_array_is_refused_before_it_is_copied() -> None:
    array = np.broadcast_to(np.zeros(3, np.uint8), (20_000, 20_000, 3))
    assert "more than" in outcome(array)


@pytest.mark.parametrize(
    ("array", "found"),
    [
        (np.zeros((4, 4, 3), np.float32), "dtype float32, expected uint8; scale it to 0..255 first"),
        (np.zeros((4, 4, 3), np.uint16), "dtype uint16"),
        (np.zeros((4, 4), np.bool_), "dtype bool"),
        (np.zeros((3, 50, 60), np.uint8), r"shape \(3, 50, 60\).*move the bands last"),
        (np.zeros((50, 60, 5), np.uint8), r"shape \(50, 60, 5\), expected \(H, W, 3\)"),
        (np.zeros((1, 50, 60, 3), np.uint8), "shape"),
        (np.zeros(7, np.uint8), "shape"),
        (np.zeros((), np.uint8), "shape"),
        (np.zeros((0, 5, 3), np.uint8), "5 x 0 px, expected at least 1 x 1"),
        (np.zeros((5, 0), np.uint8), "0 x 5 px"),
    ],
    ids=repr,
)
def test_an_array_that_is_no_image_is_refused(array: Any, found: str) -> None:
    with pytest.raises(ImageError, match=found):
        rgb_from_source(array)


@pytest.mark.parametrize("source", [None, 7, [1, 2], object()], ids=["None", "int", "list", "object"])
def test_what_cannot_be_an_image_is_refused_with_its_type(source: Any) -> None:
    with pytest.raises(ImageError, match=f"cannot take a {type(source).__name__} for an image"):
        rgb_from_source(source)


def test_a_truncated_pillow_image_is_an_error_that_names_its_file(tmp_path: Path) -> None:
    path = tmp_path / "half.png"
    path.write_bytes(SAMPLES["PNG"][:-300])
    with Image.open(path) as image, pytest.raises(ImageError, match=r"half\.png cannot be decoded"):
        rgb_from_source(image)


def test_a_name_with_line_breaks_does_not_break_the_message() -> None:
    assert outcome("two\nlines.jpg") == r"two\nlines.jpg does not exist; check the path"
    assert outcome(b"\xff.jpg".decode("utf-8", "surrogateescape")).startswith(r"\udcff.jpg does not exist")

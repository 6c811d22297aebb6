"""Every kind of image becomes upright 8-bit RGB."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from lrsclip_rt.errors import ImageError
from lrsclip_rt.image_decoding import FORMATS
from lrsclip_rt.images import IMAGE_SUFFIXES, iter_image_paths, rgb_from_source

RNG = np.random.default_rng(21)
PHOTO = RNG.integers(0, 256, (40, 60, 3), dtype=np.uint8)
LOSSLESS = {"PNG": {}, "TIFF": {}, "BMP": {}, "PPM": {}, "WEBP": {"lossless": True}, "JPEG2000": {}}


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def rgb(source: Any) -> NDArray[np.uint8]:
    image = rgb_from_source(source)
    assert image.mode == "RGB"
    return np.asarray(image, dtype=np.uint8)


def deep_png(samples: NDArray[np.uint16], colour_type: int) -> bytes:
    """A 16-bit PNG, which Pillow cannot write in colour."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    height, width = samples.shape[:2]
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in samples)
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def deep_tiff(samples: NDArray[np.uint16], *, order: str = "<", planar: bool = False) -> bytes:
    """A 16-bit RGB(A) TIFF of one strip, or of one strip a band."""
    height, width, bands = samples.shape
    data = samples.astype(f"{order}u2")
    strip = (data.transpose(2, 0, 1) if planar else data).tobytes()
    strips = bands if planar else 1
    first = 8
    bits_at = first + len(strip)
    offsets_at = bits_at + 2 * bands
    counts_at = offsets_at + 4 * strips
    directory_at = counts_at + 4 * strips
    size = len(strip) // strips
    tags = [
        (256, 3, 1, width), (257, 3, 1, height), (258, 3, bands, bits_at), (259, 3, 1, 1), (262, 3, 1, 2),
        (273, 4, strips, first if strips == 1 else offsets_at), (277, 3, 1, bands), (278, 3, 1, height),
        (279, 4, strips, size if strips == 1 else counts_at), (284, 3, 1, 2 if planar else 1),
        *([(338, 3, 1, 2)] if bands == 4 else []),
    ]  # fmt: skip
    directory = struct.pack(f"{order}H", len(tags))
    for tag, kind, count, value in tags:
        packed = f"{order}HHIHH" if kind == 3 and count == 1 else f"{order}HHII"
        directory += struct.pack(packed, tag, kind, count, value, *([0] if packed.endswith("HH") else []))
    return (
        (b"II*\0" if order == "<" else b"MM\0*")
        + struct.pack(f"{order}I", directory_at)
        + strip
        + struct.pack(f"{order}{bands}H", *([16] * bands))
        + struct.pack(f"{order}{strips}I", *(first + size * i for i in range(strips)))
        + struct.pack(f"{order}{strips}I", *([size] * strips))
        + directory
        + struct.pack(f"{order}I", 0)
    )


def stretched(band: NDArray[Any], valid: Any = True) -> NDArray[np.uint8]:
    """The documented stretch, written once more."""
    values = band.astype(np.float64)
    low, high = np.percentile(values[np.isfinite(values) & valid], [2, 98])
    level = np.nan_to_num((values - low) / (high - low) * 255, nan=0, posinf=255, neginf=0)
    eight_bit: NDArray[np.uint8] = np.floor(np.clip(level, 0, 255) + 0.5).astype(np.uint8)
    return eight_bit


@pytest.mark.parametrize("kind", LOSSLESS)
def test_a_lossless_file_gives_its_pixels(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "image"
    path.write_bytes(encoded(Image.fromarray(PHOTO), kind, **LOSSLESS[kind]))
    for source in (path, str(path), path.read_bytes(), bytearray(path.read_bytes())):
        assert (rgb(source) == PHOTO).all()


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "AVIF"])
def test_a_lossy_file_decodes_as_pillow_decodes_it(kind: str) -> None:
    if not Image.registered_extensions() or kind not in Image.SAVE:
        pytest.skip(f"this Pillow cannot write {kind}")
    data = encoded(Image.fromarray(PHOTO), kind)
    assert (rgb(data) == np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))).all()


def test_bigtiff_and_tiled_and_compressed_tiffs_are_read() -> None:
    for options in ({"big_tiff": True}, {"compression": "tiff_lzw"}, {"compression": "tiff_adobe_deflate"}):
        assert (rgb(encoded(Image.fromarray(PHOTO), "TIFF", **options)) == PHOTO).all()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV"])
def test_a_pillow_image_of_any_mode_becomes_what_convert_makes_of_it(mode: str) -> None:
    image = Image.fromarray(PHOTO).convert("L" if mode == "PA" else mode if mode != "RGBX" else "RGBA")
    if mode in ("PA", "RGBX"):
        bands = 2 if mode == "PA" else 4
        image = Image.frombytes(
            mode, (60, 40), RNG.integers(0, 256, (40, 60, bands), dtype=np.uint8).tobytes()
        )
    assert image.mode == mode
    assert (rgb(image) == np.asarray(image.convert("RGB"))).all()


@pytest.mark.parametrize("mode", ["La", "RGBa"])
def test_premultiplied_alpha_is_divided_out(mode: str) -> None:
    image = Image.new("RGBA", (4, 3), (200, 200, 200, 128))
    premultiplied = image.convert(mode) if mode == "RGBa" else image.convert("LA").convert("La")
    assert np.abs(rgb(premultiplied).astype(int) - 200).max() <= 1


def test_alpha_is_dropped_and_not_composited() -> None:
    samples = RNG.integers(0, 256, (40, 60, 4), dtype=np.uint8)
    samples[:20, :, 3] = 0
    for source in (samples, Image.fromarray(samples), encoded(Image.fromarray(samples), "PNG")):
        assert (rgb(source) == samples[..., :3]).all()


@pytest.mark.parametrize("transparency", [3, bytes([0, 128, 255, 7])], ids=["index", "table"])
def test_a_palette_with_transparency_gives_its_colours(transparency: int | bytes) -> None:
    image = Image.fromarray(PHOTO).quantize(16)
    expected = np.asarray(image.convert("RGB"))
    data = encoded(image, "PNG", transparency=transparency)
    assert "transparency" in Image.open(io.BytesIO(data)).info
    assert (rgb(data) == expected).all()


def test_one_bit_and_grey_and_cmyk_files_become_rgb() -> None:
    grey = Image.fromarray(PHOTO).convert("L")
    assert (rgb(encoded(grey, "PNG")) == np.asarray(grey)[..., None]).all()
    bits = grey.convert("1")
    assert (rgb(encoded(bits, "PNG")) == np.asarray(bits.convert("L"))[..., None]).all()
    assert (
        rgb(encoded(bits, "TIFF", compression="group4")) == np.asarray(bits.convert("L"))[..., None]
    ).all()
    cmyk = encoded(Image.fromarray(PHOTO).convert("CMYK"), "JPEG")
    assert (rgb(cmyk) == np.asarray(Image.open(io.BytesIO(cmyk)).convert("RGB"))).all()


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_an_animation_the_first_picture_is_taken(kind: str) -> None:
    frames = [Image.new("RGB", (30, 20), colour) for colour in ((250, 0, 0), (0, 250, 0), (0, 0, 250))]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    assert getattr(Image.open(io.BytesIO(data)), "n_frames", 1) == 3
    assert np.abs(rgb(data).astype(int) - (250, 0, 0)).max() <= 6


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG"])
def test_the_exif_orientation_is_applied_once(kind: str, turn: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = turn
    data = encoded(Image.fromarray(PHOTO), kind, exif=exif, **LOSSLESS.get(kind, {}))
    opened = Image.open(io.BytesIO(data))
    expected = np.asarray(ImageOps.exif_transpose(opened))
    assert expected.shape[:2] == ((60, 40) if turn > 4 else (40, 60))
    assert (rgb(data) == expected).all()
    # An opened image, and one that went through already.
    assert (rgb(Image.open(io.BytesIO(data))) == expected).all()
    assert (rgb(rgb_from_source(data)) == expected).all()
    assert (rgb(ImageOps.exif_transpose(opened)) == expected).all()


@pytest.mark.parametrize("value", [0, 9, 77])
def test_an_orientation_that_does_not_exist_counts_as_upright(value: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = value
    assert (rgb(encoded(Image.fromarray(PHOTO), "PNG", exif=exif)) == PHOTO).all()


@pytest.mark.parametrize("exif", [b"garbage!", b"II*\0", b"II*\0\xff\xff\xff\xff\x01"], ids=repr)
def test_damaged_exif_data_count_as_upright(exif: bytes) -> None:
    data = encoded(Image.fromarray(PHOTO), "PNG", exif=b"Exif\0\0" + exif)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert (rgb(data) == PHOTO).all()


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG2000"])
def test_a_16_bit_grey_file_is_stretched_from_2_to_98_percent(kind: str) -> None:
    samples = RNG.normal(3000, 400, (50, 70)).clip(0, 65535).astype(np.uint16)
    samples[0, :9] = 65535
    pixels = rgb(encoded(Image.fromarray(samples), kind))
    assert (pixels == stretched(samples)[..., None]).all()
    assert 0.01 < (pixels == 0).mean() < 0.04
    assert 0.01 < (pixels == 255).mean() < 0.04


@pytest.mark.parametrize("mode", ["I;16", "I;16L", "I;16B", "I;16N"])
def test_16_bit_images_of_any_byte_order_are_stretched(mode: str) -> None:
    samples = RNG.integers(0, 5000, (30, 20), dtype=np.uint16)
    order = {"I;16B": ">u2", "I;16N": "=u2"}.get(mode, "<u2")
    image = Image.frombytes(mode, (20, 30), samples.astype(order).tobytes())
    assert (rgb(image) == stretched(samples)[..., None]).all()


@pytest.mark.parametrize("colour_type", [2, 4, 6])
def test_a_16_bit_png_in_colour_is_stretched_and_not_cut_to_its_upper_bytes(colour_type: int) -> None:
    bands = {2: 3, 4: 2, 6: 4}[colour_type]
    samples = RNG.integers(0, 3000, (30, 20, bands), dtype=np.uint16)
    pixels = rgb(deep_png(samples, colour_type))
    for band in range(3):
        assert (pixels[..., band] == stretched(samples[..., band if bands > 2 else 0])).all()


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("bands", [3, 4])
def test_a_16_bit_tiff_in_colour_is_stretched_where_it_is_not_transparent(order: str, bands: int) -> None:
    samples = RNG.integers(0, 3000, (30, 20, bands), dtype=np.uint16)
    if bands == 4:
        samples[:10] = 0  # a transparent, black collar
        samples[10:, :, 3] = 65535
    pixels = rgb(deep_tiff(samples, order=order))
    valid = samples[..., 3] > 0 if bands == 4 else True
    for band in range(3):
        assert (pixels[..., band] == stretched(samples[..., band], valid)).all()


def test_16_bit_planes_are_refused_rather_than_garbled() -> None:
    samples = RNG.integers(0, 3000, (30, 20, 3), dtype=np.uint16)
    with pytest.raises(ImageError, match=r"more than 8 bits in separate planes.*open it as a scene"):
        rgb_from_source(deep_tiff(samples, planar=True))


def test_integers_and_floats_are_stretched_and_what_is_no_number_is_black() -> None:
    integers = RNG.integers(-100_000, 100_000, (30, 20), dtype=np.int32)
    assert (rgb(encoded(Image.fromarray(integers), "TIFF")) == stretched(integers)[..., None]).all()
    floats = RNG.normal(0, 1e-3, (30, 20)).astype(np.float32)
    floats[:3] = np.nan
    floats[3, :5] = np.inf, -np.inf, 1e38, -1e38, np.nan
    pixels = rgb(encoded(Image.fromarray(floats), "TIFF"))
    assert (pixels == stretched(floats)[..., None]).all()
    assert not pixels[:3].any()
    assert pixels[3, :5, 0].tolist() == [255, 0, 255, 0, 0]


@pytest.mark.parametrize("value", [0, 7, 65535])
def test_a_flat_16_bit_image_is_flat(value: int) -> None:
    pixels = rgb(encoded(Image.fromarray(np.full((9, 8), value, np.uint16)), "PNG"))
    assert len(np.unique(pixels)) == 1


def test_an_image_without_one_number_is_an_error() -> None:
    with pytest.raises(ImageError, match="holds no finite sample"):
        rgb_from_source(Image.fromarray(np.full((9, 8), np.nan, np.float32)))


def test_a_large_16_bit_image_is_stretched_by_a_sample_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lrsclip_rt.images._SAMPLED_PIXELS", 500)
    samples = RNG.integers(0, 3000, (120, 160), dtype=np.uint16)
    step = round((120 * 160 / 500) ** 0.5)
    low, high = np.percentile(samples[::step, ::step], [2, 98])
    level = (samples - low) / (high - low) * 255
    expected = np.floor(np.clip(level, 0, 255) + 0.5)
    assert (rgb(Image.fromarray(samples))[..., 0] == expected).all()


def test_an_rgb_image_is_returned_itself() -> None:
    image = Image.fromarray(PHOTO)
    assert rgb_from_source(image) is image


def test_arrays_are_taken_as_rgb_rgba_or_grey() -> None:
    assert (rgb(PHOTO) == PHOTO).all()
    assert (rgb(PHOTO[..., 0]) == PHOTO[..., :1]).all()
    assert (rgb(PHOTO[::-1, ::2]) == PHOTO[::-1, ::2]).all()
    alpha = np.dstack([PHOTO, np.zeros((40, 60), np.uint8)])
    assert (rgb(alpha) == PHOTO).all()


def test_an_image_made_from_an_array_does_not_change_with_it() -> None:
    for samples in (PHOTO.copy(), PHOTO[..., 0].copy()):
        image = rgb_from_source(samples)
        before = np.asarray(image).copy()
        samples[:] = 0
        assert (np.asarray(image) == before).all()


def test_folders_are_walked_in_sorted_order(tmp_path: Path) -> None:
    names = [
        "b.JPG",
        "a.png",
        "sub/z.tif",
        "sub/deep/c.webp",
        "aa/x.jpeg",
        "notes.txt",
        ".hidden.jpg",
        ".git/y.png",
    ]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "sub" / "loop").symlink_to(tmp_path)
    found = [path.relative_to(tmp_path).as_posix() for path in iter_image_paths([tmp_path])]
    assert found == ["a.png", "b.JPG", "aa/x.jpeg", "sub/z.tif", "sub/deep/c.webp"]


def test_a_named_file_is_listed_whatever_its_name(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    (tmp_path / "notes.txt").touch()
    named: list[str | Path] = [
        tmp_path / "notes.txt",
        tmp_path / "missing.jpg",
        tmp_path,
        str(tmp_path / "a.png"),
    ]
    assert list(iter_image_paths(named)) == [
        *(tmp_path / name for name in ("notes.txt", "missing.jpg", "a.png", "a.png"))
    ]


def test_every_ending_of_a_readable_format_is_known() -> None:
    Image.init()
    plugins = {"JPEG", "PNG", "TIFF", "WEBP", "GIF", "BMP", "PPM", "JPEG2000", "AVIF"}
    assert len(FORMATS) == len(plugins)
    common = {ending for ending, kind in Image.registered_extensions().items() if kind in plugins}
    assert common - IMAGE_SUFFIXES <= {".apng", ".jpc", ".jpf", ".jpx", ".j2c", ".avifs", ".pfm"}

"""Calibration data: what is chosen, what is passed over, and what is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rendered_folders import write_pairs, write_tiles

from lrsclip_export.calibration import LEAST_IMAGES, Calibration, calibration_from_folder
from lrsclip_export.probe import PROBE_TEXTS
from lrsclip_rt.bundle import Bundle
from lrsclip_rt.errors import InputError
from lrsclip_rt.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """70 rendered tiles."""
    return write_tiles(tmp_path_factory.mktemp("photos"))


@pytest.fixture
def read(tiny_bundle):
    bundle = Bundle.open(tiny_bundle)

    def calibration(folder: Path, **options: int) -> Calibration:
        return calibration_from_folder(folder, bundle.spec, bundle.vocabulary_path, **options)

    return calibration


def test_a_folder_of_images_brings_its_images_and_the_built_in_texts(photos, read) -> None:
    found = read(photos)
    assert found.pixels.shape == (70, 3, 32, 32)
    assert found.pixels.dtype == np.float32
    assert len(found.texts) == len(PROBE_TEXTS)
    notes = found.notes()
    assert (notes["images"], notes["unreadable_images"]) == (70, 0)
    assert "built-in" in notes["text_source"]
    json.dumps(notes)


def test_the_choice_depends_on_the_seed_alone(photos, read) -> None:
    first, again, other = (read(photos, count=64, seed=seed).pixels for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert len(first) == 64
    assert not np.array_equal(first, other)


def test_pixels_are_those_of_the_runtime(photos, read, tiny_bundle) -> None:
    from lrsclip_rt.pixels import pixels_from_array

    spec = Bundle.open(tiny_bundle).spec
    pixels = pixels_from_array(np.asarray(Image.open(photos / "003.png")), spec.pixel_spec)
    assert any(np.array_equal(pixels, found) for found in read(photos).pixels)


def test_captions_of_the_train_split_are_short_and_long(photos, read, tmp_path, tiny_bundle) -> None:
    found = read(write_pairs(photos, tmp_path))
    assert len(found.pixels) == 65
    tokenizer = Tokenizer(Bundle.open(tiny_bundle).vocabulary_path)
    texts = {
        tokenizer.decode(row[1:end]).strip()
        for row, end in zip(found.texts.tokens, found.texts.eot, strict=True)
    }
    assert len(texts) == 65
    assert not texts & {f"caption {index}" for index in range(5)}
    lengths = found.texts.eot + 1
    assert ((lengths < 10).sum(), (lengths > 77).sum()) == (33, 32)
    assert found.notes()["text_source"] == "captions of pairs.jsonl"


def test_without_a_train_split_every_image_may_be_chosen(photos, read, tmp_path) -> None:
    assert len(read(write_pairs(photos, tmp_path, split="test")).pixels) == 70


def test_short_captions_alone_are_joined_by_the_built_in_long_texts(photos, read, tmp_path) -> None:
    found = read(write_pairs(photos, tmp_path, long=None))
    assert found.texts.eot.max() > 200
    assert "and built-in texts" in found.notes()["text_source"]


def test_broken_images_are_passed_over_named_and_counted(photos, read, tmp_path) -> None:
    folder = tmp_path / "some-broken"
    shutil.copytree(photos, folder)
    for name in ("004.png", "017.png"):
        (folder / name).write_bytes(b"not an image")
    found = read(folder)
    assert len(found.pixels) == 68
    assert {path.name for path, _ in found.failures} == {"004.png", "017.png"}
    assert found.notes()["unreadable_images"] == 2


def test_too_few_readable_images_are_refused_with_the_reason(photos, read, tmp_path) -> None:
    folder = tmp_path / "few"
    shutil.copytree(photos, folder)
    for path in sorted(folder.iterdir())[LEAST_IMAGES - 1 :]:
        path.write_bytes(b"not an image")
    with pytest.raises(
        InputError, match=r"63 readable images of 70, expected at least 64.*064\.png|06\d\.png"
    ):
        read(folder)


def test_images_that_show_nothing_are_refused(photos, read, tmp_path) -> None:
    shutil.copytree(photos, tmp_path / "dark")
    paths = sorted((tmp_path / "dark").iterdir())
    for index, path in enumerate(paths):
        level = 40 if index < 0.4 * len(paths) else 0
        grey = np.linspace(0, level, 40, dtype=np.float32).repeat(40).reshape(40, 40)
        Image.fromarray(np.stack([grey] * 3, axis=-1).astype(np.uint8)).save(path)
    with pytest.raises(InputError, match=r"42 of 70 images of .*dark are nearly one colour"):
        read(tmp_path / "dark")


def test_what_is_no_folder_and_what_is_too_little_are_refused(photos, read, tmp_path) -> None:
    with pytest.raises(InputError, match="is not a folder; expected"):
        read(tmp_path / "nowhere")
    with pytest.raises(InputError, match="63 calibration images are too few"):
        read(photos, count=63)


def test_real_images_and_captions_make_a_calibration(data_dir, tiny_bundle) -> None:
    bundle = Bundle.open(tiny_bundle)
    spec = replace(bundle.spec, image_size=32)
    found = calibration_from_folder(data_dir / "aid_rsicd", spec, bundle.vocabulary_path, count=64)
    assert found.pixels.shape == (64, 3, 32, 32)
    assert len(found.texts) > 60
    assert found.failures == ()

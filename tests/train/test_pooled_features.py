"""Pooled features of whole images: order, pixels, runners, and what cannot be read."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lrsclip_rt.datasets import labelled_set_from_folder
from lrsclip_rt.errors import ImageError, InputError
from lrsclip_train.pair_sources import FolderPairs
from lrsclip_train.pooled_features import (
    FeatureScale,
    ImageFiles,
    image_files_from_labelled_set,
    pooled_features,
    pooled_network,
)

SIZE = 32
COUNT = 37


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return torch.nn.Sequential(torch.nn.Conv2d(3, 5, 8, 8), torch.nn.ReLU6()).eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs and labels of the same square images, which need no resize."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    lines, labels = [], ["image,label"]
    for number in range(COUNT):
        Image.fromarray(rng.integers(0, 256, (SIZE, SIZE, 3)).astype(np.uint8)).save(root / f"{number}.png")
        lines.append(json.dumps({"image": f"{number}.png", "short": [f"number {number}"]}))
        labels.append(f"{number}.png,{'ab'[number % 2]}")
    (root / "pairs.jsonl").write_text("\n".join(lines))
    (root / "labels.csv").write_text("\n".join(labels))
    (root / "classes.json").write_text('{"classes": ["a", "b"]}')
    return root


def expected(network: torch.nn.Module, folder: Path) -> np.ndarray:
    """One image after the other."""
    rows = []
    for number in range(COUNT):
        with Image.open(folder / f"{number}.png") as image:
            pixels = torch.from_numpy(np.asarray(image).astype(np.float32)).permute(2, 0, 1) / 127.5 - 1
        with torch.no_grad():
            maps = network(pixels[None])[0].reshape(5, -1).numpy()
        rows.append([*maps.mean(axis=1), *maps.max(axis=1)])
    return np.array(rows, np.float32)


@pytest.mark.parametrize("threads", [1, 3])
def test_rows_are_means_and_maxima_in_the_order_of_the_images(
    network: torch.nn.Module, folder: Path, threads: int
) -> None:
    done: list[int] = []
    run = pooled_network(network, size=SIZE)
    pairs = FolderPairs(folder)
    got = pooled_features(run, pairs, size=SIZE, threads=threads, advance=done.append)
    np.testing.assert_allclose(got, expected(network, folder), atol=1e-5)
    assert got.dtype == np.float32
    assert sum(done) == COUNT
    assert len(done) > 1


def test_a_labelled_set_gives_the_same_rows_as_pairs(network: torch.nn.Module, folder: Path) -> None:
    images = image_files_from_labelled_set(labelled_set_from_folder(folder))
    got = pooled_features(pooled_network(network, size=SIZE), images, size=SIZE)
    np.testing.assert_allclose(got, expected(network, folder), atol=1e-5)


# OpenVINO traces by a function that PyTorch no longer recommends.
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_openvino_agrees_with_torch(network: torch.nn.Module, folder: Path) -> None:
    pytest.importorskip("openvino", reason="openvino is an extra")
    run = pooled_network(network, size=SIZE, runner="openvino", threads=1)
    got = pooled_features(run, FolderPairs(folder), size=SIZE)
    np.testing.assert_allclose(got, expected(network, folder), atol=1e-4)


def test_one_unreadable_image_stops_the_extraction_and_is_named(
    network: torch.nn.Module, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    images = ImageFiles((folder / "0.png", tmp_path / "broken.png"))
    with pytest.raises(ImageError, match=r"broken\.png"):
        pooled_features(pooled_network(network, size=SIZE), images, size=SIZE)


def test_nothing_to_do_and_unknown_runners_are_refused(network: torch.nn.Module, folder: Path) -> None:
    with pytest.raises(InputError, match="runner must be torch or openvino, got 'tensorrt'"):
        pooled_network(network, size=SIZE, runner="tensorrt")
    run = pooled_network(network, size=SIZE)
    with pytest.raises(InputError, match="0 images and 2 threads"):
        pooled_features(run, ImageFiles(()), size=SIZE)
    with pytest.raises(InputError, match="1 images and 0 threads"):
        pooled_features(run, ImageFiles((folder / "0.png",)), size=SIZE, threads=0)


def test_the_scale_standardises_the_roots_of_what_it_was_measured_on() -> None:
    features = np.random.default_rng(1).gamma(0.5, 2.0, (200, 6)).astype(np.float32)
    features[:, 2] = 0.0  # a channel that never fires
    scale = FeatureScale.from_features(features)
    scaled = scale.scaled(features)
    np.testing.assert_allclose(scaled.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(scaled.std(axis=0), [1, 1, 0, 1, 1, 1], atol=1e-3)
    other = np.full((1, 6), 4.0, np.float32)
    np.testing.assert_allclose(scale.scaled(other)[0, 0], (2 - scale.mean[0]) / scale.std[0], rtol=1e-4)


@pytest.mark.parametrize(
    "features", [np.zeros((0, 3), np.float32), np.zeros(3, np.float32), np.full((2, 3), np.nan, np.float32)]
)
def test_features_that_are_no_finite_rows_have_no_scale(features: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"must be finite and \(N, F\)"):
        FeatureScale.from_features(features)

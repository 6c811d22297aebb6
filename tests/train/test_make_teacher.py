"""The recipe of the built-in model's teacher, run from its command line on a few pictures."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from lrsclip_train.efficientnet_lite import LITE_VARIANTS, EfficientNetLite, _published_names
from lrsclip_train.pair_sources import FolderPairs
from lrsclip_train.stem import MobileNetV2Stem, _torchvision_names
from lrsclip_train.teacher import Teacher

SCRIPT = Path(__file__).resolve().parents[2] / "train" / "mini" / "make_teacher.py"
TRAIN, VAL = 12, 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of two classes, each with two captions of its own, and random weights of two networks."""
    root = tmp_path_factory.mktemp("recipe")
    rng = np.random.default_rng(0)
    lines = []
    for number in range(TRAIN + VAL):
        name = ("StorageTanks", "pond")[number % 2]
        Image.fromarray(rng.integers(0, 256, (40, 40, 3)).astype(np.uint8)).save(root / f"{number}.png")
        split = "train" if number < TRAIN else "val"
        shorts = [f"a {name} in {split}", f"number {number}", f"number {number}"]
        lines.append({"image": f"{number}.png", "split": split, "class": name, "short": shorts})
    (root / "pairs.jsonl").write_text("\n".join(map(json.dumps, lines)))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        arrays = {}
        for module, prefix in _torchvision_names(MobileNetV2Stem()):
            assert module.bias is not None
            arrays[f"{prefix}.weight"] = module.weight.detach().numpy()
            arrays[f"{prefix}.bias"] = module.bias.detach().numpy()
        np.savez(root / "mobilenet.npz", **arrays)  # type: ignore[arg-type]
        state = {}
        for convolution, name, norm in _published_names(EfficientNetLite(LITE_VARIANTS[0])):
            state[f"{name}.weight"] = convolution.weight.detach()
            for part in ("weight", "running_var"):
                state[f"{norm}.{part}"] = torch.ones(convolution.out_channels)
            for part in ("bias", "running_mean"):
                state[f"{norm}.{part}"] = torch.randn(convolution.out_channels) * 0.1
        torch.save(state, root / "lite0.pth")
    return root


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The script as a module, with narrow towers and small images."""
    spec = importlib.util.spec_from_file_location("make_teacher", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # dataclasses look their module up
    spec.loader.exec_module(module)
    narrow = [replace(config, hidden=32) for config in (*module.VARIANTS, module.HEADS)]
    monkeypatch.setattr(module, "VARIANTS", narrow[:-1])
    monkeypatch.setattr(module, "HEADS", narrow[-1])
    monkeypatch.setattr(module, "SIZES", {"mobilenet": 64, "lite0": 96})
    threads = torch.get_num_threads()
    yield module
    torch.set_num_threads(threads)


def run(recipe: ModuleType, data: Path, output: Path, *more: object, weights: Path | None = None) -> Result:
    home = weights or data
    quick = ["--seed", 5, "--seed", 6, "--folds", 2, "--epochs", 1, "--head-epochs", 1, "--threads", 1]
    arguments = [data, "--mobilenet", home / "mobilenet.npz", "--lite", home / "lite0.pth", "-o", output]
    return CliRunner().invoke(recipe.main, [str(part) for part in (*arguments, *quick, *more)])


def test_the_recipe_writes_a_teacher_of_the_training_split_alone_and_again_the_same(
    recipe: ModuleType, folder: Path, tmp_path: Path
) -> None:
    output = tmp_path / "new folder" / "teacher.npz"
    kept = tmp_path / "features"
    result = run(recipe, folder, output, "--features", kept)
    assert result.exit_code == 0, result.output
    stages = [line.split(": val mR ")[0] for line in result.output.splitlines()]
    assert stages == [
        *("teacher of seed 5", "teacher of seed 6", "ensemble of 2", "reduced to 512"),
        *("head of fold 0", "head of fold 1", "mean of the heads"),
        f"{output}: 12 images, 24 texts, D = 512",
    ]
    assert Teacher(output).dimension == 512
    with np.load(output) as arrays:
        first = {name: arrays[name] for name in arrays.files}
    assert first["image_keys"].tolist() == [f"{number}.png" for number in range(TRAIN)]
    texts = set(first["texts"].tolist())
    assert {"a StorageTanks in train", "number 0", "a satellite photo of storage tanks.", "pond."} < texts
    assert not [text for text in texts if "val" in text or text == f"number {TRAIN}"]
    for rows in (first["images"], first["text_rows"]):
        np.testing.assert_allclose(np.linalg.norm(rows.astype(np.float32), axis=1), 1, atol=1e-3)

    # Features that were kept need no image any more, and nothing else is drawn differently.
    bare = tmp_path / "bare"
    bare.mkdir()
    shutil.copy(folder / "pairs.jsonl", bare)
    again = run(recipe, bare, tmp_path / "again.npz", "--features", kept, weights=folder)
    assert again.exit_code == 0, again.output
    with np.load(tmp_path / "again.npz") as arrays:
        assert all(np.array_equal(arrays[name], values) for name, values in first.items())
    refused = run(recipe, bare, tmp_path / "third.npz", weights=folder)
    assert refused.exit_code == 1
    assert refused.output.startswith("Error: ")
    assert "0.png does not exist" in refused.output


def test_kept_features_are_taken_for_the_same_images_and_weights_alone(
    recipe: ModuleType, folder: Path, tmp_path: Path
) -> None:
    pairs = FolderPairs(folder, split="val")
    network = torch.nn.Conv2d(3, 2, 32, 32)
    weights = tmp_path / "weights"
    weights.write_bytes(b"one")
    kept = tmp_path / "features"
    extraction = recipe.Extraction(kept, "torch", 1)
    features = extraction.features("lite0", weights, network, pairs)
    assert features.shape == (VAL, 4)
    (path,) = kept.iterdir()
    assert path.name.startswith("lite0_96_val_")

    with np.load(path) as arrays:
        keys = arrays["keys"]
    np.savez(path, keys=keys, features=features + 1)
    np.testing.assert_array_equal(extraction.features("lite0", weights, network, pairs), features + 1)
    np.savez(path, keys=keys[::-1], features=features + 1)
    np.testing.assert_array_equal(extraction.features("lite0", weights, network, pairs), features)
    weights.write_bytes(b"two")
    extraction.features("lite0", weights, network, pairs)
    assert len(list(kept.iterdir())) == 2


def test_an_existing_teacher_is_not_overwritten(recipe: ModuleType, folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "teacher.npz"
    output.write_bytes(b"of value")
    result = run(recipe, folder, output)
    assert result.exit_code == 1
    assert result.output == f"Error: {output} exists. Choose another name, or pass --overwrite\n"
    assert output.read_bytes() == b"of value"

"""Fixtures and switches shared by every test."""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the long proofs too")
    parser.addoption("--require-gpu", action="store_true", help="gpu tests fail without a GPU")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--slow"):
        return
    skip = pytest.mark.skip(reason="a long proof: run with --slow")
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real images, captions and scenes that lives beside the checkout."""
    path = Path(os.environ.get("LRSCLIP_DATA", ROOT.parent / "shared" / "data"))
    if not (path / "aid_rsicd" / "pairs.jsonl").is_file():
        pytest.skip(f"real data not found at {path}; set LRSCLIP_DATA to run this")
    return path


@pytest.fixture
def cache_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user cache of one test."""
    path = tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(path))
    return path


@pytest.fixture(scope="session")
def handmade() -> ModuleType:
    """``tests/handmade.py``; needs onnx to write graphs."""
    pytest.importorskip("onnx", reason="the hand-made bundle is written with onnx")
    import handmade

    return handmade


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of a tiny random ViT (S = 32, patch 8, D = 64, full vocabulary) in fp32, fp16 and int8-cpu."""
    torch = pytest.importorskip("torch", reason="torch makes the tiny bundle")
    pytest.importorskip("onnx", reason="onnx makes the tiny bundle")
    from lrsclip_export.exporting import export_bundle
    from lrsclip_train.model import ClipConfig, DualClip

    folder = tmp_path_factory.mktemp("tiny")
    # Its own generator state: tests that draw numbers see the same ones with and without this fixture.
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(20)
        model = DualClip(ClipConfig("tiny", 64, 32, 8, 64, 2, 64, 2))
        for name, parameter in model.named_parameters():
            if name.endswith("bias") or ".ln_" in name or name.startswith("ln_"):
                parameter += 0.1 * torch.randn_like(parameter)
        model.positional_embedding_res += 0.01 * torch.randn_like(model.positional_embedding_res)
        torch.save(model.state_dict(), folder / "tiny.pt")
    # Random weights place all images near each other, so that a ranking says little: no gate here.
    return export_bundle(
        folder / "tiny.pt",
        folder / "tiny",
        precisions=("fp32", "fp16", "int8-cpu"),
        allow_failed=True,
    ).path

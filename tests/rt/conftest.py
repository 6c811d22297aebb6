"""The hand-made bundle for the runtime's tests."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

HANDMADE = Path(__file__).parent.parent / "handmade.py"


@pytest.fixture(scope="session")
def handmade() -> ModuleType:
    """``tests/handmade.py``; needs onnx to write graphs."""
    pytest.importorskip("onnx", reason="the hand-made bundle is written with onnx")
    if "handmade" not in sys.modules:
        spec = importlib.util.spec_from_file_location("handmade", HANDMADE)
        assert spec is not None
        assert spec.loader is not None
        # Registered first: dataclasses look their module up.
        sys.modules["handmade"] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules["handmade"]


@pytest.fixture(scope="session")
def made_bundle(handmade: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with fp32, an int8-cpu that passes its gate and an fp16; not to be written to."""
    path: Path = tmp_path_factory.mktemp("made") / "bundle"
    handmade.make_bundle(path, extra={"int8-cpu": 0.02, "fp16": 0.0001})
    return path


@pytest.fixture
def cache_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user cache of one test."""
    path = tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(path))
    return path

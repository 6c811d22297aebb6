"""The hand-made bundle for the runtime's tests."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def made_bundle(handmade: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with fp32, an int8-cpu that passes its gate and an fp16; not to be written to."""
    path: Path = tmp_path_factory.mktemp("made") / "bundle"
    handmade.make_bundle(path, extra={"int8-cpu": 0.02, "fp16": 0.0001})
    return path

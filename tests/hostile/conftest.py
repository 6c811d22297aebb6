"""The hand-made bundle for hostile variations of it."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def made_bundle(handmade: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Like the runtime's, without a vocabulary: small enough to be copied often; not to be written to."""
    path: Path = tmp_path_factory.mktemp("made") / "bundle"
    handmade.make_bundle(path, vocabulary=None, extra={"int8-cpu": 0.02, "fp16": 0.0001})
    return path

"""Makers of small checkpoints, for every test of this folder."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def makers() -> ModuleType:
    path = Path(__file__).resolve().parent.parent / "checkpoint_makers.py"
    spec = importlib.util.spec_from_file_location("checkpoint_makers", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

"""The data set and the checkpoint that most runs of this folder start from; a file may need its own size."""

from __future__ import annotations

from pathlib import Path

import pytest
import training_makers as make


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen tiles of split train and six of val; not to be written to."""
    return make.tiles_folder(tmp_path_factory.mktemp("tiles"))


@pytest.fixture(scope="module")
def init(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny stretched checkpoint; not to be written to."""
    return make.tiny_checkpoint(tmp_path_factory.mktemp("init") / "tiny.pt")

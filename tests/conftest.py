"""Fixtures and switches shared by every test."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="run the long proofs too")
    parser.addoption("--require-gpu", action="store_true", help="fail, rather than skip, gpu tests without a GPU")


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

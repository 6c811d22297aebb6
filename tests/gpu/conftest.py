"""A real GPU: skipped where there is none, a failure under ``--require-gpu``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lrsclip_rt.cuda.driver import cuda_driver
from lrsclip_rt.errors import BackendError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def machine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """This machine's first GPU, as the benchmark opens it."""
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks.gpu.machine import real_machine

    try:
        cuda_driver()
    except BackendError as error:
        if request.config.getoption("--require-gpu"):
            pytest.fail(str(error))
        pytest.skip(str(error))
    made = real_machine()
    yield made
    made.device.close()

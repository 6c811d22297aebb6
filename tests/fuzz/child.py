"""One process of a run: ``python -m fuzz.child PARSER FIRST COUNT SEED FOLDER [guided]``.

It holds itself to a memory limit and every case to a time limit of the processor, not of the clock: a case
that takes longer ends the process by SIGPROF. The case at work is known to the parent from FOLDER/current,
the outcomes so far from FOLDER/tally.json.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import tempfile
import time
from pathlib import Path
from random import Random
from typing import Any

__all__ = ["MEMORY_BYTES", "rss_bytes"]

MEMORY_BYTES = 6 << 30
"""Address space of the process; libraries map a third of it before anything is read."""

_SAVE_EVERY = 250
_MOST_GUIDED_BYTES = 1 << 20
_NO_TIMEOUT = 1_000_000
"""Seconds of the clock; with 0 atheris ends the run at a case that crosses the full second."""


class _Watch:
    """Keeps the tally, the current case and the memory of a process."""

    def __init__(self, folder: Path, total: int) -> None:
        from fuzz.judging import Tally

        self.tally = Tally()
        self._folder = folder
        self._total = total
        self._memory: list[int] = []
        self._current = os.open(folder / "current", os.O_RDWR | os.O_CREAT | os.O_TRUNC)

    def run(self, harness: Any, number: int, data: bytes, *, keep: bool) -> None:
        """One case; ``keep`` where its data cannot be made again from its number."""
        content = number.to_bytes(8, "little") + (data if keep else b"")
        os.pwrite(self._current, content, 0)
        if keep:
            os.ftruncate(self._current, len(content))
        start = time.process_time()
        signal.setitimer(signal.ITIMER_PROF, harness.case_seconds)
        self.tally.judge(harness, data)
        signal.setitimer(signal.ITIMER_PROF, 0)
        self.tally.slowest_s = max(self.tally.slowest_s, time.process_time() - start)
        if self.tally.cases % _SAVE_EVERY == 0 or self.tally.cases == self._total:
            self.save()

    def save(self) -> None:
        """Write what is known so far, in one step."""
        self._memory.append(rss_bytes())
        # The first quarter fills caches that are bounded.
        settled = self._memory[len(self._memory) // 4]
        record = {**self.tally.as_dict(), "rss_settled": settled, "rss_last": self._memory[-1]}
        part = self._folder / "tally.part"
        part.write_text(json.dumps(record))
        part.replace(self._folder / "tally.json")


def rss_bytes() -> int:
    """Resident memory of this process now; its peak where the system does not tell."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _plain(name: str, first: int, count: int, seed: int, folder: Path) -> None:
    from fuzz.registry import harness_from_name

    harness = harness_from_name(name, Path(tempfile.mkdtemp(dir=folder)))
    watch = _Watch(folder, count)
    for number in range(first, first + count):
        data = harness.case(Random(f"{name} {seed} {number}"))
        watch.run(harness, number, data, keep=False)


def _guided(name: str, count: int, seed: int, folder: Path) -> None:
    import atheris  # type: ignore[import-untyped,import-not-found,unused-ignore]

    from fuzz.registry import GUIDED, harness_from_name

    with atheris.instrument_imports(include=list(GUIDED[name]), enable_loader_override=False):
        harness = harness_from_name(name, Path(tempfile.mkdtemp(dir=folder)))
    watch = _Watch(folder, count)

    def test(data: bytes) -> None:
        watch.run(harness, watch.tally.cases, data, keep=True)

    def mutated(data: bytes, most: int, case_seed: int) -> bytes:
        rng = Random(case_seed)
        if not data:
            return harness.case(rng)[:most]
        return harness.mutate(data, rng)[:most]

    corpus = _made(folder / "corpus")
    for number, data in enumerate(harness.guided_seeds()):
        (corpus / f"seed-{number}").write_bytes(data)
    # Our own limits count processor time; libFuzzer's count the clock and its own memory.
    options = [
        f"-runs={count}",
        f"-seed={seed}",
        f"-max_len={_MOST_GUIDED_BYTES}",
        f"-timeout={_NO_TIMEOUT}",
        "-rss_limit_mb=0",
    ]
    options += [f"-artifact_prefix={folder}/", "-print_final_stats=1", "-reload=0"]
    atheris.Setup([sys.argv[0], *options, str(corpus)], test, custom_mutator=mutated)
    atheris.Fuzz()


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def main() -> None:
    name, first, count, seed, folder = sys.argv[1], *map(int, sys.argv[2:5]), Path(sys.argv[5])
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.argv[6:] == ["guided"]:
        _guided(name, count, seed, folder)
    else:
        _plain(name, first, count, seed, folder)


if __name__ == "__main__":
    main()

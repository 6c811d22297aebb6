"""What a measurement leaves behind: one JSON line that says what ran, on what, from where, and how fast.

A record is a plain JSON object::

    bench          name of the benchmark; also its file's name
    schema         version of this form, 1
    at             UTC, to the second
    commit, dirty  source revision and whether files differed from it; null outside a checkout
    versions       python and every library that took part
    device         {name, architecture, cpus, instructions}: the processor, with e.g. amx-int8 or avx512-vnni
    threads        threads of one run
    settings       what was asked for
    results        rows: {what, ..., p50_ms, p95_ms, p99_ms, rounds, per_second}
    peak_rss_bytes the largest resident memory of the process

Times of contenders that are compared come from one run with interleaved rounds; ratios are of medians.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lrsclip_rt.cpu import CpuInfo, cpu_info
from lrsclip_rt.errors import InputError

__all__ = [
    "RECORD_KEYS",
    "BenchRecord",
    "BenchRow",
    "append_record",
    "device_slug",
    "interleaved_seconds",
    "library_versions",
    "make_record",
    "peak_rss_bytes",
    "records_from_file",
    "source_revision",
]

SCHEMA = 1
RECORD_KEYS = (
    "bench",
    "schema",
    "at",
    "commit",
    "dirty",
    "versions",
    "device",
    "threads",
    "settings",
    "results",
    "peak_rss_bytes",
)
_LIBRARIES = (
    "lrsclip-rt",
    "numpy",
    "pillow",
    "onnxruntime",
    "openvino",
    "tensorrt",
    "torch",
    "open_clip_torch",
)


@dataclass(frozen=True, slots=True)
class BenchRow:
    """One thing that was timed.

    Attributes:
        what: For example ``image tower``.
        contender: Who did it, for example ``int8-cpu onnxruntime``.
        p50_ms: Median of the rounds [ms].
        p95_ms: 95th percentile of the rounds [ms].
        p99_ms: 99th percentile of the rounds [ms]; of few rounds nearly the slowest.
        rounds: How many rounds.
        batch: Items of a round; 1 for a single query.
        per_second: Items a second at the median.
    """

    what: str
    contender: str
    p50_ms: float
    p95_ms: float
    p99_ms: float
    rounds: int
    batch: int
    per_second: float

    @classmethod
    def of(cls, what: str, contender: str, seconds: Sequence[float], *, batch: int = 1) -> BenchRow:
        """Summarise the rounds of one contender.

        Args:
            what: What was timed.
            contender: Who did it.
            seconds: One time a round [s].
            batch: Items of a round.

        Raises:
            InputError: If there are no rounds.

        Example:
            >>> BenchRow.of("image tower", "fp32", [0.2, 0.1, 0.3], batch=8).per_second
            40.0
        """
        import numpy as np

        if not seconds:
            raise InputError(f"{what}: no rounds were timed, expected at least one")
        p50, p95, p99 = (float(value) for value in np.percentile(seconds, [50, 95, 99]))
        return cls(what, contender, 1000 * p50, 1000 * p95, 1000 * p99, len(seconds), batch, batch / p50)


@dataclass(frozen=True, slots=True)
class BenchRecord:
    """The whole of one measurement; see the module for the keys."""

    bench: str
    at: str
    commit: str | None
    dirty: bool | None
    versions: Mapping[str, str]
    device: CpuInfo
    threads: int
    settings: Mapping[str, Any]
    results: tuple[Mapping[str, Any], ...]
    peak_rss_bytes: int | None
    schema: int = SCHEMA

    def to_json(self) -> str:
        """One line."""
        record = asdict(self)
        return json.dumps({key: record[key] for key in RECORD_KEYS})


def make_record(
    bench: str,
    *,
    threads: int,
    settings: Mapping[str, Any],
    results: Sequence[BenchRow | Mapping[str, Any]],
) -> BenchRecord:
    """Add to results when, where and from what source they came."""
    commit, dirty = source_revision()
    return BenchRecord(
        bench=bench,
        at=datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        commit=commit,
        dirty=dirty,
        versions=library_versions(),
        device=cpu_info(),
        threads=threads,
        settings=dict(settings),
        results=tuple(asdict(row) if isinstance(row, BenchRow) else dict(row) for row in results),
        peak_rss_bytes=peak_rss_bytes(),
    )


def append_record(record: BenchRecord, results_folder: Path) -> Path:
    """Append ``record`` to ``<results_folder>/<device>/<bench>.jsonl`` and return that path."""
    path = results_folder / device_slug(record.device) / f"{record.bench}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as stream:
        stream.write(record.to_json() + "\n")
    return path


def records_from_file(path: Path) -> list[dict[str, Any]]:
    """Read the records of one file, oldest first.

    Raises:
        InputError: If a line is no record of this schema; names the line.
    """
    records = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            record = json.loads(line)
        except ValueError as error:
            raise InputError(f"{path} line {number}: not JSON ({error})") from None
        if (
            not isinstance(record, dict)
            or sorted(record) != sorted(RECORD_KEYS)
            or record["schema"] != SCHEMA
        ):
            raise InputError(
                f"{path} line {number}: not a record of schema {SCHEMA} ({', '.join(RECORD_KEYS)})"
            )
        records.append(record)
    return records


def interleaved_seconds(
    contenders: Mapping[str, Callable[[int], object]],
    *,
    rounds: int,
    warm_up: int = 1,
    repeats: int = 1,
    settle_s: float = 0.0,
) -> dict[str, list[float]]:
    """Time contenders in turn, round by round, so that a slow minute of the machine hits all of them.

    Args:
        contenders: By name; each is called with the number of the round, negative while warming up.
        rounds: Timed rounds.
        warm_up: Rounds before them that are not counted.
        repeats: Timed calls in a row of one contender in a round.
        settle_s: Before its timed calls a contender waits this long [s] and runs once untimed. Short calls
            need it: the threads of the contender before still spin for some milliseconds on the same cores.

    Returns:
        ``rounds * repeats`` times of each contender [s].
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(-warm_up, rounds):
        for name, run in contenders.items():
            if settle_s:
                time.sleep(settle_s)
                run(number)
            for _ in range(repeats):
                start = time.perf_counter()
                run(number)
                if number >= 0:
                    seconds[name].append(time.perf_counter() - start)
    return seconds


def source_revision(folder: Path | None = None) -> tuple[str | None, bool | None]:
    """Commit of the checkout that this package runs from, and whether files differ from it.

    Recorded results do not count as a difference: each run adds to them.

    Args:
        folder: The root of a checkout; default the folder above this package.

    Returns:
        ``(None, None)`` outside a checkout, or where git is not installed.
    """
    root = Path(__file__).resolve().parent.parent if folder is None else folder
    if not (root / ".git").exists():
        return None, None
    commit = _git(root, "rev-parse", "--verify", "HEAD")
    if commit is None:
        return None, None
    changes = _git(root, "status", "--porcelain", "--", ".", ":(exclude)benchmarks/results")
    return commit.strip(), None if changes is None else bool(changes.strip())


def library_versions() -> dict[str, str]:
    """Python's version and those of the libraries that are installed."""
    versions = {"python": ".".join(str(part) for part in sys.version_info[:3])}
    for name in _LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def device_slug(device: CpuInfo) -> str:
    """A folder name for a processor.

    Example:
        >>> device_slug(CpuInfo("Intel(R) Xeon(R) CPU @ 2.60GHz", "x86_64", 2, ()))
        'intel-xeon-cpu-2-60ghz-2-cpus'
    """
    name = re.sub(r"\((?:r|tm)\)", " ", (device.name or device.architecture or "unknown").lower())
    words = re.sub(r"[^a-z0-9]+", "-", name).strip("-")
    return f"{words}-{device.cpus}-cpus"


def peak_rss_bytes() -> int | None:
    """The largest resident memory of this process so far; None where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None

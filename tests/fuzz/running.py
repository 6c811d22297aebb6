"""Runs of many cases in child processes, which may crash, hang or fill their memory without harm."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

__all__ = ["GROWTH_BYTES", "Report", "run_parser"]

GROWTH_BYTES = 96 << 20
"""Resident memory that a process may gain after its first quarter; allocators keep some pages."""

_STILL_SECONDS = 1_800.0
"""A process that begins no further case for so long waits for something."""

_COVERED = re.compile(rb"cov: (\d+)")


@dataclass
class Report:
    """What came of a run.

    Attributes:
        what: The parser.
        engine: ``mutation`` or ``coverage``.
        cases: Cases that were run.
        outcomes: How often it accepted, and by which error it refused.
        findings: What a parser must not do, with the input in base64.
        slowest_s: Processor time of the slowest case [s].
        growth_bytes: Resident memory that was gained after the first quarter of a process, the most.
        covered: Branches and lines that a coverage run reached; 0 for mutation.
    """

    what: str
    engine: str
    cases: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    findings: list[dict[str, str]] = field(default_factory=list)
    slowest_s: float = 0.0
    growth_bytes: int = 0
    covered: int = 0

    def row(self) -> dict[str, Any]:
        """For a record: counts, no input."""
        accepted = self.outcomes["accepted"]
        return {
            "what": self.what,
            "engine": self.engine,
            "cases": self.cases,
            "accepted": accepted,
            "refused": self.cases - accepted - self.outcomes["finding"],
            "errors": dict(sorted(self.outcomes.items())),
            "findings": [f"{found['what']} ({found['where']})" for found in self.findings],
            "slowest_ms": 1000 * self.slowest_s,
            "growth_mib": self.growth_bytes / (1 << 20),
            "covered": self.covered,
        }


def run_parser(name: str, count: int, *, seed: int, folder: Path, guided: bool = False) -> Report:
    """Run ``count`` cases, in a fresh process after each one that ends a process.

    Args:
        name: One of ``PARSERS``.
        count: Cases.
        seed: Of the cases; the same seed gives the same ones, except under guidance on another machine.
        folder: Receives working files; what is kept of coverage runs lies in it too.
        guided: Let coverage choose the cases; needs atheris.

    Raises:
        RuntimeError: If the harness itself fails.
    """
    report = Report(name, "coverage" if guided else "mutation")
    folder.mkdir(parents=True, exist_ok=True)
    while report.cases < count:
        first = report.cases
        for name_of_last in ("tally.json", "current"):
            (folder / name_of_last).unlink(missing_ok=True)
        ended = _run_child(name, first, count - first, seed + (first if guided else 0), folder, guided)
        tally = _tally(folder)
        _add(report, tally)
        report.covered = max(report.covered, _covered(folder))
        if tally.get("cases", 0) == count - first:
            continue
        number, data = _current(folder)
        report.cases = min(count, number + 1 if not guided else first + number + 1)
        if not guided and number >= first:
            data = _made_again(name, seed, number, folder / "again")
        found = {"what": ended, "where": name, "data": base64.b64encode(data).decode()}
        report.findings.append(found)
        report.outcomes["finding"] += 1
        if len(report.findings) > 50:
            break
    # A coverage run keeps what it found in the same process, so that its growth says nothing of the parser.
    if not guided and report.growth_bytes > GROWTH_BYTES:
        grown = f"memory grew by {report.growth_bytes >> 20} MiB"
        report.findings.append({"what": grown, "where": name, "data": ""})
    return report


def _run_child(name: str, first: int, count: int, seed: int, folder: Path, guided: bool) -> str:
    """Run a child to its end, and say how it ended."""
    command = [sys.executable, "-m", "fuzz.child", name, str(first), str(count), str(seed), str(folder)]
    command += ["guided"] if guided else []
    environment = {
        **os.environ,
        "XDG_CACHE_HOME": str(folder / "cache"),
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    with (folder / "stderr").open("wb") as said:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said, env=environment)
        current, since = b"", time.monotonic()
        while True:
            try:
                status = process.wait(timeout=5)
                break
            except subprocess.TimeoutExpired:
                now = (folder / "current").read_bytes()[:8] if (folder / "current").exists() else b""
                if now != current:
                    current, since = now, time.monotonic()
                elif time.monotonic() - since > _STILL_SECONDS:
                    process.kill()
    if status == -signal.SIGPROF:
        return "hang: a case took more processor time than it may"
    if status == -signal.SIGKILL:
        return f"hang: nothing moved for {_STILL_SECONDS:g} s"
    if status < 0:
        return f"crash: the process died of {signal.Signals(-status).name}"
    if status > 0:
        last = (folder / "stderr").read_bytes()[-2_000:].decode("utf-8", "replace")
        raise RuntimeError(f"the harness of {name} failed by itself (status {status}):\n{last}")
    return "crash: the process ended before its last case"


def _tally(folder: Path) -> dict[str, Any]:
    path = folder / "tally.json"
    return json.loads(path.read_text()) if path.exists() else {}


def _add(report: Report, tally: dict[str, Any]) -> None:
    if not tally:
        return
    report.cases += tally["cases"]
    report.outcomes.update(tally["outcomes"])
    known = {(found["what"].partition(":")[0], found["where"]) for found in report.findings}
    report.findings += [
        found for found in tally["findings"] if (found["what"].partition(":")[0], found["where"]) not in known
    ]
    report.slowest_s = max(report.slowest_s, tally["slowest_s"])
    report.growth_bytes = max(report.growth_bytes, tally["rss_last"] - tally["rss_settled"])


def _current(folder: Path) -> tuple[int, bytes]:
    """The case that was at work: its number and, under guidance, its input."""
    content = (folder / "current").read_bytes()
    return int.from_bytes(content[:8], "little"), content[8:]


def _made_again(name: str, seed: int, number: int, folder: Path) -> bytes:
    """The input of a case that ended its process; made by the parent, never fed."""
    from fuzz.registry import harness_from_name

    folder.mkdir(parents=True, exist_ok=True)
    harness = harness_from_name(name, Path(tempfile.mkdtemp(dir=folder)))
    return harness.case(Random(f"{name} {seed} {number}"))


def _covered(folder: Path) -> int:
    """What libFuzzer counted last."""
    counts = _COVERED.findall((folder / "stderr").read_bytes())
    return int(counts[-1]) if counts else 0

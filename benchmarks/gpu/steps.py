"""The steps, the most important first; each runs in a process of its own.

A step that cannot run here raises ``NotRun`` with the reason, which is an outcome; anything else that is
raised is a failure.
"""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from benchmarks.gpu.job import Job

__all__ = ["STEPS", "NotRun", "Step", "step_named"]

ROOT = Path(__file__).resolve().parents[2]


class NotRun(Exception):
    """A step cannot run on this machine; says why."""


@dataclass(frozen=True)
class Step:
    """One step.

    Attributes:
        name: Of its marker and log.
        run: Does it.
        seconds: What it takes at most [s]; it is not begun with much less left.
        needs: Steps without which it is of no use.
    """

    name: str
    run: Callable[[Job], None]
    seconds: float
    needs: tuple[str, ...] = ()


def environment(job: Job) -> None:
    """What this machine is and has."""
    info = job.machine.device.info
    free, total = job.machine.device.memory_bytes()
    packages = {d.metadata["Name"]: d.version for d in distributions() if d.metadata["Name"]}
    facts: dict[str, Any] = {
        "gpu": info.name,
        "architecture": info.architecture,
        "multiprocessors": info.multiprocessors,
        "memory_mib": [free >> 20, total >> 20],
        "cuda_of_the_driver": job.machine.device.driver.version,
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "packages": {name: packages[name] for name in sorted(packages, key=str.lower)},
        "tools": {
            name: shutil.which(name)
            for name in ("nvcc", "compute-sanitizer", "g++", "gcc", "nvidia-smi", "trtexec")
        },
    }
    if not job.rehearsal and facts["tools"]["nvidia-smi"]:
        done = subprocess.run(["nvidia-smi", "-q"], capture_output=True, text=True, check=False, timeout=60)
        facts["nvidia-smi"] = done.stdout.splitlines()[:120]
    job.note("environment", facts)
    print(f"{info.name}, {info.architecture}, CUDA {facts['cuda_of_the_driver']}, {total >> 20} MiB")


def kernels(job: Job) -> None:
    """Our kernels against their twins."""
    from benchmarks.gpu.checks import check_fusion, check_resampling, check_search

    rows = [
        *check_resampling(
            job.machine,
            images=job.size(2000, 6),
            largest=job.size(900, 60),
            size=job.size(224, 32),
        ),
        *check_search(job.machine, count=job.size(50_000, 900), dim=job.size(512, 24), k=job.size(100, 20)),
        *check_fusion(job.machine, side=job.size(4000, 600), texts=job.size(20, 3)),
    ]
    job.record("kernel_checks", rows, {})
    for row in rows:
        print(f"{row['what']:28} {row['cases']:>9} cases, {row['differing']} differ")
    if any(row["differing"] for row in rows):
        raise SystemExit("a kernel does not do what its twin does: nothing is worth timing")


def sanitizer(job: Job) -> None:
    """The same under compute-sanitizer, smaller: bad accesses, races, uninitialised reads, barriers."""
    tool = shutil.which("compute-sanitizer")
    if job.rehearsal or tool is None:
        raise NotRun("compute-sanitizer is not here")
    program = (
        "from benchmarks.gpu.checks import *; from benchmarks.gpu.machine import real_machine;"
        "m = real_machine();"
        "rows = check_resampling(m, images=12, largest=200) + check_search(m, count=3000, dim=64, k=20)"
        " + check_fusion(m, side=700, texts=9); assert not any(row['differing'] for row in rows), rows"
    )
    rows = []
    for kind in ("memcheck", "racecheck", "initcheck", "synccheck"):
        command = [tool, "--tool", kind, "--error-exitcode", "9", sys.executable, "-c", program]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
        said = (done.stdout + done.stderr).strip().splitlines()[-1:]
        rows.append({"what": kind, "clean": done.returncode == 0, "said": said})
        print(f"{kind:10} {'clean' if done.returncode == 0 else f'FAILED ({done.returncode})'} {said}")
    job.record("sanitizer", rows, {})
    if not all(row["clean"] for row in rows):
        raise SystemExit("compute-sanitizer found something")


def _later(module: str, function: str) -> Callable[[Job], None]:
    """A step of a module that imports torch or the model, when it runs."""

    def run(job: Job) -> None:
        getattr(importlib.import_module(f"benchmarks.gpu.{module}"), function)(job)

    return run


STEPS = (
    Step("environment", environment, 60),
    Step("kernels", kernels, 180, ("environment",)),
    Step("prepare", _later("towers", "prepare"), 400, ("environment",)),
    Step("proof", _later("towers", "proof"), 120, ("prepare",)),
    Step("towers", _later("towers", "towers"), 300, ("proof",)),
    Step("peers", _later("peers", "peers"), 400, ("environment",)),
    Step("sanitizer", sanitizer, 300, ("kernels",)),
    Step("engines", _later("engines", "engines"), 580, ("prepare",)),
    Step("kernel_speed", _later("kernel_speed", "kernel_speed"), 180, ("kernels",)),
    Step("end_to_end", _later("end_to_end", "end_to_end"), 240, ("kernels", "proof")),
    Step("searching", _later("kernel_speed", "searching"), 180, ("kernels",)),
    Step("heat_map", _later("kernel_speed", "heat_map"), 60, ("kernels",)),
)


def step_named(name: str) -> Step:
    return next(step for step in STEPS if step.name == name)

"""Time starts and read peak memory, each in a process of its own: from nothing to the first answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from lrsclip_rt.bundle import Bundle
from lrsclip_rt.errors import WorkerError

__all__ = ["time_start"]

_LONGEST_S = 900.0

_PROGRAM = """
import time
start = time.perf_counter()
import json, sys
from lrsclip_rt.embedder import load
asked = json.loads(sys.argv[1])
image, images = asked.pop("image"), asked.pop("images")
model = load(asked.pop("bundle"), **asked)
model.embed_images([image])
model.embed_texts(["a harbour with many ships"])
seconds = time.perf_counter() - start
model.embed_images([image] * images)
peak = None
try:
    for line in open("/proc/self/status", encoding="ascii"):
        if line.startswith("VmHWM:"):
            peak = 1024 * int(line.split()[1])
except OSError:
    pass
print(json.dumps({"seconds": seconds, "peak_bytes": peak}))
"""


def time_start(
    bundle: Bundle,
    *,
    backend: str,
    precision: str,
    device: str | None,
    threads: int | None,
    image: Path,
    batch: int,
) -> dict[str, Any]:
    """Start twice with one cache that is empty before: from nothing loaded to an image and a text.

    The files may be in the system's memory both times; "cold" is without what the runtime keeps in the
    user's cache, such as compiled graphs and verified hashes.

    Args:
        bundle: The model.
        backend: By name.
        precision: By name.
        device: Of the backend.
        threads: Of a run.
        image: A readable image file.
        batch: Images of the run behind which the peak memory is read.

    Returns:
        ``{"cold_s", "warm_s", "peak_bytes", "file_bytes"}``; the peak is the largest resident memory of
        the second process, None where the system is not Linux; the files are those of the precision.

    Raises:
        WorkerError: If a process fails or takes longer than a quarter of an hour.
    """
    asked = {
        "bundle": str(bundle.path),
        "backend": backend,
        "precision": precision,
        "device": device,
        "threads": threads,
        "image": str(image),
        "images": batch,
    }
    with tempfile.TemporaryDirectory(prefix="lrsclip-start.") as cache:
        cold, warm = (_run(asked, Path(cache)) for _ in range(2))
    record = bundle.record(precision)
    return {
        "cold_s": cold["seconds"],
        "warm_s": warm["seconds"],
        "peak_bytes": warm["peak_bytes"],
        "file_bytes": sum(bundle.files[name].bytes for name in record.files),
    }


def _run(asked: dict[str, Any], cache: Path) -> dict[str, Any]:
    command = [sys.executable, "-c", _PROGRAM, json.dumps(asked)]
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=_LONGEST_S, env=environment
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise WorkerError(f"a start of {asked['precision']} could not be timed: {error}") from error
    if done.returncode:
        said = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
        raise WorkerError(f"a start of {asked['precision']} on {asked['backend']} failed: {said[0]}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer

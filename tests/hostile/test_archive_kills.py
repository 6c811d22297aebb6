"""Writers that are killed in the middle of anything, most of them in a commit, a deletion or a compaction."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import archive_work
import pytest

WORK = Path(archive_work.__file__)
LONGEST_WAIT_S = 0.02
"""Commits, deletions and compactions of these small archives take about as long."""


def run_and_kill(
    folder: Path, state: archive_work.State, rng: random.Random
) -> tuple[list[dict[str, Any]], str]:
    """Start a writer and kill it; what it said in whole lines, and inside which action it died."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [
        sys.executable,
        str(WORK),
        str(folder),
        str(rng.randrange(1 << 30)),
        "100000",
        json.dumps(state),
    ]
    action = rng.choice(("commit", "delete", "compact", "compact", "anything"))
    awaited = rng.randint(1, 3)
    said: list[dict[str, Any]] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        if action == "anything" and rng.random() < 0.3:
            # While it opens, or makes the archive.
            time.sleep(rng.random() * 0.6)
            awaited = 0
        while awaited:
            line = process.stdout.readline()
            assert line, "the writer ended by itself"
            said.append(json.loads(line))
            awaited -= said[-1].get("begin") == action or action == "anything"
        time.sleep(rng.random() * LONGEST_WAIT_S)
        process.send_signal(signal.SIGKILL)
        rest = process.stdout.read()
        process.wait()
    said += [json.loads(line) for line in rest.splitlines(keepends=True) if line.endswith("\n")]
    return said, said[-1].get("begin", "between") if said else "start"


def kill_again_and_again(folder: Path, kills: int, seed: int) -> Counter[str]:
    rng, state, counts = random.Random(seed), archive_work.State(), Counter[str]()
    for number in range(kills):
        said, inside = run_and_kill(folder, state, rng)
        acknowledged, under_way = archive_work.states_from(said, state)
        state = archive_work.check(folder, acknowledged, under_way)
        counts[inside] += 1
        counts["acknowledged"] += sum("done" in line for line in said)
        if number % 4 == 3:
            state = archive_work.go_on(folder, state, rng)
    counts["kills"] = kills
    print(dict(counts))
    return counts


def test_a_killed_writer_loses_nothing_and_doubles_nothing(tmp_path: Path) -> None:
    seed = time.time_ns() % 1000
    print("seed", seed)
    counts = kill_again_and_again(tmp_path / "archive", 8, seed)
    assert counts["acknowledged"] > 0


@pytest.mark.slow
def test_two_hundred_killed_writers_lose_nothing_and_double_nothing(tmp_path: Path) -> None:
    counts = kill_again_and_again(tmp_path / "archive", 200, seed=1)
    inside = counts["commit"] + counts["delete"] + counts["compact"]
    assert inside >= 100, counts
    assert min(counts["commit"], counts["delete"], counts["compact"]) >= 10, counts

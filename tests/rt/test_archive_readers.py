from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import archive_reader
import archive_work
import pytest

READERS = 4


def read_while_writing(folder: Path, seconds: float, seed: int) -> None:
    """Four readers search and check every answer while a writer appends, deletes and compacts."""
    rng, said = random.Random(seed), []
    work = archive_work.Work(folder, rng, {}, said.append)
    for _ in range(10):
        work.append()
    work.commit()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    readers = [
        subprocess.Popen(
            [sys.executable, archive_reader.__file__, str(folder), str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for number in range(READERS)
    ]
    for reader in readers:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "ready\n"
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        work.step()
    work.commit()
    work.writer.close()
    total = Counter[str]()
    for reader in readers:
        printed, errors = reader.communicate(timeout=60)
        assert reader.returncode == 0, errors
        counts = json.loads(printed)
        print(counts)
        assert counts["answers"] > 0
        total.update(counts)
    assert total["answers"] > 4 * seconds
    assert min(total["compactions seen"], total["opened"], total["rows gone"]) > 0
    done = [line["done"] for line in said if "done" in line]
    print({action: done.count(action) for action in sorted(set(done))})
    archive_work.check(folder, work.committed, work.committed)


def test_four_readers_answer_rightly_while_a_writer_writes_deletes_and_compacts(tmp_path: Path) -> None:
    read_while_writing(tmp_path / "archive", 5, seed=0)


@pytest.mark.slow
def test_four_readers_answer_rightly_for_a_minute(tmp_path: Path) -> None:
    read_while_writing(tmp_path / "archive", 60, seed=1)

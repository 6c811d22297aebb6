"""Power that fails at any moment: what a commit acknowledged is on the disk, whatever else is not."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import archive_work
import pytest
from power_loss import Disk, Operation, build_recorder, marks, read_log

TESTS = Path(archive_work.__file__).parent


def record_work(folder: Path, *, seed: int, steps: int) -> list[Operation]:
    """A real writer's file operations, from the first folder on."""
    library = build_recorder(folder)
    root, log = (folder / "root").resolve(), folder / "log"
    root.mkdir()
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "LD_PRELOAD": str(library),
        "RECORDER_ROOT": str(root),
        "RECORDER_LOG": str(log),
    }
    command = [sys.executable, str(TESTS / "archive_work.py"), str(root / "archive"), str(seed), str(steps)]
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL, timeout=600)
    return list(read_log(log))


def moments(operations: list[Operation], count: int, rng: random.Random) -> list[int]:
    """Where to cut: half anywhere, half just behind an acknowledgement or a sync, where most is at stake."""
    chosen = [n + 1 for n, operation in enumerate(operations) if operation.kind in "SKU"]
    anywhere = range(1, len(operations) + 1)
    return sorted([*rng.choices(anywhere, k=count - count // 2), *rng.choices(chosen, k=count // 2)])


def cut_power(folder: Path, *, seed: int, steps: int, points: int) -> Counter[str]:
    """Replay a log up to many moments; each image must be an archive with all that was acknowledged."""
    rng = random.Random(seed)
    operations = record_work(folder, seed=seed, steps=steps)
    assert {operation.kind for operation in operations} >= set("CMWTSUK")
    disk, done, counts = Disk(folder / "root"), 0, Counter[str]()
    for moment in moments(operations, points, rng):
        for operation in operations[done:moment]:
            disk.replay(operation)
        done = moment
        image = folder / "image"
        disk.write_image(image, rng)
        acknowledged, under_way = archive_work.states_from(marks(operations[:moment]), {})
        found = archive_work.check(image / "archive", acknowledged, under_way)
        counts["points"] += 1
        counts["acknowledged tiles"] += len(archive_work.expected(acknowledged))
        counts["under way and whole"] += found != acknowledged
        if counts["points"] % 5 == 0:
            archive_work.go_on(image / "archive", found, rng)
            counts["went on"] += 1
        shutil.rmtree(image)
    counts["operations"] = len(operations)
    counts["compactions"] = sum(line.get("done") == "compact" for line in marks(operations))
    print(dict(counts))
    return counts


def test_a_power_cut_loses_nothing_acknowledged(tmp_path: Path) -> None:
    counts = cut_power(tmp_path, seed=7, steps=120, points=60)
    assert counts["points"] == 60
    assert counts["acknowledged tiles"] > 0
    assert counts["compactions"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_a_thousand_power_cuts_lose_nothing_acknowledged(tmp_path: Path, seed: int) -> None:
    counts = cut_power(tmp_path, seed=seed, steps=250, points=300)
    assert counts["points"] == 300
    assert counts["compactions"] > 0


@pytest.mark.parametrize("forgotten", ["/segments/", "archive.db-wal"])
def test_syncs_that_are_forgotten_would_be_found_out(tmp_path: Path, forgotten: str) -> None:
    """The same replay with the syncs of vectors, or of SQLite's log, left out: something is lost."""
    operations = record_work(tmp_path, seed=7, steps=120)
    acknowledged, under_way = archive_work.states_from(marks(operations), {})
    rng, lost = random.Random(0), 0
    for number in range(30):
        disk, names = Disk(tmp_path / "root"), dict[int, str]()
        # The last moment before the writer closes, when SQLite folds its log into the database.
        last = max(n for n, operation in enumerate(operations) if operation.kind == "K")
        for operation in operations[:last]:
            if operation.kind in "CM":
                names[operation.inode] = operation.path
            if operation.kind != "S" or forgotten not in names.get(operation.inode, ""):
                disk.replay(operation)
        image = tmp_path / f"image-{number}"
        disk.write_image(image, rng)
        try:
            archive_work.check(image / "archive", acknowledged, under_way)
        except (AssertionError, ValueError):
            lost += 1
    assert lost >= 5

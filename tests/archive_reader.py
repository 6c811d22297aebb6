"""A reader that searches while others write, until its input is closed.

``python archive_reader.py FOLDER SEED`` holds every answer against the rows that its snapshot holds: each hit
is a tile with its own vector and score, and a row that belongs in front of the last hit and is not there was
deleted meanwhile. The last line is a JSON object that counts what was done.
"""

from __future__ import annotations

import json
import random
import sys
import threading
from collections import Counter
from pathlib import Path

import archive_makers as makers
import archive_work
import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.archive import Archive, Hits

TOLERANCE = 1e-5
VECTORS = archive_work.expected(dict.fromkeys(range(archive_work.SOURCES), archive_work.TILES))


def check_answer(archive: Archive, query: NDArray[np.float32], k: int, hits: Hits) -> int:
    """Hold an answer against the snapshot; how many rows had gone since."""
    segments = archive.mapped_segments
    living = [s.f16[slice(None) if s.alive is None else s.alive] for s in segments]
    rows = np.concatenate([np.empty((0, archive.dim), np.float16), *living])
    numbers = np.concatenate(
        [
            np.empty(0, np.int64),
            *(
                s.record.base + np.flatnonzero(np.ones(s.record.rows) if s.alive is None else s.alive)
                for s in segments
            ),
        ]
    )
    scores = rows.astype(np.float64) @ query.astype(np.float64)
    row_of = {row.tobytes(): index for index, row in enumerate(rows)}
    assert len(row_of) == len(rows) == len(archive), "no tile is there twice"
    found = [row_of[VECTORS[hit.id]] for hit in hits]
    assert len(set(found)) == len(found), "no row answers twice"
    for index, hit in zip(found, hits, strict=True):
        assert abs(scores[index] - hit.score) < TOLERANCE
    worst = hits[-1].score if len(hits) == k else -np.inf
    missing = np.setdiff1d(np.flatnonzero(scores > worst + TOLERANCE), found)
    held = archive.catalog.tiles(numbers[missing].tolist(), archive.segments)
    assert not held, f"{len(held)} rows should have answered"
    return len(missing)


def main() -> None:
    folder, rng = Path(sys.argv[1]), random.Random(int(sys.argv[2]))
    stop = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
    counts = Counter[str]()
    with Archive.open(folder) as archive:
        print("ready", flush=True)
        before = {segment.number for segment in archive.segments}
        while not stop.is_set():
            if rng.random() < 0.1:
                with Archive.open(folder) as fresh:
                    counts["opened"] += len(fresh) >= 0
            if rng.random() < 0.3:
                archive.refresh()
                now = {segment.number for segment in archive.segments}
                counts["compactions seen"] += not before <= now
                before = now
            k = rng.choice((1, 5, 20, 200))
            query = makers.unit_rows(1, rng.randrange(10_000))
            [hits] = archive.search(query, k=k, merge=False)
            counts["rows gone"] += check_answer(archive, query[0], k, hits)
            counts["answers"] += 1
    print(json.dumps(counts))


if __name__ == "__main__":
    main()

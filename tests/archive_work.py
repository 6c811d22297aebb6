"""A writer at random work that can be killed, cut off from power or out of disk at any moment.

``python archive_work.py FOLDER SEED STEPS [STATE]`` appends, commits, deletes, compacts, closes and opens
again. Before and after everything that must be all or nothing it says so, on standard output and to the file
recorder where that is loaded: one JSON object a line, ``{"begin": action, "state": what will be}`` and then
``{"done": action}``. A state is how many tiles of each source there are; vectors depend on these alone.
"""

from __future__ import annotations

import ctypes
import functools
import json
import random
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import archive_makers as makers

from lrsclip_rt.archive import Archive, ArchiveWriter, Location
from lrsclip_rt.archive.schema import is_created
from lrsclip_rt.archive.verifying import verify_archive

State = dict[int, int]
SOURCES = 24
TILES = 6


@functools.cache
def expected_rows(source: int) -> tuple[tuple[str, bytes], ...]:
    """Ids and float16 rows of a source's tiles, in the order in which they are appended."""
    return tuple(makers.expected_contents(range(source, source + 1)).items())


def expected(state: Mapping[int, int]) -> dict[str, bytes]:
    return dict(row for source, tiles in state.items() for row in expected_rows(source)[:tiles])


class Work:
    """A random writer.

    Args:
        folder: The archive.
        rng: What it decides with.
        state: What is committed.
        say: Called with every announcement.
    """

    def __init__(
        self, folder: Path, rng: random.Random, state: State, say: Callable[[dict[str, Any]], None]
    ) -> None:
        self.folder, self.rng, self.committed, self.say = folder, rng, dict(state), say
        self.pending = dict(state)
        self._open()

    def step(self) -> None:
        """Do one thing."""
        actions = {self.append: 10, self.commit: 4, self.delete: 3, self.compact: 1, self.reopen: 1}
        self.rng.choices(list(actions), list(actions.values()))[0]()

    def append(self) -> None:
        source, tiles = self.rng.randrange(SOURCES), self.rng.randint(1, TILES)
        number = self.writer.add_source(makers.content(source))
        self.writer.add_location(number, Location("/data/scenes", f"{source:03d}.tif", 5))
        self.writer.append(number, makers.grid(source)[:tiles], makers.unit_rows(TILES, source)[:tiles])
        if tiles == TILES:
            self.writer.finish_grid(number, level=256, overlap=0.25, windows=TILES, skipped=0)
        self.pending[source] = max(tiles, self.pending.get(source, 0))

    def delete(self) -> None:
        """Delete some sources, and commit that nearly always."""
        if not self.pending:
            return
        chosen = self.rng.sample(sorted(self.pending), min(len(self.pending), self.rng.randint(1, 4)))
        state = {source: tiles for source, tiles in self.pending.items() if source not in chosen}
        at_once = self.rng.random() < 0.9
        if at_once:
            self.say({"begin": "delete", "state": state})
        numbers = [self.writer.source_number(makers.content(source).content_sha256) for source in chosen]
        self.writer.delete_sources(number for number in numbers if number is not None)
        self.pending = dict(state)
        if at_once:
            self.writer.commit()
            self._committed("delete")

    def commit(self) -> None:
        self._commit("commit")

    def compact(self) -> None:
        self.say({"begin": "compact", "state": dict(self.pending)})
        self.writer.compact()
        self._committed("compact")

    def reopen(self) -> None:
        """Close, which drops what is pending, and open again."""
        self.say({"begin": "reopen", "state": dict(self.committed)})
        self.writer.close()
        self.pending = dict(self.committed)
        self._open()
        self._committed("reopen")

    def _open(self) -> None:
        self.writer = ArchiveWriter(self.folder, makers.MODEL, makers.FP32, segment_rows=40, block_rows=16)

    def _commit(self, action: str) -> None:
        self.say({"begin": action, "state": dict(self.pending)})
        self.writer.commit()
        self._committed(action)

    def _committed(self, action: str) -> None:
        self.committed = dict(self.pending)
        self.say({"done": action})


def states_from(said: Iterable[Mapping[str, Any]], before: State) -> tuple[State, State]:
    """The acknowledged state and the one that was under way, from announcements up to some moment."""
    acknowledged = under_way = before
    for line in said:
        if "begin" in line:
            under_way = {int(source): tiles for source, tiles in line["state"].items()}
        else:
            acknowledged = under_way
    return acknowledged, under_way


def check(folder: Path, acknowledged: State, under_way: State) -> State:
    """The archive opens, is sound, and is exactly one of the two states; which one."""
    if not is_created(folder):
        assert not acknowledged
        return {}
    with Archive.open(folder) as archive:
        found = makers.contents(archive)
        for state in (under_way, acknowledged):
            if found == expected(state):
                break
        else:
            lost = len(expected(acknowledged).keys() - found.keys())
            raise AssertionError(f"{len(found)} tiles; {lost} acknowledged ones are lost")
        [hits] = archive.search(makers.unit_rows(1, 99), k=3, merge=False)
        assert len(hits) == min(3, len(found))
    report = verify_archive(folder)
    assert not report.damaged, report.findings
    assert report.rows == len(found)
    return dict(state)


def go_on(folder: Path, state: State, rng: random.Random, steps: int = 6) -> State:
    """The next writer works; what it leaves is right."""
    work = Work(folder, rng, state, lambda _: None)
    for _ in range(steps):
        work.step()
    work.commit()
    work.writer.close()
    return check(folder, work.committed, work.committed)


def main() -> None:
    folder, seed, steps = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    state = {int(k): v for k, v in json.loads(sys.argv[4] if len(sys.argv) > 4 else "{}").items()}
    mark = getattr(ctypes.CDLL(None), "recorder_mark", None)

    def say(line: dict[str, Any]) -> None:
        text = json.dumps(line)
        if mark is not None:
            mark(text.encode())
        print(text, flush=True)

    work = Work(folder, random.Random(seed), state, say)
    for _ in range(steps):
        work.step()
    work.writer.close()


if __name__ == "__main__":
    main()

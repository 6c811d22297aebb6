"""Folders that are indexed as files arrive.

A file is taken once its size and times have rested, as it may still be on its way. What was taken, or failed,
is taken again only when it changes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

from lrsclip_rt.archive.content_stamps import ContentStamps
from lrsclip_rt.archive.ingest import IndexReport, index_sources
from lrsclip_rt.archive.inputs import InputFile
from lrsclip_rt.archive.plans import IndexOptions
from lrsclip_rt.archive.stac.reading import stac_in_folder
from lrsclip_rt.errors import ArchiveLockedError, InputError

if TYPE_CHECKING:
    from lrsclip_rt.embedder import Embedder

__all__ = ["REST_SECONDS", "FolderWatch", "watch_folders"]

_log = logging.getLogger(__name__)

REST_SECONDS = 5.0
"""How long a file's size and times must stay as they are before it is taken [s]."""

_Version = tuple[int, int, int, int]


@dataclass(slots=True)
class _Seen:
    """A version of a file, since when it is known [s], and whether it was taken."""

    version: _Version
    since: float
    taken: bool = False


class FolderWatch:
    """Tells which files of folders have come to rest; looks only at names, sizes and times.

    Args:
        folders: Walked as for indexing: images and rasters, without hidden names.
        rest_s: How long a file must stay as it is [s].

    Raises:
        InputError: If one is no folder, or holds a STAC catalogue.
    """

    def __init__(self, folders: Sequence[Path], *, rest_s: float = REST_SECONDS) -> None:
        for folder in folders:
            if not folder.is_dir():
                raise InputError(f"{folder} is no folder; only folders can be watched")
            if stac_in_folder(folder) is not None:
                raise InputError(f"{folder} holds a STAC catalogue, which cannot be watched; index it")
        self._folders = [folder.resolve() for folder in folders]
        self._rest_s = rest_s
        self._seen: dict[Path, _Seen] = {}

    def poll(self, now: float) -> list[InputFile]:
        """Files that rest since ``rest_s`` and were not taken in this state; they count as taken.

        Args:
            now: A monotonic clock [s].
        """
        from lrsclip_rt.images import iter_image_paths

        ready, present = [], set()
        for root in self._folders:
            for path in iter_image_paths([root]):
                version = _version(path)
                if version is None or path in present:
                    continue
                present.add(path)
                seen = self._seen.get(path)
                if seen is None or seen.version != version:
                    seen = self._seen[path] = _Seen(version, now)
                if not seen.taken and now - seen.since >= self._rest_s:
                    seen.taken = True
                    ready.append(InputFile(path, root))
        self._seen = {path: seen for path, seen in self._seen.items() if path in present}
        return ready

    def put_back(self, files: Sequence[InputFile]) -> None:
        """Count files as not taken: the next look gives them again."""
        for file in files:
            if file.path in self._seen:
                self._seen[file.path].taken = False


def watch_folders(
    archive: str | Path,
    folders: Sequence[str | Path],
    model: Embedder,
    options: IndexOptions | None = None,
    *,
    stop: Event,
    every_s: float,
    rest_s: float = REST_SECONDS,
    stamps: Callable[[], ContentStamps | None] = lambda: None,
    done: Callable[[IndexReport], None] | None = None,
    alive: Callable[[], object] = lambda: None,
) -> None:
    """Index folders, and go on with what arrives until ``stop`` is set.

    The archive is locked only while there is something to write, so it can be looked after in between; where
    another writer is at work, the files wait until it is done.

    Args:
        archive: The archive's folder.
        folders: What to watch.
        model: What embeds the files.
        options: How to tile and read.
        stop: Ends the watch; what is being indexed is finished up to the current batch and committed.
        every_s: Time between two looks [s].
        rest_s: How long a file must stay as it is before it is taken [s].
        stamps: Opens what is known of file versions, for each round.
        done: Called with the report of each round in which there was something to do.
        alive: Called at each look and whenever indexing gets on, for a watchdog.

    Raises:
        InputError: If one is no folder, or holds a STAC catalogue.
        ArchiveError: If the archive cannot be written.
    """

    def gets_on(report: IndexReport) -> None:
        alive()

    watch = FolderWatch([Path(folder) for folder in folders], rest_s=rest_s)
    while not stop.is_set():
        alive()
        ready = watch.poll(time.monotonic())
        if ready:
            try:
                with stamps() or ContentStamps(None) as opened:
                    report = index_sources(
                        archive, ready, model, options, stamps=opened, stop=stop, progress=gets_on
                    )
            except ArchiveLockedError as error:
                _log.warning("%s; %d files wait", error, len(ready))
                watch.put_back(ready)
            else:
                if done is not None:
                    done(report)
        stop.wait(every_s)


def _version(path: Path) -> _Version | None:
    try:
        stat = path.stat()
    except OSError:
        return None  # it went away between the walk and now
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino

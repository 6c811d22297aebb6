"""What indexing would do: tiles, bytes and time, with nothing written."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lrsclip_rt.archive.held_sources import HeldSources
from lrsclip_rt.archive.inputs import InputFile, header_from_image, is_raster, list_inputs, sha256_and_size
from lrsclip_rt.archive.plans import Grid, IndexOptions, content_of_scene, grids_of, read_window
from lrsclip_rt.archive.records import ContentRecord
from lrsclip_rt.archive.schema import is_created
from lrsclip_rt.archive.segments import columns_of
from lrsclip_rt.archive.source_reading import open_input
from lrsclip_rt.archive.stac.reading import RefusedItem
from lrsclip_rt.errors import LrsclipError

if TYPE_CHECKING:
    from lrsclip_rt.embedder import Embedder
    from lrsclip_rt.images import ImageSource
    from lrsclip_rt.tiles import Window

__all__ = ["IndexEstimate", "SourceEstimate", "estimate_index"]

TILE_BYTES = 140
"""What a tile takes in archive.db, with its id and the indices; measured on archives of 40,000 tiles."""

FOOTPRINT_BYTES = 200
"""What the place of a tile takes in addition: its ring and its entry in the R*Tree."""

SOURCE_BYTES = 275
"""What a source takes with its location, its grid and the indices."""

DATABASE_BYTES = 100_000
"""An archive.db without sources."""

SAMPLED_BATCHES = 2
"""Batches that are timed; one before them is not."""

_UNKNOWN = "00" * 32


@dataclass(frozen=True, slots=True)
class SourceEstimate:
    """A file and what it would add.

    Attributes:
        file: The file.
        width: Columns [px].
        height: Rows [px].
        grids: What would be embedded: none where the archive has it all.
        size_bytes: Of the file.
        placed: Whether its tiles have footprints.
    """

    file: InputFile
    width: int
    height: int
    grids: tuple[Grid, ...]
    size_bytes: int
    placed: bool

    @property
    def tiles(self) -> int:
        """Windows that would be embedded, at most: those that turn out to be mostly nodata are skipped."""
        return sum(len(grid.windows) for grid in self.grids)

    def windows(self) -> Iterator[Window]:
        """All of them."""
        return itertools.chain.from_iterable(grid.windows for grid in self.grids)


@dataclass(frozen=True, slots=True)
class IndexEstimate:
    """What indexing would do.

    Attributes:
        sources: Per file.
        failures: Files that cannot be used, with the reason.
        row_bytes: Of a tile without a place in the archive.
        new_bytes: What a new archive holds besides its tiles: the text tower.
        tiles_per_s: The encoder's throughput, measured on ``sampled`` tiles of this run; None without tiles.
        sampled: Tiles that were timed.
    """

    sources: tuple[SourceEstimate, ...]
    failures: tuple[tuple[str, str], ...]
    row_bytes: int
    new_bytes: int
    tiles_per_s: float | None
    sampled: int

    @property
    def tiles(self) -> int:
        """Tiles of all files, at most."""
        return sum(source.tiles for source in self.sources)

    @property
    def archive_bytes(self) -> int:
        """What the archive would grow by."""
        return self.new_bytes + sum(map(self.bytes_of, self.sources))

    @property
    def seconds(self) -> float | None:
        """Time at the measured throughput [s]."""
        return None if self.tiles_per_s is None else self.tiles / self.tiles_per_s

    def bytes_of(self, source: SourceEstimate) -> int:
        """What a file would add to the archive [bytes]."""
        if not source.tiles:
            return 0
        return SOURCE_BYTES + source.tiles * (self.row_bytes + source.placed * FOOTPRINT_BYTES)


def estimate_index(
    archive: str | Path,
    sources: Sequence[str | Path | InputFile],
    model: Embedder,
    options: IndexOptions | None = None,
) -> IndexEstimate:
    """Look at every file's header, count its tiles, and time the encoder on a few of them.

    Where the archive exists, files are hashed to leave out what it holds; else copies of a file count each.

    Args:
        archive: The archive's folder, which need not exist.
        sources: As of ``index_sources``.
        model: What would embed them.
        options: How to tile and read.

    Raises:
        ArchiveError: If the archive cannot be read.
    """
    chosen = options or IndexOptions()
    folder = Path(archive)
    inputs = [source if isinstance(source, InputFile) else Path(source) for source in sources]
    found: list[SourceEstimate] = []
    failures: list[tuple[str, str]] = []
    held = HeldSources(folder) if folder.is_dir() and is_created(folder) else None
    seen: set[str] = set()
    try:
        for file in list_inputs(inputs, asset=chosen.asset):
            if isinstance(file, RefusedItem):
                failures.append((file.name, file.reason))
            elif chosen.shard is None or chosen.shard.holds(file):
                try:
                    found.append(_estimate(file, chosen, held, seen))
                except (LrsclipError, OSError) as error:
                    failures.append((str(file.path), str(error)))
    finally:
        if held is not None:
            held.close()
    rate, sampled = _throughput(found, model, chosen)
    row_bytes = sum(column.row_bytes for column in columns_of(model.dim)) + TILE_BYTES
    new_bytes = _text_tower_bytes(model) + DATABASE_BYTES if held is None else 0
    return IndexEstimate(tuple(found), tuple(failures), row_bytes, new_bytes, rate, sampled)


def _estimate(
    file: InputFile, options: IndexOptions, held: HeldSources | None, seen: set[str]
) -> SourceEstimate:
    sha256, size_bytes = (_UNKNOWN, file.path.stat().st_size) if held is None else sha256_and_size(file.path)
    if options.tiles or is_raster(file.path) or file.facts.georeference is not None:
        with open_input(file, options) as scene:
            content = content_of_scene(scene, sha256, size_bytes, options)
    else:
        header = header_from_image(file.path)
        content = ContentRecord(sha256, size_bytes, header.width, header.height)
    grids = grids_of(content, options)
    if held is not None:
        known = held.source(sha256)
        if known is not None:
            grids = known.missing_grids(options)
        if sha256 in seen:
            grids = ()
        seen.add(sha256)
    placed = content.crs is not None and content.transform is not None
    return SourceEstimate(file, content.width, content.height, grids, size_bytes, placed)


def _throughput(
    found: Sequence[SourceEstimate], model: Embedder, options: IndexOptions
) -> tuple[float | None, int]:
    """Tiles a second of the encoder on windows in memory, and on how many; files that fail are left out."""
    batch = options.batch_size
    wanted = (1 + SAMPLED_BATCHES) * batch
    images = list(itertools.islice(_sample(found, options, wanted), wanted))
    if not images:
        return None, 0
    for _ in model.stream_images(enumerate(images[:batch]), batch_size=batch):
        pass  # loads and warms the model
    timed = images[batch:] or images
    started = time.perf_counter()
    for _ in model.stream_images(enumerate(timed), batch_size=batch):
        pass
    return len(timed) / (time.perf_counter() - started), len(timed)


def _sample(found: Sequence[SourceEstimate], options: IndexOptions, wanted: int) -> Iterator[ImageSource]:
    """Up to ``wanted`` windows at equal distances over all files."""
    total = sum(source.tiles for source in found)
    positions = np.unique(np.linspace(0, max(0, total - 1), min(wanted, total)).astype(np.int64))
    first = 0
    for source in found:
        picked = positions[(positions >= first) & (positions < first + source.tiles)] - first
        first += source.tiles
        if not len(picked):
            continue
        windows = list(source.windows())
        try:
            if windows == [_whole(source)] and not is_raster(source.file.path):
                yield source.file.path
                continue
            with open_input(source.file, options) as scene:
                for index in picked:
                    yield read_window(scene, windows[index])
        except LrsclipError:
            continue  # the run itself will name it


def _whole(source: SourceEstimate) -> Window:
    from lrsclip_rt.tiles import Window

    return Window(0, 0, source.width, source.height)


def _text_tower_bytes(model: Embedder) -> int:
    """Size of what a new archive copies of the bundle [bytes]."""
    bundle = model.bundle
    precisions = dict.fromkeys([bundle.default_precision, *(p for p in bundle.precisions if p == "fp32")])
    files = {path for precision in precisions for path in bundle.path.glob(f"text*.{precision}.*")}
    return sum(path.stat().st_size for path in [*files, bundle.vocabulary_path])

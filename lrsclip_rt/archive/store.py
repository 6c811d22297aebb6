"""The archive as its readers see it: a snapshot of committed rows."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.archive.catalog import Catalog
from lrsclip_rt.archive.codes.files import CODES, Codes, CodesObstacle, Once, codes_from_folder
from lrsclip_rt.archive.hits import Hits
from lrsclip_rt.archive.queries import checked_queries
from lrsclip_rt.archive.records import ContentRecord, SegmentRecord, TileRecord
from lrsclip_rt.archive.scanning import rows_of
from lrsclip_rt.archive.schema import DATABASE, MODEL, SEGMENTS, ArchiveInfo, connect_to_read, read_info
from lrsclip_rt.archive.searching import Request, Snapshot, search_snapshot
from lrsclip_rt.archive.segments import Segment, map_segment
from lrsclip_rt.archive.where import Where
from lrsclip_rt.errors import ArchiveCorruptError, ArchiveError, InputError, LrsclipError

if TYPE_CHECKING:
    from lrsclip_rt.archive.device_ranking import DeviceRanking

__all__ = ["Archive"]


class Archive:
    """An archive opened for reading; never writes, and does not see what is committed later.

    Its length is the number of rows that were not deleted. What is deleted later answers no more, and a later
    compaction changes nothing before the next ``refresh``.

    Made by ``Archive.open``. Threads may share it.

    Example:
        >>> archive = Archive.open("archive/")                                     # doctest: +SKIP
        >>> [hits] = archive.search(model.embed_texts("a harbour with ships"), k=3)  # doctest: +SKIP
        >>> hits[0].source, hits[0].window                                         # doctest: +SKIP
        ('/data/port.tif', Window(col_off=192, row_off=0, width=256, height=256))
    """

    def __init__(self, path: Path, database: sqlite3.Connection, info: ArchiveInfo) -> None:
        self.path = path
        self.info = info
        self.model = info.model
        self.catalog = Catalog(database, path / DATABASE)
        self._database = database
        self._preparing: threading.Thread | None = None
        self._gpu: str | None = None
        self._snapshot = Snapshot((), self.dim)

    @classmethod
    def open(cls, path: str | Path) -> Archive:
        """Open an archive folder at its last commit.

        Raises:
            ArchiveError: If it is no archive, or of a newer format.
            ArchiveCorruptError: If a file is shorter than its record.
        """
        folder = Path(path)
        if not (folder / DATABASE).is_file():
            found = f"holds no {DATABASE}" if folder.exists() else "does not exist"
            raise ArchiveError(
                f"{folder} is no archive, it {found}. Make one: lrsclip index SOURCE -a {folder}"
            )
        database = connect_to_read(folder)
        try:
            archive = cls(folder, database, read_info(folder, database))
            archive.refresh()
        except BaseException:
            database.close()
            raise
        return archive

    def __enter__(self) -> Archive:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        return sum(record.living for record in self.segments)

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        return f"Archive({str(self.path)!r}, {len(self)} rows of {self.model})"

    def close(self) -> None:
        """Close the database; the archive is empty to its user from then on."""
        self._snapshot = Snapshot((), self.dim)
        if self._preparing is not None:
            # SQLite does not survive a connection that is closed under a statement of another thread.
            self._preparing.join()
        self._database.close()

    def refresh(self) -> int:
        """See what was committed meanwhile.

        Returns:
            Living rows of the archive now.

        Raises:
            ArchiveCorruptError: If a file is shorter than its record.
        """
        folder = self.path / SEGMENTS
        records = self.catalog.segments()
        while True:
            try:
                segments = tuple(map_segment(folder, record, self.dim) for record in records)
                break
            except (ArchiveCorruptError, FileNotFoundError) as error:
                # A compaction may have taken the files away since the records were read.
                held, records = records, self.catalog.segments()
                if records == held and isinstance(error, ArchiveCorruptError):
                    raise
        self._take(segments)
        return len(self)

    def use_gpu(self, device: str = "cuda") -> None:
        """Rank on a GPU from now on: all rows go there once, every one of them is scored in each search.

        Answers are those of an exact search. Snapshots of a later ``refresh`` are put there anew.

        Args:
            device: ``cuda`` or ``cuda:N``.

        Raises:
            InputError: If it is no such name, or D is no multiple of 8.
            BackendError: If there is no such GPU, or its kernels cannot be compiled.
            DeviceMemoryError: If the rows do not fit.
        """
        from lrsclip_rt.cuda.device import device_index

        device_index(device)
        before, self._gpu = self._gpu, device
        self._take(self.mapped_segments)
        try:
            if self._snapshot.load_rows is not None:
                self._snapshot.load_rows()
        except LrsclipError:
            self._gpu = before
            self._take(self.mapped_segments)
            raise

    def _take(self, segments: tuple[Segment, ...]) -> None:
        """Search these from now on."""
        gpu = self._gpu
        load_codes = Once(lambda: self._load_codes(segments))
        if gpu is None or not segments:
            self._snapshot = Snapshot(segments, self.dim, load_codes)
            return

        def load_rows() -> DeviceRanking:
            from lrsclip_rt.archive.device_ranking import DeviceRanking

            return DeviceRanking(segments, gpu)

        self._snapshot = Snapshot(segments, self.dim, load_codes, Once(load_rows))

    def prepare(self) -> None:
        """Begin to load what the first search needs, while the caller goes on; call it or not."""
        snapshot = self._snapshot

        def load() -> None:
            # Whoever searches next meets the same error.
            with contextlib.suppress(LrsclipError):
                snapshot.prepare()

        self._preparing = threading.Thread(target=load, name="prepare", daemon=True)
        self._preparing.start()

    @property
    def dim(self) -> int:
        """D, the length of a row."""
        return self.model.dim

    @property
    def segments(self) -> tuple[SegmentRecord, ...]:
        """Segments of the snapshot."""
        return self._snapshot.records

    @property
    def mapped_segments(self) -> tuple[Segment, ...]:
        """The snapshot's columns, memory-mapped read-only."""
        return self._snapshot.segments

    @property
    def sample(self) -> NDArray[np.float32]:
        """``(n, D)`` float32, n <= 4,096: the rows that z and mixtures are standardised over."""
        return self._snapshot.sample

    @property
    def codes(self) -> Codes | CodesObstacle:
        """What finds candidates in a large archive, or why every search is exact."""
        return self._snapshot.codes

    @property
    def model_path(self) -> Path:
        """The bundle with the text tower that the archive keeps.

        Raises:
            ArchiveError: If it keeps none.
        """
        path = self.path / MODEL
        if not path.is_dir():
            raise ArchiveError(
                f"{self.path} keeps no text tower (its folder {MODEL} is missing): search it with vectors, "
                "or index again"
            )
        return path

    def tile(self, identifier: str) -> TileRecord:
        """The tile of an id, or of an unambiguous beginning of one.

        Raises:
            InputError: If there is none, or more than one.
        """
        return self.catalog.tile_by_id(identifier, self.segments)

    def tiles_of_source(self, source: int, *, level: int | None = None) -> tuple[TileRecord, ...]:
        """All tiles of a source, by level and then in row-major order; ``vectors`` gives their rows."""
        return self.catalog.tiles_of_source(source, level, self.segments)

    def vectors(self, tiles: Sequence[TileRecord]) -> NDArray[np.float32]:
        """The rows of tiles, ``(N, D)`` float32."""
        return rows_of(self.mapped_segments, np.array([tile.row for tile in tiles], np.int64), self.dim)

    def content(self, source: int) -> ContentRecord:
        """What is recorded about a source.

        Raises:
            InputError: If there is none of this number.
        """
        return self.catalog.content(source)

    def locations(self, source: int) -> list[Path]:
        """Where a source lay when it was indexed."""
        return self.catalog.locations(source)

    def search(
        self,
        vectors: NDArray[np.floating[Any]],
        k: int = 10,
        where: Where | None = None,
        *,
        merge: bool = True,
        min_score: float | None = None,
        exact: bool = False,
    ) -> list[Hits]:
        """Find the best places for each query: exact cosines over float16 rows, ties by row.

        In an archive with codes these choose the rows that are scored, with the recall that
        ``lrsclip archive info`` shows; filters that at most 20,000 rows pass are exact all the same.

        Args:
            vectors: ``(Q, D)`` queries in the archive's space, or one of ``(D,)``; any length but zero.
            k: Places of each query.
            where: Which rows take part; None for all.
            merge: Overlapping tiles of a source answer once; the best counts the rest.
            min_score: Presence threshold: where ``Hits.presence`` is lower, there are no hits.
            exact: Score every row that passes, whether there are codes or not.

        Returns:
            One ``Hits`` per query, always.

        Raises:
            InputError: If shapes disagree, a query is zero or not finite, ``k`` is not positive, or ``where``
                names metadata that no source has.
        """
        queries = checked_queries(vectors, dim=self.dim, rows=len(self))
        if k < 1:
            raise InputError(f"k must be at least 1, got {k}")
        request = Request(k, where if where is not None else Where(), merge, min_score, exact)
        while True:
            version = self.catalog.version()
            try:
                return search_snapshot(self._snapshot, self.catalog, queries, request)
            except InputError:
                # The source of a hit may have been deleted in this very moment; then its tiles are gone now.
                if self.catalog.version() == version:
                    raise

    def _load_codes(self, segments: tuple[Segment, ...]) -> Codes | CodesObstacle:
        records = [segment.record for segment in segments]
        return codes_from_folder(self.path / CODES, self.catalog, self.info, records)

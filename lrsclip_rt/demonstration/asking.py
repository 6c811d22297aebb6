"""Steps that every demonstration takes: index, ask, localize, each with its time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.archive import Archive, Hits
from lrsclip_rt.demonstration.results import ModelFacts, Timings

if TYPE_CHECKING:
    from lrsclip_rt.archive.ingest import IndexReport
    from lrsclip_rt.embedder import Embedder
    from lrsclip_rt.localization import Heatmap

__all__ = [
    "Say",
    "Stopwatch",
    "ask",
    "index_into",
    "localized",
    "machine_name",
    "model_facts",
    "warm_archive",
]

Say = Callable[[str], None]
"""Told what happens next, for people who wait."""

SPEAK_EVERY_S = 10.0
"""How often a long step says how far it is [s]."""

WARM_UP = "a picture from above"
"""Asked once before anything is timed: the first text loads the text tower."""


@dataclass(slots=True)
class Stopwatch:
    """Collects the times of a demonstration, which starts when it is made."""

    started: float = field(default_factory=time.perf_counter)
    index_rows: int = 0
    index_s: float = 0.0
    query_ms: list[float] = field(default_factory=list)
    localize_windows: int = 0
    localize_texts: int = 0
    localize_s: float = 0.0

    def timings(self) -> Timings:
        """All of them, and the time since the start."""
        return Timings(
            index_rows=self.index_rows,
            index_s=self.index_s,
            query_ms=tuple(self.query_ms),
            localize_windows=self.localize_windows,
            localize_texts=self.localize_texts,
            localize_s=self.localize_s,
            total_s=time.perf_counter() - self.started,
        )


def index_into(
    archive: Path,
    sources: Sequence[Path],
    model: Embedder,
    watch: Stopwatch,
    *,
    tiles: tuple[int, ...] = (),
    say: Say = lambda message: None,
) -> IndexReport:
    """Index ``sources`` as ``lrsclip index`` does."""
    spoken = 0.0

    def tell(report: IndexReport) -> None:
        nonlocal spoken
        if report.seconds - spoken >= SPEAK_EVERY_S:
            spoken = report.seconds
            say(f"  {report.rows} tiles, {report.rows / report.seconds:.1f} tiles/s")

    from lrsclip_rt.archive.ingest import index_sources
    from lrsclip_rt.archive.plans import IndexOptions

    report = index_sources(archive, sources, model, IndexOptions(tiles=tiles), progress=tell)
    watch.index_rows += report.rows
    watch.index_s += report.seconds
    return report


def ask(
    archive: Archive,
    vector: Callable[[], NDArray[np.float32]],
    watch: Stopwatch,
    *,
    k: int,
    merge: bool = True,
) -> tuple[Hits, float]:
    """Embed a query and search, timed together.

    Args:
        archive: Where to search.
        vector: Embeds the query, to (1, D) float32.
        watch: Takes the time.
        k: Places wanted.
        merge: Overlapping tiles of a scene answer once.

    Returns:
        The hits and the time [ms].
    """
    start = time.perf_counter()
    (hits,) = archive.search(vector(), k=k, merge=merge)
    elapsed = 1000 * (time.perf_counter() - start)
    watch.query_ms.append(elapsed)
    return hits, elapsed


def localized(
    model: Embedder, path: Path, texts: Sequence[str], watch: Stopwatch, *, steps: Sequence[int]
) -> tuple[Heatmap, ...]:
    """One heat map a text, on windows of ``steps`` px."""
    from lrsclip_rt.localization import localize_scene
    from lrsclip_rt.raster import open_scene

    start = time.perf_counter()
    with open_scene(path) as scene:
        found = localize_scene(model, scene, texts, mode="selo", steps=steps)
    watch.localize_s += time.perf_counter() - start
    watch.localize_windows += len(found.embedding)
    watch.localize_texts += len(texts)
    return found.heatmaps


@contextmanager
def warm_archive(folder: Path, model: Embedder) -> Iterator[Archive]:
    """An archive opened for searching, with the text tower loaded."""
    rows = model.embed_texts([WARM_UP])
    with Archive.open(folder) as archive:
        archive.search(rows, k=1)
        yield archive


def model_facts(model: Embedder) -> ModelFacts:
    """What there is to say about a model."""
    from lrsclip_rt.bundle import BUILT_IN

    bundle, spec = model.bundle, model.spec
    return ModelFacts(
        name=spec.name,
        architecture=spec.architecture,
        dim=spec.embed_dim,
        image_size=spec.image_size,
        context_length=spec.context_length,
        precision=model.precision,
        backend=model.backend,
        size_bytes=sum(record.bytes for record in bundle.files.values()),
        how_made=bundle.source.how_made,
        training_data=bundle.source.training_data,
        licence=bundle.source.licence,
        built_in=bundle.path == BUILT_IN.resolve(),
    )


def machine_name(model: Embedder) -> str:
    """The processor, and how many CPUs the model may use."""
    from lrsclip_rt.cpu import cpu_info

    info = cpu_info()
    cpus = model.threads or info.cpus
    instructions = f", {', '.join(info.instructions)}" if info.instructions else ""
    return f"{info.name or info.architecture}, {cpus} CPU{'s' if cpus != 1 else ''}{instructions}"

"""Indexing on a Ray cluster: each task fills an archive of its own, and these parts are merged.

A part holds one shard of the files, so its tile ids are those of a run on one machine. Parts stay where they
are until all of them are merged: a run that was interrupted goes on with them.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lrsclip_rt.archive.ingest import IndexReport, index_sources
from lrsclip_rt.archive.inputs import Shard
from lrsclip_rt.archive.plans import IndexOptions
from lrsclip_rt.archive.schema import is_created
from lrsclip_rt.errors import DependencyError, InputError, LrsclipError, WorkerError

__all__ = ["ModelChoice", "index_on_ray", "index_shard"]

LOCAL = "local"


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """How each worker loads the model: the arguments of ``lrsclip_rt.load``.

    Attributes:
        bundle: Folder in reach of every worker; None for the built-in model.
        backend: Inference library.
        precision: None for the bundle's default.
        device: None for the backend's choice.
        threads: CPUs of a task; None for one.
    """

    bundle: Path | None = None
    backend: str = "auto"
    precision: str | None = None
    device: str | None = None
    threads: int | None = None


def index_on_ray(
    archive: str | Path,
    sources: Sequence[str | Path],
    model: ModelChoice,
    options: IndexOptions | None = None,
    *,
    address: str = LOCAL,
    shards: int | None = None,
    parts: str | Path | None = None,
    rehash: bool = False,
) -> IndexReport:
    """Index by tasks of a Ray cluster and merge their parts into an archive.

    Every machine of the cluster must see sources, archive, parts and bundle under the same paths, and have
    this package installed.

    Args:
        archive: The archive, made where there is none; what it holds is not embedded again.
        sources: As of ``index_sources``.
        model: What the tasks load.
        options: How to tile and read.
        address: Of a running cluster; ``local`` starts one on this machine and ends it afterwards.
        shards: Tasks; default as many as the cluster has CPUs for.
        parts: Folder of the part archives; default ``ARCHIVE.parts``.
        rehash: Hash every file, also those of which it is known.

    Returns:
        One report over all parts. A task that failed as a whole is among its failures; the other parts are
        merged all the same, and its own part is taken up by the next run.

    Raises:
        DependencyError: If Ray is not installed.
        WorkerError: If the cluster cannot be reached.
        InputError: If ``parts`` holds parts of another number of shards.
        ArchiveError: If the archive cannot be written.
    """
    chosen = options or IndexOptions()
    started = time.monotonic()
    target = Path(archive).absolute()
    folder = target.with_name(f"{target.name}.parts") if parts is None else Path(parts).absolute()
    inputs = [str(Path(source).absolute()) for source in sources]
    bundle = None if model.bundle is None else Path(model.bundle).absolute()
    choice = replace(model, bundle=bundle, threads=model.threads or 1)
    total = IndexReport()
    with _cluster(address) as ray:
        threads = choice.threads or 1
        count = shards or max(1, int(ray.cluster_resources().get("CPU", 1)) // threads)
        paths = _part_paths(folder, count)
        task = ray.remote(num_cpus=threads, max_retries=1)(index_shard)
        pending = {
            task.remote(
                str(path), inputs, choice, replace(chosen, shard=Shard(number, count)), str(target), rehash
            ): path
            for number, path in enumerate(paths, start=1)
        }
        failed = _gather(ray, pending, total)
    merged = _merge(target, paths, total)
    if merged and not failed:
        shutil.rmtree(folder, ignore_errors=True)
    total.seconds = time.monotonic() - started
    return total


def index_shard(
    part: str, sources: list[str], choice: ModelChoice, options: IndexOptions, base: str, rehash: bool
) -> IndexReport:
    """Index one shard into its part archive; what a worker runs."""
    from lrsclip_rt.archive.content_stamps import ContentStamps, stamps_path
    from lrsclip_rt.embedder import load

    Path(part).parent.mkdir(parents=True, exist_ok=True)
    model = load(
        choice.bundle,
        backend=choice.backend,
        precision=choice.precision,
        device=choice.device,
        threads=choice.threads,
    )
    with ContentStamps(stamps_path()) as stamps:
        return index_sources(part, sources, model, options, stamps=stamps, rehash=rehash, base=base)


def _gather(ray: Any, pending: dict[Any, Path], total: IndexReport) -> bool:
    """Wait for the tasks and add their reports up; whether one failed as a whole."""
    failed = False
    while pending:
        ready, _ = ray.wait(list(pending), num_returns=1)
        path = pending.pop(ready[0])
        try:
            _add(total, ray.get(ready[0]))
        except (ray.exceptions.RayError, LrsclipError) as error:
            cause = getattr(error, "cause", None) or error
            lines = str(cause).strip().splitlines() or [type(cause).__name__]
            total.failures.append((str(path), f"the worker of this part failed: {lines[0]}"))
            failed = True
    return failed


def _merge(target: Path, paths: Sequence[Path], total: IndexReport) -> bool:
    """Merge the parts that are there; whether all of their sources could be taken."""
    from lrsclip_rt.archive.merging import merge_archives

    made = [path for path in paths if path.is_dir() and is_created(path)]
    if not made:
        return True
    report = merge_archives(target, made)
    total.archive_rows = report.rows
    total.failures += report.failures
    return not report.failures


@contextmanager
def _cluster(address: str) -> Iterator[Any]:
    """A connection to a cluster, which ends with it; ours also where it is a local one."""
    try:
        import ray
    except ImportError as error:
        raise DependencyError.of("ray", extra="cluster") from error
    if ray.is_initialized():
        yield ray
        return
    try:
        if address == LOCAL:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would report its use to its makers
            # Files hand over all that is large, so the object store can be small.
            ray.init(
                address="local",
                include_dashboard=False,
                log_to_driver=False,
                object_store_memory=80 * 2**20,
            )
        else:
            ray.init(address=address, log_to_driver=False)
    except (OSError, RuntimeError, ValueError) as error:
        raise WorkerError(
            f"no Ray cluster at {address!r} ({error}); start one with: ray start --head"
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _part_paths(folder: Path, count: int) -> list[Path]:
    """Where the parts lie.

    Raises:
        InputError: If there are parts of another number of shards.
    """
    names = [f"{number:05}-of-{count:05}" for number in range(1, count + 1)]
    if folder.is_dir():
        foreign = sorted(path.name for path in folder.iterdir() if path.name not in names)
        if foreign:
            raise InputError(
                f"{folder} holds {foreign[0]}, which is no part of {count}. Go on with as many --shards as "
                "before, merge what is there (lrsclip archive merge) or name another folder with --parts"
            )
    return [folder / name for name in names]


def _add(total: IndexReport, report: IndexReport) -> None:
    total.files += report.files
    total.bytes_done += report.bytes_done
    total.bytes_known += report.bytes_known
    total.new_sources += report.new_sources
    total.known_sources += report.known_sources
    total.rows += report.rows
    total.skipped_windows += report.skipped_windows
    total.replaced += report.replaced
    total.failures += report.failures

"""An archive from a GeoParquet file of embeddings: everything is checked before anything is written."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lrsclip_rt.archive.geoparquet.reading import ParquetTable
from lrsclip_rt.archive.geoparquet.rows import ImportedRow, imported_rows
from lrsclip_rt.archive.models import model_from_bundle
from lrsclip_rt.archive.records import ModelRecord, Producer
from lrsclip_rt.archive.schema import is_created
from lrsclip_rt.archive.source_facts import GridRecord
from lrsclip_rt.archive.store import Archive
from lrsclip_rt.archive.writing import ArchiveWriter
from lrsclip_rt.errors import ArchiveModelError, BundleError, InputError

if TYPE_CHECKING:
    from lrsclip_rt.bundle import Bundle

__all__ = ["ImportReport", "import_geoparquet"]

COMMIT_ROWS = 65_536
_SHORTEST_IDENTITY = 12


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What an import did.

    Attributes:
        kind: Whose columns the file has.
        rows: Rows of the file.
        rows_added: Rows that the archive did not have.
        sources: Sources that they belong to.
        archive_rows: Rows of the archive now.
        model: Whose vectors they are.
        text_tower: Whether the archive can embed texts.
        lossy: Whether the file holds quantised vectors.
    """

    kind: str
    rows: int
    rows_added: int
    sources: int
    archive_rows: int
    model: ModelRecord
    text_tower: bool
    lossy: bool


def import_geoparquet(
    archive: str | Path,
    path: str | Path,
    *,
    model_id: str | None = None,
    bundle: Bundle | None = None,
    progress: Callable[[int], None] | None = None,
) -> ImportReport:
    """Append the rows of a file to an archive, which is made where there is none.

    The file is read twice: once to check every row, and once to write. A disk that refuses half-way leaves
    the rows committed so far, and the same call goes on from there.

    Args:
        archive: The archive's folder.
        path: An exported archive, or a file with the columns of Major TOM, Clay v0, Planet or Earth Index.
        model_id: Says which model made the rows of a file that does not say so itself: any text for a new
            archive; for an existing one the identity of its model, 12 digits of it, or its name.
        bundle: The model's bundle, whose text tower a new archive keeps; for a file that does not name its
            model it says which one it is.
        progress: Called with the number of rows read, twice for every row.

    Raises:
        InputError: If the file cannot be used; the archive is as it was.
        ArchiveModelError: If its rows are of another model than the archive's, or the model is not known.
        ArchiveError: If the archive cannot be written.
        DependencyError: If pyarrow is not installed.
    """
    folder = Path(archive)
    with ParquetTable.open(path) as table:
        held = _held_model(folder)
        model = _model(table, held, model_id, bundle)
        producers = _checked(table, progress or (lambda _: None))
        tower = None if held is not None else _tower(model, bundle)
        return _written(folder, table, model, producers, tower, progress or (lambda _: None))


def _checked(table: ParquetTable, progress: Callable[[int], None]) -> list[Producer | None]:
    """Look at every row; the producers that the file names, most rows first."""
    counts: dict[Producer | None, int] = {}
    for batch in table.batches():
        for row in imported_rows(table, batch):
            counts[row.producer] = counts.get(row.producer, 0) + 1
        progress(len(batch))
    return sorted(counts, key=lambda producer: -counts[producer]) or [None]


def _written(
    folder: Path,
    table: ParquetTable,
    model: ModelRecord,
    producers: list[Producer | None],
    tower: Bundle | None,
    progress: Callable[[int], None],
) -> ImportReport:
    grids: dict[int, tuple[GridRecord, ...]] = {}
    added = rows = 0
    for number, producer in enumerate(producers):
        by = producer or Producer("imported", table.kind)
        with ArchiveWriter(folder, model, by, bundle=tower) as writer:
            for batch in table.batches():
                chosen = [row for row in imported_rows(table, batch) if row.producer == producer]
                added += _append(writer, chosen, grids)
                if writer.pending_rows >= COMMIT_ROWS:
                    writer.commit()
                if number == 0:
                    progress(len(batch))
            if number == len(producers) - 1:
                _finish(writer, grids)
            writer.commit()
            rows = writer.rows
    with Archive.open(folder) as opened:
        keeps_tower = (opened.path / "model").is_dir()
    return ImportReport(table.kind, table.rows, added, len(grids), rows, model, keeps_tower, table.lossy)


def _append(
    writer: ArchiveWriter, rows: Iterable[ImportedRow], grids: dict[int, tuple[GridRecord, ...]]
) -> int:
    """Append rows source by source, in the order in which the sources first appear."""
    by_source: dict[str, list[ImportedRow]] = {}
    for row in rows:
        by_source.setdefault(row.content.content_sha256, []).append(row)
    added = 0
    for group in by_source.values():
        first = group[0]
        source = writer.add_source(first.content)
        if source not in grids:
            for location in first.locations:
                writer.add_location(source, location)
            writer.add_metadata(source, first.metadata)
            grids[source] = first.grids
        added += writer.append(source, [row.tile for row in group], np.stack([row.vector for row in group]))
    return added


def _finish(writer: ArchiveWriter, grids: dict[int, tuple[GridRecord, ...]]) -> None:
    """Only now is every row there, so that no later index has to look at these windows again."""
    for source, finished in grids.items():
        for grid in finished:
            writer.finish_grid(
                source, level=grid.level, overlap=grid.overlap, windows=grid.windows, skipped=grid.skipped
            )


# -- the model -----------------------------------------------------------------------------------------


def _held_model(folder: Path) -> ModelRecord | None:
    if not is_created(folder):
        return None
    with Archive.open(folder) as opened:
        return opened.model


def _model(
    table: ParquetTable, held: ModelRecord | None, model_id: str | None, bundle: Bundle | None
) -> ModelRecord:
    """Whose vectors the rows are.

    Raises:
        ArchiveModelError: If that is not known, or another one than the archive's.
    """
    given = None if bundle is None else model_from_bundle(bundle)
    if table.facts:
        model = _own_model(table)
        if given is not None and given.identity != model.identity:
            raise ArchiveModelError(f"{table.path} holds vectors of {model}, but the bundle is {given}")
        if model_id is not None and not _names(model_id, model):
            raise ArchiveModelError(f"{table.path} holds vectors of {model}, not of {model_id}")
    elif given is not None:
        model = given
    elif held is not None:
        if model_id is None or not _names(model_id, held):
            said = (
                "does not say which model made its rows"
                if model_id is None
                else f"is said to be of {model_id}"
            )
            raise ArchiveModelError(
                f"{table.path} {said}, and the archive holds vectors of {held}. If they are of that model, "
                f"pass --model-id {held.identity[:_SHORTEST_IDENTITY]}; else import into a new archive"
            )
        model = held
    else:
        model = _stated_model(table, model_id)
    if model.dim != table.dim:
        raise ArchiveModelError(
            f"{table.path} has vectors of {table.dim} numbers, but {model} has {model.dim}"
        )
    if held is not None and (held.identity, held.dim) != (model.identity, model.dim):
        raise ArchiveModelError(
            f"{table.path} holds vectors of {model}, the archive holds vectors of {held}. "
            "Import into another archive"
        )
    return held or model


def _own_model(table: ParquetTable) -> ModelRecord:
    record: Any = table.facts.get("model")
    try:
        path = record["bundle_path"]
        identity, name = str(record["identity"]), str(record["name"])
        return ModelRecord(identity, name, int(record["dim"]), None if path is None else str(path))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{table.path} has a footer whose model cannot be understood: {record}") from error


def _stated_model(table: ParquetTable, model_id: str | None) -> ModelRecord:
    """A model that only its name tells; without a name it is like no other, not even in a second file."""
    if model_id is None:
        said = f"unnamed/{table.kind}/{table.dim}/{_sha256(table.path)}"
        return ModelRecord(hashlib.sha256(said.encode()).hexdigest(), f"unnamed ({table.kind})", table.dim)
    lowered = model_id.lower()
    if len(lowered) == 64 and not set(lowered) - set("0123456789abcdef"):
        return ModelRecord(lowered, f"{table.kind} {lowered[:8]}", table.dim)
    said = f"named/{model_id}"
    return ModelRecord(hashlib.sha256(said.encode()).hexdigest(), model_id, table.dim)


def _names(model_id: str, model: ModelRecord) -> bool:
    short = len(model_id) >= _SHORTEST_IDENTITY and model.identity.startswith(model_id.lower())
    return short or model_id == model.name


def _tower(model: ModelRecord, bundle: Bundle | None) -> Bundle | None:
    """The bundle whose text tower a new archive keeps: the one given, the recorded one, or the built-in."""
    from lrsclip_rt.bundle import Bundle

    if bundle is not None:
        return bundle
    for path in (None if model.bundle_path is None else Path(model.bundle_path), None):
        try:
            found = Bundle.open(path)
        except BundleError:
            continue
        if found.identity == model.identity:
            return found
    return None


def _sha256(path: Path) -> str:
    from lrsclip_rt.archive.inputs import sha256_and_size

    return sha256_and_size(path)[0]

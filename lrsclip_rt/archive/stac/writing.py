"""STAC 1.1 records of an exported archive: a Collection and its one Item, with the embeddings extension."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lrsclip_rt.archive.footprints import Bbox, boxes_of, geometry_from_rings
from lrsclip_rt.archive.geoparquet.columns import VectorType
from lrsclip_rt.archive.geoparquet.writing import WrittenFile
from lrsclip_rt.archive.store import Archive
from lrsclip_rt.archive.times import text_from_time_us
from lrsclip_rt.errors import InputError, OutputExistsError

__all__ = ["EMBEDDINGS_EXTENSION", "PARQUET_TYPE", "stac_paths", "write_stac"]

STAC_VERSION = "1.1.0"
EMBEDDINGS_EXTENSION = "https://stac-extensions.github.io/embeddings/v0.0.1/schema.json"
PARQUET_TYPE = "application/vnd.apache.parquet"

_WORLD: Bbox = (-180.0, -90.0, 180.0, 90.0)


def stac_paths(parquet: Path) -> tuple[Path, Path]:
    """Where the Collection and the Item of a parquet file lie.

    Example:
        >>> [path.name for path in stac_paths(Path("port.parquet"))]
        ['port.collection.json', 'port.item.json']
    """
    return parquet.with_suffix(".collection.json"), parquet.with_suffix(".item.json")


def write_stac(
    archive: Archive, written: WrittenFile, *, vectors: VectorType, overwrite: bool = False
) -> tuple[Path, Path]:
    """Describe an exported file by a Collection and an Item beside it.

    STAC asks for a box and a time: without any place the extent of the Collection is the whole world, which
    its description says; without any time its Item has the time at which the archive was made.

    Args:
        archive: The archive that was exported.
        written: Its file.
        vectors: Type of the vectors in it.
        overwrite: Whether existing files may be replaced.

    Raises:
        OutputExistsError: If one of the files exists.
        InputError: If they cannot be written.
    """
    collection_path, item_path = stac_paths(written.path)
    for path in (collection_path, item_path):
        if path.exists() and not overwrite:
            raise OutputExistsError(f"{path} exists. Choose another name, or pass --overwrite")
    collection = _collection(archive, written, vectors, item_path.name)
    item = _item(archive, written, vectors, collection_path.name)
    try:
        for path, record in ((collection_path, collection), (item_path, item)):
            path.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"{error.filename} cannot be written: {error.strerror}") from error
    return collection_path, item_path


def _collection(
    archive: Archive, written: WrittenFile, vectors: VectorType, item_name: str
) -> dict[str, Any]:
    extent = written.extent or _WORLD
    first, last = _interval(written)
    without = f" {written.rows_without_place} of them have no place." if written.rows_without_place else ""
    record: dict[str, Any] = {
        "type": "Collection",
        "stac_version": STAC_VERSION,
        "stac_extensions": [EMBEDDINGS_EXTENSION],
        "id": written.path.stem,
        "title": f"Embeddings of {written.path.stem}",
        "description": f"{written.rows} image tiles embedded by {archive.model.name}.{without}",
        "license": "other",
        "extent": {"spatial": {"bbox": [list(extent)]}, "temporal": {"interval": [[first, last]]}},
        "emb:type": "chip",
        "emb:dimensions": archive.dim,
        "data_type": vectors,
        "links": [
            {"rel": "root", "href": f"./{written.path.stem}.collection.json", "type": "application/json"},
            {"rel": "item", "href": f"./{item_name}", "type": "application/geo+json"},
            _model_link(archive),
            *_source_links(archive, written),
        ],
        "assets": {"embeddings": _asset(written)},
    }
    layout = _chip_layout(archive)
    if layout is not None:
        record["emb:chip_layout"] = layout
    return record


def _item(
    archive: Archive, written: WrittenFile, vectors: VectorType, collection_name: str
) -> dict[str, Any]:
    first, last = _interval(written)
    made = archive.info.created.replace("+00:00", "Z")
    times = (
        {"datetime": made}
        if first is None
        else {"datetime": None, "start_datetime": first, "end_datetime": last}
    )
    record: dict[str, Any] = {
        "type": "Feature",
        "stac_version": STAC_VERSION,
        "stac_extensions": [EMBEDDINGS_EXTENSION],
        "id": f"{written.path.stem}-tiles",
        "collection": written.path.stem,
        "geometry": None,
        "properties": {**times, "emb:quantization": _quantization(vectors)},
        "links": [
            {"rel": "root", "href": f"./{collection_name}", "type": "application/json"},
            {"rel": "parent", "href": f"./{collection_name}", "type": "application/json"},
            {"rel": "collection", "href": f"./{collection_name}", "type": "application/json"},
            *_source_links(archive, written),
        ],
        "assets": {"embeddings": _asset(written)},
    }
    if written.extent is not None:
        rings = tuple(_ring(box) for box in boxes_of(written.extent))
        record["bbox"] = list(written.extent)
        record["geometry"] = geometry_from_rings(rings)
    return record


def _asset(written: WrittenFile) -> dict[str, Any]:
    return {
        "href": f"./{written.path.name}",
        "type": PARQUET_TYPE,
        "title": "One row a tile: footprint, time, source and embedding",
        "roles": ["data"],
    }


def _quantization(vectors: VectorType) -> dict[str, str]:
    method = "linear" if vectors == "int8" else "none"
    return {"method": method, "original_dtype": "float32", "quantized_dtype": vectors}


def _chip_layout(archive: Archive) -> dict[str, Any] | None:
    """The grid of the archive, where all sources share one; several levels or none make no layout."""
    grids = archive.catalog.rows("SELECT DISTINCT level, overlap FROM grids LIMIT 2")
    if len(grids) != 1 or grids[0][0] == 0:
        return None
    edge, overlap = int(grids[0][0]), float(grids[0][1])
    stride = max(1, round(edge * (1 - overlap)))
    return {"layout_type": "regular_grid", "chip_size": [edge, edge], "stride": [stride, stride]}


def _model_link(archive: Archive) -> dict[str, Any]:
    identity = archive.model.identity
    return {"rel": "emb:model", "href": f"urn:lrsclip:model:{identity}", "title": archive.model.name}


def _source_links(archive: Archive, written: WrittenFile) -> list[dict[str, Any]]:
    """The roots that the sources lie under; without any the file itself, whose rows name their sources."""
    roots = archive.catalog.rows("SELECT name, path FROM roots ORDER BY root")
    links = [
        {"rel": "emb:source-data", "href": Path(path).as_uri(), "title": name}
        for name, path in roots
        if Path(path).is_absolute()
    ]
    if links:
        return links
    return [{"rel": "emb:source-data", "href": f"./{written.path.name}", "title": "column source_href"}]


def _interval(written: WrittenFile) -> tuple[str | None, str | None]:
    if written.first_time_us is None or written.last_time_us is None:
        return None, None
    return text_from_time_us(written.first_time_us), text_from_time_us(written.last_time_us)


def _ring(box: Bbox) -> tuple[tuple[float, float], ...]:
    west, south, east, north = box
    return (west, south), (east, south), (east, north), (west, north), (west, south)

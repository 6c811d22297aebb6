"""STAC items, item collections and catalogues."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

from fuzz.harness import FilesHarness, packed
from fuzz.mutation import mutated_json
from lrsclip_rt.archive.stac.reading import RefusedItem, assets_from_stac, stac_in_folder

__all__ = ["StacHarness"]

_ITEM: dict[str, Any] = {
    "type": "Feature",
    "stac_version": "1.0.0",
    "id": "a",
    "collection": "c",
    "geometry": None,
    "properties": {
        "datetime": "2024-05-31T10:20:00Z",
        "eo:cloud_cover": 9.5,
        "proj:code": "EPSG:32650",
        "proj:shape": [10, 20],
        "proj:transform": [10, 0, 500000, 0, -10, 4000000],
    },
    "assets": {
        "visual": {"href": "./a.tif", "type": "image/tiff", "roles": ["data"]},
        "thumbnail": {"href": "a.png", "roles": ["thumbnail"]},
    },
    "links": [],
}
_CATALOG = {
    "type": "Catalog",
    "stac_version": "1.0.0",
    "id": "root",
    "description": "",
    "links": [{"rel": "item", "href": "item.json"}, {"rel": "child", "href": "inner/catalog.json"}],
}
_INNER = {
    "type": "Catalog",
    "stac_version": "1.0.0",
    "id": "inner",
    "links": [{"rel": "item", "href": "../item.json"}],
}


class StacHarness(FilesHarness):
    """Walks a catalogue, an item and a collection; what an item names is not opened."""

    name = "STAC items"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        (self.root / "inner").mkdir(parents=True)
        documents: dict[str, Any] = {
            "catalog.json": _CATALOG,
            "item.json": _ITEM,
            "items.geojson": {"type": "FeatureCollection", "features": [_ITEM, {**_ITEM, "id": "b"}]},
            "inner/catalog.json": _INNER,
        }
        self.sound = {name: json.dumps(document).encode() for name, document in documents.items()}
        for name, content in self.sound.items():
            (self.root / name).write_bytes(content)
        self.seeds = [packed({number: content}) for number, content in enumerate(self.sound.values())]

    def mutate_file(self, name: str, content: bytes, rng: Random) -> bytes:
        """As JSON."""
        return mutated_json(content, rng)

    def feed(self, data: bytes) -> None:
        """Items that cannot be used come out as such, they are not raised."""
        changed = self.put(data)
        stac_in_folder(self.root)
        for name in {"catalog.json", *changed}:
            for found in assets_from_stac(self.root / name):
                if isinstance(found, RefusedItem):
                    assert found.reason
                else:
                    assert all(isinstance(value, str) for value in found.facts.metadata.values())

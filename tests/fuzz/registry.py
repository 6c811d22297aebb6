"""The harnesses by name; each is imported when it is asked for."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from fuzz.harness import Harness

__all__ = ["GUIDED", "NEEDED", "PARSERS", "harness_from_name"]

PARSERS = {
    "bundle.json": "bundles:BundleHarness",
    "archive segments and codes": "archives:SegmentsHarness",
    "archive.db": "databases:DatabaseHarness",
    "checkpoints": "checkpoints:CheckpointHarness",
    "calibration caches": "caches:CachesHarness",
    "pairs.jsonl": "pair_files:PairsHarness",
    "images": "images:ImagesHarness",
    "GeoTIFF headers": "rasters:RastersHarness",
    "query strings": "queries:QueriesHarness",
    "GeoParquet": "tables:TablesHarness",
    "STAC items": "stac_items:StacHarness",
}
"""What is fuzzed, and where its harness is."""

NEEDED = {
    "bundle.json": ("onnx",),
    "archive segments and codes": ("faiss",),
    "checkpoints": ("torch", "safetensors"),
    "calibration caches": ("torch", "onnx"),
    "pairs.jsonl": ("torch",),
    "GeoTIFF headers": ("rasterio",),
    "query strings": ("rasterio", "psycopg"),
    "GeoParquet": ("pyarrow",),
}
"""Libraries without which a harness cannot run."""

GUIDED = {
    "bundle.json": (
        "lrsclip_rt.bundle",
        "lrsclip_rt.bundle_records",
        "lrsclip_rt.json_fields",
        "lrsclip_rt.parity",
        "lrsclip_rt.npz_reading",
        "lrsclip_rt.probe",
        "lrsclip_rt.task_parity",
        "lrsclip_rt.task_changes",
        "lrsclip_rt.bpe",
    ),
    "archive segments and codes": ("lrsclip_rt.archive",),
    "checkpoints": ("lrsclip_train",),
}
"""Parsers whose cases coverage chooses as well, and the modules that are watched."""


def harness_from_name(name: str, folder: Path) -> Harness:
    """The harness of a parser, at work in an empty folder; also one that only ``module:Class`` names."""
    module, _, kind = PARSERS.get(name, name).partition(":")
    made: Harness = getattr(import_module(f"fuzz.{module}"), kind)(folder)
    return made

"""Rendered aerial scenes with exact truth and descriptions."""

from __future__ import annotations

from .descriptions import PHRASES, Contradiction, contradict, contradiction, describe_long, describe_short
from .scene import CLASSES, DEMO_SEEDS, TEST_SEEDS, TRAIN_SEEDS, render_scene, render_tile
from .truth import Fact, RenderedScene, Slot, TruthObject

__all__ = [
    "CLASSES", "DEMO_SEEDS", "PHRASES", "TEST_SEEDS", "TRAIN_SEEDS",
    "Contradiction", "Fact", "RenderedScene", "Slot", "TruthObject",
    "contradict", "contradiction", "describe_long", "describe_short", "render_scene", "render_tile",
]  # fmt: skip

"""Where in a scene a text fits: windows, embeddings, score maps, regions and their files."""

from __future__ import annotations

from lrsclip_rt.localization.heatmap import Heatmap, Region
from lrsclip_rt.localization.pipeline import Localization, localize, localize_scene
from lrsclip_rt.localization.pyramid import FastOptions

__all__ = ["FastOptions", "Heatmap", "Localization", "Region", "localize", "localize_scene"]

"""A calibration that is not like the data: the precision made from it is caught on data, and not chosen."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from lrsclip_export.exporting import export_bundle
from lrsclip_rt.backend_choice import candidates
from lrsclip_rt.bundle import BUILT_IN, Bundle
from lrsclip_rt.cli.check import command
from lrsclip_rt.rendering import CLASSES, TEST_SEEDS, describe_long, describe_short, render_tile

pytest.importorskip("openvino", reason="int8 files run on openvino here")
pytestmark = pytest.mark.usefixtures("cache_home")


def write_data(folder: Path, *, noise: bool, seeds: list[int]) -> Path:
    """Rendered tiles with captions; or random numbers in place of the tiles."""
    (folder / "images").mkdir(parents=True)
    lines = []
    for number, seed in enumerate(seeds):
        tile = render_tile(CLASSES[number % len(CLASSES)], seed, size=96)
        random = np.random.default_rng(seed).integers(0, 256, tile.pixels.shape).astype(np.uint8)
        Image.fromarray(random if noise else tile.pixels).save(folder / "images" / f"{number:03}.png")
        texts = {"short": [describe_short(tile)], "long": describe_long(tile)}
        lines.append(json.dumps({"image": f"images/{number:03}.png", **texts}))
    (folder / "pairs.jsonl").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def typical(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data") / "typical", noise=False, seeds=list(TEST_SEEDS[:64]))


@pytest.mark.parametrize("noise", [False, True], ids=["typical", "noise"])
def test_only_a_calibration_like_the_data_passes_on_data(tmp_path, typical, noise) -> None:
    seen = write_data(tmp_path / "seen", noise=noise, seeds=list(range(4_000_000, 4_000_064)))
    out = tmp_path / "bundle"
    export_bundle(BUILT_IN, out, precisions=("int8",), calibration=seen, allow_failed=True)
    words = [str(out), "--data", str(typical), "--backend", "openvino", "--threads", "1", "--record"]
    result = CliRunner().invoke(command, words)
    rows = {row["precision"]: row for row in map(json.loads, result.stdout.splitlines())}
    chosen = {
        choice.precision for choice in candidates(Bundle.open(out), precision="auto", backend="openvino")
    }
    if noise:
        assert rows["int8"]["status"] == "failed"
        assert "typical: top-1 agreement" in rows["int8"]["reason"]
        assert "int8" not in chosen
    else:
        assert rows["int8"]["status"] == "passed"
        assert "int8" in chosen

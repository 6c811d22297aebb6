"""The shell and Python lines of the README, and of the page on searching, run as they stand."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from lrsclip_rt import bundle as bundle_module
from lrsclip_rt.bundle import BUILT_IN, MANIFEST_FILE
from lrsclip_rt.cli import cli

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SEARCHING = (ROOT / "docs" / "searching.md").read_text(encoding="utf-8")
FIELD = [[3.0, 50.0], [8.0, 50.0], [8.0, 54.0], [3.0, 54.0], [3.0, 50.0]]


@pytest.fixture
def folder(tmp_path, monkeypatch, request) -> Path:
    """A folder with the files that the README speaks of, entered."""
    if not (BUILT_IN / MANIFEST_FILE).is_file():
        monkeypatch.setattr(bundle_module, "BUILT_IN", request.getfixturevalue("tiny_bundle"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    Image.fromarray(generator.integers(0, 256, (80, 100, 3), dtype=np.uint8)).save("images/a.jpg")
    write_scene(Path("scene.tif"), generator.integers(0, 256, (3, 320, 400), dtype=np.uint8))
    return tmp_path


def write_scene(path: Path, pixels) -> None:
    rasterio = pytest.importorskip("rasterio")
    place = rasterio.Affine(0.5, 0, 600_000, 0, -0.5, 5_760_000)
    count, height, width = pixels.shape
    profile = {"driver": "GTiff", "count": count, "height": height, "width": width, "dtype": "uint8"}
    with rasterio.open(path, "w", crs="EPSG:32631", transform=place, **profile) as scene:
        scene.write(pixels)


def shell_lines(*commands: str, page: str = README) -> list[list[str]]:
    lines = [
        line.partition(" #")[0]
        for block in re.findall(r"```sh\n(.*?)```", page, re.S)
        for line in block.splitlines()
    ]
    words = [shlex.split(line) for line in lines if line.startswith("lrsclip ")]
    return [line[1:] for line in words if line[1] in commands]


def test_the_lines_of_the_readme_run_one_after_the_other(folder):
    for line in shell_lines("index", "search", "localize"):
        result = CliRunner().invoke(cli, line)
        assert result.exit_code == 0, (line, result.output, result.exception)
        # Noise is no river: a model with a threshold says so.
        assert result.stdout.strip() or "no match" in result.stderr, line
    assert {path.suffix for path in (folder / "heat").iterdir()} >= {".tif", ".png", ".geojson"}

    (program,) = re.findall(r"```python\n(.*?)```", README, re.S)
    names: dict[str, object] = {}
    with contextlib.redirect_stdout(None):
        exec(compile(program, "README.md", "exec"), names)
    assert len(names["hits"]) == len(names["heat"]) == 1
    assert len(names["hits"][0]) > 0, "the place of the filter is that of the scene"
    assert names["images"].shape == (1, names["model"].dim)


def test_the_lines_of_the_page_on_searching_run_one_after_the_other(folder):
    Path("field.geojson").write_text(json.dumps({"type": "Polygon", "coordinates": [FIELD]}))
    for line in shell_lines("index", "search", page=SEARCHING):
        result = CliRunner().invoke(cli, line)
        assert result.exit_code == 0, (line, result.output, result.exception)
        assert result.stdout.strip() or "no match" in result.stderr or "-o" in line or "--since" in line, line
    assert {path.suffix for path in folder.glob("hits.*")} == {".html", ".geojson", ".jsonl"}
    (program,) = re.findall(r"```python\n(.*?)```", SEARCHING, re.S)
    names: dict[str, object] = {}
    with contextlib.redirect_stdout(None):
        exec(compile(program, "searching.md", "exec"), names)
    assert len(names["hits"][0]) > 0


def test_the_python_of_the_readme_has_eight_lines_and_the_shell_five():
    (program,) = re.findall(r"```python\n(.*?)```", README, re.S)
    assert len(program.strip().splitlines()) == 8
    (shell,) = re.findall(r"## Five lines of shell\n+```sh\n(.*?)```", README, re.S)
    assert len(shell.strip().splitlines()) == 5

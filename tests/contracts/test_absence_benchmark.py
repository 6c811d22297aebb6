"""The benchmark of absence: what it prints and records, and that a search decides by what it stores."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from lrsclip_rt.benchmarking import RECORD_KEYS
from lrsclip_rt.bundle import Bundle
from lrsclip_rt.cli import cli

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("Airport", "BareLand", "Beach", "Farmland", "Forest", "StorageTanks")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve images of each class: one colour a class, and some noise."""
    folder = tmp_path_factory.mktemp("absence")
    (folder / "images").mkdir()
    generator = np.random.default_rng(0)
    lines = []
    for name in NAMES:
        colour = generator.integers(30, 220, 3)
        for number in range(12):
            pixels = colour + generator.integers(-30, 30, (40, 40, 3))
            Image.fromarray(pixels.astype(np.uint8)).save(folder / "images" / f"{name}_{number}.png")
            line = {"image": f"images/{name}_{number}.png", "class": name, "short": [f"{name} {number} ."]}
            lines.append({**line, "split": "train" if number == 0 else "val"})
    (folder / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "benchmarks" / "absence.py"), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "train")])}
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=environment)


def test_one_command_measures_records_and_stores(tiny_bundle: Path, data: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, bundle)
    before = Bundle.open(bundle)
    assert before.manifest.presence_threshold is None
    done = run(data, "-b", bundle, "--bank", 6, "--record", "--results", tmp_path / "results", "--store")
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout.splitlines()[-1])
    assert sorted(record) == sorted(RECORD_KEYS)
    assert len(list((tmp_path / "results").glob("*/absence.jsonl"))) == 1

    rules = [row for row in record["results"] if row["what"] == "rule"]
    assert {row["queries"] for row in rules} == {"prompts", "other words", "captions"}
    for row in rules:
        assert row["present_accepted"] >= 90.0
        assert 0.0 <= row["absent_accepted"] <= 100.0
        assert row["interval"]["low"] <= row["absent_accepted"] + 1e-9 <= row["interval"]["high"] + 2e-9
    [verdict] = [row for row in record["results"] if row["what"] == "one threshold" and row["in_use"]]
    assert verdict["rule"] == "mean of ten best"
    asked = ("prompts", "captions")
    shares = [verdict["all_classes"][kind]["present_accepted"] for kind in asked]
    assert np.mean(shares) >= 90.0 - 1e-9

    after = Bundle.open(bundle)
    assert after.manifest.presence_threshold == verdict["threshold"]
    assert after.identity == before.identity
    archive = tmp_path / "archive"
    indexed = CliRunner().invoke(cli, ["index", str(data / "images"), "-a", str(archive), "-b", str(bundle)])
    assert indexed.exit_code == 0, indexed.output
    for text in ("a satellite photo of beach.", "zzz qqq"):
        searched = CliRunner().invoke(cli, ["search", str(archive), text, "-k", "1"])
        assert searched.exit_code == 0, searched.output
        always = CliRunner().invoke(cli, ["search", str(archive), text, "--min-score", "2"])
        presence = float(always.stderr.partition("best cosines is ")[2].partition(",")[0])
        assert bool(searched.stdout) == (presence >= verdict["threshold"] - 5e-4)


def test_too_few_classes_are_refused(tiny_bundle: Path, data: Path, tmp_path: Path) -> None:
    few = tmp_path / "few"
    shutil.copytree(data, few)
    lines = [line for line in (data / "pairs.jsonl").read_text().splitlines() if '"Beach"' in line]
    (few / "pairs.jsonl").write_text("\n".join(lines))
    done = run(few, "-b", tiny_bundle)
    assert done.returncode != 0
    assert "names 1 classes, expected 5 or more" in done.stderr

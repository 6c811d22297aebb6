"""The ways to run ``lrsclip index``: dry, in shards, with STAC, replacing, and by Ray."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from lrsclip_rt.archive import Archive
from lrsclip_rt.archive.ingest import IndexReport
from lrsclip_rt.archive.merging import merge_archives
from lrsclip_rt.cli.index import command
from lrsclip_rt.cli.index_reporting import seconds_left

pytestmark = pytest.mark.usefixtures("cache_home")


def picture(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(path)
    return path


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    for seed in range(6):
        picture(tmp_path / "inputs" / f"{seed}.png", seed)
    return tmp_path / "inputs"


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return tmp_path / "archive"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def rows_of(result: Result, status: int = 0) -> list[dict[str, Any]]:
    assert result.exit_code == status, (result.output, result.exception)
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_a_dry_run_prints_sources_and_a_total_and_writes_nothing(
    inputs: Path, archive: Path, made_bundle: Path
) -> None:
    (inputs / "broken.png").write_bytes(b"no image")
    result = run(inputs, "-a", archive, "-b", made_bundle, "--tile", 25, "--overlap", 0, "--dry-run")
    rows = rows_of(result, 1)
    assert not archive.exists()
    assert [row["source"] for row in rows] == [*(str(inputs / f"{n}.png") for n in range(6)), "total"]
    assert [row["tiles"] for row in rows] == [4] * 6 + [24]
    assert rows[-1]["bytes"] > sum(row["bytes"] for row in rows[:-1]) > 0
    assert rows[-1]["seconds"] is not None
    assert "tiles/s on 24 of these tiles. Nothing was written" in result.stderr
    assert "broken.png" in result.stderr
    (inputs / "broken.png").unlink()
    rows_of(run(inputs, "-a", archive, "-b", made_bundle))
    again = run(inputs, "-a", archive, "-b", made_bundle, "--dry-run")
    assert rows_of(again)[-1]["tiles"] == 0
    assert "nothing to embed" in again.stderr


def test_shards_of_the_command_line_merge_to_the_whole(
    inputs: Path, archive: Path, made_bundle: Path, tmp_path: Path
) -> None:
    parts = [tmp_path / f"part{number}" for number in (1, 2)]
    added = [
        rows_of(run(inputs, "-a", part, "-b", made_bundle, "--shard", f"{number}/2"))[0]["rows_added"]
        for number, part in enumerate(parts, start=1)
    ]
    assert sum(added) == 6
    assert merge_archives(archive, parts).rows == 6
    assert rows_of(run(inputs, "-a", archive, "-b", made_bundle))[0]["sources_known"] == 6


def test_a_stac_item_is_a_source(inputs: Path, archive: Path, made_bundle: Path) -> None:
    record = {
        "type": "Feature",
        "stac_version": "1.1.0",
        "id": "zero",
        "properties": {"datetime": "2020-01-02T00:00:00Z"},
        "assets": {"a": {"href": "./0.png"}, "b": {"href": "./1.png"}},
    }
    path = inputs / "item.json"
    path.write_text(json.dumps(record))
    result = run(path, "-a", archive, "-b", made_bundle)
    assert rows_of(result, 1)[0]["failures"][0]["source"] == str(path)
    assert "name one with --asset" in result.stderr
    assert rows_of(run(path, "-a", archive, "-b", made_bundle, "--asset", "b"))[0]["rows"] == 1
    with Archive.open(archive) as opened:
        assert opened.locations(1) == [inputs / "1.png"]
        assert opened.catalog.sources_by_metadata({"id": "zero"}) == {1}


def test_replace_deletes_what_lay_there_before_unless_it_lies_elsewhere(
    inputs: Path, archive: Path, made_bundle: Path
) -> None:
    rows_of(run(inputs, "-a", archive, "-b", made_bundle))
    picture(inputs / "0.png", 100)
    kept = run(inputs, "-a", archive, "-b", made_bundle)
    assert rows_of(kept)[0]["rows"] == 7
    assert f"its former tiles stay: {inputs / '0.png'}" in kept.stderr
    one, two = (inputs / "1.png").read_bytes(), (inputs / "2.png").read_bytes()
    (inputs / "1.png").write_bytes(two)
    (inputs / "2.png").write_bytes(one)
    picture(inputs / "3.png", 103)
    [row] = rows_of(run(inputs, "-a", archive, "-b", made_bundle, "--replace"))
    assert (row["rows_added"], row["rows_deleted"], row["rows"]) == (1, 1, 7)
    assert {Path(path).name for path in row["replaced"]} == {"1.png", "2.png", "3.png"}
    with Archive.open(archive) as opened:
        assert len(opened) == 7
        sources = [number for (number,) in opened.catalog.rows("SELECT source FROM sources")]
        paths = sorted(path.name for number in sources for path in opened.locations(number))
    assert paths == [f"{n}.png" for n in range(6)]


def test_files_that_did_not_change_are_not_read_again(
    inputs: Path, archive: Path, made_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lrsclip_rt.archive import content_stamps, source_reading

    monkeypatch.setattr(content_stamps, "SETTLED_NS", -(10**12))
    rows_of(run(inputs, "-a", archive, "-b", made_bundle))
    hashed: list[Path] = []
    real = source_reading.sha256_and_size

    def counted(path: Path) -> tuple[str, int]:
        hashed.append(path)
        return real(path)

    monkeypatch.setattr(source_reading, "sha256_and_size", counted)
    assert rows_of(run(inputs, "-a", archive, "-b", made_bundle))[0]["sources_known"] == 6
    assert hashed == []
    picture(inputs / "0.png", 100)
    assert rows_of(run(inputs, "-a", archive, "-b", made_bundle))[0]["rows_added"] == 1
    assert hashed == [inputs / "0.png"]
    rows_of(run(inputs, "-a", archive, "-b", made_bundle, "--rehash"))
    assert len(hashed) == 1 + 6


@pytest.mark.parametrize(
    "arguments",
    [
        ["--dry-run", "--watch"],
        ["--watch", "--ray", "local"],
        ["--ray", "local", "--shard", "1/2"],
        ["--watch", "--shard", "1/2"],
        ["--ray", "local", "--replace"],
        ["--shards", "2"],
        ["--parts", "x"],
        ["--shard", "3/2"],
        ["--shard", "1"],
        ["--shard", "a/b"],
        ["--watch", "--every", "0"],
    ],
)
def test_ways_that_do_not_go_together_are_usage_mistakes(
    inputs: Path, archive: Path, made_bundle: Path, arguments: list[str]
) -> None:
    assert run(inputs, "-a", archive, "-b", made_bundle, *arguments).exit_code == 2
    assert not archive.exists()


def test_the_time_left_counts_bytes_that_are_still_to_be_read() -> None:
    report = IndexReport(seconds=10.0)
    assert seconds_left(report, 1_000) is None
    report.bytes_done, report.bytes_known = 200, 300
    assert seconds_left(report, 1_000) == pytest.approx(25.0)
    report.bytes_done = 700
    assert seconds_left(report, 1_000) == 0.0


@pytest.mark.slow
def test_ray_local_starts_and_ends_a_cluster_of_its_own(
    inputs: Path, archive: Path, made_bundle: Path
) -> None:
    pytest.importorskip("ray", reason="ray runs the cluster")
    code = "from lrsclip_rt.cli import main; main()"
    arguments = ["index", str(inputs), "-a", str(archive), "-b", str(made_bundle), "--ray", "local"]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments, "--shards", "2"],
        capture_output=True,
        text=True,
        check=False,
        env=dict(os.environ),
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["rows_added"] == 6
    assert not archive.with_name("archive.parts").exists()

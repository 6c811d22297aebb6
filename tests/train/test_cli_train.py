"""`lrsclip train`: what it writes, says and refuses; and a run that was killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import training_makers as make
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import load_file

from lrsclip_rt.cli import main
from lrsclip_train.cli.train import command
from lrsclip_train.config import TrainConfig


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make.tiles_folder(tmp_path_factory.mktemp("tiles"), train=10, val=4)


def config_file(config: TrainConfig) -> Path:
    path = Path(config.run).parent / f"{Path(config.run).name}.toml"
    path.write_text(make.toml_of(config), encoding="utf-8")
    return path


def test_a_run_writes_its_files_and_prints_the_released_one_alone(
    folder: Path, init: str, tmp_path: Path
) -> None:
    config = make.settings(tmp_path / "run", folder, init, steps=20, save_every=20, eval_every=10)
    done = CliRunner().invoke(command, [str(config_file(config))], catch_exceptions=False)
    run = tmp_path / "run"
    assert done.exit_code == 0
    assert done.stdout == f"{run / 'model.safetensors'}\n"
    told = done.stderr.splitlines()
    assert [line.split("  ")[0] for line in told] == ["step 10/20", "step 20/20"]
    assert all("images/s" in line and "val_mR" in line for line in told)
    rows = make.log_of(config)
    assert [row["step"] for row in rows] == list(range(1, 21))
    with Image.open(run / "log.png") as picture:
        assert picture.width > 500
    released = load_file(run / "model.safetensors")
    trained = torch.load(run / "last.pt", weights_only=True)["model"]
    assert released.keys() == trained.keys()
    assert all(torch.equal(released[name], trained[name]) for name in trained)


def test_an_existing_run_is_continued_by_word_alone(
    folder: Path,
    init: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = make.settings(tmp_path / "run", folder, init, steps=2)
    path = config_file(config)
    assert CliRunner().invoke(command, [str(path)], catch_exceptions=False).exit_code == 0
    before = (tmp_path / "run" / "last.pt").read_bytes()
    monkeypatch.setattr(sys, "argv", ["lrsclip", "train", str(path)])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 1
    told = capsys.readouterr().err
    assert told == (
        f"Error: {tmp_path / 'run'} holds a run already; go on with it (--resume), "
        "or name another folder as run\n"
    )
    assert (tmp_path / "run" / "last.pt").read_bytes() == before
    assert len(make.log_of(config)) == 2
    longer = config_file(make.changed(config, steps=3))
    done = CliRunner().invoke(command, [str(longer), "--resume"], catch_exceptions=False)
    assert done.exit_code == 0
    assert [row["step"] for row in make.log_of(config)] == [1, 2, 3]


def test_a_new_run_does_not_add_to_the_log_of_one_that_left_no_checkpoint(
    folder: Path, init: str, tmp_path: Path
) -> None:
    config = make.settings(tmp_path / "run", folder, init, steps=2)
    (tmp_path / "run" / "log.jsonl").write_text('{"step": 1}\n')
    assert CliRunner().invoke(command, [str(config_file(config))], catch_exceptions=False).exit_code == 0
    assert [row["step"] for row in make.log_of(config)] == [1, 2]
    assert "loss" in make.log_of(config)[0]


def test_checking_reports_training_and_validation_data_and_trains_nothing(
    folder: Path, init: str, tmp_path: Path
) -> None:
    config = make.settings(tmp_path / "run", folder, init)
    done = CliRunner().invoke(command, [str(config_file(config)), "--check-data", "--json"])
    assert done.exit_code == 0, done.output
    train, val = map(json.loads, done.stdout.splitlines())
    assert (train["data"], train["split"], train["images"]) == (str(folder), "train", 10)
    assert (val["split"], val["images"]) == ("val", 4)
    assert train["broken_images"] == []
    assert list((tmp_path / "run").iterdir()) == []


def test_checking_prints_a_page_on_a_terminal_and_fails_where_something_is_wrong(
    init: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = make.tile_rows(tmp_path / "data", 6)
    (tmp_path / "data" / rows[4]["image"]).write_bytes(b"no image")
    (tmp_path / "data" / rows[0]["image"]).write_bytes(b"no image")
    data = make.write_pairs(tmp_path / "data", rows, val=2)
    path = str(config_file(make.settings(tmp_path / "run", data, init)))
    monkeypatch.setattr("lrsclip_train.cli.train.wants_json", lambda asked: asked)
    done = CliRunner().invoke(command, [path, "--check-data"])
    assert done.exit_code == 1
    assert done.stdout.splitlines()[0] == f"{data} (train)"
    assert "images/4.jpg" in done.stdout
    assert f"{data} (val)" in done.stdout.splitlines()
    assert "images/0.jpg" in done.stdout
    done = CliRunner().invoke(command, [path, "--check-data", "--json"])
    assert done.exit_code == 1
    train, val = map(json.loads, done.stdout.splitlines())
    assert [finding["where"] for finding in train["broken_images"]] == ["images/4.jpg"]
    assert [finding["where"] for finding in val["broken_images"]] == ["images/0.jpg"]


def test_a_killed_run_resumes_to_the_weights_of_one_that_was_left_alone(
    folder: Path, init: str, tmp_path: Path
) -> None:
    options = {"steps": 30, "save_every": 2, "optimizer_ema": 0.9, "model_patch_dropout": 0.25}
    config = make.settings(tmp_path / "killed", folder, init, data_workers=1, **options)
    start = [sys.executable, "-m", "lrsclip_train", str(config_file(config)), "--threads", "1"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with (tmp_path / "told").open("w") as told:
        process = subprocess.Popen(start, env=environment, stdout=told, stderr=told)
        try:
            while not _checkpointed(config) and process.poll() is None:
                time.sleep(0.02)
            assert process.poll() is None, (tmp_path / "told").read_text()
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
    assert process.returncode == -signal.SIGKILL
    step = torch.load(tmp_path / "killed" / "last.pt", weights_only=True)["step"]
    assert 2 <= step < 30
    done = subprocess.run(
        [*start, "--resume"], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{tmp_path / 'killed' / 'model.safetensors'}\n"

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        whole = make.run_of(make.settings(tmp_path / "whole", folder, init, **options))
    finally:
        torch.set_num_threads(threads)
    resumed = torch.load(tmp_path / "killed" / "last.pt", weights_only=True)
    assert make.equal(resumed["trained"], whole["trained"])
    assert make.equal(resumed["model"], whole["model"])


def _checkpointed(config: TrainConfig) -> bool:
    """Whether the run is past its first checkpoint."""
    log = Path(config.run, "log.jsonl")
    return log.is_file() and log.read_text().count("\n") >= 3

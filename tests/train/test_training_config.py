"""A run's settings: tables of TOML, each mistake named."""

from __future__ import annotations

from pathlib import Path

import pytest
import training_makers as make

from lrsclip_rt.errors import InputError
from lrsclip_train.config import TrainConfig, config_from_toml

SMALLEST = 'run = "r"\nsteps = 4\n[data]\ntrain = "d"\n'


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("rate = 1.0\n" + SMALLEST, "unknown key rate; known are batch"),
        (SMALLEST + "colour = 1.0\n", r"unknown key data\.colour"),
        (SMALLEST + "[data.augment]\nhue = 1.0\n", r"unknown key data\.augment\.hue"),
        (SMALLEST + "[optimiser]\nlr = 1.0\n", "unknown key optimiser; known are .*optimizer"),
        (SMALLEST.replace("4", '"many"'), "steps must be int, got 'many'"),
        (SMALLEST.replace("4", "4.0"), r"steps must be int, got 4\.0"),
        (SMALLEST.replace("4", "true"), "steps must be int, got True"),
        (SMALLEST + "[optimizer]\nlr = true\n", r"optimizer\.lr must be float, got True"),
        (SMALLEST + "[data.augment]\nturns = 1\n", r"data\.augment\.turns must be bool, got 1"),
        (SMALLEST.replace('"d"', "[1]"), r"data\.train must be a list of strings, got \[1\]"),
        ('run = "r"\nsteps = 4\ndata = 3\n', "data must be a table, got 3"),
        ("batch = 8\n", "missing run, steps"),
        ('run = "r"\nsteps = 4\n', r"data\.train is empty"),
        (SMALLEST.replace("4", "0"), "steps must be at least 1, got 0"),
        (SMALLEST.replace("steps", "chunk = -1\nsteps"), "chunk must not be negative, got -1"),
        (SMALLEST.replace("steps", "seed = -1\nsteps"), "seed must not be negative, got -1"),
        ('precision = "fp8"\n' + SMALLEST, "precision must be fp32, bf16 or fp16, got 'fp8'"),
        (SMALLEST + "tile_share = 0.6\nscene_share = 0.4\n", r"keep the sum in \[0, 1\)"),
        (SMALLEST + "tile_share = -0.1\nscene_share = 0.4\n", r"keep the sum in \[0, 1\)"),
        (SMALLEST + "cached_views = 2\n", r"data\.cached_views needs model\.stem_weights"),
        (SMALLEST + 'cached_views = 2\n[model]\narchitecture = "ViT-B/16"\n', "needs the frozen stem"),
        (SMALLEST + '[model]\ninit = "i.pt"\nplain_steps = 3\n', "leave it out beside model.init"),
        (SMALLEST + "[model]\npatch_dropout = 1.0\n", r"model\.patch_dropout must be in \[0, 1\), got 1\.0"),
        (SMALLEST + "[optimizer]\nema = 1.5\n", r"optimizer\.ema must be in \[0, 1\), got 1\.5"),
        (SMALLEST + "[optimizer]\nmax_scale = 0.5\n", "max_scale must be at least 1"),
        (SMALLEST + '[loss]\nweight = "sudden"\n', "unknown pair weight 'sudden'"),
        (SMALLEST + "[loss]\nweight_start = 1.5\n", "must be in"),
        (SMALLEST + "[loss\n", "no readable TOML file"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_by_its_key(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "run.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=told):
        config_from_toml(path)


def test_a_file_that_is_not_there_or_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no readable TOML file"):
        config_from_toml(tmp_path / "absent.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="no readable TOML file"):
        config_from_toml(tmp_path / "bytes.toml")


def test_relative_paths_start_at_the_files_folder_and_empty_ones_stay_empty(tmp_path: Path) -> None:
    path = tmp_path / "here" / "run.toml"
    path.parent.mkdir()
    path.write_text(
        'run = "../runs/a"\nsteps = 4\n[data]\ntrain = ["d", "shards/{000..012}.tar"]\nval = "/v"\n'
        '[model]\ninit = "w.pt"\n'
    )
    config = config_from_toml(path)
    assert config.run == str(tmp_path / "runs" / "a")
    assert config.data.train == (str(path.parent / "d"), str(path.parent / "shards" / "{000..012}.tar"))
    assert (config.data.val, config.data.cache) == ("/v", "")
    assert (config.model.init, config.model.stem_weights, config.loss.teacher) == (
        str(path.parent / "w.pt"),
        "",
        "",
    )


def test_every_setting_comes_back_from_a_file(tmp_path: Path) -> None:
    config: TrainConfig = make.settings(
        tmp_path / "run",
        (str(tmp_path / "a"), str(tmp_path / "b")),
        str(tmp_path / "init.pt"),
        batch=6,
        precision="bf16",
        loss_weight="three-stage",
        data_hard_negatives=0.25,
        optimizer_ema=0.99,
    )
    path = tmp_path / "run.toml"
    path.write_text(make.toml_of(config))
    assert config_from_toml(path) == config


def test_a_whole_number_serves_where_a_fraction_is_meant(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(SMALLEST + "[optimizer]\nlr = 1\n")
    lr = config_from_toml(path).optimizer.lr
    assert (lr, type(lr)) == (1.0, float)

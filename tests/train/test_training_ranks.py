"""``torchrun`` with two processes gives what one process gives."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import training_makers as make

from lrsclip_train.batches import Planner
from lrsclip_train.config import TrainConfig
from lrsclip_train.prepare import prepare


def torchrun(config: TrainConfig, *options: str) -> subprocess.CompletedProcess[str]:
    path = Path(config.run) / "config.toml"
    path.write_text(make.toml_of(config), encoding="utf-8")
    launch = [
        *("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
        "-m",
        "lrsclip_train",
    ]
    return subprocess.run(
        [sys.executable, *launch, str(path), *options],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def uneven_steps(config: TrainConfig) -> list[tuple[bool, bool]]:
    """For each step: have the two halves unlike numbers of long texts, and has one of them none."""
    sources, _ = prepare(config)
    planner = Planner(config, [source.samples for source in sources])
    found = []
    for step in range(config.steps):
        long = planner.plan(step, short=False).long
        assert long is not None
        first = sum(member < config.batch // 2 for member in long.members)
        second = len(long.members) - first
        found.append((first != second, not (first and second)))
    return found


def both(one: TrainConfig, two: TrainConfig) -> None:
    """Run ``one`` here and ``two`` in two processes, and hold losses and weights together."""
    alone = make.run_of(one)
    done = torchrun(two)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(Path(two.run) / "model.safetensors")
    together: dict[str, Any] = torch.load(Path(two.run) / "last.pt", weights_only=True)
    logs = [make.log_of(config) for config in (one, two)]
    for mine, theirs in zip(*logs, strict=True):
        for key in ("loss", "short", "long", "norm", "val_mR"):
            assert theirs.get(key) == pytest.approx(mine.get(key), abs=2e-3 if key == "norm" else 2e-4), key
    assert make.farthest(alone["trained"], together["trained"]) < 1e-5
    assert make.farthest(alone["trained"], torch.load(one.model.init, weights_only=True)) > 1e-4


@pytest.mark.parametrize("chunk", [pytest.param(0, marks=pytest.mark.slow), 4])
def test_two_processes_give_the_losses_and_weights_of_one(
    folder: Path, init: str, tmp_path: Path, chunk: int
) -> None:
    pair = [
        make.settings(
            tmp_path / name,
            folder,
            init,
            batch=12,
            chunk=chunk,
            eval_every=4,
            loss_components=4,
            data_cache=str(tmp_path / "cache"),
            data_tiles=5,
            data_tile_share=0.25,
            data_hard_negatives=0.7,
            data_details=4,
        )
        for name in ("one", "two")
    ]
    assert any(differs for differs, _ in uneven_steps(pair[0]))
    both(*pair)


@pytest.mark.slow
def test_a_process_without_any_text_of_its_own_keeps_step(init: str, tmp_path: Path) -> None:
    rows = make.tile_rows(tmp_path / "data", 12)
    for number, row in enumerate(rows):
        row["long"] = row["long"] if number in (1, 2, 3) else None
    data = make.write_pairs(tmp_path / "data", rows)
    pair = [
        make.settings(
            tmp_path / name, data, init, batch=12, steps=8, loss_weight="long-only", data_val_split="train"
        )
        for name in ("one", "two")
    ]
    assert any(none for _, none in uneven_steps(pair[0]))
    both(*pair)


@pytest.mark.slow
def test_a_batch_that_cannot_be_shared_out_is_refused(folder: Path, init: str, tmp_path: Path) -> None:
    done = torchrun(make.settings(tmp_path, folder, init, batch=7))
    assert done.returncode != 0
    assert "a batch of 7 cannot be shared out to 2 processes evenly" in done.stderr

"""Small data, small checkpoints and short runs for every test of the trainer."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from lrsclip_rt.rendering import CLASSES, TEST_SEEDS, render_tile
from lrsclip_train.config import DataConfig, LossConfig, ModelConfig, OptimizerConfig, TrainConfig
from lrsclip_train.loop import train
from lrsclip_train.model import ClipConfig, DualClip
from lrsclip_train.prepare import prepare
from lrsclip_train.stem import MobileNetV2Stem, _torchvision_names

TINY = ClipConfig("tiny", 64, 32, 8, 64, 1, 64, 1, token_rows=600)
TINY_77 = dataclasses.replace(TINY, context_length=77)


class Stop(Exception):
    """Ends a run from its report, as a kill between two steps does."""


def tiny_model(*, stretched: bool = True, seed: int = 0) -> DualClip:
    """Random weights; the words share 600 rows."""
    torch.manual_seed(seed)
    model = DualClip(TINY if stretched else TINY_77, stretched=stretched)
    with torch.no_grad():
        model.token_map.copy_(torch.arange(TINY.vocab_size) % 600)
        if stretched:
            model.positional_embedding_res.add_(0.01 * torch.randn_like(model.positional_embedding_res))
    return model


def tiny_checkpoint(path: Path, *, stretched: bool = True, seed: int = 0) -> str:
    torch.save(tiny_model(stretched=stretched, seed=seed).state_dict(), path)
    return str(path)


def tile_rows(root: Path, count: int, *, first: int = 0) -> list[dict[str, Any]]:
    """Rendered tiles as JPEG files under ``root``, and their lines of ``pairs.jsonl``."""
    (root / "images").mkdir(parents=True, exist_ok=True)
    rows = []
    for index in range(first, first + count):
        name = CLASSES[index % len(CLASSES)]
        tile = render_tile(name, TEST_SEEDS[index], size=40)
        Image.fromarray(tile.pixels).save(root / f"images/{index}.jpg", quality=95)
        more = f"a picture of number {index}"
        rows.append(
            {"image": f"images/{index}.jpg", "class": name, "short": [tile.short, more], "long": tile.long}
        )
    return rows


def write_pairs(root: Path, rows: list[dict[str, Any]], *, val: int = 0) -> Path:
    """The first ``val`` rows are split ``val``, the others ``train``."""
    lines = [row | {"split": "val" if number < val else "train"} for number, row in enumerate(rows)]
    (root / "pairs.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return root


def tiles_folder(root: Path, *, train: int = 16, val: int = 6) -> Path:
    """A data set of tiles; every fourth image has no long text, every fifth no short one."""
    rows = tile_rows(root, train + val)
    for number, row in enumerate(rows):
        if number % 4 == 3:
            row["long"] = None
        elif number % 5 == 2:
            row["short"] = []
    return write_pairs(root, rows, val=val)


def stem_file(path: Path) -> str:
    """Random weights where ImageNet's would be."""
    torch.manual_seed(1)
    arrays: dict[str, np.ndarray] = {}
    for module, prefix in _torchvision_names(MobileNetV2Stem()):
        assert module.bias is not None
        arrays[f"{prefix}.weight"] = module.weight.detach().numpy().astype(np.float16)
        arrays[f"{prefix}.bias"] = module.bias.detach().numpy().astype(np.float16)
    np.savez(path, **arrays)
    return str(path)


def settings(run: Path, data: Path | tuple[str, ...], init: str, **changes: Any) -> TrainConfig:
    """A run of a few steps in fp32; ``changes`` as :func:`changed` takes them."""
    run.mkdir(parents=True, exist_ok=True)
    train_data = data if isinstance(data, tuple) else (str(data),)
    config = TrainConfig(
        run=str(run),
        steps=4,
        batch=8,
        precision="fp32",
        save_every=1,
        eval_every=100,
        model=ModelConfig(init=init),
        data=DataConfig(train=train_data, workers=0),
        loss=LossConfig(smoothing=0.05),
        # A large eps: gradients that are zero but for rounding must not be blown up to full steps.
        optimizer=OptimizerConfig(lr=1e-3, warmup=2, eps=1e-4),
    )
    return changed(config, **changes)


def changed(config: TrainConfig, **changes: Any) -> TrainConfig:
    """``changed(config, optimizer_lr=1.0)`` sets ``optimizer.lr``."""
    for name, value in changes.items():
        table, _, key = name.partition("_")
        if table in ("model", "data", "loss", "optimizer"):
            inner = dataclasses.replace(getattr(config, table), **{key: value})
            config = dataclasses.replace(config, **{table: inner})
        else:
            config = dataclasses.replace(config, **{name: value})
    return config


def run_of(
    config: TrainConfig, *, resume: bool = False, report: Callable[[dict[str, Any]], None] = lambda row: None
) -> dict[str, Any]:
    """Prepare, train, and read the last checkpoint."""
    sources, val = prepare(config)
    content: dict[str, Any] = torch.load(
        train(config, sources, val, resume=resume, report=report), weights_only=True
    )
    return content


def stopped_after(config: TrainConfig, stop: int) -> None:
    """Train up to the checkpoint of step ``stop`` and no further."""

    def report(row: dict[str, Any]) -> None:
        if row["step"] == stop:
            raise Stop

    try:
        run_of(config, report=report)
    except Stop:
        return
    raise AssertionError(f"the run never came to step {stop}")


def log_of(config: TrainConfig) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(config.run, "log.jsonl").read_text("utf-8").splitlines()]


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def farthest(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Largest difference of any weight."""
    assert one.keys() == other.keys()
    return max(float((one[name].double() - other[name].double()).abs().max()) for name in one)


def toml_of(config: TrainConfig) -> str:
    """The config as a file says it."""
    values = dataclasses.asdict(config)
    lines: list[str] = []

    def table(name: str, entries: dict[str, Any]) -> None:
        if name:
            lines.append(f"[{name}]")
        inner = {key: value for key, value in entries.items() if isinstance(value, dict)}
        for key, value in entries.items():
            if key not in inner:
                lines.append(f"{key} = {json.dumps(value)}")
        for key, value in inner.items():
            table(f"{name}.{key}".lstrip("."), value)

    table("", values)
    return "\n".join(lines) + "\n"

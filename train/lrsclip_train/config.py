"""One frozen dataclass that says everything about a training run; TOML on disk."""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lrsclip_rt.errors import InputError

__all__ = ["TrainConfig", "config_from_toml"]


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """A run of :mod:`lrsclip_train.loop`.

    Attributes:
        data: Folder with ``pairs.jsonl``; splits ``train`` and ``val``.
        stem_weights: ImageNet MobileNetV2 ``.npz`` for the stem.
        run: Folder for cache, checkpoints and log.
        cache_runner: What computes the frozen features: ``torch`` or ``openvino``.
        views: Augmented views of each real image.
        rendered: Number of rendered tiles.
        mosaics: Number of mosaics of real images.
        seed: Of everything random.
        steps: Optimizer steps.
        plain_steps: First steps, trained with a plain 77-position table that is stretched afterwards.
        batch: Samples of a step.
        rendered_share: Share of rendered samples in a batch.
        mosaic_share: Share of mosaics in a batch.
        category_share: Share of short captions replaced by a prompt with the class name.
        lr: Peak learning rate.
        warmup: Linear warm-up steps; cosine to zero afterwards.
        weight_decay: Decoupled, on matrices only.
        smoothing: Label smoothing.
        long_weight: a in L = a L_long + (1 - a) L_short.
        long_share: Share of the samples with a long text of their own that show it; mosaics always do.
        word_drop: Chance to leave a word of a caption out.
        feature_dropout: Chance to zero a channel of the cached features.
        ema: Decay of the averaged weights that are evaluated and exported.
        text_layers: Blocks of the text tower.
        image_layers: Blocks of the image tower.
        amp: bfloat16 autocast; the master weights stay float32.
        save_every: Steps between checkpoints.
        eval_every: Steps between evaluations on ``val``.
    """

    data: str
    stem_weights: str
    run: str
    cache_runner: str = "torch"
    views: int = 10
    rendered: int = 6000
    mosaics: int = 6000
    seed: int = 0
    steps: int = 1500
    plain_steps: int = 600
    batch: int = 256
    rendered_share: float = 0.2
    mosaic_share: float = 0.06
    category_share: float = 0.15
    lr: float = 1e-3
    warmup: int = 100
    weight_decay: float = 0.1
    smoothing: float = 0.05
    long_weight: float = 0.3
    long_share: float = 0.5
    word_drop: float = 0.1
    feature_dropout: float = 0.1
    ema: float = 0.995
    text_layers: int = 4
    image_layers: int = 4
    amp: bool = True
    save_every: int = 100
    eval_every: int = 200


def config_from_toml(path: Path) -> TrainConfig:
    """Read a run's settings; relative paths are taken from the file's folder.

    Raises:
        InputError: If the file cannot be read, or has an unknown key or a value of another type.
    """
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib

    try:
        values: dict[str, Any] = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{path} is no readable TOML file: {error}") from error
    fields = {field.name: field for field in dataclasses.fields(TrainConfig)}
    for key, value in values.items():
        if key not in fields:
            raise InputError(f"{path}: unknown key {key!r}; known are {', '.join(sorted(fields))}")
        expected = fields[key].type
        given = "int" if isinstance(value, int) and not isinstance(value, bool) else type(value).__name__
        if given != expected and not (given == "int" and expected == "float"):
            raise InputError(f"{path}: {key} must be {expected}, got {value!r}")
    missing = [name for name in ("data", "stem_weights", "run") if name not in values]
    if missing:
        raise InputError(f"{path}: missing {', '.join(missing)}")
    for key in ("data", "stem_weights", "run"):
        values[key] = str((path.parent / values[key]).resolve())
    return TrainConfig(**values)

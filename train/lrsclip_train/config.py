"""Frozen dataclasses that say everything about a training run; TOML on disk, one table each."""

from __future__ import annotations

import dataclasses
import sys
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lrsclip_rt.errors import InputError

__all__ = [
    "AugmentConfig",
    "DataConfig",
    "LossConfig",
    "ModelConfig",
    "OptimizerConfig",
    "TrainConfig",
    "config_from_toml",
]


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """What is trained.

    Attributes:
        architecture: ``mini``, ``ViT-B/32``, ``ViT-B/16``, ``ViT-L/14`` or ``ViT-L/14-336``; with ``init``
            the file decides.
        init: Checkpoint to start from (OpenAI, open_clip, Long-CLIP, LRSCLIP, DGTRS, our own); 77 positions
            are stretched. Empty: from scratch.
        plain_steps: From scratch only: first steps, with a plain 77-position table that is stretched then.
        keep: First positions that stretching keeps and that stay frozen.
        ratio: Positions made of each later one.
        stem_weights: ImageNet MobileNetV2 ``.npz`` for the stem of ``mini``.
        image_layers: Blocks of the image tower of ``mini``.
        text_layers: Blocks of the text tower of ``mini``.
        patch_dropout: Share of the patches that a training step leaves out (arXiv 2212.00794).
        reset_scale: Start at this exp(logit_scale) instead of the checkpoint's; 0 keeps it. Long-CLIP: 100.
    """

    architecture: str = "mini"
    init: str = ""
    plain_steps: int = 0
    keep: int = 20
    ratio: int = 4
    stem_weights: str = ""
    image_layers: int = 4
    text_layers: int = 4
    patch_dropout: float = 0.0
    reset_scale: float = 0.0


@dataclass(frozen=True, slots=True)
class AugmentConfig:
    """How training images are changed; see :class:`lrsclip_train.augment.Augmentation`.

    Attributes:
        smallest_area: Least share of the image's area that a crop keeps.
        turns: Quarter turns and mirrors, all as likely.
        colour: Strength of brightness, contrast and saturation changes.
        blur: Chance of a slight blur.
        zoom_out: Chance to shrink the picture inside its frame, as from higher up.
        jpeg: Chance to be compressed as JPEG once more.
        upright: Keep images as they are whose captions name a direction.
    """

    smallest_area: float = 0.5
    turns: bool = True
    colour: float = 1.0
    blur: float = 0.15
    zoom_out: float = 0.0
    jpeg: float = 0.0
    upright: bool = True


@dataclass(frozen=True, slots=True)
class DataConfig:
    """What it is trained on.

    Attributes:
        train: Folders with ``pairs.jsonl`` or webdataset shards (``shards/{000..012}.tar``).
        val: Folder with ``pairs.jsonl``; empty: the first of ``train``.
        train_split: Split of the folders that is trained on.
        val_split: Split that is evaluated.
        mosaics: Number of mosaics of training images, each with a long text.
        tiles: Number of rendered tiles.
        scenes: Number of rendered scenes of several objects.
        mosaic_share: Share of a batch.
        tile_share: Share of a batch.
        scene_share: Share of a batch.
        cached_views: Augmented views of each image whose frozen stem features are computed once; 0 decodes
            and augments at every step.
        cache: Folder of those features; empty: inside ``run``.
        cache_seed: Of the augmentations in the cache.
        cache_runner: What computes them: ``torch`` or ``openvino``.
        workers: Processes that decode.
        category_share: Share of the short captions that give way to a prompt with the class name.
        long_share: Share of images with a long text of their own that show it; mosaics and scenes always do.
        hard_negatives: Share of the long rendered texts that bring a copy with one wrong detail.
        details: Made images of a step, beside the batch, whose texts are compared with copies that have one
            detail wrong, sentence by sentence; a fifth are mosaics, if there are any.
        word_drop: Chance to leave a word of a short caption out.
        broken: Share of the images that may fail to decode before the run stops.
        augment: How images are changed.
    """

    train: tuple[str, ...] = ()
    val: str = ""
    train_split: str = "train"
    val_split: str = "val"
    mosaics: int = 0
    tiles: int = 0
    scenes: int = 0
    mosaic_share: float = 0.0
    tile_share: float = 0.0
    scene_share: float = 0.0
    cached_views: int = 0
    cache: str = ""
    cache_seed: int = 0
    cache_runner: str = "torch"
    workers: int = 2
    category_share: float = 0.0
    long_share: float = 1.0
    hard_negatives: float = 0.0
    details: int = 0
    word_drop: float = 0.0
    broken: float = 0.01
    augment: AugmentConfig = field(default_factory=AugmentConfig)


@dataclass(frozen=True, slots=True)
class LossConfig:
    """What is minimised: L = a L_long + (1 - a) L_short.

    Attributes:
        weight: Schedule of a over the run; see :mod:`lrsclip_train.schedules`.
        weight_start: a at the start; negative takes the schedule's usual value.
        weight_end: a at the end; negative takes the schedule's usual value.
        components: Principal components of the image features that the short branch sees; 0 sees all.
        smoothing: Label smoothing.
        multi_positive: Whether repeated captions count as each other's matches.
        teacher: ``.npz`` with a teacher's embeddings, see :mod:`lrsclip_train.teacher`; empty: none.
        teacher_weight: Weight of the distance to them beside L.
        detail_weight: Weight of telling right details from wrong ones beside L.
        detail_scale: Multiplies the difference of both cosines in it.
    """

    weight: str = "constant"
    weight_start: float = -1.0
    weight_end: float = -1.0
    components: int = 0
    smoothing: float = 0.0
    multi_positive: bool = True
    teacher: str = ""
    teacher_weight: float = 0.0
    detail_weight: float = 1.0
    detail_scale: float = 40.0


@dataclass(frozen=True, slots=True)
class OptimizerConfig:
    """AdamW.

    Attributes:
        lr: Peak learning rate.
        stem_lr: Factor on it for a pretrained stem.
        warmup: Linear warm-up steps; then cosine to zero.
        weight_decay: Decoupled; on matrices only, not on embeddings.
        beta1: Decay of the first moment.
        beta2: Decay of the second moment.
        eps: Added to the root of the second moment.
        clip: Largest norm of the gradient.
        ema: Decay of the averaged weights that are evaluated and exported; 0 exports the last ones.
        max_scale: Largest exp(logit_scale).
    """

    lr: float = 1e-6
    stem_lr: float = 1.0
    warmup: int = 200
    weight_decay: float = 1e-2
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    clip: float = 1.0
    ema: float = 0.0
    max_scale: float = 100.0


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """A run of :mod:`lrsclip_train.loop`.

    Attributes:
        run: Folder for cache, checkpoints and log.
        steps: Optimizer steps.
        batch: Images of a step, over all processes.
        chunk: Rows whose graph is held at a time (gradient caching); 0 holds the whole batch's.
        seed: Of everything random.
        device: ``cpu`` or ``cuda``.
        precision: ``fp32``, ``bf16`` or ``fp16`` autocast; the weights stay float32.
        save_every: Steps between checkpoints.
        eval_every: Steps between evaluations.
        model: What is trained.
        data: On what.
        loss: What is minimised.
        optimizer: How.
    """

    run: str
    steps: int
    batch: int = 256
    chunk: int = 0
    seed: int = 0
    device: str = "cpu"
    precision: str = "bf16"
    save_every: int = 100
    eval_every: int = 200
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)

    def __post_init__(self) -> None:
        """Refuse what cannot work before anything is computed."""
        from lrsclip_train.schedules import pair_weight_from_name

        for name in ("steps", "batch", "save_every", "eval_every"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}")
        counts = {"chunk": self.chunk, "seed": self.seed, "data.details": self.data.details}
        for name, count in counts.items():
            if count < 0:
                raise InputError(f"{name} must not be negative, got {count}")
        shares = {"model.patch_dropout": self.model.patch_dropout, "optimizer.ema": self.optimizer.ema}
        for name, share in shares.items():
            if not 0.0 <= share < 1.0:
                raise InputError(f"{name} must be in [0, 1), got {share}")
        if not self.optimizer.max_scale >= 1.0:
            raise InputError(f"optimizer.max_scale must be at least 1, got {self.optimizer.max_scale}")
        if self.precision not in ("fp32", "bf16", "fp16"):
            raise InputError(f"precision must be fp32, bf16 or fp16, got {self.precision!r}")
        if not self.data.train:
            raise InputError("data.train is empty; name a folder with pairs.jsonl or webdataset shards")
        if self.model.init and self.model.plain_steps:
            raise InputError("model.plain_steps is for training from scratch; leave it out beside model.init")
        if self.data.cached_views and self.model.architecture != "mini":
            raise InputError("data.cached_views needs the frozen stem of architecture mini")
        if self.data.cached_views and not self.model.stem_weights:
            raise InputError("data.cached_views needs model.stem_weights, the weights of the frozen stem")
        made = (self.data.mosaic_share, self.data.tile_share, self.data.scene_share)
        if min(made) < 0.0 or not sum(made) < 1.0:
            raise InputError(f"the shares of mosaics, tiles and scenes are {made}; keep the sum in [0, 1)")
        start, end = (
            None if value < 0 else value for value in (self.loss.weight_start, self.loss.weight_end)
        )
        pair_weight_from_name(self.loss.weight, start=start, end=end)


_PATHS = {
    "run": (),
    "data": ("train", "val", "cache"),
    "model": ("init", "stem_weights"),
    "loss": ("teacher",),
}
"""Keys that hold paths; relative ones are taken from the file's folder."""


def config_from_toml(path: Path) -> TrainConfig:
    """Read a run's settings; relative paths are taken from the file's folder.

    Raises:
        InputError: If the file cannot be read, or has an unknown key, a value of another type, or
            values that do not go together.
    """
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib

    try:
        values: dict[str, Any] = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{path} is no readable TOML file: {error}") from error
    if isinstance(values.get("data"), dict) and isinstance(values["data"].get("train"), str):
        values["data"]["train"] = [values["data"]["train"]]
    try:
        config = _dataclass_from(TrainConfig, values, "")
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    home = path.parent

    def absolute(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(absolute(part) for part in value)
        return str((home / value).resolve()) if value else value

    changed: dict[str, Any] = {"run": absolute(config.run)}
    for table, keys in _PATHS.items():
        if keys:
            part = getattr(config, table)
            changed[table] = dataclasses.replace(part, **{key: absolute(getattr(part, key)) for key in keys})
    settled: TrainConfig = dataclasses.replace(config, **changed)
    return settled


def _dataclass_from(kind: type[Any], values: dict[str, Any], where: str) -> Any:
    hints = typing.get_type_hints(kind)
    unknown = [key for key in values if key not in hints]
    if unknown:
        raise InputError(f"unknown key {where}{unknown[0]!s}; known are {', '.join(sorted(hints))}")
    missing = [
        entry.name
        for entry in dataclasses.fields(kind)
        if entry.default is dataclasses.MISSING
        and entry.default_factory is dataclasses.MISSING
        and entry.name not in values
    ]
    if missing:
        raise InputError(f"missing {', '.join(where + name for name in missing)}")
    return kind(**{key: _value_of(hints[key], value, where + key) for key, value in values.items()})


def _value_of(expected: Any, value: Any, key: str) -> Any:
    if dataclasses.is_dataclass(expected):
        if not isinstance(value, dict):
            raise InputError(f"{key} must be a table, got {value!r}")
        return _dataclass_from(typing.cast("type[Any]", expected), value, key + ".")
    if isinstance(expected, types.GenericAlias):
        if not isinstance(value, list) or not all(isinstance(part, str) for part in value):
            raise InputError(f"{key} must be a list of strings, got {value!r}")
        return tuple(value)
    whole = isinstance(value, int) and not isinstance(value, bool)
    if expected is float and whole:
        return float(value)
    if not isinstance(value, expected) or (expected is int and not whole):
        raise InputError(f"{key} must be {expected.__name__}, got {value!r}")
    return value

"""All that a run carries from step to step, and its checkpoints."""

from __future__ import annotations

import dataclasses
import os
import pickle
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from lrsclip_rt.errors import CheckpointError, InputError, TrainingError
from lrsclip_train.config import TrainConfig
from lrsclip_train.features import SPLIT
from lrsclip_train.gathering import World
from lrsclip_train.kps import stretch_table, stretched_length
from lrsclip_train.model import ARCHITECTURES, ClipConfig, DualClip
from lrsclip_train.sources import ImageSource
from lrsclip_train.stem import MobileNetV2Stem, load_mobilenetv2
from lrsclip_train.texts import PROMPTS, TokenTable, phrases

__all__ = ["RunState", "first_state", "load_state", "save_state", "stretched_state"]

_PLAIN_LENGTH = 77


@dataclass(slots=True, eq=False)
class RunState:
    """A run between two steps.

    Attributes:
        step: Optimizer steps done.
        model: The float32 weights that are trained.
        optimizer: AdamW over them; each group has a ``factor`` on the learning rate.
        scaler: Keeps float16 gradients from vanishing; off in other precisions.
        average: Averaged weights by name; the trained ones themselves where nothing is averaged.
        broken: ``(source, index)`` of images that could not be read.
    """

    step: int
    model: DualClip
    optimizer: torch.optim.AdamW
    scaler: torch.amp.GradScaler
    average: dict[str, torch.Tensor]
    broken: set[tuple[int, int]] = field(default_factory=set)

    def average_weights(self, decay: float) -> None:
        """Move the averaged weights towards the trained ones."""
        if not decay:
            return
        # Early weights are worth little: the average begins short and grows to the full length.
        decay = min(decay, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for name, value in self.model.state_dict().items():
                if value.is_floating_point():
                    self.average[name].lerp_(value, 1 - decay)
                else:
                    self.average[name].copy_(value)

    def averaged(self) -> DualClip:
        """A copy of the model with the averaged weights, for evaluation."""
        device = self.model.logit_scale.device
        other = DualClip(self.model.config, stretched=self.model.stretched).to(device)
        other.load_state_dict(self.average)
        return other.eval()


def first_state(
    config: TrainConfig, sources: Sequence[ImageSource], table: TokenTable, world: World
) -> RunState:
    """The state before the first step: from ``model.init``, or drawn from the seed."""
    torch.manual_seed(config.seed)
    model = _model_from_file(config) if config.model.init else _fresh_model(config, sources, table)
    if config.model.reset_scale:
        with torch.no_grad():
            model.logit_scale.fill_(config.model.reset_scale).log_()
    return _state_of(model.to(world.device), config, 0)


def stretched_state(state: RunState, config: TrainConfig) -> RunState:
    """The same weights with the text table stretched by KPS, and a new optimizer."""
    shape = dataclasses.replace(
        state.model.config,
        context_length=stretched_length(
            state.model.config.context_length, keep=config.model.keep, ratio=config.model.ratio
        ),
        keep=config.model.keep,
        ratio=config.model.ratio,
    )
    longer = DualClip(shape, stretched=True).to(state.model.logit_scale.device)
    longer.load_state_dict(_stretched_weights(state.model.state_dict(), shape))
    average = _stretched_weights(state.average, shape)
    fresh = _state_of(longer, config, state.step)
    fresh.broken = state.broken
    if config.optimizer.ema:
        fresh.average = {name: value.clone() for name, value in average.items()}
    return fresh


def save_state(path: Path, state: RunState, config: TrainConfig) -> None:
    """Write beside, flush, rename: a killed run leaves the old checkpoint or the new one.

    Raises:
        TrainingError: If it cannot be written, e.g. because the disk is full; the old one stays.
    """
    content = {
        "step": state.step,
        "trained": state.model.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "scaler": state.scaler.state_dict(),
        "model": state.average if config.optimizer.ema else state.model.state_dict(),
        "stretched": state.model.stretched,
        "broken": sorted(state.broken),
        "config": dataclasses.asdict(config),
    }
    temporary = path.with_suffix(".partial")
    try:
        with temporary.open("wb") as out:
            torch.save(content, out)
            out.flush()
            os.fsync(out.fileno())
        temporary.replace(path)
    except (OSError, RuntimeError) as error:
        temporary.unlink(missing_ok=True)
        # torch's zip writer turns a full disk into a RuntimeError of its own.
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise TrainingError(
            f"the checkpoint of step {state.step} cannot be written to {path} ({reason}); "
            "free some space and go on with --resume"
        ) from error


def load_state(path: Path, config: TrainConfig, world: World) -> RunState:
    """The state that :func:`save_state` wrote.

    Raises:
        CheckpointError: If the file is no checkpoint of a run.
        InputError: If it is of a run with other settings.
    """
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        step, weights = int(content["step"]), content["trained"]
    except (
        *(OSError, RuntimeError, KeyError, IndexError, TypeError, ValueError, EOFError),
        pickle.UnpicklingError,
    ) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path} is no checkpoint of a training run ({reason})") from error
    _refuse_other_settings(path, content["config"], dataclasses.asdict(config))
    shape = _shape_from(weights, config)
    model = DualClip(shape, stretched=content["stretched"])
    model.load_state_dict(weights)
    state = _state_of(model.to(world.device), config, step)
    state.optimizer.load_state_dict(content["optimizer"])
    state.scaler.load_state_dict(content["scaler"])
    state.broken = {(source, index) for source, index in content["broken"]}
    if config.optimizer.ema:
        state.average = {name: value.to(world.device) for name, value in content["model"].items()}
    return state


# What may change between a run and its continuation without changing what is learned.
_FREE = {"run", "steps", "device", "chunk", "save_every", "eval_every", "data"}


def _refuse_other_settings(path: Path, old: dict[str, Any], new: dict[str, Any], table: str = "") -> None:
    for key in sorted(new if table else set(new) - _FREE):
        was, now = old.get(key), new[key]
        if isinstance(was, dict) and isinstance(now, dict):
            _refuse_other_settings(path, was, now, f"{table}{key}.")
        elif was != now:
            raise InputError(
                f"{path} is of a run with {table}{key} {was!r}, the config says {now!r}; "
                "resume with the old settings, or start in another folder"
            )


def _state_of(model: DualClip, config: TrainConfig, step: int) -> RunState:
    average = model.state_dict()
    if config.optimizer.ema:
        average = {name: value.detach().clone() for name, value in average.items()}
    scaler = torch.amp.GradScaler(model.logit_scale.device.type, enabled=config.precision == "fp16")
    return RunState(step, model, _optimizer(model, config), scaler, average)


def _optimizer(model: DualClip, config: TrainConfig) -> torch.optim.AdamW:
    """Decay on matrices alone; biases, norms, embeddings and the scale go without."""
    if hasattr(model.visual, "stem"):
        front = (model.visual.stem.first, *model.visual.stem.blocks[:SPLIT])
        for part in front if config.data.cached_views else ():
            part.requires_grad_(False)
    settings = config.optimizer
    groups: dict[tuple[bool, bool], list[torch.Tensor]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            matrix = parameter.ndim >= 2 and "embedding" not in name
            groups.setdefault((matrix, ".stem." in name), []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "weight_decay": settings.weight_decay if matrix else 0.0,
                "factor": settings.stem_lr if stem else 1.0,
            }
            for (matrix, stem), parameters in groups.items()
        ],
        lr=settings.lr,
        betas=(settings.beta1, settings.beta2),
        eps=settings.eps,
    )


def _model_from_file(config: TrainConfig) -> DualClip:
    from lrsclip_train.checkpoints import model_from_checkpoint, read_checkpoint

    checkpoint = read_checkpoint(config.model.init, keep=config.model.keep, ratio=config.model.ratio)
    # The tensors may be views of the file, which is never written to.
    state = {name: value.clone() for name, value in checkpoint.state.items()}
    model = model_from_checkpoint(dataclasses.replace(checkpoint, state=state))
    if config.data.cached_views:
        _refuse_other_stem(model, config)
    return model


def _refuse_other_stem(model: DualClip, config: TrainConfig) -> None:
    """Cached features are those of ``model.stem_weights``; the model must begin with the same numbers."""
    stem = MobileNetV2Stem()
    load_mobilenetv2(stem, Path(config.model.stem_weights))
    fits = hasattr(model.visual, "stem")
    if fits:
        for own, cached in (
            (model.visual.stem.first, stem.first),
            (model.visual.stem.blocks[:SPLIT], stem.blocks[:SPLIT]),
        ):
            theirs = cached.state_dict()
            fits = fits and all(torch.equal(value, theirs[name]) for name, value in own.state_dict().items())
    if not fits:
        raise InputError(
            f"{config.model.init} does not begin with the stem of {config.model.stem_weights}, whose "
            "features data.cached_views would reuse; leave cached_views out"
        )


def _fresh_model(config: TrainConfig, sources: Sequence[ImageSource], table: TokenTable) -> DualClip:
    """A new model; the small one has a token row for each token of the training texts alone."""
    if config.model.architecture not in ARCHITECTURES:
        raise InputError(
            f"unknown architecture {config.model.architecture!r}; known are {', '.join(ARCHITECTURES)}"
        )
    shape = dataclasses.replace(
        ARCHITECTURES[config.model.architecture],
        context_length=_PLAIN_LENGTH,
        keep=config.model.keep,
        ratio=config.model.ratio,
    )
    if shape.stem == "none":
        model = DualClip(shape, stretched=False)
        return model if config.model.plain_steps else _stretched_model(model)
    seen = table.seen(_all_texts(sources))
    shape = dataclasses.replace(
        shape,
        token_rows=len(seen) + 1,
        image_layers=config.model.image_layers,
        text_layers=config.model.text_layers,
    )
    model = DualClip(shape, stretched=False)
    # Row 0 is shared by every token that training never meets.
    model.token_map[torch.from_numpy(seen)] = torch.arange(1, len(seen) + 1, dtype=torch.int32)
    if config.model.stem_weights:
        load_mobilenetv2(model.visual.stem, Path(config.model.stem_weights))
    return model if config.model.plain_steps else _stretched_model(model)


def _stretched_model(model: DualClip) -> DualClip:
    shape = dataclasses.replace(
        model.config,
        context_length=stretched_length(
            model.config.context_length, keep=model.config.keep, ratio=model.config.ratio
        ),
    )
    longer = DualClip(shape, stretched=True)
    longer.load_state_dict(_stretched_weights(model.state_dict(), shape))
    return longer


def _stretched_weights(weights: dict[str, torch.Tensor], shape: ClipConfig) -> dict[str, torch.Tensor]:
    table = stretch_table(weights["positional_embedding"], keep=shape.keep, ratio=shape.ratio)
    return weights | {"positional_embedding": table, "positional_embedding_res": table.clone()}


def _shape_from(weights: dict[str, torch.Tensor], config: TrainConfig) -> ClipConfig:
    from lrsclip_train.checkpoint_shapes import config_from_tensors

    return config_from_tensors(weights, keep=config.model.keep, ratio=config.model.ratio, where=config.run)


def _all_texts(sources: Sequence[ImageSource]) -> list[str]:
    texts: dict[str, None] = {}
    for source in sources:
        for sample in source.samples:
            texts.update(dict.fromkeys((*sample.shorts, *sample.wrong, sample.long)))
            if sample.category:
                said = phrases(sample.category)
                texts.update(dict.fromkeys(prompt.format(phrase) for prompt in PROMPTS for phrase in said))
    return [text for text in texts if text]

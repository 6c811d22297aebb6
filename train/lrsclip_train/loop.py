"""The training loop: read it from top to bottom.

A run trains everything behind the stem's bottlenecks, first with a plain 77-position text table,
then, after stretching it to 248 by KPS, on short and long texts together. Every random choice is a
function of the seed and the step, so a resumed run continues where the killed one was.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from lrsclip_rt.errors import LrsclipError
from lrsclip_rt.tokenizer import Tokenizer
from lrsclip_train.batches import Batch, Batcher, all_texts
from lrsclip_train.config import TrainConfig
from lrsclip_train.features import SPLIT, FeatureCache
from lrsclip_train.kps import stretch_table
from lrsclip_train.losses import multi_positive_loss
from lrsclip_train.model import MINI, DualClip
from lrsclip_train.stem import load_mobilenetv2

__all__ = ["train"]


def train(
    config: TrainConfig,
    caches: Sequence[FeatureCache],
    *,
    resume: bool = False,
    report: Callable[[dict[str, Any]], None] = lambda row: None,
) -> Path:
    """Train a model of the :data:`~lrsclip_train.model.MINI` shape.

    Args:
        config: Everything about the run.
        caches: Features of the training pairs, the rendered tiles, the mosaics and the val pairs.
        resume: Continue from the run's last checkpoint.
        report: Called with each line of the log.

    Returns:
        The last checkpoint: ``model`` (averaged weights), ``config``, ``step``.

    Raises:
        LrsclipError: If the loss is not finite.
    """
    run = Path(config.run)
    real, rendered, mosaics, val = caches
    batcher = Batcher(config, real, rendered, mosaics)
    model = _first_model(config, (real, rendered, mosaics))
    optimizer = _optimizer(model, config)
    average = {name: value.detach().clone() for name, value in model.state_dict().items()}
    step = 0
    last = run / "last.pt"
    if resume and last.is_file():
        state = torch.load(last, weights_only=True)
        step = state["step"]
        if step > config.plain_steps:
            model, average = _stretched(model, average)
            optimizer = _optimizer(model, config)
        model.load_state_dict(state["trained"])
        optimizer.load_state_dict(state["optimizer"])
        average = state["model"]

    started, done = time.monotonic(), 0
    while step < config.steps:
        if step == config.plain_steps:
            model, average = _stretched(model, average)
            optimizer = _optimizer(model, config)
        torch.manual_seed(config.seed * 1_000_003 + step)
        lr = _learning_rate(config, step)
        for group in optimizer.param_groups:
            group["lr"] = lr
        batch = batcher.batch(step, context_length=model.config.context_length)
        short_loss, long_loss = _losses(model, batch, config)
        loss = config.long_weight * long_loss + (1 - config.long_weight) * short_loss
        if not torch.isfinite(loss):
            raise LrsclipError(f"the loss became {loss.item()} at step {step}; lower lr (now {lr:.2g})")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0.0, math.log(100.0))
            decay = min(config.ema, (1 + step) / (10 + step))
            for name, value in model.state_dict().items():
                if value.is_floating_point():
                    average[name].lerp_(value, 1 - decay)
                else:
                    average[name].copy_(value)
        step += 1
        done += config.batch
        row: dict[str, Any] = {
            "step": step,
            "lr": round(lr, 7),
            "short": round(short_loss.item(), 4),
            "long": round(long_loss.item(), 4),
            "scale": round(model.logit_scale.exp().item(), 2),
            "images_per_s": round(done / (time.monotonic() - started), 1),
        }
        if step % config.eval_every == 0 or step == config.steps:
            row |= evaluate(_with_weights(model, average), val)
        if step % config.save_every == 0 or step == config.steps:
            _save(last, {"step": step, "trained": model.state_dict(), "optimizer": optimizer.state_dict(),
                         "model": average, "config": dataclasses.asdict(config)})  # fmt: skip
        with (run / "log.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps(row) + "\n")
        report(row)
    return last


def _first_model(config: TrainConfig, caches: Sequence[FeatureCache]) -> DualClip:
    """Plain 77-position model whose token rows are the tokens that training texts hold."""
    tokenizer = Tokenizer()
    seen = np.unique(tokenizer.encode(all_texts(caches)))
    shape = dataclasses.replace(
        MINI,
        context_length=77,
        token_rows=len(seen) + 1,
        image_layers=config.image_layers,
        text_layers=config.text_layers,
    )
    torch.manual_seed(config.seed)
    model = DualClip(shape, stretched=False)
    # Row 0 is shared by every token that training never meets.
    model.token_map[torch.from_numpy(seen.astype(np.int64))] = torch.arange(
        1, len(seen) + 1, dtype=torch.int32
    )
    load_mobilenetv2(model.visual.stem, Path(config.stem_weights))
    for parameter in (*model.visual.stem.first.parameters(), *model.visual.stem.blocks.parameters()):
        parameter.requires_grad_(False)
    return model


def _stretched(model: DualClip, average: dict[str, torch.Tensor]) -> tuple[DualClip, dict[str, torch.Tensor]]:
    """The same model after KPS, and its averaged weights likewise."""
    longer = DualClip(dataclasses.replace(model.config, context_length=248), stretched=True)

    def convert(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        table = stretch_table(
            state["positional_embedding"], keep=longer.config.keep, ratio=longer.config.ratio
        )
        return state | {"positional_embedding": table, "positional_embedding_res": table.clone()}

    longer.load_state_dict(convert(model.state_dict()))
    for parameter in (*longer.visual.stem.first.parameters(), *longer.visual.stem.blocks.parameters()):
        parameter.requires_grad_(False)
    return longer, convert(average)


def _optimizer(model: DualClip, config: TrainConfig) -> torch.optim.AdamW:
    decayed: list[torch.Tensor] = []
    plain: list[torch.Tensor] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            matrix = parameter.ndim >= 2 and "embedding" not in name
            (decayed if matrix else plain).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.98), eps=1e-6)


def _learning_rate(config: TrainConfig, step: int) -> float:
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    progress = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.lr * 0.5 * (1 + math.cos(math.pi * progress))


def _losses(model: DualClip, batch: Batch, config: TrainConfig) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.autocast("cpu", torch.bfloat16, enabled=config.amp):
        features = F.dropout2d(batch.features, config.feature_dropout)
        image = image_embeddings(model, features)
        losses = []
        for texts in (batch.short, batch.long):
            text = F.normalize(encode_by_length(model, texts.tokens).float(), dim=1)
            own = image[texts.members]
            with torch.autocast("cpu", enabled=False):
                losses.append(
                    multi_positive_loss(
                        own,
                        text,
                        model.logit_scale.exp(),
                        texts.positive,
                        ignore=texts.ignore,
                        smoothing=config.smoothing,
                    )
                )
    return losses[0], losses[1]


def encode_by_length(model: DualClip, tokens: torch.Tensor, *, groups: int = 4) -> torch.Tensor:
    """:meth:`DualClip.encode_text` without the padding: texts of like length run together.

    Tokens behind the end of a text cannot change its embedding, so trimming is exact.
    """
    lengths = tokens.argmax(dim=1) + 1
    order = torch.argsort(lengths)
    parts = []
    for part in torch.tensor_split(order, groups):
        if len(part):
            parts.append(model.encode_text(tokens[part, : int(lengths[part].max())]))
    return torch.cat(parts)[torch.argsort(order)]


def image_embeddings(model: DualClip, features: torch.Tensor) -> torch.Tensor:
    """Cached features (N, 320, H, W) -> (N, D) float32 unit rows."""
    tokens = model.visual.tokens_from_features(model.visual.stem.late(features, SPLIT))
    return F.normalize((model.visual.ln_post(tokens[:, 0]) @ model.visual.proj).float(), dim=1)


@torch.no_grad()
def evaluate(model: DualClip, val: FeatureCache) -> dict[str, float]:
    """Short-caption retrieval on ``val`` by the tie rule."""
    from lrsclip_rt.evaluation import retrieval_metrics

    features = torch.from_numpy(val.features.astype(np.float32))
    image = torch.cat([image_embeddings(model, part) for part in torch.split(features, 256)]).numpy()
    captions: list[str] = []
    owners: list[int] = []
    for index, sample in enumerate(val.samples):
        captions += sample.shorts
        owners += [index] * len(sample.shorts)
    distinct = list(dict.fromkeys(captions))
    tokens = torch.from_numpy(Tokenizer().encode(distinct)).long()[:, : model.config.context_length]
    tokens = tokens[:, : int(tokens.argmax(dim=1).max()) + 1]
    text = torch.cat(
        [F.normalize(model.encode_text(part), dim=1) for part in torch.split(tokens, 512)]
    ).numpy()
    row_of = {caption: row for row, caption in enumerate(distinct)}
    metrics = retrieval_metrics(image, text[[row_of[c] for c in captions]], np.array(owners), captions)
    return {"val_mR": round(metrics.mean_recall, 2)}


def _with_weights(model: DualClip, state: dict[str, torch.Tensor]) -> DualClip:
    other = DualClip(model.config, stretched=model.stretched)
    other.load_state_dict(state)
    return other.eval()


def _save(path: Path, state: dict[str, Any]) -> None:
    """Write beside, flush, rename: a killed run leaves the old checkpoint or the new one."""
    temporary = path.with_suffix(".partial")
    with temporary.open("wb") as out:
        torch.save(state, out)
        out.flush()
        os.fsync(out.fileno())
    temporary.replace(path)

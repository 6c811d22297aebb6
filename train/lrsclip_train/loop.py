"""The training loop: read it from top to bottom.

A run from scratch first trains with a plain 77-position text table, then stretches it to 248 by KPS and
goes on with short and long texts together, the paper's order; a run from a checkpoint begins with the
second part. Every random choice is a function of the seed and the step, so a resumed run continues
where the killed one was, bit for bit on a CPU.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist

from lrsclip_rt.errors import InputError, TrainingError
from lrsclip_train.batches import BatchPlan, Planner
from lrsclip_train.config import TrainConfig
from lrsclip_train.encoding import image_embeddings, text_chunks, text_groups
from lrsclip_train.gathering import World, average_gradients, gather_counted
from lrsclip_train.gradient_cache import cached_backward
from lrsclip_train.objective import LossParts, batch_loss
from lrsclip_train.run_state import RunState, first_state, load_state, save_state, stretched_state
from lrsclip_train.schedules import PairWeight, learning_rate, pair_weight_from_name
from lrsclip_train.shares import BranchShare, DetailShare
from lrsclip_train.sources import ImageSource, Reading, pixel_spec
from lrsclip_train.teacher import Teacher
from lrsclip_train.texts import TokenTable
from lrsclip_train.validation import validate

__all__ = ["Batches", "train", "train_step"]

_ALONE = World()


class Batches(Protocol):
    """Gives the batch of any step; :class:`~lrsclip_train.sources.Reading` does."""

    def batch(self, step: int, *, short: bool, long: bool) -> tuple[BatchPlan, torch.Tensor]:
        """The plan of the whole batch, and the images of this process's part of it, then of its details."""


def train(
    config: TrainConfig,
    sources: Sequence[ImageSource],
    val: ImageSource | None,
    *,
    world: World = _ALONE,
    resume: bool = False,
    report: Callable[[dict[str, Any]], None] = lambda row: None,
) -> Path:
    """Train a model as ``config`` says.

    Args:
        config: Everything about the run.
        sources: Training pairs, mosaics, tiles and scenes; one that has no share of the batch may be empty.
        val: Pairs that are evaluated now and then; None evaluates nothing.
        world: The processes; each calls this function with the same arguments but ``world``.
        resume: Continue from the run's last checkpoint, if there is one.
        report: Called with each line of the log, on the first process.

    Returns:
        The last checkpoint: ``model`` (weights to evaluate and export), ``config``, ``step``.

    Raises:
        InputError: If the batch cannot be shared out, a source lacks what the config asks of it, or the
            teacher's embeddings have another width.
        TrainingError: If the loss is not finite, too many images are broken, or a checkpoint cannot be
            written; the last checkpoint stays.
    """
    run = Path(config.run)
    last = run / "last.pt"
    planner = Planner(config, [source.samples for source in sources])
    table = TokenTable()
    state = load_state(last, config, world) if resume and last.is_file() else None
    if state is None:
        state = first_state(config, sources, table, world)
    teacher = _teacher(config, state)
    log = _Log(run / "log.jsonl", report, enabled=world.first, steps=config.steps)
    spec = pixel_spec(state.model.config)
    with Reading(config, sources, planner, world, spec=spec, broken=state.broken) as reading:
        while state.step < config.steps:
            if state.step == config.model.plain_steps and not state.model.stretched:
                state = stretched_state(state, config)
            row = train_step(state, config, reading, table, world, teacher)
            state.step += 1
            ended = state.step == config.steps
            if val is not None and world.first and (ended or state.step % config.eval_every == 0):
                row |= validate(state.averaged(), val, table, spec=spec, device=world.device)
            if world.first and (ended or state.step % config.save_every == 0):
                save_state(last, state, config)
            log.write(row | {"broken": len(state.broken)} if state.broken else row, images=config.batch)
    return last


def train_step(
    state: RunState,
    config: TrainConfig,
    batches: Batches,
    table: TokenTable,
    world: World = _ALONE,
    teacher: Teacher | None = None,
) -> dict[str, Any]:
    """One optimizer step.

    Args:
        state: Changed in place, all but ``step``.
        config: Of the run.
        batches: Gives the batch of ``state.step``.
        table: Turns texts into tokens.
        world: The processes.
        teacher: Embeddings that the model's are drawn to.

    Returns:
        The step's line of the log.

    Raises:
        InputError: If no image of the batch has a text of a kind that counts.
        TrainingError: If the loss or the gradient is not finite; the weights stay as they were.
    """
    step, model = state.step, state.model
    torch.manual_seed((config.seed * 1_000_003 + step) * 64 + world.rank)
    weight = _weight(config).at(step / max(1, config.steps - 1))
    plan, images = batches.batch(step, short=weight < 1, long=weight > 0)
    if plan.short is None and plan.long is None:
        kinds = "short or long" if 0 < weight < 1 else "long" if weight else "short"
        raise InputError(f"no image of step {step} has a {kinds} text; loss.weight counts no others")
    lr = learning_rate(step, config.steps, config.optimizer.warmup, config.optimizer.lr)
    for group in state.optimizer.param_groups:
        group["lr"] = lr * group["factor"]
    state.optimizer.zero_grad(set_to_none=True)
    parts = _backward(state, config, plan, images, table, world, teacher, weight=weight)
    total = float(parts.total.detach())
    _refuse_not_finite("loss", total, step, lr, config)
    _complete_gradients(model, world)
    average_gradients(model.parameters(), world)
    state.scaler.unscale_(state.optimizer)
    norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), config.optimizer.clip))
    if not state.scaler.is_enabled():  # else the scaler leaves such a step out and scales less
        _refuse_not_finite("gradient", norm, step, lr, config)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    with torch.no_grad():
        model.logit_scale.clamp_(0.0, math.log(config.optimizer.max_scale))
    state.average_weights(config.optimizer.ema)
    row: dict[str, Any] = {"step": step + 1, "lr": float(f"{lr:.4g}"), "loss": round(total, 4)}
    named = {"short": parts.short, "long": parts.long, "teacher": parts.teacher, "detail": parts.detail}
    for name, part in named.items():
        if part is not None:
            row[name] = round(float(part.detach()), 4)
    scale = float(model.logit_scale.detach().exp())
    length = round(norm, 3) if math.isfinite(norm) else None  # JSON knows no infinity
    return row | {"weight": round(weight, 4), "scale": round(scale, 2), "norm": length}


def _refuse_not_finite(what: str, value: float, step: int, lr: float, config: TrainConfig) -> None:
    if not math.isfinite(value):
        raise TrainingError(
            f"the {what} became {value} at step {step} (lr {lr:.2g}, {config.precision}); the checkpoint "
            "before it stays. Start anew with a lower optimizer.lr or a longer optimizer.warmup"
        )


def _complete_gradients(model: torch.nn.Module, world: World) -> None:
    """Zeros where only other processes have a gradient: no text of this one's images was shown."""
    if world.size == 1:
        return
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    used = torch.tensor([float(p.grad is not None) for p in trained], device=world.device)
    dist.all_reduce(used)
    for parameter, processes in zip(trained, used.tolist(), strict=True):
        if processes and parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)


def _backward(
    state: RunState,
    config: TrainConfig,
    plan: BatchPlan,
    images: torch.Tensor,
    table: TokenTable,
    world: World,
    teacher: Teacher | None,
    *,
    weight: float,
) -> LossParts:
    """Gradients of the batch's loss, with the graph of the whole batch or of a chunk at a time."""
    model, dropout = state.model, config.model.patch_dropout
    share = config.batch // world.size
    mine = range(world.rank * share, (world.rank + 1) * share)
    chunk = config.chunk or share
    kinds: list[list[Callable[[], torch.Tensor]]] = [
        [_image_chunk(model, part, dropout) for part in torch.split(images[:share], chunk)]
    ]
    branches = [
        BranchShare(texts, mine, share, world) if texts else None for texts in (plan.short, plan.long)
    ]
    for branch in branches:
        if branch is not None and branch.own:
            tokens = table.batch(branch.own, model.config.context_length).to(world.device)
            groups = text_groups(tokens, limit=config.chunk)
            branch.order = torch.argsort(torch.cat([group.rows for group in groups])).to(world.device)
            branch.kind = len(kinds)
            kinds.append(text_chunks(model, tokens, groups))
    details = DetailShare(plan.details, world) if plan.details else None
    if details is not None:
        # Whole images: a detail may lie in any patch.
        details.kind = len(kinds)
        kinds.append([_image_chunk(model, part, 0.0) for part in torch.split(images[share:], chunk)])
        tokens = table.batch(details.own, model.config.context_length).to(world.device)
        groups = text_groups(tokens, limit=config.chunk)
        details.order = torch.argsort(torch.cat([group.rows for group in groups])).to(world.device)
        kinds.append(text_chunks(model, tokens, groups))
    found: list[LossParts] = []

    def loss_of(embeddings: Sequence[torch.Tensor]) -> torch.Tensor:
        joined = gather_counted(embeddings[0], [share] * world.size, world)
        short, long = (None if b is None else b.joined(embeddings, joined, world) for b in branches)
        parts = batch_loss(
            joined,
            short,
            long,
            plan,
            model.logit_scale.exp(),
            weight=weight,
            config=config.loss,
            teacher=teacher,
            details=None if details is None else details.joined(embeddings, world),
        )
        found.append(parts)
        scaled: torch.Tensor = state.scaler.scale(parts.total)
        return scaled

    autocast = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[config.precision]
    with torch.autocast(world.device.type, autocast, enabled=autocast is not None):
        if config.chunk:
            cached_backward(kinds, loss_of)
        else:
            total = loss_of([torch.cat([part() for part in chunks]) for chunks in kinds])
    if not config.chunk:
        total.backward()  # type: ignore[no-untyped-call]
    return found[0]


def _image_chunk(model: Any, part: torch.Tensor, dropout: float) -> Callable[[], torch.Tensor]:
    return lambda: image_embeddings(model, part, patch_dropout=dropout)


def _weight(config: TrainConfig) -> PairWeight:
    start, end = (None if v < 0 else v for v in (config.loss.weight_start, config.loss.weight_end))
    return pair_weight_from_name(config.loss.weight, start=start, end=end)


def _teacher(config: TrainConfig, state: RunState) -> Teacher | None:
    if not config.loss.teacher:
        return None
    teacher, width = Teacher(Path(config.loss.teacher)), state.model.config.embed_dim
    if teacher.dimension != width:
        raise InputError(
            f"{config.loss.teacher} holds embeddings of D = {teacher.dimension}, the model's have {width}; "
            "embed with a teacher of the same D"
        )
    return teacher


class _Log:
    """JSON lines on disk and to the caller; the first process writes."""

    def __init__(
        self, path: Path, report: Callable[[dict[str, Any]], None], *, enabled: bool, steps: int
    ) -> None:
        self.path, self.report, self.enabled, self.steps = path, report, enabled, steps
        self.started, self.done = time.monotonic(), 0

    def write(self, row: dict[str, Any], *, images: int) -> None:
        """Add a line; rates count from the start of this process."""
        if not self.enabled:
            return
        self.done += images
        rate = self.done / (time.monotonic() - self.started)
        left = (self.steps - row["step"]) * images / rate
        row = row | {"images_per_s": round(rate, 1), "left_s": round(left)}
        try:
            with self.path.open("a", encoding="utf-8") as log:
                log.write(json.dumps(row) + "\n")
        except OSError as error:
            raise TrainingError(f"{self.path} cannot be written ({error.strerror or error})") from error
        self.report(row)

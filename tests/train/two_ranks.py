"""One process of a run with several, as torchrun starts it: ``python two_ranks.py JOB OUT_FOLDER``.

The tests load this file too and compute the same with one process and the joined batch.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.functional import cross_entropy, normalize

from lrsclip_rt.errors import InputError
from lrsclip_train.gathering import (
    World,
    average_gradients,
    gather_plain,
    gather_rows,
    world_from_environment,
)
from lrsclip_train.gradient_cache import cached_backward
from lrsclip_train.losses import multi_positive_loss, principal_components
from lrsclip_train.model import ClipConfig, DualClip

RANKS, ROWS, COMPONENTS = 2, 6, 4
END = 99


def tiny_model() -> DualClip:
    """float64; only the layer norms compute in float32."""
    torch.manual_seed(0)
    shape = ClipConfig("tiny", 32, 16, 8, 64, 1, 64, 1, vocab_size=100, token_rows=100)
    return DualClip(shape).double()


def joined_batch() -> dict[str, torch.Tensor]:
    """Pixels, short and long tokens and the ids of the short texts; ids repeat within and across ranks."""
    random = torch.Generator().manual_seed(1)
    n = RANKS * ROWS
    ids = torch.tensor([0, 1, 2, 2, 3, 4, 0, 5, 6, 4, 7, 8])
    words = torch.randint(1, END, (9, 5), generator=random)
    ends = torch.full((n, 1), END)
    return {
        "pixels": torch.randn(n, 3, 16, 16, generator=random, dtype=torch.float64),
        "short": torch.cat([words[ids], ends], dim=1),
        "long": torch.cat([torch.randint(1, END, (n, 30), generator=random), ends], dim=1),
        "ids": ids,
    }


def part_of(batch: dict[str, torch.Tensor], world: World) -> dict[str, torch.Tensor]:
    return {name: values.chunk(world.size)[world.rank] for name, values in batch.items()}


def losses(model: DualClip, rows: Sequence[torch.Tensor], ids: torch.Tensor, world: World) -> torch.Tensor:
    """Short and long loss over the joined batch: coarse image features, texts with several owners."""
    image, short, long = (gather_rows(normalize(part, dim=1), world) for part in rows)
    ids = gather_plain(ids, world)
    scale = model.logit_scale.exp()
    short_loss = multi_positive_loss(
        principal_components(image, COMPONENTS), short, scale, ids[:, None] == ids[None], smoothing=0.1
    )
    long_loss = multi_positive_loss(image, long, scale, torch.eye(len(image), dtype=torch.bool))
    return 0.7 * long_loss + 0.3 * short_loss


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def plain_step(world: World) -> dict[str, Any]:
    """Loss and gradients of one ordinary backward, averaged over the ranks."""
    model, batch = tiny_model(), part_of(joined_batch(), world)
    rows = [
        model.encode_image(batch["pixels"]),
        model.encode_text(batch["short"]),
        model.encode_text(batch["long"]),
    ]
    loss = losses(model, rows, batch["ids"], world)
    loss.backward()
    average_gradients(model.parameters(), world)
    return {"loss": loss.detach(), "gradients": gradients(model)}


def cached_step(world: World) -> dict[str, Any]:
    """The same by gradient caching, in chunks of unlike length."""
    model, batch = tiny_model(), part_of(joined_batch(), world)

    def chunks(
        encode: Callable[[torch.Tensor], torch.Tensor], values: torch.Tensor, rows: int
    ) -> list[Callable[[], torch.Tensor]]:
        return [lambda part=part: encode(part) for part in values.split(rows)]

    loss = cached_backward(
        [
            chunks(model.encode_image, batch["pixels"], 4),
            chunks(model.encode_text, batch["short"], 6),
            chunks(model.encode_text, batch["long"], 1),
        ],
        lambda rows: losses(model, rows, batch["ids"], world),
    )
    average_gradients(model.parameters(), world)
    return {"loss": loss, "gradients": gradients(model)}


def clip_loss_step(world: World, *, with_gradient: bool) -> dict[str, Any]:
    """CLIP's loss on this rank's rows against all rows, gathered with or without gradient.

    The second is what the published dual-granularity model code does.
    """
    model, batch = tiny_model(), part_of(joined_batch(), world)
    image = normalize(model.encode_image(batch["pixels"]), dim=1)
    text = normalize(model.encode_text(batch["long"]), dim=1)
    if with_gradient:
        all_image, all_text = gather_rows(image, world), gather_rows(text, world)
    else:
        all_image, all_text = gather_plain(image, world), gather_plain(text, world)
    own = torch.arange(len(image)) + world.rank * len(image)
    scale = model.logit_scale.exp()
    loss = cross_entropy(scale * image @ all_text.T, own) + cross_entropy(scale * text @ all_image.T, own)
    (loss / 2).backward()
    average_gradients(model.parameters(), world)
    return {"gradients": gradients(model)}


def refusals(world: World) -> dict[str, str]:
    """What each rank is told about uneven rows, unlike shapes and unlike gradients."""
    uneven = torch.zeros(5 - world.rank, 3)
    unlike = torch.zeros(2, 3) if world.rank else torch.zeros(2, 3, 1)
    layer = nn.Linear(2, 2)
    layer.weight.grad = torch.ones(2, 2)
    if world.rank:
        layer.bias.grad = torch.ones(2)
    found = {}
    for name, call in (
        ("uneven", lambda: gather_rows(uneven, world)),
        ("uneven ids", lambda: gather_plain(uneven, world)),
        ("unlike", lambda: gather_rows(unlike, world)),
        ("gradients", lambda: average_gradients(layer.parameters(), world)),
    ):
        try:
            call()
        except InputError as error:
            found[name] = str(error)
    return found


def plain_values(world: World) -> dict[str, torch.Tensor]:
    """Ids, masks and halves of every rank."""
    return {
        "ids": gather_plain(torch.tensor([[1, 2]]) + 10 * world.rank, world),
        "mask": gather_plain(torch.tensor([world.rank == 0, True]), world),
        "half": gather_plain(torch.full((1, 2), 0.5 + world.rank, dtype=torch.bfloat16), world),
        "none": gather_rows(torch.zeros(0, 3, requires_grad=True), world),
    }


def gathering_job(world: World) -> dict[str, Any]:
    return {
        "world": (world.rank, world.size, world.first, str(world.device), dist.get_backend()),
        "plain": plain_step(world),
        "clip": clip_loss_step(world, with_gradient=True),
        "upstream": clip_loss_step(world, with_gradient=False),
        "refusals": refusals(world),
        "values": plain_values(world),
    }


def cache_job(world: World) -> dict[str, Any]:
    return {"cached": cached_step(world)}


JOBS = {"gathering": gathering_job, "cache": cache_job}


def results_of_ranks(job: str, folder: Path) -> list[dict[str, Any]]:
    """Start the ranks as torchrun does, wait, and read what each of them found."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    started = []
    for rank in range(RANKS):
        environment = os.environ | {
            "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(RANKS),
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        started.append(
            subprocess.Popen(
                [sys.executable, __file__, job, str(folder)],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    try:
        told = [process.communicate(timeout=300)[0] for process in started]
    finally:
        for process in started:
            process.kill()
            process.wait()
    for process, text in zip(started, told, strict=True):
        assert process.returncode == 0, text
        assert text == "", text
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(RANKS)]


if __name__ == "__main__":
    torch.set_num_threads(1)
    with world_from_environment() as this_world:
        found = JOBS[sys.argv[1]](this_world)
    assert not dist.is_initialized()
    torch.save(found, Path(sys.argv[2]) / f"{this_world.rank}.pt")

"""One batch over several processes: rows are joined with their gradient, gradients are averaged.

Every rank encodes its own rows, joins them with those of all others by :func:`gather_rows`, and
computes the SAME loss L over the joined batch. The factor works out as follows for W ranks:

- the backward of :func:`gather_rows` adds what the W copies of L want of a row: W dL/d(row);
- the parameters of rank r thus get W * sum over its rows of dL/d(row) d(row)/d(parameter);
- :func:`average_gradients`, like DistributedDataParallel, divides the sum over ranks by W.

What remains is dL/d(parameter) of one process with the joined batch, for parameters of the loss
itself (``logit_scale``) too, which every rank holds once: their W equal gradients are averaged.
No further factor is needed. A plain ``all_gather`` returns rows without a gradient and loses a part.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from lrsclip_rt.errors import BackendError, InputError

__all__ = [
    "World",
    "average_gradients",
    "gather_counted",
    "gather_plain",
    "gather_rows",
    "world_from_environment",
]

_BUCKET_BYTES = 32 * 2**20
"""Gradients that travel together."""

_PATIENCE = timedelta(hours=12)
"""The first process makes images and validates while the others wait; torchrun ends them if it dies."""

_CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class World:
    """The processes of a run, seen from one of them.

    With one process no process group is needed, and every function of this module is the identity.

    Attributes:
        rank: Number of this process, from 0.
        size: Number of processes.
        device: Where this process computes.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = _CPU

    @property
    def first(self) -> bool:
        """Whether this process writes logs and checkpoints."""
        return self.rank == 0


@contextmanager
def world_from_environment(device: str = "cpu") -> Iterator[World]:
    """Join the processes that ``torchrun`` started; leave them at the end, after an error too.

    Without torchrun's variables, or with one process, no process group is made.

    Args:
        device: ``cpu`` (gloo) or ``cuda`` (nccl, the card numbered ``LOCAL_RANK``).

    Raises:
        InputError: If ``device`` is neither, or only some of torchrun's variables are set, or one
            is no number.
        BackendError: If this process's card does not exist.
    """
    if device not in ("cpu", "cuda"):
        raise InputError(f"unknown device {device!r}; train on cpu or cuda")
    rank, size, local = _torchrun_numbers()
    place = _CPU
    if device == "cuda":
        cards = torch.cuda.device_count()
        if local >= cards:
            raise BackendError(f"process {rank} wants card {local} of {cards}; start fewer, or use cpu")
        place = torch.device("cuda", local)
        torch.cuda.set_device(place)
    if size == 1:
        yield World(0, 1, place)
        return
    backend = "nccl" if device == "cuda" else "gloo"
    dist.init_process_group(backend, rank=rank, world_size=size, timeout=_PATIENCE)
    try:
        yield World(rank, size, place)
    finally:
        dist.destroy_process_group()


def gather_rows(rows: torch.Tensor, world: World) -> torch.Tensor:
    """Rows of all ranks in the order of the ranks, with gradient.

    The backward adds the gradients that all ranks have for this rank's rows; the module's text says
    why a later mean over ranks then gives the gradient of the joined batch. Ranks must call this, and
    run their backwards, in the same order.

    Args:
        rows: (N, ...) of a floating type, as many on every rank.
        world: The processes.

    Returns:
        (size * N, ...).

    Raises:
        InputError: If the ranks bring rows of different number or shape.
    """
    if world.size == 1:
        return rows
    _refuse_uneven(rows, world)
    joined: torch.Tensor = _GatherRows.apply(rows, world)  # type: ignore[no-untyped-call]
    return joined


def gather_counted(rows: torch.Tensor, counts: Sequence[int], world: World) -> torch.Tensor:
    """Like :func:`gather_rows`, for ranks that bring different numbers of rows and know all of them.

    Args:
        rows: (counts[rank], ...) of a floating type.
        counts: Rows of each rank.
        world: The processes.

    Returns:
        (sum of counts, ...).
    """
    if world.size == 1:
        return rows
    most = max(counts)
    padding = rows.new_zeros((most - len(rows), *rows.shape[1:]))
    joined = gather_rows(torch.cat([rows, padding]), world)
    kept = [rank * most + row for rank, count in enumerate(counts) for row in range(count)]
    return joined[torch.tensor(kept, device=rows.device)]


def gather_plain(values: torch.Tensor, world: World) -> torch.Tensor:
    """Ids or masks of all ranks in the order of the ranks, without gradient.

    Args:
        values: (N, ...) of any type, as many on every rank.
        world: The processes.

    Returns:
        (size * N, ...).

    Raises:
        InputError: If the ranks bring values of different number or shape.
    """
    if world.size == 1:
        return values.detach()
    _refuse_uneven(values, world)
    return _joined(values.detach(), world)


def average_gradients(parameters: Iterable[torch.nn.Parameter], world: World) -> None:
    """Replace every gradient by its mean over the ranks, as DistributedDataParallel does.

    Called once after all backwards of a step, it also serves steps with several of them.

    Raises:
        InputError: If the ranks do not hold gradients of the same parameters.
    """
    if world.size == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    found = _everyones([len(gradients), sum(gradient.numel() for gradient in gradients)], world)
    if any(numbers != found[0] for numbers in found):
        counts = _listed([numbers[0] for numbers in found])
        raise InputError(
            f"the ranks hold gradients of {counts} parameters; every rank must use the same ones in a step"
        )
    for bucket in _buckets(gradients):
        flat = torch.cat([gradient.flatten() for gradient in bucket])
        dist.all_reduce(flat)
        flat /= world.size
        parts = torch.split(flat, [gradient.numel() for gradient in bucket])
        for gradient, part in zip(bucket, parts, strict=True):
            gradient.copy_(part.view_as(gradient))


class _GatherRows(torch.autograd.Function):
    """``all_gather`` whose backward adds up the gradients of all ranks."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, world: World) -> torch.Tensor:
        ctx.world, ctx.rows = world, len(rows)
        return _joined(rows, world)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        start = ctx.world.rank * ctx.rows
        return total[start : start + ctx.rows], None


def _joined(values: torch.Tensor, world: World) -> torch.Tensor:
    """(N, ...) of every rank, same shape everywhere -> (size * N, ...)."""
    sent = values.contiguous()
    if sent.dtype == torch.bool:  # gloo has no bool
        return _joined(sent.view(torch.uint8), world).view(torch.bool)
    joined = sent.new_empty((world.size, *sent.shape))
    dist.all_gather(list(joined.unbind()), sent)
    return joined.flatten(0, 1)


def _refuse_uneven(values: torch.Tensor, world: World) -> None:
    """Exchange the shapes first: a collective call with unlike shapes hangs or returns garbage."""
    # Sixteen numbers hold any shape we gather; the exchange itself must be of one shape everywhere.
    shape = [values.ndim, *values.shape]
    found = [numbers[: 1 + numbers[0]] for numbers in _everyones(shape + [0] * (16 - len(shape)), world)]
    if any(numbers[2:] != found[0][2:] or numbers[0] != found[0][0] for numbers in found):
        shapes = _listed([tuple(numbers[1:]) for numbers in found])
        raise InputError(f"the ranks bring values of shape {shapes}; rows must be of one shape everywhere")
    if any(numbers != found[0] for numbers in found):
        counts = _listed([numbers[1] for numbers in found])
        raise InputError(
            f"the ranks bring {counts} rows; every rank must bring as many: drop the last, uneven batch"
        )


def _everyones(numbers: Sequence[int], world: World) -> list[list[int]]:
    """Each rank's whole numbers, as many on every rank."""
    own = torch.tensor([list(numbers)], dtype=torch.int64, device=world.device)
    return [[int(number) for number in row] for row in _joined(own, world).tolist()]


def _buckets(gradients: Sequence[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    """Runs of gradients of one type that stay near ``_BUCKET_BYTES``."""
    bucket: list[torch.Tensor] = []
    held = 0
    for gradient in gradients:
        size = gradient.numel() * gradient.element_size()
        if bucket and (held + size > _BUCKET_BYTES or gradient.dtype != bucket[0].dtype):
            yield bucket
            bucket, held = [], 0
        bucket.append(gradient)
        held += size
    if bucket:
        yield bucket


def _torchrun_numbers() -> tuple[int, int, int]:
    """Rank, number of processes and the rank on this machine; 0, 1, 0 without torchrun."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    given = {name: os.environ[name] for name in names if name in os.environ}
    if not given:
        return 0, 1, 0
    missing = [name for name in names if name not in given]
    if missing:
        raise InputError(
            f"{_listed(list(given))} set without {_listed(missing)}; start with torchrun, or unset them"
        )
    try:
        rank, size, local = (int(given[name]) for name in names)
    except ValueError as error:
        raise InputError(f"torchrun's variables must be whole numbers, got {given}") from error
    if not (0 <= rank < size and local >= 0):
        raise InputError(f"torchrun's variables contradict each other: {given}; start with torchrun")
    return rank, size, local


def _listed(values: Sequence[object]) -> str:
    """``a, b and c``."""
    words = [str(value) for value in values]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"

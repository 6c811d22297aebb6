"""Batches larger than memory, exactly: gradient caching (arXiv 2101.06983).

A contrastive loss needs the embeddings of the whole batch, but not the graphs behind them. So the
embeddings are computed chunk by chunk without graphs, the loss gives the gradient of each
embedding, and a second pass over the chunks carries these gradients into the parameters. The
result is that of one plain backward for about one more forward; the largest graph is that of a chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch

from lrsclip_rt.errors import InputError

__all__ = ["cached_backward"]

_Chunk = Callable[[], torch.Tensor]
_RngState = tuple[torch.Tensor, list[torch.Tensor]]


def cached_backward(
    encode_chunks: Sequence[Sequence[_Chunk]],
    loss_of_embeddings: Callable[[Sequence[torch.Tensor]], torch.Tensor],
) -> torch.Tensor:
    """Add the gradient of a loss over all chunks to the parameters, one chunk's graph at a time.

    Each chunk is encoded twice with the same random numbers, so dropout repeats. An autocast around
    the call holds in both passes. Encoders must not keep state from call to call (running
    statistics would see each chunk twice). Under several processes join the embeddings inside
    ``loss_of_embeddings`` (:func:`~lrsclip_train.gathering.gather_rows`) and average the
    gradients once afterwards; a DistributedDataParallel wrapper would average after each chunk.

    Args:
        encode_chunks: Per kind of input (images, short texts, long texts, ...), functions that
            each encode one chunk: () -> (rows, D). Numbers of chunks and of rows may differ.
        loss_of_embeddings: Called once with the (N, D) embeddings of each kind, joined in order;
            returns the scalar loss. Parameters used in here, such as ``logit_scale``, get their
            gradient from here.

    Returns:
        The loss, without graph.

    Raises:
        InputError: If a kind has no chunk.

    Example:
        >>> layer = torch.nn.Linear(3, 2)
        >>> inputs = torch.split(torch.randn(6, 3), 2)
        >>> chunks = [lambda part=part: layer(part) for part in inputs]
        >>> loss = cached_backward([chunks], lambda kinds: kinds[0].square().sum())
        >>> torch.allclose(layer.bias.grad, 2 * layer(torch.cat(inputs)).sum(dim=0))
        True
    """
    for kind, chunks in enumerate(encode_chunks):
        if not chunks:
            raise InputError(f"kind {kind} of the inputs has no chunk; leave out kinds without rows")
    with torch.no_grad(), _autocast_without_cache():
        first = [[_seen(chunk) for chunk in chunks] for chunks in encode_chunks]
    embeddings = [torch.cat([rows for rows, _ in parts]).requires_grad_(True) for parts in first]
    loss = loss_of_embeddings(embeddings)
    with _no_autocast():
        loss.backward()  # type: ignore[no-untyped-call]
    with _rng_afterwards_as_now():
        for chunks, parts, joined in zip(encode_chunks, first, embeddings, strict=True):
            if joined.grad is None:  # the loss did not use this kind
                continue
            gradients = torch.split(joined.grad, [len(rows) for rows, _ in parts])
            for chunk, (_, state), gradient in zip(chunks, parts, gradients, strict=True):
                _carry_back(chunk, state, gradient)
    return loss.detach()


def _seen(chunk: _Chunk) -> tuple[torch.Tensor, _RngState]:
    """The chunk's rows, and the random state that they were drawn with."""
    state = _rng_state()
    return chunk(), state


def _carry_back(chunk: _Chunk, state: _RngState, gradient: torch.Tensor) -> None:
    """Encode once more with a graph, and go back through it."""
    _set_rng_state(state)
    with _autocast_without_cache():
        rows = chunk()
    if rows.requires_grad:  # else the encoder is frozen
        with _no_autocast():
            torch.autograd.backward([rows], [gradient])


@contextmanager
def _autocast_without_cache() -> Iterator[None]:
    """The autocast that is on, without its cache of cast weights.

    Some torch releases keep the weights that the first pass has cast without a graph and hand them
    to the second, where no gradient would then reach the parameters.
    """
    with ExitStack() as stack:
        for device in _autocast_devices():
            dtype = torch.get_autocast_dtype(device)
            stack.enter_context(torch.autocast(device, dtype=dtype, cache_enabled=False))
        yield


@contextmanager
def _no_autocast() -> Iterator[None]:
    """Backwards run in the types of their forwards."""
    with ExitStack() as stack:
        for device in _autocast_devices():
            stack.enter_context(torch.autocast(device, enabled=False))
        yield


def _autocast_devices() -> list[str]:
    return [device for device in ("cpu", "cuda") if torch.is_autocast_enabled(device)]


@contextmanager
def _rng_afterwards_as_now() -> Iterator[None]:
    """Leave the random state as a plain forward would have left it."""
    state = _rng_state()
    try:
        yield
    finally:
        _set_rng_state(state)


def _rng_state() -> _RngState:
    """States of the CPU and of every card; cards count once something has run on one."""
    cards = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return torch.get_rng_state(), torch.cuda.get_rng_state_all() if cards else []


def _set_rng_state(state: _RngState) -> None:
    torch.set_rng_state(state[0])
    if state[1]:
        torch.cuda.set_rng_state_all(state[1])

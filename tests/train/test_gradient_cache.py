"""Gradient caching against one plain backward: exact, and never a graph larger than a chunk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
import two_ranks
from torch import nn
from torch.nn.functional import dropout, normalize

from lrsclip_rt.errors import InputError
from lrsclip_train.gathering import World
from lrsclip_train.gradient_cache import cached_backward
from lrsclip_train.losses import multi_positive_loss, principal_components
from lrsclip_train.model import ClipConfig, DualClip

END = 99
Chunks = list[Callable[[], torch.Tensor]]


def _model() -> DualClip:
    torch.manual_seed(0)
    return DualClip(ClipConfig("tiny", 32, 16, 8, 64, 1, 64, 1, vocab_size=100, token_rows=100))


def _tokens(n: int, length: int, seed: int) -> torch.Tensor:
    words = torch.randint(1, END, (n, length - 1), generator=torch.Generator().manual_seed(seed))
    return torch.cat([words, torch.full((n, 1), END)], dim=1)


def _kinds(model: DualClip, n: int, rows: Sequence[int], *, more: int = 3, p: float = 0.2) -> list[Chunks]:
    """Images, short texts with some hard negatives, and long texts; dropout on inputs and on embeddings."""
    pixels = torch.randn(n, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    shorts, longs = _tokens(n + more, 6, 2), _tokens(n, 31, 3)

    def image(part: torch.Tensor) -> torch.Tensor:
        return normalize(dropout(model.encode_image(dropout(part, p)), p).float(), dim=1)

    def text(part: torch.Tensor) -> torch.Tensor:
        return normalize(dropout(model.encode_text(part), p).float(), dim=1)

    return [
        [lambda part=part, encode=encode: encode(part) for part in values.split(size)]
        for values, encode, size in zip((pixels, shorts, longs), (image, text, text), rows, strict=True)
    ]


def _loss(model: DualClip) -> Callable[[Sequence[torch.Tensor]], torch.Tensor]:
    def loss(rows: Sequence[torch.Tensor]) -> torch.Tensor:
        image, short, long = rows
        scale = model.logit_scale.exp()
        coarse = principal_components(image, 4)
        own = torch.eye(len(image), len(short), dtype=torch.bool)
        twins = torch.eye(len(image), dtype=torch.bool)
        return 0.4 * multi_positive_loss(coarse, short, scale, own) + 0.6 * multi_positive_loss(
            image, long, scale, twins
        )

    return loss


def _gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def _plain(model: DualClip, kinds: Sequence[Chunks]) -> torch.Tensor:
    """The whole graph at once."""
    loss = _loss(model)([torch.cat([chunk() for chunk in chunks]) for chunks in kinds])
    return loss


def test_with_dropout_on_loss_gradients_and_random_state_are_those_of_a_plain_backward() -> None:
    results = []
    for cached in (False, True):
        model = _model()
        kinds = _kinds(model, 14, (5, 4, 14))
        torch.manual_seed(7)
        if cached:
            loss = cached_backward(kinds, _loss(model))
        else:
            loss = _plain(model, kinds)
            loss.backward()
        results.append((loss.detach(), _gradients(model), torch.rand(3)))
    (loss, plain, after), (cached_loss, ours, cached_after) = results
    assert not cached_loss.requires_grad
    assert torch.equal(loss, cached_loss)
    assert torch.equal(after, cached_after)
    assert plain.keys() == ours.keys()
    assert "logit_scale" in ours
    for name, gradient in plain.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_dropout_that_did_not_repeat_would_be_seen() -> None:
    """The comparison above is sharp: another seed moves the gradients by far more than its tolerance."""
    found = []
    for seed in (7, 8):
        model = _model()
        torch.manual_seed(seed)
        cached_backward(_kinds(model, 14, (5, 4, 14)), _loss(model))
        found.append(_gradients(model)["visual.proj"])
    assert float((found[0] - found[1]).abs().max()) > 0.1 * float(found[0].abs().max())


def test_under_autocast_both_passes_are_cast_and_every_parameter_gets_its_gradient() -> None:
    results = []
    for cached in (False, True):
        model = _model()
        kinds = _kinds(model, 10, (4, 13, 3), p=0.0)
        with torch.autocast("cpu", torch.bfloat16):
            loss = cached_backward(kinds, _loss(model)) if cached else _plain(model, kinds)
        if not cached:
            loss.backward()
        results.append((loss.item(), _gradients(model)))
    (loss_value, plain), (cached_value, ours) = results
    full = _plain(_model(), _kinds(_model(), 10, (4, 13, 3), p=0.0)).item()
    assert cached_value == loss_value != full
    assert plain.keys() == ours.keys()
    for name, gradient in plain.items():
        # bfloat16 sums over a chunk or over the batch differ in the last of 8 bits.
        largest = float(gradient.abs().max())
        assert float((ours[name] - gradient).abs().max()) <= 0.03 * largest, name
        assert ours[name].dtype == torch.float32


def test_2048_rows_never_build_a_graph_larger_than_a_chunk() -> None:
    model = _model()
    seen: list[tuple[int, bool]] = []
    for tower in (model.visual, model.transformer):
        tower.register_forward_pre_hook(
            lambda module, inputs: seen.append((len(inputs[0]), torch.is_grad_enabled()))
        )
    alive: set[int] = set()
    most = 0

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal most
        if tensor.ndim == 3:  # activations of blocks: (rows, tokens, width)
            alive.add(len(tensor))
            most = max(most, len(tensor))
        return tensor

    kinds = _kinds(model, 2048, (64, 256, 32), more=0, p=0.0)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = cached_backward(kinds, _loss(model))
    assert bool(torch.isfinite(loss))
    assert most == 256
    assert alive == {64, 256, 32}
    assert {rows for rows, _ in seen} == {64, 256, 32}
    with_graph = sum(rows for rows, graph in seen if graph)
    assert with_graph == 3 * 2048
    assert sum(rows for rows, _ in seen) == 2 * with_graph
    assert [graph for _, graph in seen] == sorted(graph for _, graph in seen)


def test_a_frozen_tower_and_an_unused_kind_get_no_gradient_and_no_chunks_are_refused() -> None:
    model = _model()
    model.visual.requires_grad_(False)
    calls = []
    kinds = _kinds(model, 6, (3, 3, 3))
    kinds.append([lambda: calls.append(1) or torch.zeros(2, 4)])
    loss_of_three = _loss(model)
    cached_backward(kinds, lambda rows: loss_of_three(rows[:3]))
    assert calls == [1]
    assert model.visual.proj.grad is None
    assert model.text_projection.grad is not None
    with pytest.raises(InputError, match="kind 1 of the inputs has no chunk"):
        cached_backward([kinds[0], []], loss_of_three)


def test_gradients_add_up_over_calls_as_those_of_backward_do() -> None:
    model = _model()
    kinds = _kinds(model, 6, (3, 3, 3), p=0.0)
    cached_backward(kinds, _loss(model))
    once = _gradients(model)
    cached_backward(kinds, _loss(model))
    for name, gradient in _gradients(model).items():
        torch.testing.assert_close(gradient, 2 * once[name], msg=name)


def test_two_ranks_with_caching_have_the_gradients_of_one_process_without(tmp_path: Path) -> None:
    one = two_ranks.plain_step(World())
    for rank in two_ranks.results_of_ranks("cache", tmp_path):
        torch.testing.assert_close(rank["cached"]["loss"], one["loss"], rtol=1e-6, atol=0)
        assert rank["cached"]["gradients"].keys() == one["gradients"].keys()
        for name, gradient in one["gradients"].items():
            difference = (rank["cached"]["gradients"][name] - gradient).abs().max()
            assert float(difference) < 1e-5 * float(gradient.abs().max()), name

"""Two real processes against one with the joined batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
import two_ranks
from torch import nn

from lrsclip_rt.errors import BackendError, InputError
from lrsclip_train.gathering import (
    World,
    average_gradients,
    gather_plain,
    gather_rows,
    world_from_environment,
)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    ranks: list[dict[str, Any]] = two_ranks.results_of_ranks("gathering", tmp_path_factory.mktemp("ranks"))
    return ranks


def _largest_difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """Relative to the largest gradient of the parameter; a missing one counts as zero."""
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max() / b[name].abs().max()) for name in a)


def test_each_process_learns_who_it_is(found: list[dict[str, Any]]) -> None:
    assert [rank["world"] for rank in found] == [
        (0, 2, True, "cpu", "gloo"),
        (1, 2, False, "cpu", "gloo"),
    ]


def test_two_ranks_have_the_loss_and_gradients_of_one_process_with_the_joined_batch(
    found: list[dict[str, Any]],
) -> None:
    one = two_ranks.plain_step(World())
    assert len(one["gradients"]) > 30
    assert "logit_scale" in one["gradients"]
    for rank in found:
        torch.testing.assert_close(rank["plain"]["loss"], one["loss"], rtol=1e-6, atol=0)
        assert _largest_difference(rank["plain"]["gradients"], one["gradients"]) < 1e-5


def test_a_gather_without_gradient_loses_a_part_that_ours_keeps(found: list[dict[str, Any]]) -> None:
    one = two_ranks.clip_loss_step(World(), with_gradient=True)["gradients"]
    for rank in found:
        assert _largest_difference(rank["clip"]["gradients"], one) < 1e-5
        assert _largest_difference(rank["upstream"]["gradients"], one) > 0.1


def test_uneven_rows_and_unlike_gradients_are_refused_on_every_rank(found: list[dict[str, Any]]) -> None:
    for rank in found:
        told = rank["refusals"]
        assert told["uneven"] == (
            "the ranks bring 5 and 4 rows; every rank must bring as many: drop the last, uneven batch"
        )
        assert told["uneven ids"] == told["uneven"]
        assert "shape (2, 3, 1) and (2, 3)" in told["unlike"]
        assert "gradients of 1 and 2 parameters" in told["gradients"]


def test_ids_masks_and_halves_arrive_in_the_order_of_the_ranks(found: list[dict[str, Any]]) -> None:
    for rank in found:
        values = rank["values"]
        assert values["ids"].tolist() == [[1, 2], [11, 12]]
        assert values["mask"].tolist() == [True, True, False, True]
        assert values["mask"].dtype == torch.bool
        assert values["half"].tolist() == [[0.5, 0.5], [1.5, 1.5]]
        assert tuple(values["none"].shape) == (0, 3)


def test_one_process_needs_no_group_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    layer = nn.Linear(3, 2)
    with world_from_environment() as world:
        assert world == World(0, 1, torch.device("cpu"))
        assert world.first
        assert not dist.is_initialized()
        rows = layer(torch.ones(4, 3))
        assert gather_rows(rows, world) is rows
        assert not gather_plain(rows, world).requires_grad
        rows.sum().backward()
        average_gradients(layer.parameters(), world)
        assert layer.bias.grad is not None
        assert layer.bias.grad.tolist() == [4.0, 4.0]


def test_an_incomplete_or_contradictory_environment_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def tried(device: str = "cpu", **values: str) -> None:
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
            monkeypatch.delenv(name, raising=False)
        for name, value in values.items():
            monkeypatch.setenv(name, value)
        with world_from_environment(device):
            pass

    with pytest.raises(InputError, match="RANK set without WORLD_SIZE and LOCAL_RANK"):
        tried(RANK="0")
    with pytest.raises(InputError, match="whole numbers"):
        tried(RANK="0", WORLD_SIZE="two", LOCAL_RANK="0")
    with pytest.raises(InputError, match="contradict"):
        tried(RANK="2", WORLD_SIZE="2", LOCAL_RANK="0")
    with pytest.raises(InputError, match="unknown device 'tpu'"):
        tried("tpu")
    with pytest.raises(BackendError, match=r"process 0 wants card 99 of \d+"):
        tried("cuda", RANK="0", WORLD_SIZE="1", LOCAL_RANK="99")

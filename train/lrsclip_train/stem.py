"""MobileNetV2 up to its last convolution, batch norm folded, with TensorFlow's padding.

Source of the shapes: arXiv 1801.04381, table 2. The stem reads RGB scaled to [-1, 1].
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from lrsclip_rt.errors import CheckpointError

__all__ = ["BOTTLENECKS", "STEM_CHANNELS", "STEM_STRIDE", "Bottleneck", "MobileNetV2Stem", "load_mobilenetv2"]

STEM_STRIDE = 32
STEM_CHANNELS = 1280


@dataclass(frozen=True, slots=True)
class Bottleneck:
    """One inverted residual: input and output channels, expansion and stride."""

    channels_in: int
    channels_out: int
    expansion: int
    stride: int


def _bottlenecks() -> tuple[Bottleneck, ...]:
    rows, channels = [], 32
    for expansion, out, repeats, stride in (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ):
        for index in range(repeats):
            rows.append(Bottleneck(channels, out, expansion, stride if index == 0 else 1))
            channels = out
    return tuple(rows)


BOTTLENECKS = _bottlenecks()


class SameConv(nn.Conv2d):
    """Convolution padded as TensorFlow's SAME: with stride 2 on even sizes, right and bottom by one."""

    def __init__(
        self, channels_in: int, channels_out: int, kernel: int, *, stride: int = 1, groups: int = 1
    ) -> None:
        padding = kernel // 2 if stride == 1 else 0
        super().__init__(channels_in, channels_out, kernel, stride, padding, groups=groups)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) -> (N, C', H / stride, W / stride); H and W must be multiples of the stride."""
        if self.stride[0] == 2:
            x = F.pad(x, (0, 1, 0, 1))
        return super().forward(x)


class InvertedResidual(nn.Module):
    """Expand, filter depthwise, project; ReLU6 after the first two."""

    def __init__(self, shape: Bottleneck) -> None:
        super().__init__()
        hidden = shape.channels_in * shape.expansion
        self.residual = shape.stride == 1 and shape.channels_in == shape.channels_out
        if shape.expansion != 1:
            self.expand = SameConv(shape.channels_in, hidden, 1)
        self.depthwise = SameConv(hidden, hidden, 3, stride=shape.stride, groups=hidden)
        self.project = SameConv(hidden, shape.channels_out, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) -> (N, C', H / stride, W / stride)."""
        y = F.relu6(self.expand(x)) if hasattr(self, "expand") else x
        y = self.project(F.relu6(self.depthwise(y)))
        out: torch.Tensor = x + y if self.residual else y
        return out


class MobileNetV2Stem(nn.Module):
    """(N, 3, S, S) in [-1, 1] -> (N, 1280, S / 32, S / 32)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = SameConv(3, 32, 3, stride=2)
        self.blocks = nn.ModuleList(InvertedResidual(shape) for shape in BOTTLENECKS)
        self.last = SameConv(BOTTLENECKS[-1].channels_out, STEM_CHANNELS, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, 3, S, S) -> (N, 1280, S / 32, S / 32)."""
        return self.late(self.early(x, len(self.blocks)), len(self.blocks))

    def early(self, x: torch.Tensor, split: int) -> torch.Tensor:
        """Pixels through the first ``split`` bottlenecks."""
        x = F.relu6(self.first(x))
        for block in self.blocks[:split]:
            x = block(x)
        return x

    def bottlenecks(self, x: torch.Tensor, split: int) -> torch.Tensor:
        """Output of :meth:`early` through the remaining bottlenecks."""
        for block in self.blocks[split:]:
            x = block(x)
        return x

    def head(self, x: torch.Tensor) -> torch.Tensor:
        """Output of the bottlenecks through the last convolution, which sees each position alone."""
        return F.relu6(self.last(x))

    def late(self, x: torch.Tensor, split: int) -> torch.Tensor:
        """Output of :meth:`early` through all the rest."""
        return self.head(self.bottlenecks(x, split))


def load_mobilenetv2(stem: MobileNetV2Stem, path: Path) -> None:
    """Copy ImageNet weights with folded batch norm into ``stem``.

    Args:
        stem: Receives the weights.
        path: ``.npz`` with torchvision's names (``features.N...``) and a bias for every convolution.

    Raises:
        CheckpointError: If the file cannot be read, or a tensor is missing or has another shape.
    """
    try:
        opened = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise CheckpointError(f"{path} cannot be read as an .npz of a MobileNetV2 ({error})") from error
    with opened as arrays:
        for module, prefix in _torchvision_names(stem):
            for name, parameter in (("weight", module.weight), ("bias", module.bias)):
                key = f"{prefix}.{name}"
                assert parameter is not None
                if key not in arrays or arrays[key].shape != tuple(parameter.shape):
                    found = arrays[key].shape if key in arrays else "nothing"
                    raise CheckpointError(
                        f"{path}: expected {key} of shape {tuple(parameter.shape)}, found {found}"
                    )
                with torch.no_grad():
                    parameter.copy_(torch.from_numpy(arrays[key].astype(np.float32)))


def _torchvision_names(stem: MobileNetV2Stem) -> list[tuple[nn.Conv2d, str]]:
    names: list[tuple[nn.Conv2d, str]] = [(stem.first, "features.0.0")]
    for index, block in enumerate(stem.blocks):
        assert isinstance(block, InvertedResidual)
        prefix = f"features.{index + 1}.conv"
        if hasattr(block, "expand"):
            names += [
                (block.expand, f"{prefix}.0.0"),
                (block.depthwise, f"{prefix}.1.0"),
                (block.project, f"{prefix}.2"),
            ]
        else:
            names += [(block.depthwise, f"{prefix}.0.0"), (block.project, f"{prefix}.1")]
    return [*names, (stem.last, "features.18.0")]

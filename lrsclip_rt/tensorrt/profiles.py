"""Which shapes an engine is built for: one optimisation profile for each length of texts, any batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lrsclip_rt.bundle import ModelSpec

__all__ = ["ENGINE_TOWERS", "BuildOptions", "Profile", "graph_of", "profiles_for"]

ENGINE_TOWERS = ("image", "dense", "text")
"""One engine each; that of the texts also answers for ``text-248``."""

_TEXT_LENGTHS = (32, 64, 128)
"""Below the context length, which is always the last."""
_TOKENS_PER_RUN = 4096
_DENSE_IMAGES_PER_RUN = 8
_QUERIES = 8
"""What the lengths are tuned for: a handful of queries; the largest batch is for captions."""


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """What ``lrsclip build`` was asked for.

    Attributes:
        static_text: Build the texts' engine from the graph of the fixed full length.
        workspace_mib: Limit of scratch memory and of what tactics may take while they are timed [MiB]; None
            leaves it to TensorRT, which takes up to all memory.
        version_compatible: The engine runs on later versions of TensorRT too.
        strip: Leave the weights out of the plan; they are put back from the ONNX file at each start.
        image_batch: The largest batch of images, which the engine is tuned for.
    """

    static_text: bool = False
    workspace_mib: int | None = None
    version_compatible: bool = False
    strip: bool = False
    image_batch: int = 32


@dataclass(frozen=True, slots=True)
class Profile:
    """One optimisation profile.

    Attributes:
        length: Tokens of each text, or None for images.
        optimum: The batch that it is tuned for.
        maximum: The largest batch.
        rows: Shape of one row of each input, by name.
    """

    length: int | None
    optimum: int
    maximum: int
    rows: Mapping[str, tuple[int, ...]]

    def shapes(self, batch: int) -> dict[str, tuple[int, ...]]:
        """Shape of each input at a batch.

        Example:
            >>> Profile(32, 8, 128, {"tokens": (32,), "eot": ()}).shapes(4)
            {'tokens': (4, 32), 'eot': (4,)}
        """
        return {name: (batch, *row) for name, row in self.rows.items()}

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        rows = {name: list(row) for name, row in self.rows.items()}
        return {"length": self.length, "optimum": self.optimum, "maximum": self.maximum, "rows": rows}


def graph_of(tower: str, options: BuildOptions) -> str:
    """The graph of the bundle that an engine is built from.

    Example:
        >>> graph_of("text", BuildOptions(static_text=True)), graph_of("image", BuildOptions())
        ('text-248', 'image')
    """
    return "text-248" if tower == "text" and options.static_text else tower


def profiles_for(tower: str, spec: ModelSpec, options: BuildOptions) -> tuple[Profile, ...]:
    """The profiles of an engine, shortest first.

    Args:
        tower: One of ``ENGINE_TOWERS``.
        spec: The model's.
        options: Whether texts have one length only.
    """
    if tower != "text":
        maximum = options.image_batch if tower == "image" else min(options.image_batch, _DENSE_IMAGES_PER_RUN)
        return (Profile(None, maximum, maximum, {"pixels": (3, spec.image_size, spec.image_size)}),)
    shorter = () if options.static_text else [n for n in _TEXT_LENGTHS if n < spec.context_length]
    return tuple(
        Profile(length, _QUERIES, max(_QUERIES, _TOKENS_PER_RUN // length), {"tokens": (length,), "eot": ()})
        for length in (*shorter, spec.context_length)
    )

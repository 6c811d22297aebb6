"""Move the scale of wide channels from an activation into the weight behind it.

One scale serves a whole activation, so a few channels thirty times as wide as the others leave them four
bits. Dividing each channel by a factor where it is made, and multiplying the weight's row by it, changes no
answer and evens the channels out (SmoothQuant, arXiv 2211.10438). The factor goes into the affine of the
LayerNormalization before the product, into the columns that make the attention's values, or into those
of the first product of the MLP: there the slope of QuickGELU becomes one number a channel.

Factors are powers of two, so that moving them is exact in every float type.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lrsclip_export.activations import ActivationSample
from lrsclip_export.graph_source import SourceGraph
from lrsclip_export.number_formats import NumberFormat
from lrsclip_export.product_error import output_error, rounded_rows, rounded_weight
from lrsclip_export.products import GeluInput, NormInput, Product, ValueInput
from lrsclip_export.ranges import magnitudes_of, mse_range

__all__ = ["STRENGTHS", "MigratedGraph", "Migration", "chosen_migration", "divisors_of"]

STRENGTHS = (0.0, 0.4, 0.5, 0.6, 0.7, 0.8)
"""Tried for each layer: the share of a channel's width that moves into the weight; 0 moves nothing."""

_MOST_DOUBLINGS = 8
# What is moved was measured on a sample, so a small gain is none.
_WORTH_MOVING = 0.8

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Migration:
    """Divisors by activation.

    Attributes:
        divisors: (C,) powers of two by the name of the product's input; those not named stay.
    """

    divisors: Mapping[str, Array]

    def sample(self, name: str, sample: ActivationSample) -> ActivationSample:
        """What is seen of the activation ``name`` afterwards."""
        return sample.scaled(self.divisors[name]) if name in self.divisors else sample


def divisors_of(widths: Array, weight: Array, strength: float) -> Array:
    """SmoothQuant's factors, rounded to powers of two; the channel in the middle keeps its width.

    Args:
        widths: (C,) largest magnitude of each channel.
        weight: (C, C').
        strength: 0 to 1.

    Example:
        >>> divisors_of(np.float32([1, 1, 1, 64]), np.ones((4, 2), np.float32), 0.5).tolist()
        [1.0, 1.0, 1.0, 8.0]
    """
    tiny = np.finfo(np.float32).tiny
    rows = np.abs(weight).max(axis=1)
    logs = strength * np.log2(np.maximum(widths, tiny)) - (1 - strength) * np.log2(np.maximum(rows, tiny))
    alive = (widths > tiny) & (rows > tiny)
    middle = np.median(logs[alive]) if alive.any() else 0.0
    logs = np.where(alive, logs - middle, 0.0)
    doublings = np.clip(np.rint(logs), -_MOST_DOUBLINGS, _MOST_DOUBLINGS)
    divisors: Array = np.ldexp(np.float32(1), doublings.astype(np.int32)).astype(np.float32)
    return divisors


def chosen_migration(
    source: SourceGraph,
    products: Sequence[Product],
    samples: Mapping[str, ActivationSample],
    number_format: NumberFormat,
    strengths: Sequence[float] = STRENGTHS,
) -> Migration:
    """For each activation the strength that hurts its products least.

    Args:
        source: fp32 graph.
        products: Of ``source``.
        samples: By activation.
        number_format: What the products will compute in.
        strengths: To try.
    """
    divisors: dict[str, Array] = {}
    for group in _groups(products):
        weights = [source.array(product.weight).astype(np.float32) for product in group]
        seen = [samples[product.x] for product in group]
        widths = np.maximum.reduce([sample.maxima for sample in seen])
        joined = np.concatenate(weights, axis=1)
        tries: list[tuple[float, Array]] = []
        for strength in strengths:
            divisor = divisors_of(widths, joined, strength) if strength else np.ones_like(widths)
            error = sum(
                _error(sample.scaled(divisor), weight * divisor[:, None], number_format)
                for sample, weight in zip(seen, weights, strict=True)
            )
            tries.append((error, divisor))
        error, divisor = min(tries, key=lambda entry: entry[0])
        if error < _WORTH_MOVING * tries[0][0]:
            divisors.update({product.x: divisor for product in group})
    return Migration(divisors)


def _error(sample: ActivationSample, weight: Array, number_format: NumberFormat) -> float:
    reach = float(sample.maxima.max())
    if reach > 0:
        reach = mse_range(magnitudes_of(sample.rows, reach), number_format)
    found = rounded_rows(sample.rows, number_format, reach) @ rounded_weight(weight, number_format)
    return output_error(sample.rows @ weight, found)


def _groups(products: Sequence[Product]) -> list[list[Product]]:
    """Products whose inputs are scaled together: those of one LayerNormalization's affine."""
    groups: dict[str, list[Product]] = {}
    for product in products:
        key = product.before.scale if isinstance(product.before, NormInput) else product.x
        groups.setdefault(key, []).append(product)
    return list(groups.values())


class MigratedGraph(SourceGraph):
    """An fp32 graph with the migration folded in; its file stays as it is.

    Args:
        path: The ``.onnx`` file.
        products: Its products.
        migration: What to move.
    """

    def __init__(self, path: Path, products: Sequence[Product], migration: Migration) -> None:
        super().__init__(path)
        self._factors: dict[str, Array] = {}
        self._slopes: set[str] = set()
        for group in _groups(products):
            divisor = migration.divisors.get(group[0].x)
            if divisor is None:
                continue
            # Two products may share a weight, which is scaled once.
            for weight in dict.fromkeys(product.weight for product in group):
                self._multiply(weight, divisor[:, None])
            self._divide_before(group[0], divisor)

    def is_inline(self, value: str) -> bool:
        """Whether the constant lies in the graph file itself; slopes of many channels do not stay there."""
        return value not in self._slopes and super().is_inline(value)

    def array(self, value: str) -> NDArray[Any]:
        """Numbers of a constant after the migration."""
        array = super().array(value)
        return array * self._factors[value] if value in self._factors else array

    def _multiply(self, value: str, factor: Array) -> None:
        self._factors[value] = self._factors[value] * factor if value in self._factors else factor

    def _divide_before(self, product: Product, divisor: Array) -> None:
        before, inverse = product.before, np.reciprocal(divisor)
        if isinstance(before, NormInput):
            self._multiply(before.scale, inverse)
            self._multiply(before.bias, inverse)
        elif isinstance(before, ValueInput):
            columns = np.ones(before.first + len(divisor), dtype=np.float32)
            columns[before.first :] = inverse
            self._multiply(before.weight, columns[None, :])
            self._multiply(before.bias, columns)
        elif isinstance(before, GeluInput):
            self._multiply(before.weight, inverse[None, :])
            self._multiply(before.bias, inverse)
            self._raise_slope(before.steep, divisor)

    def _raise_slope(self, steep: str, divisor: Array) -> None:
        """Give one QuickGELU a slope for each channel, so that its gate sees what it saw."""
        import onnx

        (node,) = (node for node in self.model.graph.node if node.output[0] == steep)
        name = f"{steep}.slopes"
        slopes = np.asarray(super().array(node.input[1]) * divisor, dtype=np.float32)
        tensor = onnx.numpy_helper.from_array(slopes, name)
        self.model.graph.initializer.append(tensor)
        self._initialisers[name] = tensor
        self._slopes.add(name)
        node.input[1] = name

"""How each product of a graph is quantised: its range, the correction of its bias, and what that costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lrsclip_export.activations import ActivationSample
from lrsclip_export.graph_source import SourceGraph
from lrsclip_export.number_formats import NumberFormat
from lrsclip_export.product_error import output_error, rounded_rows, rounded_weight
from lrsclip_export.products import Product
from lrsclip_export.quantised_graph import QuantisedProduct
from lrsclip_export.ranges import RANGE_RULES, proposed_ranges

__all__ = ["PlannedProduct", "planned_products"]

Array = NDArray[np.float32]

# Images that were not seen are cut harder than the sample shows, so a cut has to be worth it.
_WORTH_A_CUT = 0.7


@dataclass(frozen=True, slots=True, eq=False)
class PlannedProduct:
    """A product and what is known about its quantisation.

    Attributes:
        quantised: What to write.
        rule: The rule that found the range.
        error: Energy of the output's error over that of the output, on rows that the correction did not see.
    """

    quantised: QuantisedProduct
    rule: str
    error: float


def planned_products(
    source: SourceGraph,
    products: Sequence[Product],
    samples: Mapping[str, ActivationSample],
    number_format: NumberFormat,
    *,
    rules: Sequence[str] = tuple(RANGE_RULES),
    correct: bool = True,
) -> dict[str, PlannedProduct]:
    """Decide for each product on its own.

    Args:
        source: fp32 graph, after the migration.
        products: Of ``source``.
        samples: By activation, after the migration.
        number_format: What the products will compute in.
        rules: Names of range rules to try.
        correct: Correct the biases where that helps.

    Returns:
        By the output of the product.
    """
    return {
        product.name: _planned(
            product,
            samples[product.x],
            source.array(product.weight).astype(np.float32),
            number_format,
            tuple(rules),
            correct=correct,
        )
        for product in products
    }


def _planned(
    product: Product,
    sample: ActivationSample,
    weight: Array,
    number_format: NumberFormat,
    rules: tuple[str, ...],
    *,
    correct: bool,
) -> PlannedProduct:
    exact, rounded = sample.rows @ weight, rounded_weight(weight, number_format)
    reaches = proposed_ranges(sample.rows, float(sample.maxima.max()), number_format, rules)
    tries: list[tuple[float, str, float, Array]] = []
    for rule, reach in reaches.items():
        found = rounded_rows(sample.rows, number_format, reach) @ rounded
        error = output_error(exact, found)
        # The rule that cuts nothing comes first.
        if not tries or error < _WORTH_A_CUT * tries[0][0]:
            tries.append((error, rule, reach, found))
    error, rule, reach, found = min(tries, key=lambda entry: entry[0])
    correction, error = _correction(exact, found) if correct else (None, error)
    return PlannedProduct(QuantisedProduct(product, reach, correction), rule, error)


def _correction(exact: Array, found: Array) -> tuple[Array | None, float]:
    """The mean error of the outputs, where it holds for rows that it was not computed from."""
    plain = output_error(exact, found)
    if len(exact) < 2:
        return None, plain
    shift = (exact[::2] - found[::2]).mean(axis=0)
    without, corrected = (output_error(exact[1::2], found[1::2] + part) for part in (0.0, shift))
    if corrected >= without:
        return None, plain
    return (exact - found).mean(axis=0).astype(np.float32), corrected

"""8-bit precisions: calibrate, even out, choose ranges, write, and put back what hurts.

1. run the fp32 graphs on the calibration and sample what enters each product
2. move wide channels into the weights (``migration``), exactly
3. find a range for each activation and correct each bias (``product_plans``)
4. write the graphs: int8 and fp8 with Q/DQ pairs and the float part in fp16 (``quantised_graph``); int8-cpu
   with ranges that are measured while it runs (``int8_cpu``), so that step 3 only ranks its products
5. run them on what was held back; while a gate is missed, the products with the largest error go back to
   float, one, then two, then four at a time

int8-cpu needs the calibration for step 2 alone, where the bundle's own probe says enough.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lrsclip_export.activations import ActivationSample, merged, sample_activations
from lrsclip_export.calibration import Calibration
from lrsclip_export.graph_running import Feed, embedded_images, embedded_texts, image_feeds, text_feeds
from lrsclip_export.graph_source import SourceGraph
from lrsclip_export.half import half_graph
from lrsclip_export.int8_cpu import int8_cpu_graph
from lrsclip_export.migration import STRENGTHS, MigratedGraph, Migration, chosen_migration
from lrsclip_export.number_formats import FORMATS
from lrsclip_export.precisions import TOWER_GRAPHS, require_onnx, save_graph
from lrsclip_export.product_plans import PlannedProduct, planned_products
from lrsclip_export.products import GeluInput, Product, products_of
from lrsclip_export.proof import Inputs
from lrsclip_export.quantised_graph import quantised_graph
from lrsclip_export.ranges import RANGE_RULES
from lrsclip_export.weight_file import WeightFile
from lrsclip_rt.parity import Embeddings, Gate, ParityReport, compare
from lrsclip_rt.tokenizer import TokenBatch

__all__ = ["DEFAULT_RECIPE", "Recipe", "Yardstick", "write_calibrated"]

# Patches take as long as class tokens and say little new, so fewer images suffice.
_DENSE_SHARE = 4
_HELD_BACK = 8

_MEASURED_LATER = "int8-cpu"

Progress = Callable[[float], None]


@dataclass(frozen=True, slots=True)
class Recipe:
    """Which steps are taken.

    Attributes:
        strengths: Of the migration, to try for each layer; ``(0.0,)`` moves nothing.
        rules: Range rules to try for each layer.
        correct: Correct biases.
        most_float: Largest share of a tower's products that may go back to float.
    """

    strengths: tuple[float, ...] = STRENGTHS
    rules: tuple[str, ...] = tuple(RANGE_RULES)
    correct: bool = True
    most_float: float = 0.5


DEFAULT_RECIPE = Recipe()


@dataclass(frozen=True, slots=True, eq=False)
class Yardstick:
    """Inputs, what fp32 answers to them, and how near 8 bits must come."""

    inputs: Inputs
    answers: Embeddings
    gate: Gate


@dataclass(slots=True, eq=False)
class _Tower:
    """One tower on its way: plans by graph, and the products that stay float."""

    name: str
    products: tuple[Product, ...]
    migration: Migration
    sources: Mapping[str, MigratedGraph]
    halves: Mapping[str, SourceGraph]
    plans: Mapping[str, Mapping[str, PlannedProduct]]
    floats: list[str] = field(default_factory=list)

    def worst(self, count: int) -> list[str]:
        """The quantised products with the largest error in any graph."""
        errors = {
            product.name: max(plan[product.name].error for plan in self.plans.values())
            for product in self.products
            if product.name not in self.floats
        }
        return sorted(errors, key=lambda name: -errors[name])[:count]


def write_calibrated(
    folder: Path,
    precision: str,
    fp32: Mapping[str, Path],
    calibration: Calibration | None,
    yardstick: Yardstick,
    *,
    recipe: Recipe = DEFAULT_RECIPE,
    progress: Progress = lambda fraction: None,
) -> tuple[Mapping[str, Path], Mapping[str, Any]]:
    """Write the four graphs of ``int8``, ``fp8`` or ``int8-cpu``.

    Args:
        folder: Receives the files, and for a while copies of the fp32 and fp16 weights.
        precision: ``int8``, ``fp8`` or ``int8-cpu``.
        fp32: The four fp32 graph files by name of the graph.
        calibration: Real images and texts; an eighth of them is held back for step 5. ``int8-cpu`` does
            without: None takes the inputs of the yardstick.
        yardstick: What else must hold in step 5.
        recipe: Steps to take.
        progress: Called with the fraction done.

    Returns:
        The four graph files, and notes for the bundle. Where the gate is missed even with all the floats
        that the recipe allows, the files are those of the last try.

    Raises:
        BundleError: If a graph is not one of this project's.
        DependencyError: If onnx or onnxruntime is not installed.
        ParityError: If a weight does not fit float16.
    """
    require_onnx()
    used, held = (yardstick.inputs, None) if calibration is None else _split(calibration)
    written = {graph: folder / f"{graph}.{precision}.onnx" for graph in fp32}
    with tempfile.TemporaryDirectory(prefix=".calibration.", dir=folder) as name:
        scratch = Path(name)
        towers = [
            _tower(
                tower, precision, fp32, _feeds(tower, used), scratch, recipe, _part(progress, i / 3, 1 / 3)
            )
            for i, tower in enumerate(TOWER_GRAPHS)
        ]
        for tower in towers:
            _write(folder, precision, tower, written)
        checks = [yardstick]
        if held is not None:
            gate = Gate(yardstick.gate.mean, yardstick.gate.minimum)
            checks.append(Yardstick(held, _embeddings(fp32, held), gate))
        reports = _reports(written, precision, checks)
        step = 1
        while failing := _failing(towers, reports, recipe):
            for tower in failing:
                tower.floats += tower.worst(step)
                _write(folder, precision, tower, written)
            reports = _reports(written, precision, checks)
            progress(min(0.99, 0.7 + 0.05 * step))
            step *= 2
    seen = {} if calibration is None else {"calibration": _calibration_notes(calibration, reports[1])}
    return written, {**seen, **_notes(precision, towers)}


def _split(calibration: Calibration) -> tuple[Inputs, Inputs]:
    """Every eighth image and text is held back."""

    def part(keep: bool) -> Inputs:
        images = [i for i in range(len(calibration.pixels)) if (i % _HELD_BACK == 0) != keep]
        texts = [i for i in range(len(calibration.texts)) if (i % _HELD_BACK == 0) != keep]
        batch = calibration.texts
        picked = TokenBatch(tokens=batch.tokens[texts], eot=batch.eot[texts], cut=batch.cut[texts])
        return Inputs(calibration.pixels[images], picked)

    return part(True), part(False)


def _feeds(tower: str, used: Inputs) -> Mapping[str, Sequence[Feed]]:
    """Batches for the graphs of a tower that are sampled; ``text-248`` computes what ``text`` does."""
    if tower == "text":
        return {"text": text_feeds(used.texts)}
    return {"image": image_feeds(used.pixels), "dense": image_feeds(used.pixels[::_DENSE_SHARE])}


def _tower(
    tower: str,
    precision: str,
    fp32: Mapping[str, Path],
    feeds: Mapping[str, Sequence[Feed]],
    scratch: Path,
    recipe: Recipe,
    progress: Progress,
) -> _Tower:
    number_format = FORMATS[precision]
    first = SourceGraph(fp32[tower])
    products = products_of(first)
    samples: dict[str, Mapping[str, ActivationSample]] = {}
    for index, (graph, batches) in enumerate(feeds.items()):
        share = 0.8 / len(feeds)
        samples[graph] = sample_activations(
            fp32[graph],
            [product.x for product in products],
            batches,
            scratch,
            progress=_part(progress, index * share, share),
        )
    joined = {x: merged([sample[x] for sample in samples.values()]) for x in samples[tower]}
    migration = chosen_migration(
        first, _movable(precision, products), joined, number_format, recipe.strengths
    )
    sources = {
        graph: MigratedGraph(fp32[graph], products_of(SourceGraph(fp32[graph])), migration)
        for graph in TOWER_GRAPHS[tower]
    }
    halves = {} if precision == _MEASURED_LATER else _halves(tower, sources, scratch)
    rules, correct = (("max",), False) if precision == _MEASURED_LATER else (recipe.rules, recipe.correct)
    plans = {
        graph: planned_products(
            sources[graph],
            products,
            {x: migration.sample(x, sample) for x, sample in seen.items()},
            number_format,
            rules=rules,
            correct=correct,
        )
        for graph, seen in samples.items()
    }
    progress(1.0)
    return _Tower(tower, products, migration, sources, halves, plans)


def _movable(precision: str, products: Sequence[Product]) -> list[Product]:
    """The runtime's fused QuickGELU has one slope, so int8-cpu leaves what lies behind one as it is."""
    return [p for p in products if precision != _MEASURED_LATER or not isinstance(p.before, GeluInput)]


def _halves(tower: str, sources: Mapping[str, MigratedGraph], scratch: Path) -> dict[str, SourceGraph]:
    """The typed fp16 graphs that Q/DQ pairs are put into."""
    halves = {}
    with WeightFile(scratch / f"{tower}.fp16.weights") as weights:
        for graph, source in sources.items():
            path = scratch / f"{graph}.fp16.onnx"
            save_graph(half_graph(source, weights), path)
            halves[graph] = SourceGraph(path)
    return halves


def _write(folder: Path, precision: str, tower: _Tower, written: Mapping[str, Path]) -> None:
    with WeightFile(folder / f"{tower.name}.{precision}.weights") as weights:
        for graph in TOWER_GRAPHS[tower.name]:
            if precision == _MEASURED_LATER:
                save_graph(int8_cpu_graph(tower.sources[graph], weights, floats=tower.floats), written[graph])
                continue
            plan = tower.plans.get(graph, tower.plans[tower.name])
            quantised = {
                name: planned.quantised for name, planned in plan.items() if name not in tower.floats
            }
            model = quantised_graph(
                tower.halves[graph], tower.sources[graph], weights, quantised, FORMATS[precision]
            )
            save_graph(model, written[graph])


def _reports(written: Mapping[str, Path], precision: str, checks: Sequence[Yardstick]) -> list[ParityReport]:
    return [
        compare(check.answers, _embeddings(written, check.inputs), precision=precision, gate=check.gate)
        for check in checks
    ]


def _embeddings(paths: Mapping[str, Path], inputs: Inputs) -> Embeddings:
    """Of the two graphs that decide; the others of a tower compute the same."""
    return Embeddings(
        embedded_images(paths["image"], inputs.pixels), embedded_texts(paths["text"], inputs.texts)
    )


def _failing(towers: Sequence[_Tower], reports: Sequence[ParityReport], recipe: Recipe) -> list[_Tower]:
    """Towers that miss a gate and may still put products back to float."""
    failing = []
    for tower in towers:
        parts = [report.image if tower.name == "image" else report.text for report in reports]
        missed = any(
            part is not None and not part.reaches(report.gate)
            for part, report in zip(parts, reports, strict=True)
        )
        if missed:
            failing.append(tower)
    if not failing and not all(report.passed for report in reports):
        # The ranking alone: either tower may have moved it. Its worst product is tried, and no more: where
        # the margins are small no number of products mends it, and all speed would go.
        failing = [tower for tower in towers if not tower.floats]
    return [tower for tower in failing if len(tower.floats) < recipe.most_float * len(tower.products)]


def _calibration_notes(calibration: Calibration, held: ParityReport) -> Mapping[str, Any]:
    parts = (("image", held.image), ("text", held.text))
    return {
        **calibration.notes(),
        "held_back": {
            name: {"mean": part.mean, "minimum": part.minimum} for name, part in parts if part is not None
        },
    }


def _notes(precision: str, towers: Sequence[_Tower]) -> Mapping[str, Any]:
    rules = Counter(
        planned.rule
        for tower in towers
        for name, planned in tower.plans[tower.name].items()
        if name not in tower.floats
    )
    ranges = {} if precision == _MEASURED_LATER else {"range_rules": dict(sorted(rules.items()))}
    return {
        "float_products": [name.removesuffix(".product") for tower in towers for name in tower.floats],
        "quantised_products": sum(len(tower.products) - len(tower.floats) for tower in towers),
        "migrated_activations": sum(len(tower.migration.divisors) for tower in towers),
        **ranges,
    }


def _part(progress: Progress, start: float, width: float) -> Progress:
    return lambda fraction: progress(start + width * fraction)

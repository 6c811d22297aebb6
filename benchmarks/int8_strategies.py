"""What each step towards 8 bits gains and loses: one model by several recipes, on the same images and texts.

    python benchmarks/int8_strategies.py --data ../shared/data/aid_rsicd --record
    python benchmarks/int8_strategies.py --data DIR --bundle BUNDLE --images 64

Every recipe is written to files as ``lrsclip export`` does and run by ONNX Runtime on the CPU, operator by
operator as the file says: what is meant for a GPU (fp16, int8, fp8) is rounded there as on a GPU, between
float32 sums. Its answers are held against fp32: cosines, best images that stay, and on captioned images with
classes the change of mean recall and of zero-shot classes. The first recipe of each precision is what a
converter does that knows none of the steps. The calibration is of the train split, the comparison of val.

Nothing is timed. Prints a table, then one JSON line; ``--record`` appends it to benchmarks/results/<device>/.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from lrsclip_export.calibrated import DEFAULT_RECIPE, Recipe, Yardstick, write_calibrated
from lrsclip_export.calibration import Calibration, calibration_from_folder
from lrsclip_export.graph_running import cpu_session, image_feeds, text_feeds
from lrsclip_export.precisions import TOWER_GRAPHS, write_half
from lrsclip_export.probe import read_probe
from lrsclip_export.proof import inputs_from_probe
from lrsclip_rt.backend_choice import Choice
from lrsclip_rt.benchmarking import append_record, make_record
from lrsclip_rt.bundle import Bundle
from lrsclip_rt.cpu import available_cpus
from lrsclip_rt.datasets import PairSet
from lrsclip_rt.embedder import Embedder, load
from lrsclip_rt.parity import GATES, Embeddings
from lrsclip_rt.probe import probe_from_bundle
from lrsclip_rt.task_answers import TaskInputs, data_sets_from_folder, embed_everywhere, inputs_from_sets
from lrsclip_rt.task_comparison import compare_sets, score_sets
from lrsclip_rt.task_parity import SetReport
from lrsclip_rt.tokenizer import TokenBatch

RESULTS = Path(__file__).resolve().parent / "results"
FP32 = Choice("onnxruntime", "fp32")
PLAIN = Recipe(strengths=(0.0,), rules=("max",), correct=False, most_float=0.0)


@dataclass(frozen=True)
class Strategy:
    """A precision and the steps that are taken to it; fp16 takes none."""

    precision: str
    steps: str
    recipe: Recipe | None


STRATEGIES = (
    Strategy("fp16", "typed", None),
    Strategy("int8", "plain", PLAIN),
    Strategy("int8", "ranges and biases", Recipe(strengths=(0.0,), most_float=0.0)),
    Strategy("int8", "migration", Recipe(rules=("max",), correct=False, most_float=0.0)),
    Strategy("int8", "migration, ranges and biases", Recipe(most_float=0.0)),
    Strategy("int8", "as exported", DEFAULT_RECIPE),
    Strategy("int8-cpu", "plain", PLAIN),
    Strategy("int8-cpu", "migration", Recipe(most_float=0.0)),
    Strategy("int8-cpu", "as exported", DEFAULT_RECIPE),
    Strategy("fp8", "plain", PLAIN),
    Strategy("fp8", "as exported", DEFAULT_RECIPE),
)


class GraphModel:
    """Graph files in place of a loaded model; what ``embed_everywhere`` asks of one."""

    def __init__(self, paths: Mapping[str, Path], model: Embedder) -> None:
        self.spec, self.tokenizer = model.spec, model.tokenizer
        self._sessions = {tower: cpu_session(paths[tower]) for tower in ("image", "text")}
        (meta,) = self._sessions["image"].get_inputs()
        self._pixel_type = np.float16 if meta.type == "tensor(float16)" else np.float32

    def embed_pixels(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        feeds = image_feeds(pixels.astype(self._pixel_type))
        return np.concatenate([self._sessions["image"].run(None, feed)[0] for feed in feeds])

    def embed_tokens(self, batch: TokenBatch) -> NDArray[np.float32]:
        rows = np.concatenate([self._sessions["text"].run(None, feed)[0] for feed in text_feeds(batch)])
        ordered = np.empty_like(rows)
        ordered[np.argsort(batch.eot, kind="stable")] = rows
        return ordered

    def embed_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return self.embed_tokens(self.tokenizer.encode_batch(list(texts)))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with pairs.jsonl")
    parser.add_argument("--bundle", type=Path, help="default: the built-in model")
    parser.add_argument("--weights", default="", help="what the bundle's weights are, in words")
    parser.add_argument("--images", type=int, help="of the val split, evenly spread; default all")
    parser.add_argument("--record", action="store_true", help="append to benchmarks/results")
    arguments = parser.parse_args()

    bundle = Bundle.open(arguments.bundle)
    inputs = val_inputs(arguments.data, arguments.images)
    calibration = calibration_from_folder(arguments.data, bundle.spec, bundle.vocabulary_path)
    results = [asdict(fact) for fact in facts_of(bundle, inputs, calibration)]
    for result in results:
        print(line_of(result))
    settings = {
        "model": bundle.spec.name,
        "identity": bundle.identity,
        "weights": arguments.weights,
        "data": arguments.data.resolve().name,
        "images": len(inputs.paths),
        "captions": len(inputs.captions),
        "calibration": dict(calibration.notes()),
    }
    record = make_record("int8_strategies", threads=available_cpus(), settings=settings, results=results)
    if arguments.record:
        append_record(record, RESULTS)
    print(record.to_json())


@dataclass(frozen=True)
class Fact:
    """What one strategy came to.

    Attributes:
        precision: Whose files.
        steps: Of the strategy.
        float_products: Products that went back to float.
        image: Cosines of images, mean and least.
        text: Of captions.
        top1_agreement: Captions whose best image stays [%].
        mean_recall_drop: Points of mR that short captions lose; None without captions.
        classes_lost: Net loss of right zero-shot classes; None without classes.
        passed: Whether all gates of the precision hold.
    """

    precision: str
    steps: str
    float_products: int
    image: tuple[float, float]
    text: tuple[float, float]
    top1_agreement: float | None
    mean_recall_drop: float | None
    classes_lost: int | None
    passed: bool


def val_inputs(folder: Path, images: int | None) -> TaskInputs:
    """The val split, or evenly spread images of it."""
    (data,) = data_sets_from_folder(folder, split="val")
    if images is not None:
        pairs = cast(PairSet, data)
        items = tuple(pairs.items[i * len(pairs) // images] for i in range(images))
        data = PairSet(pairs.root, pairs.split, items)
    return inputs_from_sets([data])


def facts_of(bundle: Bundle, inputs: TaskInputs, calibration: Calibration) -> list[Fact]:
    """Every strategy, one after the other, so that one set of files is on the disk at a time."""
    model = load(bundle, backend=FP32.backend, precision=FP32.precision)
    fp32 = {graph: bundle.graph_path(graph, "fp32") for graphs in TOWER_GRAPHS.values() for graph in graphs}
    yardstick = embed_everywhere({FP32: model}, inputs, yardstick=FP32)
    reference = score_sets(yardstick, yardstick.models[FP32])
    facts = []
    for strategy in STRATEGIES:
        print(f"{strategy.precision}: {strategy.steps}", flush=True)
        with tempfile.TemporaryDirectory(prefix="strategies.") as name:
            paths, floats = written(Path(name), strategy, bundle, fp32, calibration)
            graphs = cast(Embedder, GraphModel(paths, model))
            found = embed_everywhere({FP32: graphs}, inputs, yardstick=FP32)
            (report,) = compare_sets(reference, score_sets(found, found.models[FP32]))
        facts.append(fact_of(bundle, strategy, floats, report))
    return facts


def written(
    folder: Path, strategy: Strategy, bundle: Bundle, fp32: Mapping[str, Path], calibration: Calibration
) -> tuple[Mapping[str, Path], int]:
    """The files of a strategy, and how many products stayed float in them."""
    if strategy.recipe is None:
        return write_half(folder, fp32), 0
    stored = probe_from_bundle(bundle)
    probe = inputs_from_probe(read_probe(bundle.probe_path), bundle.spec, bundle.vocabulary_path)
    known = Yardstick(
        probe, Embeddings(stored.image_embeddings, stored.text_embeddings), GATES[strategy.precision]
    )
    paths, notes = write_calibrated(
        folder, strategy.precision, fp32, calibration, known, recipe=strategy.recipe
    )
    return paths, len(notes["float_products"])


def fact_of(bundle: Bundle, strategy: Strategy, floats: int, report: SetReport) -> Fact:
    short = [change for change in report.retrieval if change.captions == "short"]
    return Fact(
        precision=strategy.precision,
        steps=strategy.steps,
        float_products=floats,
        image=(report.image.summary.mean, report.image.summary.minimum),
        text=(report.text.summary.mean, report.text.summary.minimum),
        top1_agreement=report.top1_agreement,
        mean_recall_drop=short[0].drop if short else None,
        classes_lost=report.predictions[0].lost if report.predictions else None,
        passed=not report.reasons(bundle.gate(strategy.precision), bundle.task_gate(strategy.precision)),
    )


def line_of(result: Mapping[str, Any]) -> str:
    """A row of the table."""
    shown = [f"{result['precision']:9} {result['steps']:30} {result['float_products']:3} float"]
    for name in ("image", "text"):
        mean, least = result[name]
        shown.append(f"{name} {mean:.6f} {least:.6f}")
    units = {"top1_agreement": " %", "mean_recall_drop": " mR lost", "classes_lost": " classes lost"}
    for name, unit in units.items():
        if result[name] is not None:
            shown.append(f"{round(result[name], 2)}{unit}")
    return "  ".join([*shown, "passed" if result["passed"] else "FAILED"])


if __name__ == "__main__":
    main()

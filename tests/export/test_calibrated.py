"""int8 and fp8: near fp32 even where channels are wide, and what each step is for."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from rendered_folders import write_tiles
from wide_channels import copied_graph, widened_graphs

from lrsclip_export.activations import merged, sample_activations
from lrsclip_export.calibrated import (
    DEFAULT_RECIPE,
    Recipe,
    Yardstick,
    write_calibrated,
)
from lrsclip_export.calibration import Calibration, calibration_from_folder
from lrsclip_export.graph_running import cpu_session, embedded_images, embedded_texts, image_feeds, text_feeds
from lrsclip_export.graph_source import SourceGraph
from lrsclip_export.half import half_graph
from lrsclip_export.migration import MigratedGraph, chosen_migration
from lrsclip_export.number_formats import FORMATS
from lrsclip_export.precisions import TOWER_GRAPHS, save_graph
from lrsclip_export.product_plans import planned_products
from lrsclip_export.products import GeluInput, NormInput, ValueInput, products_of
from lrsclip_export.proof import Inputs, answers_from_graphs
from lrsclip_export.quantised_graph import QuantisedProduct, quantised_graph
from lrsclip_export.weight_file import WeightFile
from lrsclip_rt.bundle import Bundle
from lrsclip_rt.errors import BundleError
from lrsclip_rt.parity import Embeddings, Gate, compare
from lrsclip_rt.tokenizer import TokenBatch

Array = NDArray[Any]
MINI = Path(__file__).resolve().parents[2] / "lrsclip_rt" / "bundles" / "mini"
GATE = Gate(0.99, 0.97)
NAIVE = Recipe(strengths=(0.0,), rules=("max",), correct=False, most_float=0.0)
INT8 = FORMATS["int8"]


def graphs_of(bundle: Bundle) -> dict[str, Path]:
    return {name: bundle.graph_path(name, "fp32") for names in TOWER_GRAPHS.values() for name in names}


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    return write_tiles(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def tiny(tiny_bundle, photos) -> tuple[dict[str, Path], Calibration]:
    bundle = Bundle.open(tiny_bundle)
    return graphs_of(bundle), calibration_from_folder(photos, bundle.spec, bundle.vocabulary_path)


@pytest.fixture(scope="module")
def wide(tiny, tmp_path_factory) -> tuple[dict[str, Path], Calibration]:
    """The tiny model with wide channels."""
    fp32, calibration = tiny
    return widened_graphs(fp32, tmp_path_factory.mktemp("wide")), calibration


def quantised(
    fp32: Mapping[str, Path],
    calibration: Calibration,
    folder: Path,
    precision: str,
    recipe: Recipe = DEFAULT_RECIPE,
) -> tuple[Mapping[str, Path], Mapping[str, Any], Any]:
    """Files, notes, and how near they are on a few images and texts of the calibration."""
    folder.mkdir(exist_ok=True)
    inputs = Inputs(calibration.pixels[:8], some_texts(calibration, 12))
    reference = Embeddings(
        embedded_images(fp32["image"], inputs.pixels), embedded_texts(fp32["text"], inputs.texts)
    )
    yardstick = Yardstick(inputs, reference, GATE)
    paths, notes = write_calibrated(folder, precision, fp32, calibration, yardstick, recipe=recipe)
    found = answers_from_graphs(paths, inputs)
    assert np.abs(found.texts - found.texts_fixed).max() < 2e-3
    report = compare(reference, Embeddings(found.images, found.texts), precision=precision, gate=GATE)
    return paths, notes, report


def some_texts(calibration: Calibration, count: int) -> TokenBatch:
    texts = calibration.texts
    return TokenBatch(texts.tokens[:count], texts.eot[:count], texts.cut[:count])


@pytest.fixture(scope="module")
def made(tiny, tmp_path_factory) -> Callable[[str], tuple[Mapping[str, Path], Mapping[str, Any], Any]]:
    """``int8`` and ``fp8`` of the tiny model, each made once."""
    kept: dict[str, Any] = {}

    def make(precision: str) -> Any:
        if precision not in kept:
            kept[precision] = quantised(*tiny, tmp_path_factory.mktemp(precision), precision)
        return kept[precision]

    return make


# -- the parts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("graph", ["image", "dense", "text", "text-248"])
def test_the_products_of_every_block_are_found_with_what_lies_before(tiny, graph) -> None:
    products = products_of(SourceGraph(tiny[0][graph]))
    assert Counter(type(product.before) for product in products) == {
        # Patches have queries and an output of their own, with the weights of the class token's.
        NormInput: 5 + (graph == "dense"),
        ValueInput: 2 + (graph == "dense"),
        GeluInput: 2,
    }
    weights = {product.weight for product in products}
    assert not weights & {"visual.proj", "text_projection"}
    assert len(weights) == 9


def test_a_graph_without_known_products_is_refused(tiny, tmp_path) -> None:
    source = SourceGraph(tiny[0]["image"])
    for node in source.model.graph.node:
        if node.op_type == "LayerNormalization" and node.output[0].endswith("ln_2.out"):
            node.op_type = "RMSNormalization"
    (tmp_path / "image.fp32.onnx").write_bytes(source.model.SerializeToString())
    with pytest.raises(BundleError, match="unknown layer before"):
        products_of(SourceGraph(tmp_path / "image.fp32.onnx"))


def test_samples_are_what_the_graph_computes(tiny, tmp_path) -> None:
    """The class token of the last block, seen by a plain run of the whole graph on all images."""
    fp32, calibration = tiny
    products = products_of(SourceGraph(fp32["image"]))
    values = [product.x for product in products]
    found = sample_activations(fp32["image"], values, image_feeds(calibration.pixels), tmp_path)
    last = found[values[-1]]
    assert last.rows.shape == (70, 256)
    np.testing.assert_allclose(last.maxima, np.abs(last.rows).max(axis=0))
    one = found[values[0]]
    assert one.maxima.shape == (64,)
    assert 512 <= len(one.rows) < 600
    assert (np.abs(one.rows).max(axis=0) <= one.maxima).all()


def test_rows_behind_the_end_of_a_text_are_not_sampled(tiny, tmp_path) -> None:
    """Whatever lies behind the end does not change a sample."""
    fp32, calibration = tiny
    feeds = text_feeds(calibration.texts)
    values = [products_of(SourceGraph(fp32["text"]))[0].x]
    soiled = [
        {
            **feed,
            "tokens": np.where(
                np.arange(feed["tokens"].shape[1]) > feed["eot"][:, None], 320, feed["tokens"]
            ),
        }
        for feed in feeds
    ]
    assert any(not np.array_equal(a["tokens"], b["tokens"]) for a, b in zip(feeds, soiled, strict=True))
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    clean = sample_activations(fp32["text"], values, feeds, tmp_path / "a")[values[0]]
    dirty = sample_activations(fp32["text"], values, soiled, tmp_path / "b")[values[0]]
    np.testing.assert_allclose(clean.maxima, dirty.maxima, atol=1e-5)
    np.testing.assert_allclose(clean.rows, dirty.rows, atol=1e-5)


def test_texts_are_embedded_in_their_own_order(tiny) -> None:
    fp32, calibration = tiny
    texts = some_texts(calibration, 9)
    together = embedded_texts(fp32["text"], texts)
    for index in (0, 5, 8):
        alone = TokenBatch(texts.tokens[[index]], texts.eot[[index]], texts.cut[[index]])
        np.testing.assert_allclose(embedded_texts(fp32["text"], alone)[0], together[index], atol=1e-5)
    np.testing.assert_allclose(embedded_texts(fp32["text-248"], texts, fixed=True), together, atol=1e-5)


@pytest.mark.parametrize("tower", ["image", "text"])
def test_moving_wide_channels_changes_no_answer(wide, tmp_path, tower) -> None:
    """The graph with every migration folded in, QuickGELU's slopes included, still computes the same."""
    fp32, calibration = wide
    source = SourceGraph(fp32[tower])
    products = products_of(source)
    feeds = image_feeds(calibration.pixels) if tower == "image" else text_feeds(calibration.texts)
    samples = sample_activations(fp32[tower], [product.x for product in products], feeds, tmp_path)
    # Half of the strength everywhere, so that all three kinds of layers take part.
    forced = chosen_migration(source, products, samples, INT8, (0.5,))
    divisors = {
        product.x: 2.0
        ** np.random.default_rng(len(product.x)).integers(-3, 6, samples[product.x].maxima.shape)
        for product in products
        if not isinstance(product.before, NormInput)
    }
    everything = type(forced)({**{k: np.float32(v) for k, v in divisors.items()}, **norms(wide, products)})
    folder = tmp_path / "moved"
    folder.mkdir()
    with WeightFile(folder / f"{tower}.fp32.weights") as weights:
        moved = MigratedGraph(fp32[tower], products, everything)
        save_graph(copied_graph(moved, weights, {}), folder / "moved.onnx")
    if tower == "image":
        a, b = (
            embedded_images(path, calibration.pixels[:8]) for path in (fp32[tower], folder / "moved.onnx")
        )
    else:
        a, b = (embedded_texts(path, calibration.texts) for path in (fp32[tower], folder / "moved.onnx"))
    np.testing.assert_allclose(a, b, atol=2e-6)
    weight = products[0].weight
    assert not np.array_equal(source.array(weight), moved.array(weight))


def norms(wide: tuple[dict[str, Path], Calibration], products: Any) -> dict[str, Array]:
    """One divisor for each LayerNormalization, whoever reads it."""
    found: dict[str, Array] = {}
    by_norm: dict[str, Array] = {}
    for product in products:
        if isinstance(product.before, NormInput):
            rng = np.random.default_rng(len(by_norm))
            by_norm.setdefault(product.before.scale, np.float32(2.0 ** rng.integers(-3, 6, 64)))
            found[product.x] = by_norm[product.before.scale]
    return found


def test_migration_and_correction_lower_the_error_of_a_product(wide, tmp_path) -> None:
    fp32, calibration = wide
    source = SourceGraph(fp32["image"])
    products = products_of(source)
    feeds = image_feeds(calibration.pixels)
    samples = sample_activations(fp32["image"], [product.x for product in products], feeds, tmp_path)
    samples = {x: merged([sample]) for x, sample in samples.items()}
    migration = chosen_migration(source, products, samples, INT8)
    moved = MigratedGraph(fp32["image"], products, migration)
    after = {x: migration.sample(x, sample) for x, sample in samples.items()}
    naive = planned_products(source, products, samples, INT8, rules=("max",), correct=False)
    plans = planned_products(moved, products, after, INT8)
    behind_norms = [product.name for product in products if isinstance(product.before, NormInput)]
    assert all(plans[name].error < 0.05 * naive[name].error for name in behind_norms)
    corrected = [plan for plan in plans.values() if plan.quantised.correction is not None]
    assert corrected
    for plan in corrected:
        plain = planned_products(
            moved, [plan.quantised.product], after, INT8, rules=(plan.rule,), correct=False
        )
        assert plan.error < 1.05 * plain[plan.quantised.product.name].error


def test_a_correction_is_added_to_what_the_product_gives(wide, tmp_path) -> None:
    fp32, calibration = wide
    source = SourceGraph(fp32["image"])
    product = products_of(source)[0]
    with WeightFile(tmp_path / "image.fp16.weights") as weights:
        save_graph(half_graph(source, weights), tmp_path / "half.onnx")
    half = SourceGraph(tmp_path / "half.onnx")
    correction = np.linspace(-2, 2, source.shape(product.weight)[1], dtype=np.float32)
    sums = []
    for number, shift in enumerate((None, correction)):
        path = tmp_path / f"{number}.onnx"
        with WeightFile(tmp_path / f"{number}.weights") as weights:
            entry = QuantisedProduct(product, 8.0, shift)
            model = quantised_graph(half, source, weights, {product.name: entry}, INT8)
        model.graph.output.append(
            onnx.helper.make_tensor_value_info(product.sum, onnx.TensorProto.FLOAT16, None)
        )
        save_graph(model, path)
        sums.append(cpu_session(path).run([product.sum], {"pixels": calibration.pixels[:4]})[0])
    np.testing.assert_allclose(sums[1] - sums[0], np.broadcast_to(correction, sums[0].shape), atol=0.02)


# -- the whole ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_the_files_are_near_fp32_and_say_how_they_were_made(made, precision) -> None:
    paths, notes, report = made(precision)
    assert report.passed
    assert report.image.minimum > (0.999 if precision == "int8" else 0.99)
    assert notes["float_products"] == []
    assert notes["quantised_products"] == 18
    assert notes["calibration"]["images"] == 70
    assert sum(notes["range_rules"].values()) == 18
    json.dumps(notes)
    assert {path.name for path in paths["image"].parent.iterdir()} == {
        *(path.name for path in paths.values()), f"image.{precision}.weights", f"text.{precision}.weights"
    }  # fmt: skip


@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_products_are_8_bit_and_nothing_else_is(tiny, made, precision) -> None:
    fp32, (paths, _, _) = tiny[0], made(precision)
    kind = onnx.TensorProto.INT8 if precision == "int8" else onnx.TensorProto.FLOAT8E4M3FN
    for path in paths.values():
        model = onnx.load(path, load_external_data=False)
        onnx.checker.check_model(str(path), full_check=True)
        operators = Counter(node.op_type for node in model.graph.node)
        assert (operators["QuantizeLinear"], operators["DequantizeLinear"]) == (9, 18)
        assert (model.opset_import[0].version, model.ir_version) == (19, 9)
        stored = Counter(tensor.data_type for tensor in model.graph.initializer)
        assert stored[kind] == 9 + 1
        assert stored[onnx.TensorProto.UINT8] == 0
        inputs = {value.name: value.type.tensor_type.elem_type for value in model.graph.input}
        assert set(inputs.values()) <= {onnx.TensorProto.FLOAT, onnx.TensorProto.INT32}
    fp16, ours = (
        folder / f"text.{name}.weights"
        for folder, name in ((fp32["text"].parent, "fp16"), (path.parent, precision))
    )
    assert ours.stat().st_size < fp16.stat().st_size


def test_wide_channels_break_the_naive_recipe_and_not_this_one(wide, tmp_path) -> None:
    _, _, naive = quantised(*wide, tmp_path / "naive", "int8", NAIVE)
    _, notes, ours = quantised(*wide, tmp_path / "ours", "int8")
    assert not naive.passed
    assert ours.passed
    assert ours.image.minimum > 0.999
    assert notes["float_products"] == []
    assert notes["migrated_activations"] >= 8


def test_wide_channels_of_the_built_in_model_too(photos, tmp_path) -> None:
    bundle = Bundle.open(MINI)
    calibration = calibration_from_folder(photos, bundle.spec, bundle.vocabulary_path, count=64)
    calibration = replace(calibration, texts=some_texts(calibration, 24))
    (tmp_path / "wide").mkdir()
    fp32 = widened_graphs(graphs_of(bundle), tmp_path / "wide")
    _, _, naive = quantised(fp32, calibration, tmp_path / "naive", "int8", NAIVE)
    _, notes, ours = quantised(fp32, calibration, tmp_path / "ours", "int8")
    assert not naive.passed
    assert ours.passed
    assert min(ours.image.minimum, ours.text.minimum) > 0.999
    assert notes["float_products"] == []


def test_what_hurts_most_goes_back_to_float_until_the_gate_holds(wide, tmp_path) -> None:
    recipe = Recipe(strengths=(0.0,), rules=("max",), correct=False, most_float=1.0)
    paths, notes, report = quantised(*wide, tmp_path / "out", "int8", recipe)
    assert report.passed
    assert 0 < len(notes["float_products"]) < 18
    assert notes["quantised_products"] == 18 - len(notes["float_products"])
    assert notes["calibration"]["held_back"]["image"]["mean"] >= 0.99
    model = onnx.load(paths["image"], load_external_data=False)
    floats = [name for name in notes["float_products"] if name.startswith("visual.")]
    pairs = sum(node.op_type == "QuantizeLinear" for node in model.graph.node)
    assert pairs == 9 - len(floats)


def test_the_same_data_gives_the_same_bytes(tiny, made, tmp_path) -> None:
    first, _, _ = made("int8")
    quantised(*tiny, tmp_path / "again", "int8")
    contents = [
        {path.name: path.read_bytes() for path in folder.iterdir()}
        for folder in (first["image"].parent, tmp_path / "again")
    ]
    assert contents[0] == contents[1]


@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_openvino_answers_as_onnx_runtime_does(tiny, made, precision) -> None:
    openvino = pytest.importorskip("openvino", reason="OpenVINO runs the same files")
    paths, _, _ = made(precision)
    # A float8 step is a sixteenth, so that a sum in another order shows more.
    least = 0.9995 if precision == "int8" else 0.998
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    core = openvino.Core()
    pixels = tiny[1].pixels[:8]
    image = core.compile_model(str(paths["image"]), "CPU", settings)
    expected = embedded_images(paths["image"], pixels)
    assert ((image(pixels)[0] * expected).sum(axis=1)).min() > least
    texts = some_texts(tiny[1], 6)
    feed = {"tokens": texts.tokens, "eot": texts.eot}
    found = core.compile_model(str(paths["text-248"]), "CPU", settings)(feed)[0]
    assert ((found * embedded_texts(paths["text"], texts)).sum(axis=1)).min() > least
    if precision == "int8":
        layers = Counter(
            (op.get_rt_info()["layerType"].astype(str), op.get_rt_info()["runtimePrecision"].astype(str))
            for op in image.get_runtime_model().get_ops()
        )
        assert layers["FullyConnected", "i8"] + layers["FullyConnected", "u8"] == 9

"""fp16 and int8-cpu: made from fp32 graphs, near enough to them, and what they refuse."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from lrsclip_export.graph_builder import GraphBuilder
from lrsclip_export.graph_source import SourceGraph
from lrsclip_export.half import half_graph
from lrsclip_export.int8_cpu import int8_cpu_graph, symmetric_int8
from lrsclip_export.precisions import TOWER_GRAPHS, check_precisions, save_graph
from lrsclip_export.products import products_of
from lrsclip_export.weight_file import WeightFile
from lrsclip_rt.bundle import Bundle
from lrsclip_rt.errors import BundleError, InputError, ParityError

Array = NDArray[Any]


def small_graph(folder: Path, weight: Array, op: str = "Sigmoid") -> SourceGraph:
    """x (N, 4) -> unit rows of op(x @ weight) @ weight."""
    with WeightFile(folder / "small.fp32.weights") as weights:
        g = GraphBuilder("small", weights)
        x = g.add_input("pixels", np.float32, ("N", 4))
        w = g.weight("w", lambda: weight)
        x = g.node("MatMul", (g.node(op, (g.node("MatMul", (x, w), "a"),), "b"), w), "c")
        squares = g.node("ReduceSumSquare", (x,), "d", axes=[-1], keepdims=1)
        g.node("Div", (x, g.node("Sqrt", (squares,), "e")), "embedding")
        g.add_output("embedding", np.float32, ("N", 4))
        save_graph(g.model(), folder / "small.fp32.onnx")
    return SourceGraph(folder / "small.fp32.onnx")


def optimised_operators(path: Path, folder: Path) -> Counter[str]:
    """Operators of a graph after ONNX Runtime has fused what it can."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    model = onnx.load(folder / "optimised.onnx", load_external_data=False)
    return Counter(node.op_type for node in model.graph.node)


@pytest.mark.parametrize(("precision", "mean", "least"), [("fp16", 0.9995, 0.999), ("int8-cpu", 0.99, 0.97)])
def test_a_precision_stays_near_fp32_and_its_report_says_how_near(
    tiny_bundle, precision, mean, least, run_graph, token_rows
) -> None:
    bundle = Bundle.open(tiny_bundle)
    pixels = np.random.default_rng(4).uniform(-1.5, 1.5, (8, 3, 32, 32)).astype(np.float32)
    eot = token_rows.argmax(1).astype(np.int32)
    typed = pixels.astype(np.float16) if precision == "fp16" else pixels
    for graph in ("image", "dense", "text", "text-248"):
        feeds = [{"tokens": token_rows, "eot": eot}] * 2
        if graph in ("image", "dense"):
            feeds = [{"pixels": pixels}, {"pixels": typed}]
        a, b = (
            run_graph(bundle.graph_path(graph, name), **feed)
            for name, feed in zip(("fp32", precision), feeds, strict=True)
        )
        cosines = (a * b).sum(-1)
        assert cosines.mean() >= mean
        assert cosines.min() >= least
        assert np.abs(np.linalg.norm(b, axis=-1) - 1).max() < 1e-5
        assert not np.array_equal(a, b)
    report = bundle.record(precision).parity
    assert report is not None
    assert report.image is not None
    assert report.text is not None
    assert report.dense is not None
    assert (report.precision, report.n_images, report.n_texts) == (precision, 16, 33)
    assert least <= report.text.minimum < 1
    assert report.image.mean >= mean


@pytest.fixture(scope="module")
def all_int8(tiny_bundle, tmp_path_factory) -> Path:
    """The small model with every product in 8 bits, whatever that costs."""
    folder = tmp_path_factory.mktemp("all-int8")
    for tower, graphs in TOWER_GRAPHS.items():
        with WeightFile(folder / f"{tower}.int8-cpu.weights") as weights:
            for graph in graphs:
                source = SourceGraph(tiny_bundle / f"{graph}.fp32.onnx")
                save_graph(int8_cpu_graph(source, weights), folder / f"{graph}.int8-cpu.onnx")
    return folder


@pytest.mark.parametrize(("tower", "graph"), [(t, g) for t, graphs in TOWER_GRAPHS.items() for g in graphs])
def test_onnx_runtime_fuses_every_8_bit_product(all_int8, tmp_path, tower, graph) -> None:
    operators = optimised_operators(all_int8 / f"{graph}.int8-cpu.onnx", tmp_path)
    # The first block's queries, keys and values are part of its attention; the last takes the queries apart.
    # Patches have queries, an attention and its output of their own.
    more = graph == "dense"
    assert operators["QAttention"] == 1
    assert operators["DynamicQuantizeMatMul"] + operators["MatMulIntegerToFloat"] == 3 + 5 + 2 * more
    assert operators["MatMulInteger"] == 0
    assert operators["Softmax"] == 1 + more
    assert operators["QuickGelu"] == 2


def test_onnx_runtime_folds_the_casts_of_float16_storage(all_int8, tmp_path) -> None:
    assert optimised_operators(all_int8 / "image.int8-cpu.onnx", tmp_path)["Cast"] == 0


def test_the_int8_files_are_about_a_quarter_of_fp32(tiny_bundle, all_int8) -> None:
    for tower, share in (("image", 0.32), ("text", 0.28)):
        fp32 = (tiny_bundle / f"{tower}.fp32.weights").stat().st_size
        assert (all_int8 / f"{tower}.int8-cpu.weights").stat().st_size < share * fp32


def test_products_that_stay_float_are_those_named(tiny_bundle, tmp_path, run_graph) -> None:
    """With every product float the graph is the one it was made from, up to tables stored in few bits."""
    source = SourceGraph(tiny_bundle / "image.fp32.onnx")
    names = [product.name for product in products_of(source)]
    for floats in (names[:1], names):
        with WeightFile(tmp_path / "image.int8-cpu.weights") as weights:
            model = int8_cpu_graph(source, weights, floats=floats)
        save_graph(model, tmp_path / "image.int8-cpu.onnx")
        operators = Counter(node.op_type for node in model.graph.node)
        assert operators["MatMulInteger"] == len(names) - len(floats)
        # The first product is that of an attention, which then is no single operator either.
        assert operators["QAttention"] == 0
    pixels = np.random.default_rng(2).standard_normal((2, 3, 32, 32)).astype(np.float32)
    fp32 = run_graph(tiny_bundle / "image.fp32.onnx", pixels=pixels)
    assert ((fp32 * run_graph(tmp_path / "image.int8-cpu.onnx", pixels=pixels)).sum(-1)).min() > 0.99999


def test_the_token_table_is_int8_and_the_last_projection_is_not(tiny_bundle) -> None:
    stored = {
        tensor.name: tensor.data_type
        for graph in ("image", "text")
        for tensor in onnx.load(
            tiny_bundle / f"{graph}.int8-cpu.onnx", load_external_data=False
        ).graph.initializer
    }
    assert stored["token_embedding.weight.int8"] == onnx.TensorProto.INT8
    assert stored["transformer.resblocks.0.mlp.c_fc.weight.int8"] == onnx.TensorProto.INT8
    for name in ("text_projection", "visual.proj", "visual.conv1.weight"):
        assert stored[name] == onnx.TensorProto.FLOAT16


numbers = hnp.arrays(
    np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.floats(-1e4, 1e4, width=32)
)


@given(numbers, st.sampled_from([0, 1]))
def test_int8_numbers_are_at_most_half_a_step_away(array: Array, axis: int) -> None:
    quantised, scale = symmetric_int8(array, axis=axis)
    assert quantised.dtype == np.int8
    assert scale.shape == (1, array.shape[1]) if axis == 0 else (array.shape[0], 1)
    assert quantised.min() >= -127
    steps = np.abs(quantised * scale.astype(np.float64) - array) / scale
    assert steps.max() <= 0.5 + 1e-4


def test_columns_do_not_share_a_scale() -> None:
    array = np.array([[1000, 1e-3], [-504, 5e-4]], dtype=np.float32)
    quantised, scale = symmetric_int8(array, axis=0)
    np.testing.assert_allclose(quantised * scale, array, rtol=1e-2)


def test_int8_cpu_quantises_inner_products_only(tmp_path, run_graph) -> None:
    source = small_graph(tmp_path, np.random.default_rng(0).standard_normal((4, 4)).astype(np.float32))
    with WeightFile(tmp_path / "small.int8-cpu.weights") as weights:
        model = int8_cpu_graph(source, weights)
    save_graph(model, tmp_path / "small.int8-cpu.onnx")
    operators = Counter(node.op_type for node in model.graph.node)
    assert (operators["MatMulInteger"], operators["MatMul"]) == (1, 1)
    pixels = np.random.default_rng(1).standard_normal((5, 4)).astype(np.float32)
    a, b = (run_graph(tmp_path / f"small.{name}.onnx", pixels=pixels) for name in ("fp32", "int8-cpu"))
    assert ((a * b).sum(-1)).min() > 0.99


def test_fp16_is_refused_for_weights_beyond_its_range(tmp_path) -> None:
    weight = np.eye(4, dtype=np.float32)
    weight[2, 2] = 70000
    with (
        WeightFile(tmp_path / "small.fp16.weights") as weights,
        pytest.raises(ParityError, match="weight w reaches 70000, beyond float16's 65504"),
    ):
        half_graph(small_graph(tmp_path, weight), weights)


def test_fp16_is_refused_for_operators_that_it_does_not_know(tmp_path) -> None:
    source = small_graph(tmp_path, np.eye(4, dtype=np.float32), op="Erf")
    with (
        WeightFile(tmp_path / "small.fp16.weights") as weights,
        pytest.raises(BundleError, match="operator Erf"),
    ):
        half_graph(source, weights)


def test_a_graph_that_is_none_is_named(tmp_path) -> None:
    path = tmp_path / "image.fp32.onnx"
    path.write_bytes(b"no graph at all")
    with pytest.raises(BundleError, match=r"image\.fp32\.onnx is not an ONNX graph"):
        SourceGraph(path)


def test_weights_outside_the_folder_are_not_read(tmp_path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    small_graph(inner, np.eye(4, dtype=np.float32))
    path = inner / "small.fp32.onnx"
    (tmp_path / "small.fp32.weights").write_bytes((inner / "small.fp32.weights").read_bytes())
    model = onnx.load(path, load_external_data=False)
    model.graph.initializer[0].external_data[0].value = "../small.fp32.weights"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(BundleError, match="outside its folder"):
        SourceGraph(path).array("w")


def test_a_weight_file_that_is_too_short_is_named(tmp_path) -> None:
    source = small_graph(tmp_path, np.eye(4, dtype=np.float32))
    (tmp_path / "small.fp32.weights").write_bytes(b"\0" * 10)
    with pytest.raises(BundleError, match="ends before tensor w"):
        source.array("w")


@pytest.mark.parametrize("name", ["int4", "bf16", "FP32", ""])
def test_precisions_that_cannot_be_exported_are_named_with_those_that_can(name) -> None:
    with pytest.raises(InputError, match=r"cannot be exported .* it writes fp32, fp16, int8, int8-cpu, fp8"):
        check_precisions(["fp32", name])

"""What the exported files promise to other toolchains: operators, types, shapes, names and places."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from rendered_folders import write_tiles

from lrsclip_export.exporting import export_bundle
from lrsclip_export.precisions import EXPORTABLE, NEED_CALIBRATION, TOWER_GRAPHS, graph_files
from lrsclip_rt.bundle import Bundle

GRAPHS = [(tower, graph) for tower, graphs in TOWER_GRAPHS.items() for graph in graphs]
# What the ONNX parser of TensorRT 10.3 knows of opset 17, and no more than we need.
TENSORRT_OPERATORS = {
    "Add", "Cast", "Clip", "Concat", "Conv", "Div", "Gather", "GatherND", "LayerNormalization", "MatMul",
    "Max", "Mul", "Pad", "ReduceSumSquare", "Reshape", "Shape", "Sigmoid", "Slice", "Softmax", "Split",
    "Sqrt", "Transpose", "Unsqueeze",
}  # fmt: skip
OPERATORS = dict.fromkeys(EXPORTABLE, TENSORRT_OPERATORS) | {
    "int8-cpu": TENSORRT_OPERATORS | {"DynamicQuantizeLinear", "MatMulInteger", "QAttention"},
    **dict.fromkeys(NEED_CALIBRATION, TENSORRT_OPERATORS | {"QuantizeLinear", "DequantizeLinear"}),
}


def load(folder: Path, graph: str, precision: str) -> Any:
    return onnx.load(folder / f"{graph}.{precision}.onnx", load_external_data=False)


def described(values: Any) -> dict[str, tuple[str, list[int | str]]]:
    return {
        value.name: (
            onnx.TensorProto.DataType.Name(value.type.tensor_type.elem_type),
            [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim],
        )
        for value in values
    }


def external(tensor: Any) -> dict[str, str]:
    return {entry.key: entry.value for entry in tensor.external_data}


@pytest.fixture(scope="module")
def whole_bundle(tiny_bundle, tmp_path_factory) -> Path:
    """The small bundle with those precisions too that need a calibration."""
    tiles = write_tiles(tmp_path_factory.mktemp("tiles"), 64)
    out = tmp_path_factory.mktemp("whole") / "tiny"
    export_bundle(tiny_bundle, out, precisions=NEED_CALIBRATION, calibration=tiles, allow_failed=True)
    return out


@pytest.fixture(scope="module")
def tiny_copy(whole_bundle, tmp_path_factory) -> Path:
    """Files with one name each: onnx refuses weights that another test has linked elsewhere."""
    return shutil.copytree(whole_bundle, tmp_path_factory.mktemp("copy") / "tiny")


every_graph = pytest.mark.parametrize(("tower", "graph"), GRAPHS)
every_precision = pytest.mark.parametrize("precision", EXPORTABLE)


@every_precision
@every_graph
def test_only_known_operators_and_opsets_are_used(whole_bundle, tower, graph, precision) -> None:
    model = load(whole_bundle, graph, precision)
    assert {node.op_type for node in model.graph.node} <= OPERATORS[precision]
    # ONNX Runtime's own operators are for its own precision alone.
    vendor = [("com.microsoft", 1)] if precision == "int8-cpu" else []
    assert {(node.domain, node.op_type) for node in model.graph.node if node.domain} == {
        (domain, "QAttention") for domain, _ in vendor
    }
    standard = ("", 19 if precision in NEED_CALIBRATION else 17)  # float16 scales need 19
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [standard, *vendor]
    assert model.ir_version <= 10
    assert not model.functions


@every_precision
@every_graph
def test_types_and_shapes_follow_from_each_other(tiny_copy, tower, graph, precision) -> None:
    # Strict inference fails where a node mixes types, which a strongly typed network refuses too.
    onnx.checker.check_model(str(tiny_copy / f"{graph}.{precision}.onnx"), full_check=True)


@every_precision
def test_inputs_and_outputs_have_the_promised_names_types_and_shapes(whole_bundle, precision) -> None:
    pixels = "FLOAT16" if precision == "fp16" else "FLOAT"
    image = {"pixels": (pixels, ["N", 3, 32, 32])}
    expected = {
        "image": (image, {"embedding": ("FLOAT", ["N", 64])}),
        "dense": (image, {"patches": ("FLOAT", ["N", 16, 64])}),
        "text": (
            {"tokens": ("INT32", ["N", "T"]), "eot": ("INT32", ["N"])},
            {"embedding": ("FLOAT", ["N", 64])},
        ),
        "text-248": (
            {"tokens": ("INT32", ["N", 248]), "eot": ("INT32", ["N"])},
            {"embedding": ("FLOAT", ["N", 64])},
        ),
    }
    for name, (inputs, outputs) in expected.items():
        graph = load(whole_bundle, name, precision).graph
        assert described(graph.input) == inputs
        assert described(graph.output) == outputs


@every_precision
@pytest.mark.parametrize("tower", TOWER_GRAPHS)
def test_the_graphs_of_a_tower_share_one_weight_file(whole_bundle, tower, precision) -> None:
    weights = whole_bundle / f"{tower}.{precision}.weights"
    places: dict[tuple[int, int], str] = {}
    names = []
    for graph in TOWER_GRAPHS[tower]:
        tensors = [t for t in load(whole_bundle, graph, precision).graph.initializer if t.external_data]
        assert {external(tensor)["location"] for tensor in tensors} == {weights.name}
        names.append({tensor.name for tensor in tensors})
        for tensor in tensors:
            fields = external(tensor)
            offset, length = int(fields["offset"]), int(fields["length"])
            assert offset % 64 == 0
            itemsize = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
            assert length == itemsize * np.prod(tensor.dims, dtype=int)
            assert places.setdefault((offset, length), tensor.name) == tensor.name
    own = {name for name in names[0] ^ names[1] if ".corrected." not in name}
    # Each graph corrects its biases by itself. The two products that patches have of their own stay float16
    # beside 8 bits, with the weights of the class token's.
    last = "visual.transformer.resblocks.1.attn"
    of_patches = {f"{last}.{layer}.{part}" for layer in ("q", "out_proj") for part in ("weight", "bias")}
    assert precision in NEED_CALIBRATION or names[0] == names[1]
    assert own <= (of_patches if tower == "image" else set())
    assert not own & names[0]
    ends = [0, *(offset + length for offset, length in sorted(places))]
    starts = [*(offset for offset, _ in sorted(places)), weights.stat().st_size]
    assert all(0 <= start - end < 64 for start, end in zip(starts, ends, strict=True))


@every_precision
@every_graph
def test_graph_files_hold_no_weights_and_no_paths(whole_bundle, tower, graph, precision) -> None:
    path = whole_bundle / f"{graph}.{precision}.onnx"
    model = load(whole_bundle, graph, precision)
    assert path.stat().st_size < 100_000
    inline = [t for t in model.graph.initializer if not t.external_data]
    assert all(np.prod(tensor.dims, dtype=int) <= 8 for tensor in inline)
    assert str(whole_bundle.parent).encode() not in path.read_bytes()
    assert not model.doc_string
    assert not model.metadata_props


@pytest.mark.parametrize("graph", ["text", "text-248"])
def test_only_the_short_text_graph_computes_shapes(whole_bundle, graph) -> None:
    operators = Counter(node.op_type for node in load(whole_bundle, graph, "fp32").graph.node)
    assert operators["Shape"] == (1 if graph == "text" else 0)


def test_layer_norms_are_whole_and_in_float32(whole_bundle) -> None:
    for precision in EXPORTABLE:
        for _, graph in GRAPHS:
            model = onnx.shape_inference.infer_shapes(load(whole_bundle, graph, precision))
            types = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
            norms = [node for node in model.graph.node if node.op_type == "LayerNormalization"]
            # Two a block of two blocks, one more for the rows that the last block answers for; the
            # image tower has one before and one after, a further one for patches; the text tower one after.
            assert len(norms) == {"image": 7, "dense": 8}.get(graph, 6)
            for node in norms:
                assert types[node.output[0]] == onnx.TensorProto.FLOAT
                epsilon = [a.f for a in node.attribute if a.name == "epsilon"]
                assert epsilon == [pytest.approx(1e-5)]


@every_graph
def test_every_other_weight_of_the_typed_fp16_files_is_float16(whole_bundle, tower, graph) -> None:
    model = load(whole_bundle, graph, "fp16")
    stored = {t.name: t for t in model.graph.initializer if t.external_data}
    of_norms = {
        name for node in model.graph.node if node.op_type == "LayerNormalization" for name in node.input[1:]
    }
    for name, tensor in stored.items():
        expected = onnx.TensorProto.FLOAT if name in of_norms else onnx.TensorProto.FLOAT16
        assert tensor.data_type == expected, name


def test_the_bundle_lists_exactly_these_files(whole_bundle) -> None:
    bundle = Bundle.open(whole_bundle)
    assert set(bundle.precisions) == set(EXPORTABLE)
    listed = {file for precision in EXPORTABLE for file in graph_files(precision)}
    assert set(bundle.files) == listed | {"probe.npz", "vocabulary.txt.gz"}
    for precision in EXPORTABLE:
        assert set(bundle.record(precision).files) == set(graph_files(precision))

"""The rules for TensorRT: good graphs keep them, and each broken one is caught by its own rule."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from rendered_folders import write_tiles

from lrsclip_export.exporting import export_bundle
from lrsclip_export.lint import graph_findings, refuse_findings
from lrsclip_export.precisions import TOWER_GRAPHS, write_half
from lrsclip_rt.bundle import Bundle
from lrsclip_rt.errors import BundleError

MINI = Path(__file__).resolve().parents[2] / "lrsclip_rt" / "bundles" / "mini"
GRAPHS = [graph for graphs in TOWER_GRAPHS.values() for graph in graphs]


@pytest.fixture(scope="module")
def typed(tmp_path_factory, tiny_bundle) -> Path:
    """The tiny bundle with int8 and fp8."""
    folder = tmp_path_factory.mktemp("typed")
    (folder / "photos").mkdir()
    photos = write_tiles(folder / "photos", 64)
    out = folder / "bundle"
    return export_bundle(
        tiny_bundle, out, precisions=("int8", "fp8"), calibration=photos, allow_failed=True
    ).path


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "fp8"])
@pytest.mark.parametrize("graph", GRAPHS)
def test_the_graphs_of_a_vit_keep_every_rule(typed, graph, precision) -> None:
    assert graph_findings(typed / f"{graph}.{precision}.onnx") == ()


@pytest.mark.parametrize("graph", GRAPHS)
def test_the_graphs_of_the_built_in_model_keep_every_rule(graph) -> None:
    assert graph_findings(MINI / f"{graph}.fp32.onnx") == ()


def test_the_built_in_model_in_fp16_keeps_every_rule(tmp_path) -> None:
    bundle = Bundle.open(MINI)
    paths = write_half(tmp_path, {graph: bundle.graph_path(graph, "fp32") for graph in GRAPHS})
    assert [graph_findings(path) for path in paths.values()] == [()] * 4


def test_the_files_for_onnx_runtime_are_not_for_tensorrt(typed) -> None:
    with pytest.raises(BundleError, match=r"would not build in TensorRT: .*operator DynamicQuantizeLinear"):
        refuse_findings(typed / "image.int8-cpu.onnx")


# -- graphs that are broken in one place ---------------------------------------------------------------

Break = Callable[[Any], None]


def node_of(model: Any, operator: str, place: int = 0) -> Any:
    return [node for node in model.graph.node if node.op_type == operator][place]


def replace_constant(model: Any, name: str, array: Any) -> None:
    kept = [tensor for tensor in model.graph.initializer if tensor.name != name]
    assert len(kept) == len(model.graph.initializer) - 1
    del model.graph.initializer[:]
    model.graph.initializer.extend([*kept, numpy_helper.from_array(array, name)])


def vendor(model: Any) -> None:
    node_of(model, "Softmax").domain = "com.microsoft"


def unknown(model: Any) -> None:
    node_of(model, "Sigmoid").op_type = "Erf"


def old_opset(model: Any) -> None:
    model.opset_import[0].version = 18


def new_opset(model: Any) -> None:
    model.opset_import[0].version = 23


def new_ir(model: Any) -> None:
    model.ir_version = 14


def zero_point(model: Any) -> None:
    replace_constant(model, "zero_point", np.array(1, dtype=np.int8))


def unsigned(model: Any) -> None:
    del node_of(model, "QuantizeLinear").input[2]


def negative_scale(model: Any) -> None:
    replace_constant(model, node_of(model, "QuantizeLinear").input[1], np.array(-0.1, dtype=np.float16))


def scale_by_channel(model: Any) -> None:
    replace_constant(model, node_of(model, "QuantizeLinear").input[1], np.full(64, 0.1, dtype=np.float16))


def computed_scale(model: Any) -> None:
    node = node_of(model, "QuantizeLinear")
    model.graph.node.insert(0, helper.make_node("Sqrt", [node.input[1]], ["computed"]))
    node.input[1] = "computed"


def only_one_side(model: Any) -> None:
    pair = node_of(model, "QuantizeLinear")
    for node in model.graph.node:
        if node.op_type == "MatMul" and node.input[0] == pair.output[0].removesuffix(".q") + ".dq":
            node.input[0] = pair.input[0]


def before_softmax(model: Any) -> None:
    quantised_before(model, node_of(model, "Softmax"))


def before_the_norm(model: Any) -> None:
    quantised_before(model, node_of(model, "LayerNormalization", -1))


def quantised_before(model: Any, user: Any) -> None:
    scale = node_of(model, "QuantizeLinear").input[1]
    place = list(model.graph.node).index(user)
    pair = [
        helper.make_node("QuantizeLinear", [user.input[0], scale, "zero_point"], ["more.q"]),
        helper.make_node("DequantizeLinear", ["more.q", scale, "zero_point"], ["more.dq"]),
    ]
    for node in reversed(pair):
        model.graph.node.insert(place, node)
    model.graph.node[place + 2].input[0] = "more.dq"


def attention_products(model: Any) -> None:
    product = next(node for node in model.graph.node if node.output[0].endswith("attn.logits"))
    scale = node_of(model, "QuantizeLinear").input[1]
    place = list(model.graph.node).index(product)
    for side in (0, 1):
        name = f"side{side}"
        x = product.input[side]
        for node in (
            helper.make_node("DequantizeLinear", [f"{name}.q", scale, "zero_point"], [f"{name}.dq"]),
            helper.make_node("QuantizeLinear", [x, scale, "zero_point"], [f"{name}.q"]),
        ):
            model.graph.node.insert(place, node)
        product = next(node for node in model.graph.node if node.output[0].endswith("attn.logits"))
        product.input[side] = f"{name}.dq"


def mixed_pair(model: Any) -> None:
    cast = next(node for node in model.graph.node if node.op_type == "Cast" and "ln_" in node.input[0])
    cast.attribute[0].i = TensorProto.FLOAT


def mixed_sum(model: Any) -> None:
    node_of(model, "Add", -1).input[1] = next(
        tensor.name for tensor in model.graph.initializer if tensor.name.endswith("ln_2.bias.float32")
    )


def mixed_norm(model: Any) -> None:
    norm = node_of(model, "LayerNormalization")
    cast = next(node for node in model.graph.node if node.output[0] == norm.input[0])
    cast.attribute[0].i = TensorProto.FLOAT16


def computed_shape(model: Any) -> None:
    model.graph.node.insert(0, helper.make_node("Shape", ["pixels"], ["pixels.shape"]))
    node_of(model, "Reshape").input[1] = "pixels.shape"


BROKEN: list[tuple[Break, str]] = [
    (vendor, "vendor's operator"),
    (unknown, "operator Erf is not allowed"),
    (old_opset, "opset 18 has no typed Q/DQ"),
    (new_opset, "opset 23 is outside 17-20"),
    (new_ir, "IR version 14 is newer than 10"),
    (zero_point, "has a zero point that is not zero"),
    (unsigned, "has no zero point, so it makes uint8"),
    (negative_scale, "has a scale that is not positive"),
    (scale_by_channel, "has 64 scales, expected one"),
    (computed_scale, "has a scale or zero point that is not stored"),
    (only_one_side, "has only one quantised input"),
    (before_softmax, "feeds Softmax"),
    (before_the_norm, "feeds LayerNormalization"),
    (attention_products, "multiplies two quantised activations"),
    (mixed_pair, "types do not fit"),
    (mixed_sum, "types do not fit"),
    (mixed_norm, "types do not fit"),
    (computed_shape, "input 1 of Reshape"),
]


@pytest.mark.parametrize(("broken", "finding"), BROKEN, ids=[broken.__name__ for broken, _ in BROKEN])
def test_each_broken_graph_is_caught_by_its_rule(typed, tmp_path, broken, finding) -> None:
    path = tmp_path / "image.int8.onnx"
    shutil.copyfile(typed / "image.int8.weights", tmp_path / "image.int8.weights")
    model = onnx.load(typed / "image.int8.onnx", load_external_data=False)
    broken(model)
    path.write_bytes(model.SerializeToString())
    found = graph_findings(path)
    assert any(finding in text for text in found), found


def test_one_scale_a_column_is_for_int8_alone(typed, tmp_path) -> None:
    path = tmp_path / "image.fp8.onnx"
    shutil.copyfile(typed / "image.fp8.weights", tmp_path / "image.fp8.weights")
    model = onnx.load(typed / "image.fp8.onnx", load_external_data=False)
    pairs = [node for node in model.graph.node if node.op_type == "DequantizeLinear"]
    weight = next(node for node in pairs if node.input[0].endswith(".fp8"))
    replace_constant(model, weight.input[1], np.full(192, 0.1, dtype=np.float16))
    path.write_bytes(model.SerializeToString())
    assert any("has 192 scales, expected one" in text for text in graph_findings(path))

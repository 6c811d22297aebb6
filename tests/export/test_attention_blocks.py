"""Attention is found by its shape, and taken for one operator only where that computes the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from lrsclip_export.attention_blocks import attention_blocks
from lrsclip_export.graph_source import SourceGraph
from lrsclip_export.int8_cpu import int8_cpu_graph
from lrsclip_export.precisions import save_graph
from lrsclip_export.weight_file import WeightFile

WIDTH, HEADS, HEAD_DIM, LONGEST = 32, 4, 8, 6


def attention_graph(
    folder: Path, *, mask: np.ndarray | None = None, perm: list[int] | None = None, more: str | None = None
) -> SourceGraph:
    """One block of attention behind an input of any length, with whatever is wrong with it."""
    rng = np.random.default_rng(5)
    constants = {
        "weight": (rng.standard_normal((WIDTH, 3 * WIDTH)) / 4).astype(np.float32),
        "bias": rng.standard_normal(3 * WIDTH).astype(np.float32),
        "thirds": np.array([WIDTH] * 3),
        "apart": np.array([0, 0, HEADS, HEAD_DIM]),
        "together": np.array([0, 0, WIDTH]),
    }
    node = helper.make_node
    nodes = [
        node("MatMul", ["x", "weight"], ["product"]),
        node("Add", ["product", "bias"], ["qkv"]),
        node("Split", ["qkv", "thirds"], ["q", "k", "v"], axis=-1),
    ]
    for name, order in (("q", [0, 2, 1, 3]), ("k", perm or [0, 2, 3, 1]), ("v", [0, 2, 1, 3])):
        nodes.append(node("Reshape", [name, "apart"], [f"{name}.apart"]))
        nodes.append(node("Transpose", [f"{name}.apart"], [f"{name}.heads"], perm=order))
    nodes.append(node("MatMul", ["q.heads", "k.heads"], ["logits"]))
    if mask is not None:
        constants |= {"mask": mask, "zeros": np.array([0, 0])}
        nodes += [
            node("Shape", ["x"], ["length"], start=1, end=2),
            node("Concat", ["length", "length"], ["square"], axis=0),
            node("Slice", ["mask", "zeros", "square"], ["mask.used"]),
            node("Add", ["logits", "mask.used"], ["masked"]),
        ]
    nodes += [
        node("Softmax", ["masked" if mask is not None else "logits"], ["shares"], axis=-1),
        node("MatMul", ["shares", "v.heads"], ["mixed"]),
        node("Transpose", ["mixed"], ["mixed.rows"], perm=[0, 2, 1, 3]),
        node("Reshape", ["mixed.rows", "together"], ["embedding"]),
    ]
    outputs = ["embedding", *([] if more is None else [more])]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", "T", WIDTH])],
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / "small.fp32.onnx")
    return SourceGraph(folder / "small.fp32.onnx")


def hides_later(size: int = LONGEST) -> np.ndarray:
    return np.where(np.triu(np.ones((size, size), bool), 1), -10000, 0).astype(np.float32)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("tokens", [1, 3, LONGEST])
def test_the_runtimes_operator_computes_what_the_block_did(tmp_path, run_graph, causal, tokens) -> None:
    source = attention_graph(tmp_path, mask=hides_later() if causal else None)
    [block] = attention_blocks(source)
    assert (block.product, block.joined, block.heads, block.head_dim) == (
        "product",
        "embedding",
        HEADS,
        HEAD_DIM,
    )
    assert block.causal == causal
    with WeightFile(tmp_path / "small.int8-cpu.weights") as weights:
        model = int8_cpu_graph(source, weights)
    assert [node.op_type for node in model.graph.node] == ["DynamicQuantizeLinear", "QAttention"]
    for value in model.graph.output:
        value.type.tensor_type.shape.Clear()
    save_graph(model, tmp_path / "small.int8-cpu.onnx")
    x = np.random.default_rng(7).standard_normal((3, tokens, WIDTH)).astype(np.float32)
    exact, found = (run_graph(tmp_path / f"small.{name}.onnx", x=x) for name in ("fp32", "int8-cpu"))
    assert found.shape == exact.shape
    assert np.abs(found - exact).max() < 0.05 * np.abs(exact).max()


def test_a_token_sees_no_later_one(tmp_path, run_graph) -> None:
    with WeightFile(tmp_path / "small.int8-cpu.weights") as weights:
        model = int8_cpu_graph(attention_graph(tmp_path, mask=hides_later()), weights)
    save_graph(model, tmp_path / "small.int8-cpu.onnx")
    x = np.random.default_rng(7).uniform(-1, 1, (1, LONGEST, WIDTH)).astype(np.float32)
    x[0, 0, :2] = -1, 1  # the range, and with it every scale, stays as it is
    other = x.copy()
    other[0, -1] = -other[0, -1]
    first, second = (run_graph(tmp_path / "small.int8-cpu.onnx", x=rows)[0] for rows in (x, other))
    np.testing.assert_array_equal(first[:-1], second[:-1])
    assert np.abs(first[-1] - second[-1]).max() > 0.01


class TestWhatIsLeftAlone:
    @pytest.mark.parametrize("value", ["q.heads", "logits", "shares", "qkv", "k"])
    def test_attention_of_which_something_else_is_read(self, tmp_path, value) -> None:
        assert attention_blocks(attention_graph(tmp_path, more=value)) == ()

    def test_keys_in_another_order(self, tmp_path) -> None:
        assert attention_blocks(attention_graph(tmp_path, perm=[0, 2, 1, 3])) == ()

    @pytest.mark.parametrize(
        "mask",
        [
            np.zeros((LONGEST, LONGEST), np.float32),
            hides_later().T.copy(),
            np.where(np.eye(LONGEST, dtype=bool), 0, -10000).astype(np.float32),
            hides_later() / 10000,
        ],
        ids=["none", "earlier", "all others", "a little"],
    )
    def test_masks_that_hide_anything_else(self, tmp_path, mask) -> None:
        assert attention_blocks(attention_graph(tmp_path, mask=mask)) == ()


def test_every_block_but_the_last_of_a_model_is_found(tiny_bundle) -> None:
    """The last one computes a single token's answer."""
    found: dict[str, Any] = {
        graph: attention_blocks(SourceGraph(tiny_bundle / f"{graph}.fp32.onnx"))
        for graph in ("image", "dense", "text", "text-248")
    }
    assert [len(blocks) for blocks in found.values()] == [1] * 4
    assert [blocks[0].causal for blocks in found.values()] == [False, False, True, True]

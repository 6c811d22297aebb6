"""A bundle made by hand: four tiny ONNX graphs whose answers NumPy can repeat. No torch, milliseconds.

Image: the mean colour times a matrix. Dense: the same for each cell of a 4 x 4 grid. Text: the sum of the
token rows up to EOT. All L2-normalised. Not a model, but every path of one.
"""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from lrsclip_rt.bundle import BUILT_IN, Bundle, ModelSpec, SourceRecord
from lrsclip_rt.bundle_writer import BundleWriter
from lrsclip_rt.parity import Embeddings, compare

GRID, SIZE, DIM, VOCABULARY = 4, 32, 16, 49408
MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
REAL_VOCABULARY = BUILT_IN / "vocabulary.txt.gz"


@dataclass(frozen=True)
class Weights:
    """All weights of the hand-made model."""

    image: NDArray[np.float32]  # (3, D)
    bias: NDArray[np.float32]  # (D,)
    text: NDArray[np.float32]  # (49408, D)

    @classmethod
    def seeded(cls, seed: int = 0, *, noise: float = 0.0, token_rows: int = VOCABULARY) -> Weights:
        """The weights of ``seed``; ``noise`` is the relative error of a worse precision."""
        rng = np.random.default_rng(seed)
        arrays = [rng.standard_normal(shape) for shape in ((3, DIM), (DIM,), (token_rows, DIM))]
        arrays[1] *= 0.1
        worse = np.random.default_rng(99)
        arrays = [a * (1 + noise * worse.standard_normal(a.shape)) for a in arrays]
        return cls(*(a.astype(np.float32) for a in arrays))


def unit(rows: NDArray[np.floating]) -> NDArray[np.float32]:
    return np.asarray(rows / np.linalg.norm(rows, axis=-1, keepdims=True), np.float32)


def dense_by_numpy(pixels: NDArray[np.float32], weights: Weights) -> NDArray[np.float32]:
    n, cell = len(pixels), SIZE // GRID
    cells = pixels.reshape(n, 3, GRID, cell, GRID, cell).mean(axis=(3, 5))
    return unit(cells.reshape(n, 3, -1).transpose(0, 2, 1) @ weights.image + weights.bias)


def images_by_numpy(pixels: NDArray[np.float32], weights: Weights) -> NDArray[np.float32]:
    return unit(pixels.mean(axis=(2, 3)) @ weights.image + weights.bias)


def texts_by_numpy(
    tokens: NDArray[np.int32], eot: NDArray[np.int32], weights: Weights
) -> NDArray[np.float32]:
    rows = [weights.text[row[: end + 1]].sum(axis=0) for row, end in zip(tokens, eot, strict=True)]
    return unit(np.stack(rows))


def make_bundle(
    path: Path,
    *,
    seed: int = 0,
    extra: dict[str, float] | None = None,
    vocabulary: Path | None = REAL_VOCABULARY,
    overwrite: bool = False,
    checkpoint_sha256: str = "ab" * 32,
) -> Bundle:
    """Write a bundle with fp32 and, per name in ``extra``, a precision whose weights are that much worse.

    ``vocabulary=None`` writes a few bytes in place of the real one and a small token table: enough where
    nothing is tokenised.
    """
    raw = gzip.compress(b"not a vocabulary", mtime=0) if vocabulary is None else vocabulary.read_bytes()
    source = SourceRecord(checkpoint_sha256, "handmade", "tests/handmade.py", "Apache-2.0", "none")
    with BundleWriter(path, make_spec(raw), source, overwrite=overwrite) as writer:
        (writer.folder / "vocabulary.txt.gz").write_bytes(raw)
        token_rows = 1000 if vocabulary is None else VOCABULARY
        fp32 = Weights.seeded(seed, token_rows=token_rows)
        pixels = ((probe_images() / 255.0 - 0.5) / 0.25).astype(np.float32).transpose(0, 3, 1, 2)
        texts, tokens, eot = probe_texts(vocabulary)
        fp32_rows = images_by_numpy(pixels, fp32), texts_by_numpy(tokens, eot, fp32)
        reference = Embeddings(*fp32_rows)
        np.savez(
            writer.folder / "probe.npz",
            images=probe_images(),
            texts=np.array(texts),
            image_embeddings=fp32_rows[0],
            text_embeddings=fp32_rows[1],
        )
        writer.add_precision("fp32", files=write_graphs(writer.folder, "fp32", fp32), parity=None)
        for name, noise in (extra or {}).items():
            worse = Weights.seeded(seed, noise=noise, token_rows=token_rows)
            files = write_graphs(writer.folder, name, worse)
            candidate = Embeddings(images_by_numpy(pixels, worse), texts_by_numpy(tokens, eot, worse))
            writer.add_precision(name, files=files, parity=compare(reference, candidate, precision=name))
        return writer.finish()


def make_spec(vocabulary: bytes) -> ModelSpec:
    return ModelSpec(
        name="handmade",
        architecture="mean-colour",
        embed_dim=DIM,
        image_size=SIZE,
        mean=MEAN,
        std=STD,
        logit_scale=100.0,
        tokenizer_sha256=hashlib.sha256(vocabulary).hexdigest(),
        patch_grid=(GRID, GRID),
        templates=("a satellite photo of {}.", "an aerial image of {}."),
    )


def probe_images() -> NDArray[np.uint8]:
    """``(6, 32, 32, 3) uint8``: one plain colour each, so that resizing changes nothing."""
    colours = np.random.default_rng(5).integers(0, 256, (6, 1, 1, 3), dtype=np.uint8)
    return np.tile(colours, (1, SIZE, SIZE, 1))


def probe_texts(vocabulary: Path | None) -> tuple[list[str], NDArray[np.int32], NDArray[np.int32]]:
    texts = ["a harbour with many ships", "white storage tanks", "a long runway beside green fields"]
    if vocabulary is None:
        tokens = np.arange(1, 3 * 248 + 1, dtype=np.int32).reshape(3, 248)
        return texts, tokens, np.full(3, 5, np.int32)
    from lrsclip_rt.tokenizer import Tokenizer

    batch = Tokenizer(vocabulary).encode_batch(texts)
    return texts, batch.tokens, batch.eot


def write_graphs(folder: Path, precision: str, weights: Weights) -> list[str]:
    """Write the four graphs and two weight files of a precision; returns their names."""
    image = {"weight": weights.image, "bias": weights.bias}
    text = {"table": weights.text}
    graphs = {
        f"image.{precision}.onnx": (_image_graph(dense=False), image, f"image.{precision}.weights"),
        f"dense.{precision}.onnx": (_image_graph(dense=True), image, f"image.{precision}.weights"),
        f"text.{precision}.onnx": (_text_graph("T"), text, f"text.{precision}.weights"),
        f"text-248.{precision}.onnx": (_text_graph(248), text, f"text.{precision}.weights"),
    }
    for name, (graph, tensors, weight_file) in graphs.items():
        offset = 0
        with (folder / weight_file).open("wb") as stream:
            for tensor, array in tensors.items():
                graph.initializer.append(_external(tensor, array, weight_file, offset))
                offset += stream.write(array.tobytes())
        opsets = [helper.make_opsetid("", 17)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10, producer_name="handmade")
        (folder / name).write_bytes(model.SerializeToString())
    return [*graphs, f"image.{precision}.weights", f"text.{precision}.weights"]


def _image_graph(*, dense: bool) -> onnx.GraphProto:
    cell = SIZE // GRID if dense else SIZE
    grid = GRID * GRID if dense else 1
    nodes = [
        helper.make_node(
            "AveragePool", ["pixels"], ["cells"], kernel_shape=[cell, cell], strides=[cell, cell]
        ),
        helper.make_node("Reshape", ["cells", "flat_shape"], ["flat"]),
        helper.make_node("Transpose", ["flat"], ["rows"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["rows", "weight"], ["projected"]),
        helper.make_node("Add", ["projected", "bias"], ["shifted"]),
        helper.make_node("LpNormalization", ["shifted"], ["unit"], axis=-1, p=2),
    ]
    output, shape = "patches", ["N", grid, DIM]
    if not dense:
        output, shape = "embedding", ["N", DIM]
        nodes.append(helper.make_node("Squeeze", ["unit", "one"], [output]))
    else:
        nodes[-1].output[0] = output
    constants = [
        numpy_helper.from_array(np.array([0, 3, grid], np.int64), "flat_shape"),
        numpy_helper.from_array(np.array([1], np.int64), "one"),
    ]
    pixels = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["N", 3, SIZE, SIZE])
    result = helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)
    return helper.make_graph(nodes, "image", [pixels], [result], constants if not dense else constants[:1])


def _text_graph(length: int | str) -> onnx.GraphProto:
    nodes = [
        helper.make_node("Gather", ["table", "tokens"], ["rows"]),
        helper.make_node("CumSum", ["rows", "axis"], ["sums"]),
        helper.make_node("Unsqueeze", ["eot", "axes"], ["index"]),
        helper.make_node("Cast", ["index"], ["index64"], to=TensorProto.INT64),
        helper.make_node("GatherND", ["sums", "index64"], ["last"], batch_dims=1),
        helper.make_node("LpNormalization", ["last"], ["embedding"], axis=-1, p=2),
    ]
    inputs = [
        helper.make_tensor_value_info("tokens", TensorProto.INT32, ["N", length]),
        helper.make_tensor_value_info("eot", TensorProto.INT32, ["N"]),
    ]
    result = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", DIM])
    constants = [
        numpy_helper.from_array(np.array(1, np.int64), "axis"),
        numpy_helper.from_array(np.array([1], np.int64), "axes"),
    ]
    return helper.make_graph(nodes, "text", inputs, [result], constants)


def _external(name: str, array: NDArray[np.float32], location: str, offset: int) -> onnx.TensorProto:
    tensor = onnx.TensorProto(name=name, data_type=TensorProto.FLOAT, dims=array.shape)
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", str(offset)), ("length", str(array.nbytes))):
        tensor.external_data.add(key=key, value=value)
    return tensor

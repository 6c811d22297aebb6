"""The recipe of the dense graph: equal to its twin in PyTorch, written down, and at no cost in weights."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

from lrsclip_export.dense_recipe import DenseRecipe, dense_recipe
from lrsclip_export.dense_torch import dense_patches
from lrsclip_export.exporting import export_bundle
from lrsclip_export.graph_source import SourceGraph
from lrsclip_export.migration import MigratedGraph, Migration
from lrsclip_export.precisions import save_graph
from lrsclip_export.products import products_of
from lrsclip_export.towers import Parameters, image_graph
from lrsclip_export.weight_file import WeightFile
from lrsclip_rt.bundle import Bundle
from lrsclip_rt.bundle_records import PLAIN_DENSE, Manifest
from lrsclip_rt.bundle_writer import BundleWriter
from lrsclip_rt.embedder import load
from lrsclip_train.model import ClipConfig, DualClip

Array = NDArray[Any]
State = dict[str, torch.Tensor]
Shapes = Mapping[str, ClipConfig]


def model_of(config: ClipConfig, state: State) -> DualClip:
    model = DualClip(config)
    model.load_state_dict(state)
    return model.eval()


def written(folder: Path, state: State, config: ClipConfig) -> dict[str, Path]:
    paths = {name: folder / f"{name}.onnx" for name in ("image", "dense")}
    with WeightFile(folder / "image.weights") as weights:
        for name, path in paths.items():
            save_graph(image_graph(Parameters(state), config, weights, dense=name == "dense"), path)
    return paths


def pixels_for(config: ClipConfig, count: int) -> Array:
    size = config.image_size
    return np.random.default_rng(8).uniform(-1.5, 1.5, (count, 3, size, size)).astype(np.float32)


@pytest.mark.parametrize("name", ["tiny", "odd", "mini"])
def test_the_graph_the_twin_in_pytorch_and_the_definition_agree(
    tmp_path: Path, name: str, state_of: Callable[[str], State], config_of: Shapes, float64_clip, run_graph
) -> None:
    state, config = state_of(name), config_of[name]
    pixels = pixels_for(config, 3)
    found = run_graph(written(tmp_path, state, config)["dense"], pixels=pixels)
    with torch.inference_mode():
        twin = dense_patches(
            model_of(config, state).visual, torch.from_numpy(pixels), dense_recipe(config)
        ).numpy()
    assert found.shape == twin.shape == (3, config.grid**2, config.embed_dim)
    np.testing.assert_allclose(found, twin, atol=5e-6)
    np.testing.assert_allclose(found, float64_clip(state).dense(pixels), atol=5e-6)
    assert np.ptp(found, axis=1).max() > 1e-2, "the test means nothing where all patches look alike"


def test_the_class_embedding_is_the_images_and_its_share_counts(state_of, config_of) -> None:
    model = model_of(config_of["tiny"], state_of("tiny"))
    pixels = torch.from_numpy(pixels_for(config_of["tiny"], 2))
    with torch.inference_mode():
        classes = torch.nn.functional.normalize(model.encode_image(pixels), dim=-1)[:, None]
        rows = [dense_patches(model.visual, pixels, DenseRecipe(share)) for share in (-0.3, 0.5, 1e6)]
    least, most, only = ((part * classes).sum(-1) for part in rows)
    assert (least < most).all()
    np.testing.assert_allclose(only, 1.0, atol=1e-5)


def test_neither_the_residual_stream_nor_the_mlp_of_the_last_block_reaches_the_patches(
    tmp_path: Path, state_of: Callable[[str], State], config_of: Shapes
) -> None:
    path = written(tmp_path, state_of("tiny"), config_of["tiny"])["dense"]
    makers = {node.output[0]: node for node in onnx.load(path, load_external_data=False).graph.node}
    behind, open_values = set(), ["visual.dense.projected"]
    while open_values:
        name = open_values.pop()
        if name in makers and name not in behind:
            behind.add(name)
            open_values += makers[name].input
    last = "visual.transformer.resblocks.1"
    assert f"{last}.attn.v.heads" in behind
    assert not any(name.startswith(f"{last}.mlp") or name == f"{last}.attn.sum" for name in behind)


def test_the_two_graphs_of_the_tower_share_every_weight(
    tmp_path: Path, state_of: Callable[[str], State], config_of: Shapes
) -> None:
    paths = written(tmp_path, state_of("mini"), config_of["mini"])

    def stored(name: str) -> set[str]:
        graph = onnx.load(paths[name], load_external_data=False).graph
        return {tensor.name for tensor in graph.initializer if tensor.external_data}

    assert stored("dense") == stored("image")


def test_a_weight_that_two_products_share_is_migrated_once(
    tmp_path: Path, state_of: Callable[[str], State], config_of: Shapes
) -> None:
    path = written(tmp_path, state_of("tiny"), config_of["tiny"])["dense"]
    products, plain = products_of(SourceGraph(path)), SourceGraph(path)
    base = "visual.transformer.resblocks.1"
    weight = f"{base}.attn.q.weight"
    assert sum(product.weight == weight for product in products) == 2
    divisor = np.exp2(np.arange(64) % 3).astype(np.float32)
    migrated = MigratedGraph(
        path, products, Migration({f"{base}.ln_1.out": divisor, f"{base}.ln_1.selected": divisor})
    )
    np.testing.assert_array_equal(migrated.array(weight), plain.array(weight) * divisor[:, None])
    scale = f"{base}.ln_1.weight"
    np.testing.assert_array_equal(migrated.array(scale), plain.array(scale) / divisor)


def test_a_bundle_says_how_its_patches_are_made(tiny_bundle: Path, tmp_path: Path) -> None:
    record = json.loads((tiny_bundle / "bundle.json").read_text())
    assert record["model"]["dense_recipe"] == "query-query, class -0.3"
    bundle = Bundle.open(tiny_bundle)
    assert bundle.spec.dense_recipe == record["model"]["dense_recipe"]
    extended = export_bundle(tiny_bundle, tmp_path / "more", precisions=["fp32"])
    assert extended.spec.dense_recipe == bundle.spec.dense_recipe


def test_a_bundle_that_names_no_recipe_opens_as_it_was_and_is_written_back_so(tiny_bundle: Path) -> None:
    record = json.loads((tiny_bundle / "bundle.json").read_text())
    del record["model"]["dense_recipe"]
    manifest = Manifest.from_json(json.dumps(record))
    assert manifest.spec.dense_recipe == PLAIN_DENSE
    assert manifest.identity == Bundle.open(tiny_bundle).identity
    assert "dense_recipe" not in json.loads(manifest.to_json())["model"]


def test_a_bundle_of_the_older_recipe_localizes_too(tiny_bundle: Path, tmp_path: Path) -> None:
    from lrsclip_rt.localization import localize

    bundle = Bundle.open(tiny_bundle)
    spec = replace(bundle.spec, dense_recipe=PLAIN_DENSE)
    older = Bundle(bundle.path, replace(bundle.manifest, spec=spec))
    with BundleWriter.extending(older, tmp_path / "older") as writer:
        path = writer.finish().path
    array = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    (heat,) = localize(load(path), array, ["a harbour"], mode="dense")
    assert np.isfinite(heat.scores).all()

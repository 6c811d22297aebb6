"""The fp32 graphs against an evaluation of the same weights that shares no code with the export."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from lrsclip_export.graph_builder import GraphBuilder, fits_half
from lrsclip_export.precisions import TOWER_GRAPHS, save_graph
from lrsclip_export.towers import Parameters, image_graph, text_graph
from lrsclip_export.weight_file import ALIGNMENT_BYTES, WeightFile
from lrsclip_train.model import ClipConfig

Array = NDArray[Any]
State = dict[str, torch.Tensor]
SMALL = ("tiny", "odd", "mini")


def write_graphs(folder: Path, state: State, config: ClipConfig, *, half: bool = False) -> dict[str, Path]:
    folder.mkdir(parents=True, exist_ok=True)
    parameters, paths = Parameters(state), {}
    for tower, names in TOWER_GRAPHS.items():
        with WeightFile(folder / f"{tower}.weights") as weights:
            for name in names:
                if tower == "image":
                    model = image_graph(parameters, config, weights, dense=name == "dense", store_half=half)
                else:
                    model = text_graph(parameters, config, weights, fixed=name == "text-248", store_half=half)
                paths[name] = folder / f"{name}.onnx"
                save_graph(model, paths[name])
    return paths


@pytest.fixture(scope="module", params=SMALL)
def exported(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    state_of: Callable[[str], State],
    config_of: Mapping[str, ClipConfig],
) -> tuple[State, ClipConfig, dict[str, Path]]:
    state, config = state_of(request.param), config_of[request.param]
    return state, config, write_graphs(tmp_path_factory.mktemp(request.param), state, config)


def pixels_for(config: ClipConfig, count: int) -> Array:
    size = config.image_size
    return np.random.default_rng(3).uniform(-1.5, 1.5, (count, 3, size, size)).astype(np.float32)


def worst(a: Array, b: Array) -> float:
    return float(np.abs(a - b).max())


@pytest.mark.parametrize("graph", ["image", "dense"])
def test_image_graphs_equal_the_float64_evaluation(exported, graph, float64_clip, run_graph) -> None:
    state, config, paths = exported
    pixels = pixels_for(config, 3)
    expected = getattr(float64_clip(state), graph)(pixels)
    assert worst(expected[0], expected[1]) > 1e-2, "the test means nothing where all images look alike"
    found = run_graph(paths[graph], pixels=pixels)
    assert found.dtype == np.float32
    assert found.shape == expected.shape
    assert worst(found, expected) < 5e-6


@pytest.mark.parametrize("graph", ["text", "text-248"])
def test_text_graphs_equal_the_float64_evaluation(
    exported, graph, float64_clip, run_graph, token_rows
) -> None:
    state, _, paths = exported
    expected = float64_clip(state).text(token_rows)
    found = run_graph(paths[graph], tokens=token_rows, eot=token_rows.argmax(1).astype(np.int32))
    assert found.dtype == np.float32
    assert worst(found, expected) < 5e-6


def test_trimming_changes_nothing_above_a_millionth(exported, run_graph, token_rows) -> None:
    _, _, paths = exported
    eot = token_rows.argmax(1).astype(np.int32)
    full = run_graph(paths["text-248"], tokens=token_rows, eot=eot)
    for length in (2, 3, 20, 21, 32, 101, 248):
        fits = eot < length
        short = run_graph(paths["text"], tokens=token_rows[fits, :length], eot=eot[fits])
        assert worst(short, full[fits]) <= 1e-6


def test_what_stands_behind_the_end_does_not_matter(exported, run_graph, token_rows) -> None:
    _, _, paths = exported
    eot = token_rows.argmax(1).astype(np.int32)
    padded = np.where(np.arange(248) <= eot[:, None], token_rows, 0).astype(np.int32)
    for graph in ("text", "text-248"):
        a = run_graph(paths[graph], tokens=token_rows, eot=eot)
        assert worst(a, run_graph(paths[graph], tokens=padded, eot=eot)) <= 1e-6


def test_rows_of_a_batch_do_not_touch_each_other(exported, run_graph, token_rows) -> None:
    _, config, paths = exported
    pixels, eot = pixels_for(config, 5), token_rows.argmax(1).astype(np.int32)
    for graph in ("image", "dense"):
        batch = run_graph(paths[graph], pixels=pixels)
        assert worst(batch[2:3], run_graph(paths[graph], pixels=pixels[2:3])) < 1e-6
    batch = run_graph(paths["text"], tokens=token_rows, eot=eot)
    assert worst(batch[2:3], run_graph(paths["text"], tokens=token_rows[2:3], eot=eot[2:3])) < 1e-6


def test_rows_are_unit_vectors(exported, run_graph) -> None:
    _, config, paths = exported
    patches = run_graph(paths["dense"], pixels=pixels_for(config, 2))
    assert worst(np.linalg.norm(patches, axis=-1), np.ones(patches.shape[:2])) < 1e-6


def test_a_plain_table_of_positions_is_used_as_it_is(
    tmp_path, state_of, config_of, float64_clip, run_graph, token_rows
) -> None:
    state = state_of("tiny")
    del state["positional_embedding_res"]
    paths = write_graphs(tmp_path, state, config_of["tiny"])
    eot = token_rows.argmax(1).astype(np.int32)
    found = run_graph(paths["text"], tokens=token_rows, eot=eot)
    assert worst(found, float64_clip(state).text(token_rows)) < 5e-6


def halved(state: State) -> State:
    """Every weight rounded to float16, as the built-in model's are."""
    return {
        name: tensor.half().float() if tensor.is_floating_point() else tensor
        for name, tensor in state.items()
    }


@pytest.mark.parametrize("name", ["tiny", "mini"])
def test_float16_storage_is_half_the_size_and_the_same_model(
    tmp_path, name, state_of, config_of, run_graph, token_rows
) -> None:
    state, config = halved(state_of(name)), config_of[name]
    # An eighth of such a weight is below float16's subnormals: folding the scale would lose bits.
    state["transformer.resblocks.0.attn.in_proj_weight"][0, 0] = 2.0**-24
    wide = write_graphs(tmp_path / "wide", state, config)
    narrow = write_graphs(tmp_path / "narrow", state, config, half=True)
    pixels, eot = pixels_for(config, 2), token_rows.argmax(1).astype(np.int32)
    for graph in ("image", "dense"):
        a = run_graph(wide[graph], pixels=pixels)
        np.testing.assert_array_equal(run_graph(narrow[graph], pixels=pixels), a)
    for graph in ("text", "text-248"):
        a = run_graph(wide[graph], tokens=token_rows, eot=eot)
        np.testing.assert_array_equal(run_graph(narrow[graph], tokens=token_rows, eot=eot), a)
    for tower in TOWER_GRAPHS:
        sizes = [(tmp_path / kind / f"{tower}.weights").stat().st_size for kind in ("wide", "narrow")]
        assert sizes[1] < 0.6 * sizes[0]


def test_float16_is_refused_for_numbers_that_it_cannot_hold() -> None:
    assert fits_half(np.array([1.5, -(2.0**-24), 65504, 0], dtype=np.float32))
    for number in (0.1, 2.0**-25, 65520, np.nan):
        assert not fits_half(np.array([1.5, number], dtype=np.float32))


def test_the_same_weights_give_the_same_bytes(tmp_path, state_of, config_of) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        write_graphs(folder, state_of("mini"), config_of["mini"])
    names = sorted(path.name for path in folders[0].iterdir())
    assert len(names) == 6
    for name in names:
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()


def test_a_weight_file_holds_each_tensor_once_and_aligned(tmp_path) -> None:
    path = tmp_path / "w.weights"
    arrays = {"a": np.arange(5, dtype=np.float32), "b": np.arange(6, dtype=np.int8).reshape(2, 3).T}
    with WeightFile(path) as weights:
        stored = {name: weights.add(name, array) for name, array in arrays.items()}
        assert weights.add("a", np.zeros(5, np.float32)) == stored["a"]
    content = path.read_bytes()
    for name, array in arrays.items():
        where = stored[name]
        assert where.offset % ALIGNMENT_BYTES == 0
        piece = content[where.offset : where.offset + where.length]
        np.testing.assert_array_equal(np.frombuffer(piece, where.dtype).reshape(where.shape), array)
    assert len(content) == ALIGNMENT_BYTES + 6


def test_a_weight_that_is_there_is_not_made_again(tmp_path) -> None:
    calls: list[int] = []

    def make() -> NDArray[np.float32]:
        calls.append(1)
        return np.ones(3, np.float32)

    with WeightFile(tmp_path / "w.weights") as weights:
        for name in ("one", "two"):
            GraphBuilder(name, weights).weight("shared", make)
    assert len(calls) == 1

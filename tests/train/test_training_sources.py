"""Pixels and cached features on their way into a step."""

from __future__ import annotations

import dataclasses
import pickle
import subprocess
import sys
from pathlib import Path

import checkpoint_makers as makers
import numpy as np
import pytest
import torch
import training_makers as make
from PIL import Image

from lrsclip_rt.datasets import pair_set_from_folder
from lrsclip_rt.errors import CheckpointError, InputError
from lrsclip_rt.pixels import PixelSpec, pixels_from_image
from lrsclip_train.augment import augment
from lrsclip_train.batches import Planner
from lrsclip_train.encoding import image_embeddings, text_chunks, text_embeddings, text_groups
from lrsclip_train.features import SPLIT, build_cache, stem_front
from lrsclip_train.gathering import World
from lrsclip_train.generated import GeneratedPairs
from lrsclip_train.model import ClipConfig, DualClip
from lrsclip_train.mosaics import make_mosaic
from lrsclip_train.pair_sources import FolderPairs, JoinedPairs
from lrsclip_train.prepare import data_parts, prepare
from lrsclip_train.samples import plain_view, real_views
from lrsclip_train.shards import write_shards
from lrsclip_train.sources import PixelSource, Reading, augmentation_of, pixel_spec, plain_batches
from lrsclip_train.stem import MobileNetV2Stem, load_mobilenetv2
from lrsclip_train.texts import TokenTable

LARGER = dataclasses.replace(make.TINY, image_size=192, patch_size=48)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make.tiles_folder(tmp_path_factory.mktemp("tiles"), train=14, val=4)


def test_folders_shards_mosaics_tiles_and_scenes_train_together(folder: Path, tmp_path: Path) -> None:
    pairs = FolderPairs(folder, split="train")
    write_shards([pairs[number] for number in range(6)], tmp_path / "shards")
    model = DualClip(LARGER)
    torch.save(model.state_dict(), tmp_path / "init.pt")
    config = make.settings(
        tmp_path / "run",
        (str(folder), str(tmp_path / "shards")),
        str(tmp_path / "init.pt"),
        steps=3,
        data_mosaics=3,
        data_tiles=4,
        data_scenes=2,
        data_mosaic_share=0.25,
        data_tile_share=0.25,
        data_scene_share=0.125,
        data_hard_negatives=1.0,
        eval_every=3,
    )
    sources, val = prepare(config)
    assert [len(source.samples) for source in sources] == [14 + 6, 3, 4, 2]
    assert val is not None
    assert len(val.samples) == 4
    for part, kind in (("mosaics", "mosaic"), ("tiles", "tile"), ("scenes", "scene")):
        made = GeneratedPairs(tmp_path / "run" / "cache" / part)
        assert {sample.source for sample in made.samples} == {kind}
        assert made.image(0).size == (192, 192)
    assert sources[2].samples[0].wrong
    plan = Planner(config, [source.samples for source in sources]).plan(0)
    assert sorted(draw.source for draw in plan.draws) == [0, 0, 0, 1, 1, 2, 2, 3]
    make.run_of(config)
    rows = make.log_of(config)
    assert all(np.isfinite([row["loss"], row["short"], row["long"]]).all() for row in rows)
    assert rows[-1]["val_mR"] > 0


def test_what_is_read_is_a_split_of_folders_and_all_of_shards(folder: Path, tmp_path: Path) -> None:
    pairs = FolderPairs(folder, split="train")
    shards = write_shards([pairs[number] for number in range(6)], tmp_path / "shards")
    config = make.settings(tmp_path / "run", (str(folder / "pairs.jsonl"), str(tmp_path / "shards")), "")
    (one, split), (two, none), (val, val_split) = data_parts(config.data)
    assert (split, none, val_split) == ("train", None, "val")
    assert (one, two, val) == (*config.data.train, config.data.train[0])
    alone = make.settings(tmp_path / "run", (str(shards[0]),), "")
    assert data_parts(alone.data) == [(str(shards[0]), None)]
    assert prepare(alone)[1] is None
    beside = make.changed(alone, data_val=str(folder))
    assert data_parts(beside.data)[1] == (str(folder), "val")


def test_processes_that_decode_do_without_torch(folder: Path, tmp_path: Path) -> None:
    config = make.settings(
        tmp_path / "run", folder, make.tiny_checkpoint(tmp_path / "i.pt"), data_tiles=1, data_tile_share=0.1
    )
    sources, _ = prepare(config)
    joined = JoinedPairs([source.pairs for source in sources if isinstance(source, PixelSource)])
    (tmp_path / "sources.pickle").write_bytes(pickle.dumps(joined))
    code = (
        "import pickle, sys; from pathlib import Path; import lrsclip_train.image_loading;"
        "source = pickle.loads(Path(sys.argv[1]).read_bytes());"
        "print(len(source), source.image(len(source) - 1).size, 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "sources.pickle")],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert done.stdout.split() == ["15", "(32,", "32)", "False"]


def test_joined_sources_are_one_behind_the_other(folder: Path) -> None:
    train, val = FolderPairs(folder, split="train"), FolderPairs(folder, split="val")
    empty = GeneratedNothing()
    joined = JoinedPairs([train, empty, val])
    assert len(joined) == 18
    assert [joined.place(index) for index in (0, 13, 14, 17)] == [(0, 0), (0, 13), (2, 0), (2, 3)]
    assert joined.key(14) == val.key(0)
    assert joined[14].shorts == val[0].shorts
    with pytest.raises(IndexError):
        joined[18]


class GeneratedNothing(GeneratedPairs):
    def __init__(self) -> None:
        self.samples = []


def test_two_processes_read_the_halves_of_what_one_reads(folder: Path, tmp_path: Path) -> None:
    config = make.settings(tmp_path, folder, make.tiny_checkpoint(tmp_path / "i.pt"))
    sources, _ = prepare(config)
    planner = Planner(config, [source.samples for source in sources])

    def images(rank: int, size: int) -> torch.Tensor:
        spec = pixel_spec(make.TINY)
        with Reading(config, sources, planner, World(0, 1), spec=spec, broken=set()) as whole:
            if size == 1:
                return whole.batch(3, short=True, long=True)[1]
        reading = Reading(config, sources, planner, World(rank, size), spec=spec, broken=set())
        return reading._loader.load(3, reading._indices(3)).pixels

    whole = images(0, 1)
    assert torch.equal(torch.cat([images(0, 2), images(1, 2)]), whole)
    assert len(torch.unique(whole.flatten(1), dim=0)) == 8


def test_validation_sees_what_the_runtime_sees(folder: Path) -> None:
    pairs = FolderPairs(folder, split="val")
    spec = PixelSpec(32)
    batches = list(plain_batches(PixelSource(pairs), spec, rows=3))
    assert [len(batch) for batch in batches] == [3, 1]
    expected = np.stack([pixels_from_image(pairs.image(index), spec) for index in range(4)])
    assert np.array_equal(torch.cat(batches).numpy(), expected)


def test_a_mosaic_shows_and_tells_its_members_in_reading_order() -> None:
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (9, 9, 9), (200, 200, 0), (0, 200, 200)]
    images = [Image.new("RGB", (20, 20), colour) for colour in colours]
    captions = [f"caption number {i} ." for i in range(6)]
    mosaic = make_mosaic(images, captions, range(6), 2, 3, cell=10)
    assert mosaic.pixels.shape == (20, 30, 3)
    assert tuple(mosaic.pixels[15, 25]) == colours[5]
    positions = [mosaic.text.index(f"number {i}") for i in range(6)]
    assert positions == sorted(positions)
    assert mosaic.text.endswith("In the lower right, caption number 5.")


def test_augmentation_keeps_the_size_and_repeats_for_a_seed() -> None:
    pixels = np.random.default_rng(3).integers(0, 255, (150, 120, 3)).astype(np.uint8)
    image = Image.fromarray(pixels)
    one, two, other = (augment(image, np.random.default_rng(s), size=64) for s in (4, 4, 5))
    assert one.size == (64, 64)
    assert np.array_equal(np.asarray(one), np.asarray(two))
    assert not np.array_equal(np.asarray(one), np.asarray(other))


def test_the_plain_view_is_the_runtimes_resize_and_crop() -> None:
    spec = PixelSpec(64, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    rng = np.random.default_rng(6)
    for width, height in ((150, 150), (97, 64), (200, 333)):
        image = Image.fromarray(rng.integers(0, 255, (height, width, 3)).astype(np.uint8))
        seen = np.asarray(plain_view(image, 64)).transpose(2, 0, 1) / 255.0
        np.testing.assert_allclose(pixels_from_image(image, spec), seen, atol=1e-6)


def test_the_front_and_the_rest_of_the_stem_are_the_stem() -> None:
    torch.manual_seed(0)
    stem = MobileNetV2Stem()
    pixels = torch.randn(2, 3, 64, 64)
    front = torch.from_numpy(stem_front(stem, size=64)(pixels.numpy()))
    with torch.no_grad():
        torch.testing.assert_close(stem.late(front, SPLIT), stem(pixels))


def test_a_stem_comes_back_from_its_file_and_a_missing_tensor_is_named(tmp_path: Path) -> None:
    stem = MobileNetV2Stem()
    load_mobilenetv2(stem, Path(make.stem_file(tmp_path / "stem.npz")))
    with np.load(tmp_path / "stem.npz") as file:
        arrays = dict(file)
    last = arrays["features.18.0.weight"].astype(np.float32)
    np.testing.assert_array_equal(stem.last.weight.detach().numpy(), last)
    del arrays["features.3.conv.2.bias"]
    np.savez(tmp_path / "less.npz", **arrays)
    with pytest.raises(CheckpointError, match=r"features\.3\.conv\.2\.bias"):
        load_mobilenetv2(stem, tmp_path / "less.npz")


def test_a_cache_reads_back_what_the_front_computed(folder: Path, tmp_path: Path) -> None:
    front = stem_front(MobileNetV2Stem(), size=64)
    pairs = pair_set_from_folder(folder, split="val")
    plain = make.settings(tmp_path / "run", folder, "").data.augment
    views = real_views(
        pairs, views=1, size=64, seed=0, augmentation=augmentation_of(plain), keep_upright=True
    )
    cache = build_cache(tmp_path / "cache", views, front, size=64)
    assert [sample.key for sample in cache.samples] == [pair.image for pair in pairs.items]
    with Image.open(pairs.image_path(pairs.items[-1])) as opened:
        pixels = np.asarray(plain_view(opened.convert("RGB"), 64), np.float32).transpose(2, 0, 1)[None]
    expected = front(pixels / 127.5 - 1)[0]
    np.testing.assert_allclose(cache.features[-1], expected, atol=1e-2, rtol=1e-2)
    assert build_cache(tmp_path / "none", iter(()), front, size=64).features.shape[0] == 0


def texts_of_lengths(lengths: tuple[int, ...], width: int) -> torch.Tensor:
    tokens = torch.zeros(len(lengths), width, dtype=torch.long)
    for row, length in enumerate(lengths):
        tokens[row, : length - 1] = torch.randint(1, 49405, (length - 1,))
        tokens[row, length - 1] = 49407
    return tokens


@pytest.mark.parametrize("limit", [0, 2])
def test_texts_encoded_by_length_equal_texts_encoded_together(limit: int) -> None:
    torch.manual_seed(3)
    model = DualClip(ClipConfig("tiny", 64, 32, 16, 64, 1, 64, 1, vocab_size=49408)).double()
    tokens = texts_of_lengths((3, 40, 5, 17, 17, 2, 30), 40)
    together = torch.nn.functional.normalize(model.encode_text(tokens), dim=1).float()
    if not limit:
        torch.testing.assert_close(text_embeddings(model, tokens), together, rtol=1e-5, atol=1e-6)
    groups = text_groups(tokens, limit=limit)
    assert sorted(torch.cat([group.rows for group in groups]).tolist()) == list(range(7))
    assert all(len(group.rows) <= (limit or 7) for group in groups)
    rows = torch.cat([chunk() for chunk in text_chunks(model, tokens, groups)])
    order = torch.argsort(torch.cat([group.rows for group in groups]))
    torch.testing.assert_close(rows[order], together, rtol=1e-5, atol=1e-6)


def test_tokens_are_trimmed_and_a_text_that_is_cut_still_ends() -> None:
    table = TokenTable(kept=3)
    short = table.batch(["a pond", "two ponds and a very long road beside them"], 248)
    assert short.shape[1] == int(short[1].argmax()) + 1
    cut = table.batch(["a pond " * 100], 77)
    assert cut.shape == (1, 77)
    assert cut[0, -1] == 49407
    many = [f"a pond number {number}" for number in range(9)]
    assert torch.equal(table.batch(many, 77), TokenTable().batch(many, 77))


@pytest.mark.parametrize("stem", [False, True])
def test_leaving_no_patch_out_and_leaving_all_but_none_out_agree(stem: bool) -> None:
    model = makers.random_model(makers.SMALL_MINI if stem else makers.SMALL)
    images = torch.randn(3, 3, model.config.image_size, model.config.image_size)
    with torch.no_grad():
        whole = image_embeddings(model, images)
        expected = torch.nn.functional.normalize(model.encode_image(images), dim=1)
        torch.testing.assert_close(whole, expected, rtol=1e-5, atol=1e-6)
        # So small a share that every patch stays: only their order changes, which the tower cannot see.
        all_kept = image_embeddings(model, images, patch_dropout=1e-6)
        torch.testing.assert_close(all_kept, whole, rtol=1e-4, atol=1e-5)
        assert (image_embeddings(model, images, patch_dropout=0.5) - whole).abs().max() > 1e-3


def test_a_batch_for_no_number_of_processes_is_refused(folder: Path, tmp_path: Path) -> None:
    config = make.settings(tmp_path, folder, make.tiny_checkpoint(tmp_path / "i.pt"), batch=7)
    sources, _ = prepare(config)
    planner = Planner(config, [source.samples for source in sources])
    with pytest.raises(InputError, match="a batch of 7 cannot be shared out to 2 processes evenly"):
        Reading(config, sources, planner, World(0, 2), spec=pixel_spec(make.TINY), broken=set())


def test_made_images_are_shown_as_they_are_because_their_texts_name_places(tmp_path: Path) -> None:
    from lrsclip_train.augment import Augmentation
    from lrsclip_train.generated import GeneratedPairs, generate
    from lrsclip_train.image_loading import ImageLoader
    from lrsclip_train.samples import tile_views

    generate(tmp_path / "tiles", tile_views([3, 4], size=64))
    pairs = GeneratedPairs(tmp_path / "tiles")
    with ImageLoader(
        pairs, workers=0, augmentation=Augmentation.overhead(0.3), size=64, mean=None, seed=1
    ) as loader:
        shown = loader.load(0, [0, 1]).pixels.numpy()
    for index in range(2):
        assert np.array_equal(shown[index].transpose(1, 2, 0), np.asarray(pairs.image(index)))

"""The pieces of a training run and one tiny run from files to a released model."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lrsclip_rt.datasets import pair_set_from_folder
from lrsclip_rt.errors import InputError
from lrsclip_train.augment import augment
from lrsclip_train.batches import Batcher
from lrsclip_train.config import TrainConfig, config_from_toml
from lrsclip_train.features import SPLIT, build_cache, stem_front
from lrsclip_train.loop import train
from lrsclip_train.losses import multi_positive_loss
from lrsclip_train.mosaics import make_mosaic
from lrsclip_train.prepare import prepare
from lrsclip_train.release import save_release
from lrsclip_train.samples import plain_view, real_views
from lrsclip_train.stem import MobileNetV2Stem, load_mobilenetv2


def _unit(rng: np.random.Generator, n: int) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.from_numpy(rng.normal(size=(n, 8)).astype(np.float32)), dim=1)


def test_with_distinct_texts_the_loss_is_clips_symmetric_cross_entropy() -> None:
    rng = np.random.default_rng(0)
    image, text, scale = _unit(rng, 5), _unit(rng, 5), torch.tensor(10.0)
    logits = scale * image @ text.T
    own = torch.arange(5)
    entropy = torch.nn.functional.cross_entropy
    expected = (entropy(logits, own) + entropy(logits.T, own)) / 2
    torch.testing.assert_close(
        multi_positive_loss(image, text, scale, torch.eye(5, dtype=torch.bool)), expected
    )


def test_a_repeated_caption_is_no_negative_of_its_twin() -> None:
    rng = np.random.default_rng(1)
    image = _unit(rng, 4)
    text = _unit(rng, 4)
    text[1] = text[0]
    positive = torch.eye(4, dtype=torch.bool)
    shared = positive.clone()
    shared[0, 1] = shared[1, 0] = True
    for owns, falls in ((positive, False), (shared, True)):
        probe = text.clone().requires_grad_(True)
        multi_positive_loss(image, probe, torch.tensor(20.0), owns).backward()
        assert probe.grad is not None
        moved = torch.nn.functional.normalize(text - 1e-2 * probe.grad, dim=1)
        closer = bool((moved[1] @ image[0]) > (text[1] @ image[0]))
        assert closer == falls


def test_an_ignored_pair_leaves_both_softmaxes() -> None:
    rng = np.random.default_rng(2)
    image, text = _unit(rng, 3), _unit(rng, 3)
    ignore = torch.zeros(3, 3, dtype=torch.bool)
    ignore[0, 2] = True
    logits = (5.0 * image @ text.T).double()
    terms = []
    for rows, left_out in ((logits, (0, 2)), (logits.T, (2, 0))):
        for i in range(3):
            kept = [j for j in range(3) if (i, j) != left_out]
            terms.append(torch.logsumexp(rows[i, kept], 0) - rows[i, i])
    expected = torch.stack(terms).sum().div(6).float()
    own = torch.eye(3, dtype=torch.bool)
    loss = multi_positive_loss(image, text, torch.tensor(5.0), own, ignore=ignore)
    torch.testing.assert_close(loss, expected)


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
    image = Image.fromarray(
        np.random.default_rng(3).integers(0, 255, (150, 120, 3), np.uint8).astype(np.uint8)
    )
    one, two, other = (augment(image, np.random.default_rng(s), size=64) for s in (4, 4, 5))
    assert one.size == (64, 64)
    assert np.array_equal(np.asarray(one), np.asarray(two))
    assert not np.array_equal(np.asarray(one), np.asarray(other))


def test_the_plain_view_is_the_runtimes_resize_and_crop() -> None:
    from lrsclip_rt.pixels import PixelSpec, pixels_from_image

    spec = PixelSpec(64, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    rng = np.random.default_rng(6)
    for width, height in ((150, 150), (97, 64), (200, 333)):
        image = Image.fromarray(rng.integers(0, 255, (height, width, 3)).astype(np.uint8))
        seen = np.asarray(plain_view(image, 64)).transpose(2, 0, 1) / 255.0
        np.testing.assert_allclose(pixels_from_image(image, spec), seen, atol=1e-6)


def test_an_unknown_key_and_a_wrong_type_are_refused_by_name(tmp_path: Path) -> None:
    config = tmp_path / "run.toml"
    config.write_text('data = "d"\nstem_weights = "s"\nrun = "r"\nlearning_rate = 1.0\n')
    with pytest.raises(InputError, match="unknown key 'learning_rate'"):
        config_from_toml(config)
    config.write_text('data = "d"\nstem_weights = "s"\nrun = "r"\nsteps = "many"\n')
    with pytest.raises(InputError, match="steps must be int"):
        config_from_toml(config)
    config.write_text('data = "d"\n')
    with pytest.raises(InputError, match="missing stem_weights, run"):
        config_from_toml(config)


def test_the_front_and_the_rest_of_the_stem_are_the_stem() -> None:
    torch.manual_seed(0)
    stem = MobileNetV2Stem()
    pixels = torch.randn(2, 3, 64, 64)
    front = torch.from_numpy(stem_front(stem, size=64)(pixels.numpy()))
    with torch.no_grad():
        torch.testing.assert_close(stem.late(front, SPLIT), stem(pixels))


@pytest.fixture
def tiny_run(tmp_path: Path) -> TrainConfig:
    """A data set of rendered images as JPEG files, a random stem, and a config of a few steps."""
    from lrsclip_rt.rendering import CLASSES, render_tile

    data = tmp_path / "data"
    (data / "images").mkdir(parents=True)
    rows = []
    for index in range(24):
        scene = render_tile(CLASSES[index % len(CLASSES)], 500 + index, size=96)
        name = f"images/{index}.jpg"
        Image.fromarray(scene.pixels).save(data / name)
        split = "train" if index < 16 else "val"
        rows.append(
            {
                "image": name,
                "split": split,
                "class": scene.objects[0].name,
                "short": [scene.short, scene.short],
                "long": scene.long,
            }
        )
    (data / "pairs.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    torch.manual_seed(1)
    np.savez(tmp_path / "stem.npz", **_torchvision_arrays(MobileNetV2Stem()))
    return TrainConfig(
        data=str(data),
        stem_weights=str(tmp_path / "stem.npz"), run=str(tmp_path / "run"), views=2, rendered=4,
        mosaics=3, steps=4, plain_steps=2, batch=10, warmup=1, amp=False, save_every=1, eval_every=2,
        image_layers=1, text_layers=1, lr=1e-4,
    )  # fmt: skip


def _torchvision_arrays(stem: MobileNetV2Stem) -> dict[str, np.ndarray]:
    from lrsclip_train.stem import _torchvision_names

    arrays = {}
    for module, prefix in _torchvision_names(stem):
        arrays[f"{prefix}.weight"] = module.weight.detach().numpy().astype(np.float16)
        assert module.bias is not None
        arrays[f"{prefix}.bias"] = module.bias.detach().numpy().astype(np.float16)
    return arrays


def test_a_stem_comes_back_from_its_file_and_a_missing_tensor_is_named(tmp_path: Path) -> None:
    torch.manual_seed(2)
    arrays = _torchvision_arrays(MobileNetV2Stem())
    np.savez(tmp_path / "stem.npz", **arrays)
    stem = MobileNetV2Stem()
    load_mobilenetv2(stem, tmp_path / "stem.npz")
    np.testing.assert_array_equal(
        stem.last.weight.detach().numpy(), arrays["features.18.0.weight"].astype(np.float32)
    )
    del arrays["features.3.conv.2.bias"]
    np.savez(tmp_path / "less.npz", **arrays)
    from lrsclip_rt.errors import CheckpointError

    with pytest.raises(CheckpointError, match=r"features\.3\.conv\.2\.bias"):
        load_mobilenetv2(stem, tmp_path / "less.npz")


def test_a_run_resumed_after_any_step_ends_in_the_same_weights(tiny_run: TrainConfig, tmp_path: Path) -> None:
    caches = prepare(tiny_run)
    whole = torch.load(train(tiny_run, caches), weights_only=True)["model"]
    assert whole["positional_embedding_res"].shape[0] == 248
    for stop in (1, 2, 3):
        parts = dataclasses.replace(tiny_run, run=str(tmp_path / f"parts{stop}"))
        Path(parts.run).mkdir()
        seen = []

        def interrupt(row: dict, stop: int = stop, seen: list = seen) -> None:
            seen.append(row["step"])
            if row["step"] == stop:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            train(parts, caches, report=interrupt)
        resumed = torch.load(train(parts, caches, resume=True), weights_only=True)["model"]
        assert seen[-1] == stop
        assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_the_released_weights_are_exactly_representable_in_float16(
    tiny_run: TrainConfig, tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    released = load_file(save_release(train(tiny_run, prepare(tiny_run)), tmp_path / "model.safetensors"))
    for name, value in released.items():
        if value.is_floating_point():
            assert torch.equal(value, value.half().float()), name


def test_every_sample_is_drawn_once_an_epoch_and_texts_stay_with_their_images(tiny_run: TrainConfig) -> None:
    real, rendered, mosaics, _ = prepare(tiny_run)
    batcher = Batcher(tiny_run, real, rendered, mosaics)
    drawn = batcher._epoch_order(16, 0, 8) + batcher._epoch_order(16, 1, 8)
    assert sorted(drawn) == list(range(16))
    batch = batcher.batch(0, context_length=77)
    assert batch.features.shape[0] == tiny_run.batch
    assert bool(batch.short.positive.diagonal().all())
    assert batch.short.tokens.shape[1] <= 77
    assert int(batch.long.tokens.max(dim=1).values.min()) == 49407


def test_a_cache_reads_back_what_the_front_computed(tmp_path: Path, tiny_run: TrainConfig) -> None:
    stem = MobileNetV2Stem()
    front = stem_front(stem, size=64)
    pairs = pair_set_from_folder(tiny_run.data, split="val")
    cache = build_cache(
        tmp_path / "cache", real_views(pairs, views=1, size=64, seed=0), front, size=64, batch=3
    )
    assert [sample.key for sample in cache.samples] == [pair.image for pair in pairs.items]
    with Image.open(pairs.image_path(pairs.items[-1])) as opened:
        pixels = (
            np.asarray(plain_view(opened.convert("RGB"), 64), np.float32).transpose(2, 0, 1)[None] / 127.5 - 1
        )
    np.testing.assert_allclose(cache.features[-1], front(pixels)[0], atol=1e-2, rtol=1e-2)


def test_texts_encoded_by_length_equal_texts_encoded_together() -> None:
    from lrsclip_train.loop import encode_by_length
    from lrsclip_train.model import ClipConfig, DualClip

    torch.manual_seed(3)
    model = DualClip(ClipConfig("tiny", 64, 32, 16, 64, 1, 64, 1, vocab_size=49408)).double()
    tokens = torch.zeros(7, 40, dtype=torch.long)
    for row, length in enumerate((3, 40, 5, 17, 17, 2, 30)):
        tokens[row, : length - 1] = torch.randint(1, 49405, (length - 1,))
        tokens[row, length - 1] = 49407
    together, apart = model.encode_text(tokens), encode_by_length(model, tokens)
    torch.testing.assert_close(apart, together, rtol=1e-5, atol=1e-6)

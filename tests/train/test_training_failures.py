"""What goes wrong in a run is named, and the last good checkpoint stays."""

from __future__ import annotations

import json
import logging
import resource
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import training_makers as make

from lrsclip_rt.errors import ImageError, InputError, TrainingError
from lrsclip_train import loop
from lrsclip_train.features import SPLIT, FeatureCache
from lrsclip_train.pair_sources import FolderPairs
from lrsclip_train.shards import write_shards


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make.tiles_folder(tmp_path_factory.mktemp("tiles"), train=12, val=2)


def broken_folder(root: Path, broken: tuple[int, ...], *, val: int = 0) -> Path:
    """Twelve tiles, of which these files hold no image."""
    rows = make.tile_rows(root, 12)
    for number in broken:
        (root / rows[number]["image"]).write_bytes(b"\xff\xd8\xff\xe0 and no more")
    return make.write_pairs(root, rows, val=val)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_broken_image_is_left_out_told_and_counted(
    init: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, workers: int
) -> None:
    data = broken_folder(tmp_path / "data", (5,), val=2)
    config = make.settings(tmp_path / "run", data, init, batch=5, data_workers=workers, data_broken=0.2)
    with caplog.at_level(logging.WARNING, logger="lrsclip_train.sources"):
        content = make.run_of(config)
    assert content["broken"] == [(0, 3)]  # the fourth of the training split
    assert make.log_of(config)[-1]["broken"] == 1
    (told,) = caplog.messages
    assert "images/5.jpg is left out from step" in told


def test_a_run_that_met_a_broken_image_resumes_to_the_same_weights(init: str, tmp_path: Path) -> None:
    data = broken_folder(tmp_path / "data", (1, 6))
    options = {"batch": 4, "data_broken": 0.5, "data_val_split": "train", "steps": 6}
    options |= {"data_val": str(make.tiles_folder(tmp_path / "val", train=4, val=1))}
    whole = make.settings(tmp_path / "whole", data, init, **options)
    expected = make.run_of(whole)
    assert expected["broken"] == [(0, 1), (0, 6)]
    parts = make.settings(tmp_path / "parts", data, init, **options)
    make.stopped_after(parts, 4)
    assert make.equal(make.run_of(parts, resume=True)["trained"], expected["trained"])


def test_too_many_broken_images_end_the_run_and_one_is_named(init: str, tmp_path: Path) -> None:
    data = broken_folder(tmp_path / "data", (4, 5, 7), val=2)
    config = make.settings(tmp_path / "run", data, init, batch=10, data_broken=0.2)
    with pytest.raises(TrainingError, match=r"3 of 10 images cannot be read.*images/\d\.jpg.*--check-data"):
        make.run_of(config)


def test_a_broken_validation_image_is_named(init: str, tmp_path: Path) -> None:
    data = broken_folder(tmp_path / "data", (0,), val=2)
    with pytest.raises(ImageError, match=r"images/0\.jpg"):
        make.run_of(make.settings(tmp_path / "run", data, init))


def shards_of(root: Path, *, broken: bool = False, without_caption: bool = False) -> Path:
    data = make.write_pairs(root / "folder", make.tile_rows(root / "folder", 12))
    pairs = FolderPairs(data)
    write_shards([pairs[number] for number in range(12)], root / "shards", samples_per_shard=6)
    if not (broken or without_caption):
        return root / "shards"
    whole = root / "shards" / "000001.tar"
    changed = root / "changed.tar"
    with tarfile.open(whole) as source, tarfile.open(changed, "w") as out:
        for member in source:
            stream = source.extractfile(member)
            assert stream is not None
            if without_caption and member.name == "000000007.json":
                continue
            if broken and member.name == "000000007.jpg":
                torn = root / "torn"
                torn.write_bytes(stream.read(60))
                member.size = 60
                with torn.open("rb") as short:
                    out.addfile(member, short)
            else:
                out.addfile(member, stream)
    changed.replace(whole)
    return root / "shards"


def test_a_broken_image_in_a_shard_is_left_out(
    init: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shards = shards_of(tmp_path, broken=True)
    config = make.settings(tmp_path / "run", (f"{shards}/{{000000..000001}}.tar",), init, data_broken=0.2)
    content = make.run_of(config)
    assert content["broken"] == [(0, 7)]
    assert any("000001.tar:000000007" in message for message in caplog.messages)


def test_a_sample_without_a_caption_is_named(init: str, tmp_path: Path) -> None:
    shards = shards_of(tmp_path, without_caption=True)
    with pytest.raises(InputError, match=r"000001\.tar: sample '000000007': it has no caption"):
        make.run_of(make.settings(tmp_path / "run", (str(shards),), init))
    rows = make.tile_rows(tmp_path / "data", 3)
    rows[1] |= {"short": [], "long": None}
    data = make.write_pairs(tmp_path / "data", rows)
    with pytest.raises(InputError, match=r"pairs\.jsonl line 2: no caption"):
        make.run_of(make.settings(tmp_path / "run", data, init))


def test_a_loss_that_is_not_finite_ends_the_run_and_leaves_the_checkpoint(
    folder: Path, init: str, tmp_path: Path
) -> None:
    config = make.settings(tmp_path, folder, init)
    make.stopped_after(config, 1)
    held = torch.load(tmp_path / "last.pt", weights_only=True)
    held["trained"]["visual.proj"][0, 0] = float("nan")
    torch.save(held, tmp_path / "last.pt")
    poisoned = (tmp_path / "last.pt").read_bytes()
    told = r"the loss became nan at step 1 \(lr .*, fp32\).*lower optimizer\.lr"
    with pytest.raises(TrainingError, match=told):
        make.run_of(config, resume=True)
    assert (tmp_path / "last.pt").read_bytes() == poisoned


@pytest.mark.parametrize("components", [0, 3])
def test_a_rate_far_too_high_ends_the_run_by_name(
    folder: Path, init: str, tmp_path: Path, components: int
) -> None:
    config = make.settings(
        tmp_path, folder, init, steps=6, optimizer_lr=1e30, optimizer_warmup=0, loss_components=components
    )
    with pytest.raises(TrainingError, match=r"not finite|became nan|NaN or infinite|became inf"):
        make.run_of(config)


def test_a_gradient_that_is_not_finite_never_reaches_the_weights(
    folder: Path, init: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make.settings(tmp_path, folder, init)
    make.stopped_after(config, 2)
    before = (tmp_path / "last.pt").read_bytes()
    whole = loop._complete_gradients

    def poisoned(model: torch.nn.Module, world: object) -> None:
        whole(model, world)
        model.visual.proj.grad[0, 0] = float("inf")

    monkeypatch.setattr(loop, "_complete_gradients", poisoned)
    with pytest.raises(TrainingError, match="the gradient became inf at step 2"):
        make.run_of(config, resume=True)
    assert (tmp_path / "last.pt").read_bytes() == before
    half = make.settings(tmp_path / "half", folder, init, steps=2, precision="fp16")
    trained = make.run_of(half)["trained"]  # the scaler leaves such steps out
    assert make.equal(trained, torch.load(init, weights_only=True))
    assert [row["norm"] for row in make.log_of(half)] == [None, None]
    assert "Infinity" not in (tmp_path / "half" / "log.jsonl").read_text()


def test_a_model_that_gives_nan_is_not_evaluated(folder: Path, init: str, tmp_path: Path) -> None:
    config = make.settings(tmp_path, folder, init, eval_every=1, optimizer_lr=1e30, optimizer_warmup=0)
    with pytest.raises(TrainingError, match="embeddings that are not finite"):
        make.run_of(config)
    assert not (tmp_path / "last.pt").exists()


@contextmanager
def disk_of(size_bytes: int) -> Iterator[None]:
    """No file can grow beyond this, as on a disk without room."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_checkpoint_that_finds_no_room_leaves_the_old_one_and_the_run_goes_on_later(
    folder: Path, init: str, tmp_path: Path
) -> None:
    whole = make.run_of(make.settings(tmp_path / "whole", folder, init))
    config = make.settings(tmp_path / "parts", folder, init)
    make.stopped_after(config, 2)
    last = tmp_path / "parts" / "last.pt"
    before = last.read_bytes()
    told = r"the checkpoint of step 3 cannot be written to .*last\.pt .*free some space.*--resume"
    with disk_of(len(before) // 2), pytest.raises(TrainingError, match=told):
        make.run_of(config, resume=True)
    assert last.read_bytes() == before
    assert not last.with_suffix(".partial").exists()
    assert make.equal(make.run_of(config, resume=True)["trained"], whole["trained"])


def test_a_checkpoint_that_cannot_be_flushed_leaves_the_old_one(
    folder: Path, init: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make.settings(tmp_path, folder, init)
    make.stopped_after(config, 1)
    before = (tmp_path / "last.pt").read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lrsclip_train.run_state.os.fsync", full)
    with pytest.raises(TrainingError, match=r"step 2 .*\(No space left on device\)"):
        make.run_of(config, resume=True)
    assert (tmp_path / "last.pt").read_bytes() == before


def test_a_log_that_cannot_be_written_is_named(folder: Path, init: str, tmp_path: Path) -> None:
    config = make.settings(tmp_path, folder, init, save_every=100)
    (tmp_path / "log.jsonl").mkdir()
    with pytest.raises(TrainingError, match=r"log\.jsonl cannot be written"):
        make.run_of(config)


def test_data_that_do_not_fit_the_settings_are_named(folder: Path, init: str, tmp_path: Path) -> None:
    few = make.write_pairs(tmp_path / "few", make.tile_rows(tmp_path / "few", 4), val=1)
    for data, changes, told in (
        (few, {"data_mosaics": 2, "data_mosaic_share": 0.25}, "a mosaic takes up to 12 images, .* has 3"),
        (folder, {"data_tile_share": 0.25}, "are tiles, but there are none"),
        (folder, {"data_val": str(tmp_path / "absent")}, "absent does not exist"),
        (folder, {"data_val_split": "test"}, "test"),
        (tmp_path / "nowhere", {}, "nowhere does not exist"),
    ):
        with pytest.raises(InputError, match=told):
            make.run_of(make.settings(tmp_path / "run", data, init, **changes))
    shards = shards_of(tmp_path / "packed")
    mosaics = {"data_mosaics": 2, "data_mosaic_share": 0.25}
    with pytest.raises(InputError, match="mosaics are made of the images of a folder"):
        make.run_of(make.settings(tmp_path / "run", (str(shards),), init, **mosaics))
    with pytest.raises(InputError, match=r"data\.val is .*shards; name a folder"):
        make.run_of(make.settings(tmp_path / "run", folder, init, data_val=str(shards)))


def test_made_images_of_another_number_are_not_taken_for_those_asked_for(
    folder: Path, init: str, tmp_path: Path
) -> None:
    config = make.settings(tmp_path, folder, init, steps=1, data_tiles=2, data_tile_share=0.25)
    make.run_of(config)
    assert len((tmp_path / "cache" / "tiles" / "samples.jsonl").read_text().splitlines()) == 2
    with pytest.raises(InputError, match=r"tiles holds 2 images, data\.tiles is 3; delete the folder"):
        make.run_of(make.changed(config, data_tiles=3))


def test_features_behind_another_split_of_the_stem_are_refused(tmp_path: Path) -> None:
    meta = {"shape": [0, 96, 12, 12], "size": 192, "split": SPLIT - 2}
    (tmp_path / "cache.json").write_text(json.dumps(meta))
    with pytest.raises(InputError, match=r"expected behind .*delete the folder"):
        FeatureCache.open(tmp_path)

"""The training loop: a resumed run is the same run, chunks change nothing, and the log says what happened."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import training_makers as make

from lrsclip_rt.errors import CheckpointError, InputError
from lrsclip_train.config import TrainConfig
from lrsclip_train.kps import stretch_table
from lrsclip_train.loop import train
from lrsclip_train.prepare import prepare


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Sums depend on the number of threads in their last bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def scratch(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """A run of the small architecture from scratch, over cached features, stretched after two steps."""
    root = tmp_path_factory.mktemp("scratch")
    config = make.settings(
        root / "cached",
        folder,
        "",
        model_architecture="mini",
        model_stem_weights=make.stem_file(root / "stem.npz"),
        model_plain_steps=2,
        model_image_layers=1,
        model_text_layers=1,
        model_patch_dropout=0.5,
        data_cached_views=2,
        data_cache=str(root / "cache"),
        data_mosaics=2,
        data_mosaic_share=0.25,
        data_tiles=3,
        data_tile_share=0.25,
        data_hard_negatives=0.5,
        data_details=3,
        data_word_drop=0.1,
    )
    prepare(config)
    return config


@pytest.mark.parametrize(
    ("precision", "ema", "stops"),
    [
        ("bf16", 0.9, (2,)),
        pytest.param("bf16", 0.0, (1, 2, 3), marks=pytest.mark.slow),
        pytest.param("fp32", 0.9, (1, 2, 3), marks=pytest.mark.slow),
    ],
)
def test_a_run_from_scratch_resumed_after_any_step_ends_in_the_same_weights(
    scratch: TrainConfig, tmp_path: Path, precision: str, ema: float, stops: tuple[int, ...]
) -> None:
    config = make.changed(scratch, precision=precision, optimizer_ema=ema)
    sources, val = prepare(config)

    def run(name: str, **options: Any) -> dict[str, Any]:
        part = make.changed(config, run=str(tmp_path / name))
        Path(part.run).mkdir(exist_ok=True)
        content: dict[str, Any] = torch.load(train(part, sources, val, **options), weights_only=True)
        return content

    def until(stop: int) -> Any:
        def report(row: dict[str, Any]) -> None:
            if row["step"] == stop:
                raise make.Stop

        return report

    whole = run("whole")
    assert whole["model"]["positional_embedding_res"].shape[0] == 248
    assert make.equal(whole["model"], whole["trained"]) == (ema == 0)
    for stop in stops:
        with pytest.raises(make.Stop):
            run(f"stopped-{stop}", report=until(stop))
        held = torch.load(tmp_path / f"stopped-{stop}" / "last.pt", weights_only=True)
        assert (held["step"], held["stretched"]) == (stop, stop > 2)
        resumed = run(f"stopped-{stop}", resume=True)
        assert make.equal(whole["model"], resumed["model"])
        assert make.equal(whole["trained"], resumed["trained"])


@pytest.mark.parametrize(("precision", "ema"), [("fp32", 0.0), ("bf16", 0.9), ("fp16", 0.9)])
def test_a_decoding_run_resumed_after_any_step_ends_in_the_same_weights(
    folder: Path, init: str, tmp_path: Path, precision: str, ema: float
) -> None:
    options = {"precision": precision, "optimizer_ema": ema}
    whole = make.run_of(make.settings(tmp_path / "whole", folder, init, **options))
    for stop in (1, 2, 3):
        parts = make.settings(tmp_path / f"{stop}", folder, init, **options)
        make.stopped_after(parts, stop)
        resumed = make.run_of(parts, resume=True)
        assert make.equal(whole["model"], resumed["model"])
        assert make.equal(whole["trained"], resumed["trained"])
        assert [row["step"] for row in make.log_of(parts)] == [1, 2, 3, 4]


def test_workers_change_nothing(folder: Path, init: str, tmp_path: Path) -> None:
    found = [
        make.run_of(make.settings(tmp_path / f"{workers}", folder, init, data_workers=workers))["trained"]
        for workers in (0, 2)
    ]
    assert make.equal(*found)


def test_the_text_table_is_stretched_by_the_formula_at_its_step(scratch: TrainConfig, tmp_path: Path) -> None:
    config = make.changed(scratch, run=str(tmp_path), optimizer_lr=0.0)
    make.stopped_after(config, 2)
    plain = torch.load(tmp_path / "last.pt", weights_only=True)["trained"]
    assert plain["positional_embedding"].shape[0] == 77
    assert "positional_embedding_res" not in plain
    longer = make.run_of(config, resume=True)["trained"]
    expected = stretch_table(plain["positional_embedding"])
    assert torch.equal(longer["positional_embedding"], expected)
    assert torch.equal(longer["positional_embedding_res"], expected)
    others = set(plain) - {"positional_embedding"}
    assert all(torch.equal(plain[name], longer[name]) for name in others)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("optimizer_lr", 5e-3, r"optimizer\.lr 0\.001, the config says 0\.005"),
        ("loss_smoothing", 0.2, r"loss\.smoothing 0\.05, the config says 0\.2"),
        ("batch", 4, "batch 8, the config says 4"),
        ("seed", 9, "seed 0, the config says 9"),
        ("precision", "bf16", "precision 'fp32', the config says 'bf16'"),
        ("model_patch_dropout", 0.5, r"model\.patch_dropout 0\.0, the config says 0\.5"),
    ],
)
def test_a_run_is_not_continued_with_other_settings(
    folder: Path, init: str, tmp_path: Path, name: str, value: Any, told: str
) -> None:
    config = make.settings(tmp_path, folder, init)
    make.stopped_after(config, 1)
    with pytest.raises(InputError, match=told):
        make.run_of(make.changed(config, **{name: value}), resume=True)


def test_a_torn_checkpoint_beside_the_good_one_does_no_harm(folder: Path, init: str, tmp_path: Path) -> None:
    whole = make.run_of(make.settings(tmp_path / "whole", folder, init))
    config = make.settings(tmp_path / "parts", folder, init)
    make.stopped_after(config, 2)
    torn = (tmp_path / "parts" / "last.pt").read_bytes()[:1000]
    (tmp_path / "parts" / "last.partial").write_bytes(torn)
    assert make.equal(whole["trained"], make.run_of(config, resume=True)["trained"])
    assert not (tmp_path / "parts" / "last.partial").exists()


@pytest.mark.parametrize("content", [b"", b"not a checkpoint at all", b"PK\x03\x04 torn"])
def test_a_last_checkpoint_that_is_none_is_refused(
    folder: Path, init: str, tmp_path: Path, content: bytes
) -> None:
    config = make.settings(tmp_path, folder, init)
    (tmp_path / "last.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"last\.pt is no checkpoint of a training run"):
        make.run_of(config, resume=True)


def test_weights_alone_are_no_run_to_resume(folder: Path, init: str, tmp_path: Path) -> None:
    config = make.settings(tmp_path, folder, init)
    make.tiny_checkpoint(tmp_path / "last.pt")
    with pytest.raises(CheckpointError, match="no checkpoint of a training run"):
        make.run_of(config, resume=True)


@pytest.mark.parametrize("chunk", [1, 3])
def test_chunks_give_the_losses_and_weights_of_the_whole_batch(
    folder: Path, init: str, tmp_path: Path, chunk: int
) -> None:
    found = []
    for rows in (0, chunk):
        config = make.settings(
            tmp_path / f"chunk-{rows}",
            folder,
            init,
            chunk=rows,
            model_patch_dropout=0.5,
            loss_components=3,
            data_tiles=4,
            data_tile_share=0.25,
            data_hard_negatives=1.0,
            data_details=4,
            data_cache=str(tmp_path / "cache"),
        )
        found.append((make.run_of(config)["trained"], [row["loss"] for row in make.log_of(config)]))
    (plain, plain_losses), (cached, cached_losses) = found
    assert cached_losses == pytest.approx(plain_losses, abs=2e-4)
    assert make.farthest(plain, cached) < 1e-5
    assert make.farthest(plain, torch.load(init, weights_only=True)) > 1e-4


def test_patch_dropout_leaves_patches_out_at_every_step(folder: Path, init: str, tmp_path: Path) -> None:
    losses = []
    for share in (0.0, 0.5):
        config = make.settings(
            tmp_path / f"{share}", folder, init, optimizer_lr=0.0, model_patch_dropout=share
        )
        make.run_of(config)
        losses.append([row["loss"] for row in make.log_of(config)])
    assert all(abs(whole - part) > 1e-3 for whole, part in zip(*losses, strict=True))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("chunk", [0, 3])
def test_low_precision_stays_finite_and_close_to_full_precision(
    folder: Path, init: str, tmp_path: Path, precision: str, chunk: int
) -> None:
    full = make.settings(tmp_path / "full", folder, init)
    low = make.settings(tmp_path / "low", folder, init, precision=precision, chunk=chunk)
    make.run_of(full)
    trained = make.run_of(low)["trained"]
    assert {value.dtype for value in trained.values() if value.is_floating_point()} == {torch.float32}
    assert all(bool(torch.isfinite(value).all()) for value in trained.values())
    losses = [[row["loss"] for row in make.log_of(config)] for config in (full, low)]
    assert losses[1] == pytest.approx(losses[0], rel=0.05)
    assert make.farthest(trained, torch.load(init, weights_only=True)) > 1e-4


def test_steps_on_one_batch_lower_its_loss(folder: Path, init: str, tmp_path: Path) -> None:
    config = make.settings(
        tmp_path, folder, init, steps=25, batch=16, data_long_share=1.0, save_every=100, optimizer_lr=3e-3
    )
    config = make.changed(config, loss_smoothing=0.0)
    make.run_of(config)
    rows = make.log_of(config)
    assert rows[-1]["short"] < rows[0]["short"] - 0.2
    assert rows[-1]["long"] < rows[0]["long"] - 0.2


def test_the_log_holds_rate_weight_scale_and_the_loss_that_follows_from_its_parts(
    folder: Path, init: str, tmp_path: Path
) -> None:
    config = make.settings(
        tmp_path,
        folder,
        init,
        steps=6,
        eval_every=3,
        loss_weight="linear",
        loss_weight_start=0.75,
        loss_weight_end=0.25,
        optimizer_warmup=2,
        optimizer_lr=1e-4,
    )
    shown: list[dict[str, Any]] = []
    make.run_of(config, report=shown.append)
    rows = make.log_of(config)
    assert rows == shown
    cosine = [0.5 * (1 + math.cos(math.pi * step / 4)) for step in range(4)]
    assert [row["lr"] for row in rows] == pytest.approx([0.5e-4, 1e-4, *(1e-4 * c for c in cosine)], rel=1e-3)
    assert [row["weight"] for row in rows] == pytest.approx([0.75, 0.65, 0.55, 0.45, 0.35, 0.25])
    for row in rows:
        total = row["weight"] * row["long"] + (1 - row["weight"]) * row["short"]
        assert row["loss"] == pytest.approx(total, abs=2e-4)
        assert row["norm"] > 0
    assert [row["step"] for row in rows if "val_mR" in row] == [3, 6]
    assert rows[-1]["left_s"] == 0


def test_short_only_and_long_only_runs_train_on_one_kind(folder: Path, init: str, tmp_path: Path) -> None:
    for name, absent in (("short-only", "long"), ("long-only", "short")):
        config = make.settings(tmp_path / name, folder, init, steps=2, loss_weight=name)
        make.run_of(config)
        assert all(absent not in row for row in make.log_of(config))


def test_a_kind_of_text_that_nothing_has_is_named(init: str, tmp_path: Path) -> None:
    rows = [row | {"long": None} for row in make.tile_rows(tmp_path / "data", 8)]
    data = make.write_pairs(tmp_path / "data", rows, val=2)
    config = make.settings(tmp_path / "run", data, init, batch=4, loss_weight="long-only")
    with pytest.raises(InputError, match="no image of step 0 has a long text"):
        make.run_of(config)


def test_the_average_is_what_is_evaluated_and_released(folder: Path, init: str, tmp_path: Path) -> None:
    config = make.settings(tmp_path, folder, init, steps=3, optimizer_ema=0.9)
    content = make.run_of(config)
    weights: list[dict[str, torch.Tensor]] = []
    for steps in (1, 2, 3):
        part = make.settings(tmp_path / f"{steps}", folder, init, steps=3)
        if steps < 3:
            make.stopped_after(part, steps)
        else:
            make.run_of(part)
        weights.append(torch.load(tmp_path / f"{steps}" / "last.pt", weights_only=True)["trained"])
    name = "visual.proj"
    average = torch.load(init, weights_only=True)[name].double()
    for step, state in enumerate(weights):
        decay = min(0.9, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * state[name].double()
    torch.testing.assert_close(content["model"][name].double(), average, rtol=1e-6, atol=1e-7)
    assert torch.equal(content["trained"][name], weights[-1][name])

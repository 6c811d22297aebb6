"""The yardstick's training step does what Long-CLIP's trainer does, and nothing that would make it faster."""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from lrsclip_rt.benchmarking import records_from_file
from lrsclip_rt.datasets import pair_set_from_folder
from lrsclip_rt.errors import InputError, ParityError
from lrsclip_rt.rendering import CLASSES, TEST_SEEDS, render_tile
from lrsclip_rt.tokenizer import Tokenizer
from lrsclip_train.model import DualClip

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "train_vs_longclip.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("train_vs_longclip_benchmark", BENCHMARK)
    sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen rendered tiles with their captions."""
    root = tmp_path_factory.mktemp("pairs")
    lines = []
    for name in CLASSES:
        tile = render_tile(name, TEST_SEEDS[0], size=40)
        Image.fromarray(tile.pixels).save(root / f"{name}.png")
        lines.append({"image": f"{name}.png", "split": "train", "short": [tile.short], "long": tile.long})
    lines.append({"image": "no-long.png", "split": "train", "short": ["a pond"]})
    (root / "pairs.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return root


def tiny(script: ModuleType) -> DualClip:
    torch.manual_seed(3)
    return DualClip(script.TINY).train()


def numpy_loss(image: np.ndarray, text: np.ndarray, scale: float) -> float:
    """Both directions with smoothed targets, in float64."""
    n = len(image)
    target = np.eye(n) * 0.9 + 0.1 / n
    losses = []
    for logits in (scale * image @ text.T, scale * text @ image.T):
        log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        losses.append(-(target * log_p).sum(axis=1).mean())
    return float(np.mean(losses))


def numpy_principal_part(rows: np.ndarray, k: int) -> np.ndarray:
    """By the eigenvectors of the covariance rather than by an SVD."""
    centred = rows - rows.mean(axis=0)
    basis = np.linalg.eigh(centred.T @ centred)[1][:, -k:]
    return centred @ basis @ basis.T + rows.mean(axis=0)


def test_the_principal_part_is_that_of_the_covariance_and_small_batches_stay(script) -> None:
    rows = torch.randn(50, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    part = script.principal_part(rows)
    assert part.numpy() == pytest.approx(numpy_principal_part(rows.numpy(), 32), abs=1e-9)
    assert torch.linalg.matrix_rank(part - part.mean(dim=0)) == 32
    assert (part - rows).abs().max() > 0.1
    assert torch.equal(script.principal_part(rows[:33]), rows[:33])
    assert not torch.equal(script.principal_part(rows[:34]), rows[:34])


def test_a_step_reports_the_losses_of_a_plain_calculation_and_moves_what_is_trained(script, folder) -> None:
    model = tiny(script)
    pairs = pair_set_from_folder(folder, split="train")
    thirds = itertools.islice(script.pair_batches(pairs, script.TINY, 16, seed=0), 3)
    pixels, short, long = (
        torch.cat(parts)
        for parts in zip(*((b.pixels, b.short_tokens, b.long_tokens) for b in thirds), strict=True)
    )
    pixels = pixels + 0.3 * torch.randn(pixels.shape, generator=torch.Generator().manual_seed(2))
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    with torch.no_grad():
        embedded = [model.encode_image(pixels), model.encode_text(short), model.encode_text(long)]
    image, short_text, long_text = ((x / x.norm(dim=1, keepdim=True)).double().numpy() for x in embedded)
    scale = float(model.logit_scale.detach().exp())

    found = script.eager_step(model, script.longclip_optimizer(model, lr=1e-3), pixels, short, long)
    assert found.long == pytest.approx(numpy_loss(image, long_text, scale), rel=1e-4)
    reduced = numpy_principal_part(image, 32)
    assert found.short == pytest.approx(numpy_loss(reduced, short_text, scale), rel=1e-4)

    moved = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    assert moved == set(before) - {"positional_embedding"}


def test_texts_run_in_full_and_the_image_tower_once(script, folder) -> None:
    model = tiny(script)
    pairs = pair_set_from_folder(folder, split="train")
    batch = next(script.pair_batches(pairs, script.TINY, 4, seed=0))
    seen: list[tuple[str, tuple[int, ...]]] = []
    for name, tower in (("image", model.visual.transformer), ("text", model.transformer)):
        tower.register_forward_hook(lambda _m, args, _o, name=name: seen.append((name, tuple(args[0].shape))))
    script.eager_step(
        model, script.longclip_optimizer(model), batch.pixels, batch.short_tokens, batch.long_tokens
    )
    assert sorted(seen) == [("image", (4, 17, 64)), ("text", (4, 248, 64)), ("text", (4, 248, 64))]


def test_autocast_changes_the_losses_a_little_and_the_type_of_the_weights_not_at_all(script, folder) -> None:
    pairs = pair_set_from_folder(folder, split="train")
    batch = next(script.pair_batches(pairs, script.TINY, 8, seed=0))
    found = {}
    for amp in (False, True):
        model = tiny(script)
        optimizer = script.longclip_optimizer(model)
        arguments = (batch.pixels, batch.short_tokens, batch.long_tokens)
        found[amp] = script.eager_step(model, optimizer, *arguments, amp=amp)
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert found[True] != found[False]
    assert found[True].long == pytest.approx(found[False].long, rel=0.05)
    assert found[True].short == pytest.approx(found[False].short, rel=0.05)


def test_steps_on_one_batch_lower_its_losses(script, folder) -> None:
    model = tiny(script)
    optimizer = script.longclip_optimizer(model, lr=1e-3)
    pairs = pair_set_from_folder(folder, split="train")
    batch = next(script.pair_batches(pairs, script.TINY, 8, seed=0))
    arguments = (batch.pixels, batch.short_tokens, batch.long_tokens)
    losses = [script.eager_step(model, optimizer, *arguments) for _ in range(12)]
    assert losses[-1].long < losses[0].long
    assert losses[-1].short < losses[0].short


def test_batches_hold_pairs_with_both_captions_padded_to_the_context(script, folder) -> None:
    pairs = pair_set_from_folder(folder, split="train")
    items = pairs.items[:-1]
    first, second, third = itertools.islice(script.pair_batches(pairs, script.TINY, 8, seed=5), 3)
    assert first.pixels.shape == (8, 3, 32, 32)
    assert first.short_tokens.shape == first.long_tokens.shape == (8, 248)
    texts = {tuple(row.tolist()) for batch in (first, second) for row in batch.long_tokens}
    assert texts == {tuple(row) for row in Tokenizer().encode([item.long for item in items]).tolist()}
    assert not torch.equal(first.long_tokens, third.long_tokens)
    again = next(script.pair_batches(pairs, script.TINY, 8, seed=5))
    assert torch.equal(again.pixels, first.pixels)
    with pytest.raises(InputError, match="has 16 pairs with both captions, a batch of 17"):
        next(script.pair_batches(pairs, script.TINY, 17, seed=0))


def joined(script: ModuleType, folder: Path, count: int):
    """More rows than principal components, none like another."""
    pairs = pair_set_from_folder(folder, split="train")
    parts = list(itertools.islice(script.pair_batches(pairs, script.TINY, 16, seed=0), count))
    tensors = [
        torch.cat([getattr(part, name) for part in parts])
        for name in ("pixels", "short_tokens", "long_tokens")
    ]
    noise = torch.randn(tensors[0].shape, generator=torch.Generator().manual_seed(2))
    texts = [tuple(text for part in parts for text in getattr(part, name)) for name in ("shorts", "longs")]
    return script.PairBatch(tensors[0] + 0.3 * noise, *tensors[1:], *texts)


def test_the_trainers_step_has_the_losses_of_the_eager_one_for_several_steps(script, folder) -> None:
    batch = joined(script, folder, 3)
    assert len(batch.pixels) > script.COMPONENTS + 1
    model = tiny(script)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    worst = script.largest_disagreement(
        model,
        [batch] * 3,
        lr=1e-3,
        ours=lambda own: script.OurLoop(own, lr=1e-3, precision="fp32", batch=48),
    )
    assert worst < script.AGREEMENT
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())


@pytest.mark.parametrize("change", ["smoothing", "components", "lr"])
def test_losses_that_differ_are_refused_before_anything_is_timed(script, folder, change: str) -> None:
    batch = joined(script, folder, 3)

    def other(own: DualClip):
        loop = script.OurLoop(own, lr=1e-3, precision="fp32", batch=48)
        if change == "lr":
            optimizer = dataclasses.replace(loop.config.optimizer, lr=3e-3)
            loop.config = dataclasses.replace(loop.config, optimizer=optimizer)
        else:
            loss = dataclasses.replace(
                loop.config.loss, **{change: {"smoothing": 0.0, "components": 2}[change]}
            )
            loop.config = dataclasses.replace(loop.config, loss=loss)
        return loop

    with pytest.raises(ParityError, match=f"losses of step {2 if change == 'lr' else 1} differ"):
        script.largest_disagreement(tiny(script), [batch] * 2, lr=1e-3, ours=other)


def check_script(script, folder, monkeypatch, capsys, results: Path, *, precision: str) -> None:
    options = f"{folder} --architecture tiny --batch 4 --batches 2 --rounds 2 --threads 1 --record"
    monkeypatch.setattr(sys, "argv", ["train_vs_longclip.py", *options.split(), "--precision", precision])
    monkeypatch.setattr(script, "RESULTS", results)
    threads = torch.get_num_threads()
    try:
        script.main()
    finally:
        torch.set_num_threads(threads)
    printed = capsys.readouterr().out.splitlines()
    record = json.loads(printed[-1])
    losses, eager, ours = record["results"]
    assert losses["largest_relative_difference"] < script.AGREEMENT
    assert [row["contender"] for row in (eager, ours)] == ["Long-CLIP's loop, eager", "lrsclip train"]
    assert eager["rounds"] == ours["rounds"] == 2
    assert ours["ratio"] == pytest.approx(eager["p50_ms"] / ours["p50_ms"])
    assert record["settings"]["precision"] == precision
    (path,) = results.rglob("train_vs_longclip.jsonl")
    assert records_from_file(path) == [record]


def test_the_script_checks_times_records_and_prints_its_result_last(
    script, folder, monkeypatch, capsys, tmp_path
) -> None:
    check_script(script, folder, monkeypatch, capsys, tmp_path, precision="bf16")


def test_the_script_runs_on_real_captions(script, data_dir, monkeypatch, capsys, tmp_path) -> None:
    check_script(script, data_dir / "aid_rsicd", monkeypatch, capsys, tmp_path, precision="fp32")

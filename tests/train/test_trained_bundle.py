"""What the trainer releases is what a bundle of it answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import training_makers as make

from lrsclip_rt.datasets import pair_set_from_folder
from lrsclip_rt.embedder import load
from lrsclip_rt.evaluation import retrieval_metrics
from lrsclip_train.checkpoints import model_from_checkpoint, read_checkpoint
from lrsclip_train.encoding import image_embeddings, text_embeddings
from lrsclip_train.pair_sources import FolderPairs
from lrsclip_train.prepare import prepare
from lrsclip_train.release import save_release
from lrsclip_train.sources import PixelSource, pixel_spec, plain_batches
from lrsclip_train.texts import TokenTable
from lrsclip_train.validation import validate


def test_a_bundle_of_the_released_file_answers_as_the_validation_did(tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="onnx makes the bundle")
    from lrsclip_export.exporting import export_bundle

    folder = make.tiles_folder(tmp_path / "data", train=12, val=12)
    init = make.tiny_checkpoint(tmp_path / "init.pt", stretched=False)
    config = make.settings(tmp_path / "run", folder, init, steps=6, optimizer_ema=0.5, eval_every=6)
    make.run_of(config)
    logged = make.log_of(config)[-1]["val_mR"]
    released = save_release(tmp_path / "run" / "last.pt", tmp_path / "run" / "model.safetensors")
    bundle = export_bundle(released, tmp_path / "bundle", allow_failed=True)

    pairs = pair_set_from_folder(folder, split="val")
    entries = [(text, row) for row, item in enumerate(pairs.items) for text in dict.fromkeys(item.short)]
    texts, owners = [text for text, _ in entries], np.array([row for _, row in entries])
    _, val = prepare(config)
    assert val is not None
    model = model_from_checkpoint(read_checkpoint(released)).eval()
    spec = pixel_spec(model.config)
    with torch.no_grad():
        images = torch.cat([image_embeddings(model, part) for part in plain_batches(val, spec)]).numpy()
        tokens = TokenTable().batch(texts, model.config.context_length)
        rows = text_embeddings(model, tokens).numpy()
    embedder = load(bundle, threads=1)
    bundle_images = embedder.embed_images([pairs.image_path(item) for item in pairs.items])
    bundle_rows = embedder.embed_texts(texts)
    assert float((images * bundle_images).sum(axis=1).min()) >= 0.99999
    assert float((rows * bundle_rows).sum(axis=1).min()) >= 0.99999
    found = retrieval_metrics(bundle_images, bundle_rows, owners, texts).mean_recall
    validated = validate(model, val, TokenTable(), spec=spec, device=torch.device("cpu"))["val_mR"]
    assert found == pytest.approx(validated, abs=0.2)
    assert found == pytest.approx(logged, abs=0.2)
    assert 0 < found < 100


def test_long_texts_are_asked_for_where_they_say_more_and_searched_among_all(tmp_path: Path) -> None:
    """Images and texts with known embeddings: a rival that does not ask itself still counts."""
    rows = make.tile_rows(tmp_path, 16)
    for number in range(6):
        rows[number]["short"].append(f"a third caption of number {number}")
    make.write_pairs(tmp_path, rows, val=16)
    val = PixelSource(FolderPairs(tmp_path, split="val"))
    model = make.tiny_model().eval()
    spec = pixel_spec(model.config)
    scores = validate(model, val, TokenTable(), spec=spec, device=torch.device("cpu"))

    longs = [row["long"] for row in rows]
    with torch.no_grad():
        images = torch.cat([image_embeddings(model, part) for part in plain_batches(val, spec)]).numpy()
        texts = text_embeddings(model, TokenTable().batch(longs, model.config.context_length)).numpy()
    cosines = images @ texts.T
    recalls = []
    for similar in (cosines, cosines.T):
        rivals = [int((similar[i] >= similar[i, i]).sum()) - 1 for i in range(6)]
        recalls += [100 * np.mean([rank < cut for rank in rivals]) for cut in (1, 5, 10)]
    assert scores["val_long_mR"] == pytest.approx(np.mean(recalls), abs=0.006)

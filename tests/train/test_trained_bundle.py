"""What the trainer releases is what a bundle of it answers."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from lrsclip_rt.datasets import pair_set_from_folder
from lrsclip_rt.embedder import load
from lrsclip_rt.evaluation import retrieval_metrics
from lrsclip_train.checkpoints import model_from_checkpoint, read_checkpoint
from lrsclip_train.encoding import image_embeddings, text_embeddings
from lrsclip_train.prepare import prepare
from lrsclip_train.release import save_release
from lrsclip_train.sources import pixel_spec, plain_batches
from lrsclip_train.texts import TokenTable
from lrsclip_train.validation import validate


def _makers() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "training_makers", Path(__file__).with_name("training_makers.py")
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


make = _makers()


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

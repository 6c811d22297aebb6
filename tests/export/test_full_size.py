"""ViT-B/16 and ViT-L/14 in full: real images and captions, memory, and old 77-position files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from peak_memory import PEAK_KIB
from PIL import Image
from rendered_folders import write_tiles

from lrsclip_export.precisions import EXPORTABLE
from lrsclip_rt.bundle import Bundle
from lrsclip_rt.pixels import pixels_from_array
from lrsclip_rt.tokenizer import Tokenizer

Array = NDArray[Any]
pytestmark = pytest.mark.slow

EXPORT = (
    PEAK_KIB
    + """
import sys
from pathlib import Path
from lrsclip_export.exporting import export_bundle

stages = []
export_bundle(
    Path(sys.argv[1]),
    Path(sys.argv[2]),
    precisions=sys.argv[3].split(","),
    calibration=sys.argv[4] if len(sys.argv) > 4 else None,
    allow_failed=len(sys.argv) > 4,  # of random weights, whose rankings say nothing
    progress=lambda stage, fraction: stages.append(fraction),
)
assert stages == sorted(stages)
print(peak_kib() * 1024)
"""
)


def exported(checkpoint: Path, out: Path, *more: object) -> tuple[Bundle, int]:
    """The bundle of a checkpoint, made in a process of its own, and the memory that took [bytes]."""
    words = [str(word) for word in (checkpoint, out, *(more or ("fp32",)))]
    done = subprocess.run([sys.executable, "-c", EXPORT, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return Bundle.open(out), int(done.stdout)


def real_pixels(bundle: Bundle, data_dir: Path, count: int) -> Array:
    paths = sorted((data_dir / "aid_rsicd" / "images").glob("*/*.jpg"))
    picked = paths[:: len(paths) // count][:count]
    arrays = [np.asarray(Image.open(path).convert("RGB")) for path in picked]
    return np.stack([pixels_from_array(array, bundle.spec.pixel_spec) for array in arrays])


def real_captions(data_dir: Path, count: int) -> list[str]:
    """Half of them short, half long descriptions."""
    texts: list[str] = []
    lines = (data_dir / "aid_rsicd" / "pairs.jsonl").read_text("utf-8").splitlines()
    for line in lines[:: len(lines) // (count // 2)][: count // 2]:
        texts.append(json.loads(line)["short"][0])
    lines = (data_dir / "text" / "urbanclip_long.jsonl").read_text("utf-8").splitlines()
    for line in lines[:: len(lines) // (count - len(texts))][: count - len(texts)]:
        texts.append(json.loads(line)["captions"][0])
    return texts


def in_batches(run: Any, path: Path, feeds: dict[str, Array], size: int = 10) -> Array:
    count = len(next(iter(feeds.values())))
    parts = [{k: v[i : i + size] for k, v in feeds.items()} for i in range(0, count, size)]
    return np.concatenate([run(path, **part) for part in parts])


def trimmed(run: Any, path: Path, tokens: Array, eot: Array) -> Array:
    """Each text alone, at its own length."""
    return np.concatenate(
        [run(path, tokens=tokens[i : i + 1, : end + 1], eot=eot[i : i + 1]) for i, end in enumerate(eot)]
    )


def compare(
    bundle: Bundle, reference: Any, data_dir: Path, sessions: Any, *, images: int, texts: int
) -> None:
    """Every image and text at a cosine of 0.99999 or more, and the same whatever the length."""
    pixels = real_pixels(bundle, data_dir, images)
    found = in_batches(sessions, bundle.graph_path("image", "fp32"), {"pixels": pixels})
    expected = np.concatenate([reference.image(pixels[i : i + 4]) for i in range(0, images, 4)])
    assert (found * expected).sum(1).min() >= 0.99999
    assert np.abs(found - expected).max() < 2e-5
    # Only then does a cosine near one say something: the images differ.
    assert (expected[0] @ expected[1:].T).min() < 0.999
    dense = sessions(bundle.graph_path("dense", "fp32"), pixels=pixels[:2])
    assert (dense * reference.dense(pixels[:2])).sum(-1).min() >= 0.99999

    batch = Tokenizer(bundle.vocabulary_path).encode_batch(real_captions(data_dir, texts))
    lengths = batch.eot + 1
    assert lengths.min() < 20
    assert lengths.max() > 100
    full = in_batches(
        sessions, bundle.graph_path("text-248", "fp32"), {"tokens": batch.tokens, "eot": batch.eot}
    )
    expected = reference.text(batch.tokens)
    assert (full * expected).sum(1).min() >= 0.99999
    assert np.abs(full - expected).max() < 2e-5
    assert (expected[0] @ expected[1:].T).min() < 0.999
    short = trimmed(sessions, bundle.graph_path("text", "fp32"), batch.tokens, batch.eot)
    assert np.abs(short - full).max() <= 1e-6


@pytest.fixture
def sessions() -> Any:
    """Like ``run_graph``, keeping one session a file and all cores."""
    import onnxruntime

    kept: dict[Path, Any] = {}

    def run(path: Path, **feed: Array) -> Array:
        if path not in kept:
            kept.clear()
            kept[path] = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        result: Array = kept[path].run(None, feed)[0]
        return result

    return run


def test_vit_b_16_in_the_exact_layout(tmp_path, data_dir, state_of, float64_clip, sessions) -> None:
    state = state_of("b16")
    assert len(state) == 303
    assert sum(tensor.numel() for tensor in state.values()) == 149_835_265
    torch.save(state, tmp_path / "dgtrs-b16.pt")
    bundle, memory = exported(tmp_path / "dgtrs-b16.pt", tmp_path / "bundle")
    assert bundle.spec.architecture == "ViT-B/16"
    assert (bundle.spec.embed_dim, bundle.spec.patch_grid) == (512, (14, 14))
    assert memory < 10e9
    compare(bundle, float64_clip(state), data_dir, sessions, images=200, texts=200)


def test_vit_l_14_in_less_than_10_gb(tmp_path, data_dir, state_of, float64_clip, sessions) -> None:
    state = state_of("l14")
    assert len(state) == 447
    assert sum(tensor.numel() for tensor in state.values()) == 427_938_305
    torch.save(state, tmp_path / "dgtrs-l14.pt")
    bundle, memory = exported(tmp_path / "dgtrs-l14.pt", tmp_path / "bundle")
    assert bundle.spec.architecture == "ViT-L/14"
    assert (bundle.spec.embed_dim, bundle.spec.patch_grid) == (768, (16, 16))
    assert memory < 10e9
    compare(bundle, float64_clip(state), data_dir, sessions, images=8, texts=24)


def test_every_precision_of_vit_l_14_in_less_than_12_gb(tmp_path, state_of) -> None:
    torch.save(state_of("l14"), tmp_path / "dgtrs-l14.pt")
    (tmp_path / "tiles").mkdir()
    more = (",".join(EXPORTABLE), write_tiles(tmp_path / "tiles", 64))
    bundle, memory = exported(tmp_path / "dgtrs-l14.pt", tmp_path / "bundle", *more)
    assert memory < 12e9, f"{memory / 1e9:.1f} GB"
    print(f"every precision of ViT-L/14: {memory / 1e9:.2f} GB at most")
    assert set(bundle.precisions) == set(EXPORTABLE)
    for precision in ("fp16", "int8", "int8-cpu", "fp8"):
        report = bundle.record(precision).parity
        assert report is not None
        assert report.image is not None
        assert report.text is not None
        assert report.image.reaches(report.gate), f"{precision}: {report.image}"
        assert report.text.reaches(report.gate), f"{precision}: {report.text}"


def test_an_openai_file_of_77_positions_and_half_precision(
    tmp_path, data_dir, state_of, float64_clip, sessions
) -> None:
    state = state_of("b16")
    del state["positional_embedding_res"]
    table = state["positional_embedding"][:77].clone()
    # OpenAI's files hold float16 for all but biases, norms and embeddings of positions and classes.
    state = {
        name: t.half().float() if t.ndim > 1 and "position" not in name else t for name, t in state.items()
    }
    stored = {name: t.half() if t.ndim > 1 and "position" not in name else t for name, t in state.items()}
    torch.save({**stored, "positional_embedding": table}, tmp_path / "ViT-B-16.pt")
    bundle, _ = exported(tmp_path / "ViT-B-16.pt", tmp_path / "bundle")
    assert bundle.source.layout == "openai"

    old = table.double().numpy()
    lines = np.interp(np.arange(0, 57, 0.25), np.arange(57), np.arange(57))
    below = np.floor(lines).astype(int).clip(max=55)
    part = (lines - below)[:, None]
    later = (1 - part) * old[20 + below] + part * old[21 + below]
    stretched = np.vstack(
        [old[:20], later[:225], old[76] + np.array([[1], [2], [3]]) / 4 * (old[76] - old[75])]
    )
    assert stretched.shape == (248, 512)
    reference = float64_clip({**state, "positional_embedding": torch.from_numpy(stretched)})
    compare(bundle, reference, data_dir, sessions, images=24, texts=60)

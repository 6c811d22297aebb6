"""Candidates at work: image files and texts to embeddings, each as its own users run it.

All read the same files and tokenise with the same tokenizer. The peers run texts at 248 tokens, as the
published code does. PyTorch decodes on as many threads as it computes with; the naive loops around ONNX
Runtime and OpenVINO decode one image after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from benchmarks.side_by_side.candidates import Job
from lrsclip_rt.bundle import Bundle, ModelSpec
from lrsclip_rt.embedder import load
from lrsclip_rt.tokenizer import TokenBatch, Tokenizer

__all__ = ["Runner", "runner_from_job"]

Rows = NDArray[np.float32]
Feeds = Mapping[str, NDArray[Any]]
_GraphInfo = tuple[str, Sequence[Path]]
"""What a plain runner computes in, and its files."""


class Runner(Protocol):
    """A loaded candidate."""

    @property
    def precision(self) -> str:
        """What it computes in, which need not be what was asked for."""

    @property
    def files(self) -> Sequence[Path]:
        """What is deployed, without the vocabulary."""

    def embed_files(self, paths: Sequence[Path]) -> Rows:
        """Image files -> (N, D) float32 unit rows."""

    def embed_text(self, text: str) -> Rows:
        """One text -> (1, D) float32 unit rows, computed anew at each call."""


def runner_from_job(job: Job) -> Runner:
    """Load what a job names."""
    if job.candidate.ours:
        return _LrsclipRunner(job)
    if job.candidate.library == "pytorch":
        return _TorchRunner(job)
    make = _onnxruntime_graphs if job.candidate.library == "onnxruntime" else _openvino_graphs
    return _PlainRunner(job, *make(job))


class _LrsclipRunner:
    def __init__(self, job: Job) -> None:
        backend, self.precision = job.candidate.library, job.candidate.precision
        self._model = load(job.files.bundle, backend=backend, precision=self.precision, threads=job.threads)
        record = self._model.bundle.record(self.precision)
        self.files = [job.files.bundle / name for name in record.files]
        self._batch = job.batch

    def embed_files(self, paths: Sequence[Path]) -> Rows:
        return self._model.embed_images(list(paths), batch_size=self._batch)

    def embed_text(self, text: str) -> Rows:
        # Not embed_texts, which remembers recent queries.
        return self._model.embed_tokens(self._model.tokenizer.encode_batch([text]))


class _TorchRunner:
    """PyTorch with open_clip's transform: its own model for a ViT, this project's for ``mini``."""

    def __init__(self, job: Job) -> None:
        import torch

        from lrsclip_train.open_clip_import import import_open_clip

        torch.set_num_threads(job.threads)
        bundle = Bundle.open(job.files.bundle)
        spec = bundle.spec
        self.precision = job.candidate.precision
        self.files = [job.files.checkpoint]
        model = _torch_model(job.files.checkpoint)
        self._encode_image, self._encode_text = model.encode_image, model.encode_text
        if job.candidate.kind == "compiled":
            self._encode_image = torch.compile(self._encode_image)
            self._encode_text = torch.compile(self._encode_text)
        self._transform = import_open_clip().image_transform(
            spec.image_size, is_train=False, mean=spec.mean, std=spec.std, interpolation="bicubic"
        )
        self._tokenizer = _tokenizer(bundle)
        self._pool = ThreadPoolExecutor(job.threads)
        self._batch = job.batch

    def embed_files(self, paths: Sequence[Path]) -> Rows:
        import torch

        parts = []
        for start in range(0, len(paths), self._batch):
            pixels = torch.stack(list(self._pool.map(self._pixels, paths[start : start + self._batch])))
            parts.append(self._run(self._encode_image, pixels))
        return np.concatenate(parts)

    def embed_text(self, text: str) -> Rows:
        import torch

        tokens = torch.from_numpy(self._tokenizer.encode_batch([text]).tokens).long()
        return self._run(self._encode_text, tokens)

    def _run(self, encode: Callable[[Any], Any], batch: Any) -> Rows:
        import torch
        import torch.nn.functional as F

        lower = self.precision == "bf16"
        with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=lower):
            rows: Rows = F.normalize(encode(batch).float(), dim=-1).numpy()
        return rows

    def _pixels(self, path: Path) -> Any:
        from PIL import Image

        with Image.open(path) as image:
            return self._transform(image.convert("RGB"))


def _torch_model(checkpoint: Path) -> Any:
    """Of the same weights; its two position tables joined where open_clip's model holds one."""
    import torch

    from lrsclip_train.checkpoints import model_from_checkpoint, read_checkpoint
    from lrsclip_train.open_clip_import import import_open_clip

    read = read_checkpoint(checkpoint)
    model, config = model_from_checkpoint(read).eval(), read.config
    if config.stem != "none":
        return model
    clip = import_open_clip().model
    vision = clip.CLIPVisionCfg(
        layers=config.image_layers,
        width=config.image_width,
        patch_size=config.patch_size,
        image_size=config.image_size,
    )
    text = clip.CLIPTextCfg(
        context_length=config.context_length,
        vocab_size=config.vocab_size,
        width=config.text_width,
        heads=config.text_width // 64,
        layers=config.text_layers,
    )
    theirs = clip.CLIP(config.embed_dim, vision, text, quick_gelu=True).eval()
    state = {name: value for name, value in model.state_dict().items() if not name.endswith("_res")}
    with torch.no_grad():
        theirs.load_state_dict({**state, "positional_embedding": model.text_positions()})
    return theirs


class _PlainRunner:
    """A library alone: Pillow and NumPy before it, batches of one size, texts at full length."""

    def __init__(
        self, job: Job, image: Callable[[Feeds], Rows], text: Callable[[Feeds], Rows], info: _GraphInfo
    ) -> None:
        bundle = Bundle.open(job.files.bundle)
        self._image, self._text = image, text
        self.precision, self.files = info
        self._spec, self._tokenizer, self._batch = bundle.spec, _tokenizer(bundle), job.batch

    def embed_files(self, paths: Sequence[Path]) -> Rows:
        parts = []
        for start in range(0, len(paths), self._batch):
            pixels = np.stack(
                [_naive_pixels(path, self._spec) for path in paths[start : start + self._batch]]
            )
            parts.append(self._image({"pixels": pixels}))
        return np.concatenate(parts)

    def embed_text(self, text: str) -> Rows:
        return self._text(_text_feeds(self._tokenizer.encode_batch([text])))


def _onnxruntime_graphs(job: Job) -> tuple[Callable[[Feeds], Rows], Callable[[Feeds], Rows], _GraphInfo]:
    import onnxruntime

    paths = _fp32_graphs(job)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = job.threads

    def opened(path: Path) -> Callable[[Feeds], Rows]:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

        def run(feeds: Feeds) -> Rows:
            rows: Rows = session.run(None, dict(feeds))[0]
            return rows

        return run

    return opened(paths[0]), opened(paths[1]), ("fp32", _with_weights(paths))


def _openvino_graphs(job: Job) -> tuple[Callable[[Feeds], Rows], Callable[[Feeds], Rows], _GraphInfo]:
    """``plain`` sets fp32; ``default`` and ``nncf`` leave to OpenVINO what it computes in."""
    import openvino

    kind = job.candidate.kind
    paths = _fp32_graphs(job)
    if kind == "nncf":
        paths = (job.files.nncf / "image.xml", job.files.nncf / "text-248.xml")
    settings: dict[str, Any] = {"INFERENCE_NUM_THREADS": job.threads}
    if kind == "plain":
        settings["INFERENCE_PRECISION_HINT"] = "f32"
    core = openvino.Core()
    models = [core.compile_model(str(path), "CPU", settings) for path in paths]

    def opened(model: Any) -> Callable[[Feeds], Rows]:
        return lambda feeds: np.array(model(dict(feeds))[0], np.float32)

    found = str(models[0].get_property("INFERENCE_PRECISION_HINT").get_type_name())
    precision = "int8" if kind == "nncf" else {"f32": "fp32"}.get(found, found)
    return opened(models[0]), opened(models[1]), (precision, _with_weights(paths))


def _fp32_graphs(job: Job) -> tuple[Path, Path]:
    bundle = Bundle.open(job.files.bundle)
    return bundle.graph_path("image", "fp32"), bundle.graph_path("text-248", "fp32")


def _with_weights(paths: Sequence[Path]) -> list[Path]:
    """Graph files, each with the file of its weights: ``X.bin``, or ``text.fp32.weights`` of ``text-248``."""
    found = list(paths)
    for path in paths:
        if path.suffix == ".xml":
            found.append(path.with_suffix(".bin"))
        else:
            found.append(path.with_name(path.name.replace("text-248", "text")).with_suffix(".weights"))
    return found


def _tokenizer(bundle: Bundle) -> Tokenizer:
    return Tokenizer(bundle.vocabulary_path, context_length=bundle.spec.context_length)


def _text_feeds(batch: TokenBatch) -> Feeds:
    return {"tokens": batch.tokens.astype(np.int32), "eot": batch.eot.astype(np.int32)}


def _naive_pixels(path: Path, spec: ModelSpec) -> Rows:
    """What a first script does: Pillow's resize and crop, then NumPy in float32."""
    from PIL import Image

    size = spec.image_size
    with Image.open(path) as file:
        image = file.convert("RGB")
    shorter = min(image.size)
    width, height = (int(size * length / shorter) for length in image.size)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = round((width - size) / 2), round((height - size) / 2)
    values = np.asarray(image.crop((left, top, left + size, top + size)), np.float32) / 255
    mean, std = np.array(spec.mean, np.float32), np.array(spec.std, np.float32)
    pixels: Rows = ((values - mean) / std).transpose(2, 0, 1)
    return pixels

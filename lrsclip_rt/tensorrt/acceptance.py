"""No engine is kept before it answered like fp32 on the bundle's probe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.backends import Session
from lrsclip_rt.bundle import Bundle
from lrsclip_rt.errors import LrsclipError, ParityError
from lrsclip_rt.parity import Embeddings, ParityReport, compare
from lrsclip_rt.pixels import pixels_from_array
from lrsclip_rt.probe import probe_from_bundle
from lrsclip_rt.text_batching import text_runs

__all__ = ["DENSE_IMAGES", "Rows", "accepted_report", "probe_report", "reference_patches"]

DENSE_IMAGES = 4
"""Each gives hundreds of patch rows, so a few images are enough."""

Rows = NDArray[np.float32]


def reference_patches(bundle: Bundle) -> Rows | LrsclipError:
    """fp32 patches of the probe's first images on ONNX Runtime, or why there are none.

    The bundle stores none, so that fp32 has to run once.

    Returns:
        ``(n, P, D) float32``, or the obstacle.
    """
    from lrsclip_rt.embedder import load

    pixels = _probe_pixels(bundle)[:DENSE_IMAGES]
    try:
        return load(bundle, backend="onnxruntime", precision="fp32").dense_pixels(pixels)
    except LrsclipError as error:
        return error


def probe_report(
    bundle: Bundle, precision: str, sessions: Mapping[str, Session], *, patches: Rows | None = None
) -> ParityReport:
    """Hold what runs a precision against the bundle's stored fp32 answers.

    Args:
        bundle: Whose probe is asked.
        precision: What the sessions run; picks the gate.
        sessions: By tower: ``image``, ``dense`` (with ``patches``) and ``text``, or some of them.
        patches: fp32 patches of the probe's first images.

    Raises:
        BundleError: If there is no probe.
        BackendError: If a run fails.
        InputError: If an output has another shape than fp32's.
    """
    probe = probe_from_bundle(bundle)
    pixels = _probe_pixels(bundle)
    reference, candidate = Embeddings(), Embeddings()
    if "image" in sessions:
        reference = replace(reference, images=probe.image_embeddings)
        candidate = replace(candidate, images=_run_pixels(sessions["image"], pixels))
    if "text" in sessions:
        reference = replace(reference, texts=np.concatenate([probe.text_embeddings] * 2))
        candidate = replace(candidate, texts=_both_texts(bundle, sessions["text"], probe.texts))
    if "dense" in sessions:
        reference = replace(reference, patches=patches)
        candidate = replace(candidate, patches=_run_pixels(sessions["dense"], pixels[:DENSE_IMAGES]))
    report = compare(reference, candidate, precision=precision, gate=bundle.gate(precision))
    return replace(report, n_texts=len(probe.texts) if "text" in sessions else 0)


def accepted_report(report: ParityReport) -> ParityReport:
    """The report itself, if it reaches its gate with everything in it.

    Raises:
        ParityError: If not; with the numbers and the gate.
    """
    gate = report.gate
    parts = (("image", report.image), ("text", report.text), ("dense", report.dense))
    found = [
        f"{what} cosine {part.mean:.6f} mean, {part.minimum:.6f} least"
        for what, part in parts
        if part is not None
    ]
    if report.top1_agreement is not None:
        found.append(f"top-1 agreement {report.top1_agreement:.1f} %")
    if not report.passed or report.dense_passed is False:
        raise ParityError(
            f"the engines do not answer like fp32 and were not kept: {'; '.join(found) or 'nothing ran'}; "
            f"expected {gate.mean:g} mean, {gate.minimum:g} least, {gate.top1:g} % top-1. "
            "Build another precision"
        )
    return report


def _probe_pixels(bundle: Bundle) -> Rows:
    images = probe_from_bundle(bundle).images
    return np.stack([pixels_from_array(image, bundle.spec.pixel_spec) for image in images])


def _run_pixels(session: Session, pixels: Rows) -> Rows:
    kind = session.inputs["pixels"].dtype
    return session.run({"pixels": np.ascontiguousarray(pixels, dtype=kind)})


def _both_texts(bundle: Bundle, session: Session, texts: tuple[str, ...]) -> Rows:
    """Rows at the length of each text, then at the full length: every profile in use must hold."""
    from lrsclip_rt.tokenizer import Tokenizer

    full = bundle.spec.context_length
    batch = Tokenizer(bundle.vocabulary_path, context_length=full).encode_batch(texts)
    fixed = session.inputs["tokens"].shape[1] is not None
    parts = []
    for length in (None, full):
        rows = np.empty((len(texts), bundle.spec.embed_dim), np.float32)
        for some in text_runs(batch.eot, full=length):
            width = full if fixed or length else max(2, int(batch.eot[some].max()) + 1)
            feeds: dict[str, NDArray[Any]] = {
                "tokens": np.ascontiguousarray(batch.tokens[some, :width], dtype=np.int32),
                "eot": np.ascontiguousarray(batch.eot[some], dtype=np.int32),
            }
            rows[some] = session.run(feeds)
        parts.append(rows)
    return np.concatenate(parts)

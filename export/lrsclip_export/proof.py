"""The same images and texts through a torch model and through graphs, and how far they differ."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lrsclip_export.dense_recipe import dense_recipe
from lrsclip_export.graph_running import embedded_images, embedded_texts
from lrsclip_rt.errors import ParityError
from lrsclip_rt.parity import Embeddings, Gate, ParityReport, compare

if TYPE_CHECKING:
    from lrsclip_export.probe import Probe
    from lrsclip_rt.bundle import ModelSpec
    from lrsclip_rt.tokenizer import TokenBatch
    from lrsclip_train.model import DualClip

__all__ = [
    "TRIMMING_TOLERANCE",
    "Answers",
    "Inputs",
    "answers_from_graphs",
    "answers_from_torch",
    "describe",
    "inputs_from_probe",
    "parity_of",
    "prove_fp32",
]

TRIMMING_TOLERANCE = 1e-6
"""Largest difference of any number between the short text graph and the one of 248 tokens, in fp32."""

_BATCH = 8
# Patch embeddings are many rows an image; these suffice and the image tower runs once less.
_DENSE_IMAGES = 4

Progress = Callable[[float], None]


@dataclass(frozen=True, slots=True, eq=False)
class Inputs:
    """A probe as the graphs read it.

    Attributes:
        pixels: (n, 3, S, S) float32, normalised.
        texts: m encoded texts.
    """

    pixels: NDArray[np.float32]
    texts: TokenBatch


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """Unit rows, float32.

    Attributes:
        images: (n, D).
        patches: (k, P, D) of the first k images.
        texts: (m, D), each batch run at the length of its longest text.
        texts_fixed: (m, D), run at 248 tokens.
    """

    images: NDArray[np.float32]
    patches: NDArray[np.float32]
    texts: NDArray[np.float32]
    texts_fixed: NDArray[np.float32]


def inputs_from_probe(probe: Probe, spec: ModelSpec, vocabulary: Path) -> Inputs:
    """Preprocess and tokenise by the runtime's own code."""
    from lrsclip_rt.pixels import pixels_from_array
    from lrsclip_rt.tokenizer import Tokenizer

    pixels = np.stack([pixels_from_array(image, spec.pixel_spec) for image in probe.images])
    return Inputs(pixels, Tokenizer(vocabulary).encode_batch(probe.texts))


def answers_from_graphs(
    paths: Mapping[str, Path], inputs: Inputs, *, progress: Progress = lambda fraction: None
) -> Answers:
    """Run the four graphs on the CPU with ONNX Runtime, one after the other.

    Args:
        paths: Graph files of ``image``, ``dense``, ``text`` and ``text-248``.
        inputs: What to run.
        progress: Called with the fraction done.

    Raises:
        DependencyError: If onnxruntime is not installed.
    """
    images = embedded_images(paths["image"], inputs.pixels)
    progress(0.4)
    patches = embedded_images(paths["dense"], inputs.pixels[:_DENSE_IMAGES])
    progress(0.5)
    texts = embedded_texts(paths["text"], inputs.texts)
    progress(0.75)
    return Answers(images, patches, texts, embedded_texts(paths["text-248"], inputs.texts, fixed=True))


def answers_from_torch(
    model: DualClip, inputs: Inputs, *, progress: Progress = lambda fraction: None
) -> Answers:
    """Run the PyTorch model that the graphs were made from; texts always at 248 tokens."""
    import torch
    import torch.nn.functional as F

    from lrsclip_export.dense_torch import dense_patches

    def unit(rows: torch.Tensor) -> NDArray[np.float32]:
        array: NDArray[np.float32] = F.normalize(rows, dim=-1).numpy()
        return array

    with torch.inference_mode():
        pixels = torch.from_numpy(inputs.pixels)
        images = np.concatenate([unit(model.encode_image(pixels[part])) for part in _batches(len(pixels))])
        progress(0.5)
        recipe = dense_recipe(model.config)
        patches: NDArray[np.float32] = dense_patches(model.visual, pixels[:_DENSE_IMAGES], recipe).numpy()
        progress(0.6)
        tokens = torch.from_numpy(inputs.texts.tokens)
        texts = np.concatenate([unit(model.encode_text(tokens[part])) for part in _batches(len(tokens))])
    progress(1.0)
    return Answers(images, patches, texts, texts)


def parity_of(
    reference: Answers, candidate: Answers, *, precision: str, gate: Gate | None = None
) -> ParityReport:
    """Compare all four graphs; of the two text graphs the report shows the one that is further off."""
    reports = [
        compare(
            Embeddings(reference.images, ours, reference.patches),
            Embeddings(candidate.images, theirs, candidate.patches),
            precision=precision,
            gate=gate,
        )
        for ours, theirs in (
            (reference.texts, candidate.texts),
            (reference.texts_fixed, candidate.texts_fixed),
        )
    ]
    texts = [report.text for report in reports if report.text is not None]
    shares = [report.top1_agreement for report in reports if report.top1_agreement is not None]
    return replace(
        reports[0],
        text=min(texts, key=lambda summary: summary.minimum),
        top1_agreement=min(shares, default=None),
    )


def prove_fp32(reference: Answers, graphs: Answers) -> ParityReport:
    """Hold the fp32 graphs against the model that they were made from.

    Raises:
        ParityError: If a cosine is below 0.99999 (patches: also their first percentile), or the short
            text graph differs from the fixed one by more than :data:`TRIMMING_TOLERANCE`.
    """
    report = parity_of(reference, graphs, precision="fp32")
    if not report.passed or report.dense_passed is False:
        raise ParityError(
            f"the exported graphs do not answer as the checkpoint does: {describe(report)}. "
            "Nothing was written; please report this with the checkpoint's origin"
        )
    trimming = float(np.abs(graphs.texts - graphs.texts_fixed).max())
    if not trimming <= TRIMMING_TOLERANCE:
        raise ParityError(
            f"the short text graph differs from the one of 248 tokens by {trimming:.2g}, "
            f"expected at most {TRIMMING_TOLERANCE:g}. Nothing was written"
        )
    return report


def describe(report: ParityReport) -> str:
    """Cosines in one line, with what they must reach.

    Example:
        >>> rows = np.eye(2, 4)
        >>> describe(compare(Embeddings(rows, None), Embeddings(rows, None), precision="fp16"))
        'image cosine 1.000000 mean, 1.000000 least (gate 0.9995 mean, 0.999 least, top-1 95 %)'
    """
    parts = [
        f"{name} cosine {summary.mean:.6f} mean, {summary.minimum:.6f} least"
        for name, summary in (("image", report.image), ("text", report.text), ("patch", report.dense))
        if summary is not None
    ]
    if report.top1_agreement is not None:
        parts.append(f"top-1 agreement {report.top1_agreement:.1f} %")
    gate = report.gate
    return f"{'; '.join(parts)} (gate {gate.mean:g} mean, {gate.minimum:g} least, top-1 {gate.top1:g} %)"


def _batches(count: int) -> Iterator[slice]:
    return (slice(start, start + _BATCH) for start in range(0, count, _BATCH))

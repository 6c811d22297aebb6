"""Recompute on this machine what a bundle claims: files, fp32 answers, and each precision against fp32."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.backends import BACKENDS, why_not
from lrsclip_rt.bundle import Bundle
from lrsclip_rt.embedder import Embedder, load
from lrsclip_rt.errors import BackendError, BundleError, DependencyError, ImageError
from lrsclip_rt.image_stream import stream_pixels
from lrsclip_rt.parity import TRIMMING_TOLERANCE, Embeddings, ParityReport, compare
from lrsclip_rt.probe import Probe, probe_from_bundle

__all__ = ["CheckResult", "CheckSummary", "check_bundle", "row_from_result"]

_BATCH = 8
_DENSE_IMAGES = 4
"""Each gives hundreds of patch rows, so a few images are enough."""

Rows = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What became of one precision.

    Attributes:
        precision: Its name.
        status: ``passed``, ``failed`` or ``not run``.
        reason: Why it failed or was not run; None where it passed.
        backend: What ran it.
        inputs: ``probe`` or ``images``.
        report: The comparison; for fp32 with the bundle's stored answers, else with fp32 run here.
        trimming: Largest difference between the short and the fixed text graph.
    """

    precision: str
    status: str
    reason: str | None = None
    backend: str | None = None
    inputs: str | None = None
    report: ParityReport | None = None
    trimming: float | None = None


@dataclass(frozen=True, slots=True)
class CheckSummary:
    """All precisions of a bundle, and the images of the caller that could not be read."""

    results: tuple[CheckResult, ...]
    failures: tuple[tuple[Path, ImageError], ...]

    @property
    def passed(self) -> bool:
        """Nothing that ran failed."""
        return all(result.status != "failed" for result in self.results)


@dataclass(frozen=True, slots=True, eq=False)
class _Answers:
    images: Rows
    patches: Rows
    texts: Rows
    texts_fixed: Rows

    def both_texts(self) -> Rows:
        """Rows of the short graph, then of the fixed one: the gate holds for both."""
        return np.concatenate([self.texts, self.texts_fixed])


def check_bundle(
    bundle: Bundle,
    paths: Sequence[Path] = (),
    *,
    backend: str = "auto",
    threads: int | None = None,
    advance: Callable[[int], None] = lambda n: None,
) -> CheckSummary:
    """Hash every file again, run every precision that can run here, and hold it against its gate.

    A backend that was named also runs what is a setting of it, not a file of the bundle: bf16.

    Args:
        bundle: Opened, hashes not necessarily verified.
        paths: Images to compare on instead of the probe's; texts are always the probe's.
        backend: ``auto``, or the name of the one that runs every precision.
        threads: CPU threads.
        advance: Called with the number of images done, of ``paths``.

    Raises:
        BundleError: If a file is not as recorded or there is no probe.
        BackendError: If no precision can run here.
    """
    bundle.verify(use_stamps=False)
    probe = probe_from_bundle(bundle)
    precisions = _precisions(bundle, backend)
    models, skipped = _models(bundle, precisions, backend=backend, threads=threads)
    if not models:
        reasons = "; ".join(f"{name}: {error}" for name, error in skipped.items())
        raise BackendError(f"no precision of {bundle.path} runs here. {reasons}")
    if paths and "fp32" not in models:
        raise BundleError(f"{bundle.path} has no fp32 that runs here to compare with. Leave --images out")
    pixels = _probe_pixels(probe, bundle)
    answers = {name: _answers(model, pixels, probe) for name, model in models.items()}
    on_images, failures = _images_answers(models, paths, advance) if paths else ({}, ())
    results = []
    for name in precisions:
        if name in skipped:
            results.append(CheckResult(name, "not run", reason=str(skipped[name])))
            continue
        report, inputs = _report(bundle, name, probe, answers, on_images)
        trimming = float(np.abs(answers[name].texts - answers[name].texts_fixed).max())
        reason = _reason(report, trimming)
        status = "passed" if reason is None else "failed"
        results.append(CheckResult(name, status, reason, models[name].backend, inputs, report, trimming))
    return CheckSummary(tuple(results), tuple(failures))


def _precisions(bundle: Bundle, backend: str) -> list[str]:
    """What the bundle holds, and bf16 where the backend that was named runs it here from the fp32 files."""
    held = list(bundle.precisions)
    if backend not in BACKENDS or "fp32" not in held or "bf16" in held:
        return held
    return held if why_not(BACKENDS[backend], precision="bf16") else [*held, "bf16"]


def _models(
    bundle: Bundle, precisions: Sequence[str], *, backend: str, threads: int | None
) -> tuple[dict[str, Embedder], dict[str, Exception]]:
    models: dict[str, Embedder] = {}
    skipped: dict[str, Exception] = {}
    for name in precisions:
        try:
            models[name] = load(bundle, backend=backend, precision=name, threads=threads)
        except (BackendError, DependencyError) as error:
            skipped[name] = error
    return models, skipped


def _probe_pixels(probe: Probe, bundle: Bundle) -> Rows:
    from lrsclip_rt.pixels import pixels_from_array

    return np.stack([pixels_from_array(image, bundle.spec.pixel_spec) for image in probe.images])


def _answers(model: Embedder, pixels: Rows, probe: Probe) -> _Answers:
    batch = model.tokenizer.encode_batch(probe.texts)
    return _Answers(
        images=model.embed_pixels(pixels),
        patches=model.dense_pixels(pixels[:_DENSE_IMAGES]),
        texts=model.embed_tokens(batch),
        texts_fixed=model.embed_tokens(batch, fixed=True),
    )


def _images_answers(
    models: Mapping[str, Embedder], paths: Sequence[Path], advance: Callable[[int], None]
) -> tuple[dict[str, Rows], list[tuple[Path, ImageError]]]:
    """Decode each image once and run it at every precision; only embeddings are kept."""
    spec = next(iter(models.values())).spec
    rows: dict[str, list[Rows]] = {name: [] for name in models}
    failures: list[tuple[Path, ImageError]] = []
    for batch in stream_pixels(((path, path) for path in paths), spec.pixel_spec, batch_size=_BATCH):
        for name, model in models.items():
            rows[name].append(model.embed_pixels(batch.pixels))
        failures += batch.failures
        advance(len(batch.keys) + len(batch.failures))
    joined = {name: np.concatenate(parts) for name, parts in rows.items()}
    if not len(joined["fp32"]):
        raise failures[0][1]
    return joined, failures


def _report(
    bundle: Bundle,
    name: str,
    probe: Probe,
    answers: Mapping[str, _Answers],
    on_images: Mapping[str, Rows],
) -> tuple[ParityReport, str]:
    ours = answers[name]
    inputs = "probe"
    candidate = Embeddings(ours.images, ours.both_texts(), ours.patches)
    if name == "fp32" or "fp32" not in answers:
        stored_texts = np.concatenate([probe.text_embeddings] * 2)
        reference = Embeddings(probe.image_embeddings, stored_texts)
        candidate = replace(candidate, patches=None)
    else:
        fp32 = answers["fp32"]
        reference = Embeddings(fp32.images, fp32.both_texts(), fp32.patches)
        if on_images:
            inputs = "images"
            reference = replace(reference, images=on_images["fp32"])
            candidate = replace(candidate, images=on_images[name])
    report = compare(reference, candidate, precision=name, gate=bundle.gate(name))
    return replace(report, n_texts=len(probe.texts)), inputs


def _reason(report: ParityReport, trimming: float) -> str | None:
    """What keeps a precision from passing, with the numbers, or None."""
    gate = report.gate
    wrong = [
        f"{what} cosine {part.mean:.6f} mean, {part.minimum:.6f} least"
        for what, part in (("image", report.image), ("text", report.text))
        if part is not None and not part.reaches(gate)
    ]
    if report.top1_agreement is not None and report.top1_agreement < gate.top1:
        wrong.append(f"top-1 agreement {report.top1_agreement:.1f} %")
    if wrong:
        return (
            f"{'; '.join(wrong)}; expected {gate.mean:g} mean, {gate.minimum:g} least, {gate.top1:g} % top-1"
        )
    if report.precision == "fp32" and not trimming <= TRIMMING_TOLERANCE:
        return f"the short and the fixed text graph differ by {trimming:.2g}, expected {TRIMMING_TOLERANCE:g}"
    return None


def row_from_result(result: CheckResult) -> dict[str, Any]:
    """A result as plain JSON values."""
    return {
        "precision": result.precision,
        "status": result.status,
        "reason": result.reason,
        "backend": result.backend,
        "inputs": result.inputs,
        "short_vs_fixed_text": result.trimming,
        "report": None if result.report is None else result.report.to_dict(),
    }

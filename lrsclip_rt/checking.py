"""Recompute on this machine what a bundle claims: files, fp32 answers, and each precision against fp32."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.backend_choice import Choice
from lrsclip_rt.backends import BACKENDS, why_not
from lrsclip_rt.bundle import Bundle
from lrsclip_rt.embedder import Embedder, load
from lrsclip_rt.errors import BackendError, BundleError, DependencyError, ImageError, LrsclipError
from lrsclip_rt.image_stream import stream_pixels
from lrsclip_rt.parity import SETTINGS, TRIMMING_TOLERANCE, Embeddings, ParityReport, compare
from lrsclip_rt.probe import Probe, probe_from_bundle
from lrsclip_rt.task_parity import TaskReport

__all__ = [
    "CheckResult",
    "CheckSummary",
    "Contender",
    "check_bundle",
    "check_contenders",
    "contenders_at",
    "row_from_result",
]

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
        tasks: What it costs on data sets; None without any, and for the yardstick itself.
    """

    precision: str
    status: str
    reason: str | None = None
    backend: str | None = None
    inputs: str | None = None
    report: ParityReport | None = None
    trimming: float | None = None
    tasks: TaskReport | None = None


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
class Contender:
    """A precision that is to be checked: the model that runs it, or why none does.

    Attributes:
        precision: Its name.
        backend: What runs it, or was asked to; None where no backend does.
        model: The model.
        obstacle: Why there is none.
    """

    precision: str
    backend: str | None
    model: Embedder | None = None
    obstacle: LrsclipError | None = None

    @property
    def choice(self) -> Choice:
        """Its name among those that run."""
        assert self.backend is not None
        return Choice(self.backend, self.precision)


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

    A backend that was named also runs what is a setting of it, not a file of the bundle: bf16, int8-bf16.

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
    contenders = contenders_at(bundle, backend, threads=threads)
    models = {one.choice: one.model for one in contenders if one.model is not None}
    if not models:
        reasons = "; ".join(f"{one.precision}: {one.obstacle}" for one in contenders)
        raise BackendError(f"no precision of {bundle.path} runs here. {reasons}")
    fp32 = next((choice for choice in models if choice.precision == "fp32"), None)
    if paths and fp32 is None:
        raise BundleError(f"{bundle.path} has no fp32 that runs here to compare with. Leave --images out")
    on_images, failures = _images_answers(models, paths, advance) if paths else ({}, ())
    results = check_contenders(bundle, contenders, fp32=fp32, on_images=on_images)
    return CheckSummary(tuple(results), tuple(failures))


def contenders_at(bundle: Bundle, backend: str, *, threads: int | None) -> list[Contender]:
    """Every precision of the bundle at a backend, or at the one that ``auto`` takes for it.

    Nothing is loaded yet. Settings such as bf16 are among them where the backend that was named runs them.
    """
    contenders = []
    for name in _precisions(bundle, backend):
        try:
            model = load(bundle, backend=backend, precision=name, threads=threads)
            contenders.append(Contender(name, model.backend, model))
        except (BackendError, DependencyError) as error:
            asked = None if backend == "auto" else backend
            contenders.append(Contender(name, asked, obstacle=error))
    return contenders


def check_contenders(
    bundle: Bundle,
    contenders: Sequence[Contender],
    *,
    fp32: Choice | None,
    on_images: Mapping[Choice, Rows] = {},
) -> list[CheckResult]:
    """Hold every contender against fp32 on the bundle's probe, and fp32 against the stored answers.

    Args:
        bundle: Whose probe is asked.
        contenders: Those to check.
        fp32: The one that the others are held against; None for the stored answers.
        on_images: Rows of other images, to compare instead of the probe's.

    Returns:
        One result for each, in their order. One whose run fails has failed.

    Raises:
        BundleError: If there is no probe, or it is damaged.
        LrsclipError: If ``fp32`` cannot run.
    """
    probe = probe_from_bundle(bundle)
    pixels = _probe_pixels(probe, bundle)
    answers: dict[Choice, _Answers] = {}
    errors: dict[Choice, LrsclipError] = {}
    for one in contenders:
        if one.model is None:
            continue
        try:
            answers[one.choice] = _answers(one.model, pixels, probe)
        except LrsclipError as error:
            if one.choice == fp32:
                raise
            errors[one.choice] = error
    results = []
    for one in contenders:
        if one.model is None:
            results.append(CheckResult(one.precision, "not run", str(one.obstacle), one.backend))
        elif one.choice in errors:
            results.append(CheckResult(one.precision, "failed", str(errors[one.choice]), one.backend))
        else:
            results.append(_result(bundle, one.choice, probe, answers, fp32, on_images))
    return results


def _precisions(bundle: Bundle, backend: str) -> list[str]:
    """What the bundle holds, and the settings that the backend that was named runs here from those files."""
    held = list(bundle.precisions)
    if backend not in BACKENDS:
        return held
    settings = [name for name, made in SETTINGS.items() if made in held and name not in held]
    return held + [name for name in settings if not why_not(BACKENDS[backend], precision=name)]


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
    models: Mapping[Choice, Embedder], paths: Sequence[Path], advance: Callable[[int], None]
) -> tuple[dict[Choice, Rows], list[tuple[Path, ImageError]]]:
    """Decode each image once and run it at every precision; only embeddings are kept."""
    spec = next(iter(models.values())).spec
    rows: dict[Choice, list[Rows]] = {choice: [] for choice in models}
    failures: list[tuple[Path, ImageError]] = []
    for batch in stream_pixels(((path, path) for path in paths), spec.pixel_spec, batch_size=_BATCH):
        for choice, model in models.items():
            rows[choice].append(model.embed_pixels(batch.pixels))
        failures += batch.failures
        advance(len(batch.keys) + len(batch.failures))
    joined = {choice: np.concatenate(parts) for choice, parts in rows.items()}
    if not len(next(iter(joined.values()))):
        raise failures[0][1]
    return joined, failures


def _result(
    bundle: Bundle,
    choice: Choice,
    probe: Probe,
    answers: Mapping[Choice, _Answers],
    fp32: Choice | None,
    on_images: Mapping[Choice, Rows],
) -> CheckResult:
    ours = answers[choice]
    report, inputs = _report(bundle, choice, probe, answers, fp32, on_images)
    trimming = float(np.abs(ours.texts - ours.texts_fixed).max())
    reason = _reason(report, trimming)
    status = "passed" if reason is None else "failed"
    return CheckResult(choice.precision, status, reason, choice.backend, inputs, report, trimming)


def _report(
    bundle: Bundle,
    choice: Choice,
    probe: Probe,
    answers: Mapping[Choice, _Answers],
    fp32: Choice | None,
    on_images: Mapping[Choice, Rows],
) -> tuple[ParityReport, str]:
    ours = answers[choice]
    inputs = "probe"
    candidate = Embeddings(ours.images, ours.both_texts(), ours.patches)
    if choice.precision == "fp32" or fp32 is None:
        stored_texts = np.concatenate([probe.text_embeddings] * 2)
        reference = Embeddings(probe.image_embeddings, stored_texts)
        candidate = replace(candidate, patches=None)
    else:
        theirs = answers[fp32]
        reference = Embeddings(theirs.images, theirs.both_texts(), theirs.patches)
        if on_images:
            inputs = "images"
            reference = replace(reference, images=on_images[fp32])
            candidate = replace(candidate, images=on_images[choice])
    report = compare(reference, candidate, precision=choice.precision, gate=bundle.gate(choice.precision))
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
        "tasks": None if result.tasks is None else result.tasks.to_dict(),
    }

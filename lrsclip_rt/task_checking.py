"""Every precision on every backend that runs here, against fp32 on ONNX Runtime, on real data.

What was found can be written into the bundle: the next reader then knows what a precision costs, and
``--precision auto`` keeps away from one that failed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version

from lrsclip_rt.backend_choice import Choice
from lrsclip_rt.backends import BACKENDS
from lrsclip_rt.bundle import Bundle
from lrsclip_rt.bundle_records import PrecisionRecord
from lrsclip_rt.bundle_writer import BundleWriter
from lrsclip_rt.checking import CheckResult, CheckSummary, Contender, check_contenders, contenders_at
from lrsclip_rt.cpu import cpu_info
from lrsclip_rt.embedder import load
from lrsclip_rt.errors import BackendError, DependencyError, LrsclipError
from lrsclip_rt.task_answers import TaskAnswers, TaskInputs, embed_everywhere
from lrsclip_rt.task_comparison import SetScores, compare_sets, score_sets
from lrsclip_rt.task_parity import SetReport, TaskReport

__all__ = ["YARDSTICK", "check_on_data", "record_tasks"]

YARDSTICK = Choice("onnxruntime", "fp32")
"""What every other precision and backend is held against."""

_PACKAGES: Mapping[str, tuple[str, ...]] = {
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
    "openvino": ("openvino",),
    "tensorrt": ("tensorrt",),
}


def check_on_data(
    bundle: Bundle,
    inputs: TaskInputs,
    *,
    backends: Sequence[str] = ("auto",),
    threads: int | None = None,
    advance: Callable[[int], None] = lambda n: None,
) -> CheckSummary:
    """Hash every file again, then hold every precision on every backend against its gates.

    Each is held against the probe as by ``check_bundle``, and on the data against fp32 on ONNX Runtime, which
    is itself held against the bundle's stored answers.

    Args:
        bundle: Opened, hashes not necessarily verified.
        inputs: The data, from ``inputs_from_sets``.
        backends: Names, or ``auto`` for every backend that runs here; one that is named also runs what is
            a setting of it, not a file of the bundle: bf16.
        threads: CPU threads of each model.
        advance: Called with the number done of ``inputs.steps``.

    Raises:
        BundleError: If a file is not as recorded or there is no probe.
        BackendError: If fp32 cannot run on ONNX Runtime here.
        InputError: If no image of a set can be read.
    """
    bundle.verify(use_stamps=False)
    contenders = _contenders(bundle, backends, threads)
    results = check_contenders(bundle, contenders, fp32=YARDSTICK)
    models = {
        one.choice: one.model
        for one, result in zip(contenders, results, strict=True)
        if one.model is not None and result.report is not None
    }
    answers = embed_everywhere(models, inputs, yardstick=YARDSTICK, advance=advance)
    reference = score_sets(answers, answers.models[YARDSTICK])
    judged = [_with_tasks(bundle, result, answers, reference) for result in results]
    return CheckSummary(tuple(judged), answers.failures)


def record_tasks(bundle: Bundle, results: Iterable[CheckResult]) -> Bundle:
    """Write what was found on data into bundle.json, in place of what was recorded of it before.

    A setting that bundle.json does not list yet (``parity.SETTINGS``) is listed from then on.

    Returns:
        The bundle as it is now.

    Raises:
        BundleError: If the folder cannot be written.
    """
    found = [(result.report, result.tasks) for result in results if result.tasks is not None]
    if not found:
        return bundle
    with BundleWriter.extending(bundle) as writer:
        for parity, report in found:
            record = writer.precisions.get(report.precision)
            if record is None:
                record = PrecisionRecord(bundle.record(report.precision).files, parity)
            writer.add_precision(
                report.precision,
                files=record.files,
                parity=record.parity,
                notes=record.notes,
                tasks={**record.tasks, report.backend: report},
            )
        return writer.finish()


def _contenders(bundle: Bundle, backends: Sequence[str], threads: int | None) -> list[Contender]:
    """The yardstick first, then each precision with its backends.

    For ``auto`` only those that run, and nothing that is a mere setting of a backend.
    """
    everywhere = "auto" in backends
    names = list(BACKENDS) if everywhere else list(dict.fromkeys(backends))
    found = [one for name in names for one in contenders_at(bundle, name, threads=threads)]
    if everywhere:
        found = [one for one in found if one.model is not None and one.precision in bundle.precisions]
        running = {one.precision for one in found}
        found += [_nowhere(bundle, name) for name in bundle.precisions if name not in running]
    yardstick = [one for one in found if one.model is not None and one.choice == YARDSTICK]
    if not yardstick:
        # Raises where it cannot run: without it nothing can be said.
        model = load(bundle, backend=YARDSTICK.backend, precision=YARDSTICK.precision, threads=threads)
        yardstick = [Contender(YARDSTICK.precision, YARDSTICK.backend, model)]
    order = ["fp32", *bundle.precisions]
    rest = [one for one in found if one is not yardstick[0]]
    return yardstick + sorted(rest, key=lambda one: (*order, one.precision).index(one.precision))


def _nowhere(bundle: Bundle, precision: str) -> Contender:
    """A precision that no backend runs here, with all reasons."""
    try:
        load(bundle, precision=precision)
    except (BackendError, DependencyError) as error:
        return Contender(precision, None, obstacle=error)
    raise AssertionError(f"{precision} runs after all")


def _with_tasks(
    bundle: Bundle, result: CheckResult, answers: TaskAnswers, reference: Sequence[SetScores]
) -> CheckResult:
    """The result with what the data says added."""
    if result.backend is None or result.report is None:
        return result
    choice = Choice(result.backend, result.precision)
    if choice == YARDSTICK:
        return result
    try:
        if choice in answers.errors:
            raise answers.errors[choice]
        sets = compare_sets(reference, score_sets(answers, answers.models[choice]))
    except LrsclipError as error:
        return replace(result, status="failed", reason=_joined(result.reason, str(error)))
    report = _task_report(bundle, choice, sets)
    if report.passed:
        return replace(result, tasks=report)
    return replace(result, status="failed", reason=_joined(result.reason, *report.reasons), tasks=report)


def _task_report(bundle: Bundle, choice: Choice, sets: tuple[SetReport, ...]) -> TaskReport:
    cpu = cpu_info()
    return TaskReport(
        precision=choice.precision,
        backend=choice.backend,
        at=datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        processor=" ".join([cpu.name or cpu.architecture, *cpu.instructions]),
        versions=_versions(choice.backend),
        sets=sets,
        gate=bundle.gate(choice.precision),
        tasks=bundle.task_gate(choice.precision),
    )


def _versions(backend: str) -> dict[str, str]:
    found = {}
    for package in ("lrsclip-rt", *_PACKAGES[backend]):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _joined(*reasons: str | None) -> str:
    return "; ".join(reason for reason in reasons if reason is not None)

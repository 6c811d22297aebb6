"""Make a bundle from a checkpoint, or add precisions to a bundle without torch."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lrsclip_export.calibrated import Yardstick, write_calibrated
from lrsclip_export.calibration import Calibration, calibration_from_folder
from lrsclip_export.lint import refuse_findings
from lrsclip_export.precisions import (
    CALIBRATED,
    FOR_TENSORRT,
    NEED_CALIBRATION,
    check_precisions,
    graph_files,
    require_onnx,
    write_half,
)
from lrsclip_export.probe import Probe, default_probe, probe_from_arrays, read_probe, write_probe
from lrsclip_export.proof import Answers, Inputs, answers_from_graphs, describe, inputs_from_probe, parity_of
from lrsclip_rt.bundle import MANIFEST_FILE, PROBE_FILE, TOWERS, Bundle
from lrsclip_rt.bundle_records import VOCABULARY_FILE
from lrsclip_rt.bundle_writer import BundleWriter
from lrsclip_rt.errors import BundleError, InputError, OutputExistsError, ParityError
from lrsclip_rt.parity import GATES, Embeddings, Gate

if TYPE_CHECKING:
    from lrsclip_export.checkpoint_source import CheckpointModel
    from lrsclip_rt.bundle import ModelSpec

__all__ = ["Provenance", "bundle_from_model", "check_calibration", "export_bundle"]

Progress = Callable[[str, float], None]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Provenance:
    """What a file cannot say about itself.

    Attributes:
        how_made: The command or recipe behind the weights; by default the export itself.
        licence: Of the weights.
        training_data: With their terms.
    """

    how_made: str = ""
    licence: str = "not stated"
    training_data: str = "not stated"


def export_bundle(
    source: Path | str,
    out: Path | str,
    *,
    precisions: Sequence[str] = ("fp32",),
    name: str | None = None,
    templates: Sequence[str] | None = None,
    provenance: Provenance | None = None,
    probe_images: Sequence[NDArray[np.uint8]] | None = None,
    probe_texts: Sequence[str] | None = None,
    store_fp16: bool = False,
    calibration: Path | str | None = None,
    allow_failed: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Bundle:
    """Write a bundle whose graphs are proven to answer as their source does.

    From a checkpoint the fp32 graphs are always written, since other precisions are made from them.
    From a bundle, precisions are added to a copy, or in place where ``out`` is the bundle itself.
    Whatever fails, ``out`` stays as it was.

    Args:
        source: Checkpoint file or bundle folder.
        out: Folder of the new bundle.
        precisions: Any of ``fp32``, ``fp16``, ``int8``, ``int8-cpu``, ``fp8``.
        name: Short name of the model; default from the file's name. Checkpoints only, like all below.
        templates: Prompt templates with ``{}``.
        provenance: Origin in words.
        probe_images: (h, w, 3) uint8 arrays of one size for the proof; default rendered tiles.
        probe_texts: Texts for the proof; default a list of our own.
        store_fp16: Store float16 numbers in the fp32 files; refused where that would change a weight.
        calibration: Folder of real images, with captions in ``pairs.jsonl`` or without; ``int8`` and
            ``fp8`` need it, ``int8-cpu`` takes it for its own where it is given. Also for bundles.
        allow_failed: Write a precision that fell below its gate too, with the report that says so. Also
            for bundles.
        overwrite: Replace an existing bundle; adding to a bundle in place needs no permission.
        progress: Called with a stage and the fraction of the whole that is done.

    Raises:
        InputError: If a precision, an option or the calibration cannot be used.
        CheckpointError: If the checkpoint cannot be read.
        BundleError: If the source bundle is broken or has no fp32 graphs.
        OutputExistsError: If ``out`` exists and may not be replaced.
        ParityError: If the fp32 graphs do not answer as the checkpoint does, or another precision falls
            below its gate and ``allow_failed`` is not set.
        DependencyError: If a library is missing.
    """
    wanted = check_precisions(precisions)
    check_calibration(wanted, calibration)
    source, out = Path(source), Path(out)
    report = progress or (lambda stage, fraction: None)
    if source.is_dir():
        extra = (name, templates, provenance, probe_images, probe_texts, store_fp16 or None)
        if any(option is not None for option in extra):
            raise InputError(
                f"{source} is a bundle: its name, templates, origin, probe and storage stay as they are. "
                "Leave these options out, or export the checkpoint again"
            )
        return _extend(
            source,
            out,
            wanted,
            calibration=calibration,
            allow_failed=allow_failed,
            overwrite=overwrite,
            report=report,
        )
    if not source.exists():
        raise InputError(f"{source} does not exist; expected a checkpoint file or a bundle folder")
    # Refused before the minutes that a large checkpoint takes, and again when the bundle is written.
    if out.exists() and not overwrite and not (out.is_dir() and not any(out.iterdir())):
        raise OutputExistsError(f"{out} exists. Choose another name, or pass --overwrite")
    probe = (
        default_probe()
        if probe_images is None and probe_texts is None
        else probe_from_arrays(probe_images, probe_texts)
    )
    from lrsclip_export.checkpoint_source import checkpoint_model

    report("reading the checkpoint", 0.0)
    model = checkpoint_model(
        source, name=name, templates=templates, provenance=provenance or Provenance(), store_half=store_fp16
    )
    return bundle_from_model(
        model,
        out,
        precisions=wanted,
        probe=probe,
        calibration=calibration,
        allow_failed=allow_failed,
        overwrite=overwrite,
        report=report,
    )


def bundle_from_model(
    model: CheckpointModel,
    out: Path,
    *,
    precisions: Sequence[str],
    probe: Probe,
    calibration: Path | str | None = None,
    allow_failed: bool = False,
    overwrite: bool = False,
    report: Progress = lambda stage, fraction: None,
) -> Bundle:
    """Write and prove the fp32 graphs of ``model``, then the other precisions.

    Raises:
        InputError: If the calibration cannot be used.
        OutputExistsError: If ``out`` exists and may not be replaced.
        ParityError: As :func:`export_bundle`.
    """
    added = [precision for precision in precisions if precision != "fp32"]
    seen = _calibration(calibration, model.spec, model.vocabulary, report)
    share = 1 / (1 + 0.5 * len(added))
    with BundleWriter(out, model.spec, model.source, overwrite=overwrite) as writer:
        shutil.copyfile(model.vocabulary, writer.folder / VOCABULARY_FILE)
        inputs = inputs_from_probe(probe, model.spec, model.vocabulary)
        paths = model.write_fp32(writer.folder, lambda part: report("writing fp32", share * 0.3 * part))
        answers, parity = model.prove(
            paths, inputs, lambda stage, part: report(stage, share * (0.3 + 0.7 * part))
        )
        writer.add_precision("fp32", files=graph_files("fp32"), parity=parity, notes=model.notes)
        write_probe(writer.folder / PROBE_FILE, probe, answers.images, answers.texts)
        yardstick = _Yardstick(paths, inputs, answers, GATES, allow_failed)
        _add_precisions(writer, added, yardstick, seen, report, start=share)
        writer.set_default("fp32")
        report("finishing", 1.0)
        return writer.finish()


@dataclass(frozen=True, slots=True, eq=False)
class _Yardstick:
    """The fp32 graphs, what they answer on the probe, and how near other precisions must come."""

    paths: Mapping[str, Path]
    inputs: Inputs
    answers: Answers
    gates: Mapping[str, Gate]
    allow_failed: bool


def _extend(
    source: Path,
    out: Path,
    wanted: Sequence[str],
    *,
    calibration: Path | str | None,
    allow_failed: bool,
    overwrite: bool,
    report: Progress,
) -> Bundle:
    """Add precisions to a bundle, from its fp32 graphs and its probe alone."""
    if not (source / MANIFEST_FILE).is_file():
        raise InputError(
            f"{source} is a folder without {MANIFEST_FILE}; expected a checkpoint file or a bundle"
        )
    report("verifying the bundle", 0.0)
    bundle = Bundle.open(source)
    if "fp32" not in bundle.precisions:
        raise BundleError(
            f"{source} holds {', '.join(bundle.precisions)} but no fp32 graphs, from which precisions are "
            "made. Take the complete bundle"
        )
    added = [precision for precision in wanted if precision != "fp32"]
    seen = _calibration(calibration, bundle.spec, bundle.vocabulary_path, report)
    with BundleWriter.extending(bundle, out, overwrite=overwrite) as writer:
        if added:
            yardstick = _yardstick_of(bundle, allow_failed, report)
            # Their files are links to those of the source, which must not be written through.
            for precision in added:
                writer.remove_precision(precision)
            _add_precisions(writer, added, yardstick, seen, report, start=0.3)
        if not (out.exists() and out.resolve() == bundle.path):
            _replace_links(writer.folder)
        writer.set_default(bundle.default_precision)
        report("finishing", 1.0)
        return writer.finish()


def _replace_links(folder: Path) -> None:
    """Make every file one of its own: ``onnx`` refuses weights that have a second name elsewhere."""
    for path in [path for path in folder.rglob("*") if path.is_file() and path.stat().st_nlink > 1]:
        copy = path.with_name(f"{path.name}.copy")
        shutil.copy2(path, copy)
        copy.replace(path)


def _yardstick_of(bundle: Bundle, allow_failed: bool, report: Progress) -> _Yardstick:
    require_onnx()
    paths = {tower: bundle.graph_path(tower, "fp32") for tower in TOWERS}
    probe = read_probe(bundle.probe_path) if PROBE_FILE in bundle.files else default_probe()
    inputs = inputs_from_probe(probe, bundle.spec, bundle.vocabulary_path)
    answers = answers_from_graphs(paths, inputs, progress=lambda part: report("running fp32", 0.3 * part))
    return _Yardstick(paths, inputs, answers, bundle.manifest.gates, allow_failed)


def check_calibration(wanted: Sequence[str], calibration: Path | str | None) -> None:
    """Refuse early what only a calibration can make, and a calibration that nothing needs.

    Raises:
        InputError: If one lacks the other.
    """
    needing = [precision for precision in wanted if precision in NEED_CALIBRATION]
    if needing and calibration is None:
        raise InputError(
            f"{' and '.join(needing)} must see real data: pass a folder of images, or a data set with "
            "pairs.jsonl, as lrsclip export ... --calibration DATA. int8-cpu and fp16 need none"
        )
    if calibration is not None and not set(wanted) & set(CALIBRATED):
        raise InputError(
            f"--calibration is for {' and '.join(CALIBRATED)}, but only {', '.join(wanted)} was asked for. "
            "Leave it out, or add one of them to --precision"
        )


def _calibration(
    folder: Path | str | None, spec: ModelSpec, vocabulary: Path, report: Progress
) -> Calibration | None:
    if folder is None:
        return None
    report("reading the calibration", 0.0)
    calibration = calibration_from_folder(folder, spec, vocabulary)
    for _, error in calibration.failures:
        _log.warning("passed over in the calibration: %s", error)
    return calibration


def _add_precisions(
    writer: BundleWriter,
    added: Sequence[str],
    fp32: _Yardstick,
    calibration: Calibration | None,
    report: Progress,
    *,
    start: float,
) -> None:
    """Convert, run and record each precision; ``start`` is the fraction of the whole done before."""
    for index, precision in enumerate(added):
        step = _Step(report, precision, start + (1 - start) * index / len(added), (1 - start) / len(added))
        notes: Mapping[str, Any] = {}
        if precision in CALIBRATED:
            known = Yardstick(
                fp32.inputs, Embeddings(fp32.answers.images, fp32.answers.texts), fp32.gates[precision]
            )
            paths, notes = write_calibrated(
                writer.folder, precision, fp32.paths, calibration, known, progress=step.calibrating
            )
        else:
            paths = write_half(writer.folder, fp32.paths, progress=step.writing)
        answers = answers_from_graphs(paths, fp32.inputs, progress=step.running)
        if precision in FOR_TENSORRT:
            for path in paths.values():
                refuse_findings(path)
        parity = parity_of(fp32.answers, answers, precision=precision, gate=fp32.gates[precision])
        if not parity.passed and not fp32.allow_failed:
            raise ParityError(
                f"{precision} fell below its gate on the probe: {describe(parity)}. Nothing was written; "
                f"leave {precision} out, or pass --allow-failed to keep it with this report"
            )
        writer.add_precision(precision, files=graph_files(precision), parity=parity, notes=notes)


@dataclass(frozen=True, slots=True)
class _Step:
    """The part of the progress that one precision takes."""

    report: Progress
    precision: str
    start: float
    width: float

    def calibrating(self, part: float) -> None:
        self.report(f"calibrating {self.precision}", self.start + self.width * 0.7 * part)

    def writing(self, part: float) -> None:
        self.report(f"writing {self.precision}", self.start + self.width * 0.4 * part)

    def running(self, part: float) -> None:
        before = 0.7 if self.precision in CALIBRATED else 0.4
        self.report(f"running {self.precision}", self.start + self.width * (before + (1 - before) * part))

"""bundle.json as frozen records: parsed strictly, written canonically.

Nothing here touches a file. Every deviation (a missing or unknown key, another type, an unsafe
path, a newer format) is a ``BundleError`` that names the key.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from lrsclip_rt.errors import BundleError, InputError
from lrsclip_rt.json_fields import Fields
from lrsclip_rt.parity import GATES, Gate, ParityReport
from lrsclip_rt.task_changes import TASK_GATE, TaskGate
from lrsclip_rt.task_parity import TaskReport

if TYPE_CHECKING:
    from lrsclip_rt.pixels import PixelSpec

__all__ = [
    "FORMAT_VERSION",
    "PLAIN_DENSE",
    "RESIZE_RULE",
    "VOCABULARY_FILE",
    "FileRecord",
    "Manifest",
    "ModelSpec",
    "PrecisionRecord",
    "SourceRecord",
    "check_relative_path",
]

FORMAT_VERSION = 1
RESIZE_RULE = "shorter-side-pillow-bicubic-center-crop"
VOCABULARY_FILE = "vocabulary.txt.gz"
PLAIN_DENSE = "last block"
"""Recipe of the dense graphs of bundles that name none: patch tokens as the last block leaves them."""

_UNSAFE_IN_PATH = re.compile(r'[\x00-\x1f\x7f\\:*?"<>|]')


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """What the model is and what it expects.

    Attributes:
        name: A short name for people.
        architecture: For example ``ViT-B/16``.
        embed_dim: D.
        image_size: S, the edge of the square input [px].
        mean: Per channel, of pixels in ``[0, 1]``.
        std: Per channel, of pixels in ``[0, 1]``.
        resize: The only rule of this version, ``RESIZE_RULE``.
        context_length: Positions of the text tower.
        kps_keep: Positions that the stretching kept.
        kps_ratio: Factor by which it stretched the others; 1 where nothing was stretched.
        logit_scale: The factor of the cosines before the softmax (the exponential, not its logarithm).
        tokenizer_sha256: Hash of the vocabulary file.
        templates: Prompt templates with the placeholder ``{}``.
        patch_grid: ``(rows, cols)`` of the dense output.
        dense_recipe: How the dense graphs make it, in words.
    """

    name: str
    architecture: str
    embed_dim: int
    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    logit_scale: float
    tokenizer_sha256: str
    patch_grid: tuple[int, int]
    templates: tuple[str, ...]
    context_length: int = 248
    kps_keep: int = 20
    kps_ratio: int = 4
    resize: str = RESIZE_RULE
    dense_recipe: str = PLAIN_DENSE

    @property
    def pixel_spec(self) -> PixelSpec:
        """The preprocessing of one image."""
        from lrsclip_rt.pixels import PixelSpec

        return PixelSpec(size=self.image_size, mean=self.mean, std=self.std)

    @property
    def patch_count(self) -> int:
        """P, the rows of the dense output."""
        return self.patch_grid[0] * self.patch_grid[1]

    def preprocessing_json(self) -> str:
        """Canonical JSON of everything that decides what pixels the model sees."""
        parts = {
            "image_size": self.image_size,
            "mean": [float(x) for x in self.mean],
            "resize": self.resize,
            "std": [float(x) for x in self.std],
        }
        return json.dumps(parts, sort_keys=True, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class SourceRecord:
    """Where the weights come from, in words.

    Attributes:
        checkpoint_sha256: 64 hex digits.
        layout: The checkpoint's layout as it was recognised.
        how_made: The command or recipe.
        licence: Of the weights.
        training_data: With their terms.
    """

    checkpoint_sha256: str
    layout: str
    how_made: str
    licence: str
    training_data: str


@dataclass(frozen=True, slots=True)
class FileRecord:
    """A file of the bundle: its hash and its size [bytes]."""

    sha256: str
    bytes: int


@dataclass(frozen=True, slots=True)
class PrecisionRecord:
    """One precision of a bundle.

    Attributes:
        files: Graphs and their weight files.
        parity: How near it is to fp32, or None where it is the yardstick.
        notes: Free JSON values.
        tasks: What it costs on real data, by backend, where that was recorded.
    """

    files: tuple[str, ...]
    parity: ParityReport | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)
    tasks: Mapping[str, TaskReport] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Manifest:
    """All of bundle.json."""

    spec: ModelSpec
    source: SourceRecord
    files: Mapping[str, FileRecord]
    precisions: Mapping[str, PrecisionRecord]
    default_precision: str
    gates: Mapping[str, Gate]
    presence_threshold: float | None = None
    task_gates: Mapping[str, TaskGate] = field(default_factory=lambda: dict.fromkeys(GATES, TASK_GATE))

    @property
    def identity(self) -> str:
        """Hex SHA-256 of the checkpoint's hash and the preprocessing: equal numbers, equal identity."""
        parts = f"{self.source.checkpoint_sha256}\n{self.spec.preprocessing_json()}"
        return hashlib.sha256(parts.encode()).hexdigest()

    def to_json(self) -> str:
        """The text of bundle.json: keys in a fixed order, so that equal bundles are equal bytes.

        Raises:
            BundleError: If a note holds something that JSON cannot.
        """
        model = asdict(self.spec)
        kps = {"keep": model.pop("kps_keep"), "ratio": model.pop("kps_ratio")}
        if self.spec.dense_recipe == PLAIN_DENSE:
            del model["dense_recipe"]
        record: dict[str, Any] = {
            "format_version": FORMAT_VERSION,
            "model": {**model, "kps": kps},
            "source": asdict(self.source),
            "files": {name: asdict(self.files[name]) for name in sorted(self.files)},
            "precisions": {
                name: _precision_to_json(self.precisions[name]) for name in sorted(self.precisions)
            },
            "default_precision": self.default_precision,
        }
        tightened = {name: self._tightened(name) for name in sorted(self.gates)}
        if any(tightened.values()):
            record["thresholds"] = {name: values for name, values in tightened.items() if values}
        if self.presence_threshold is not None:
            record["presence_threshold"] = self.presence_threshold
        try:
            return json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        except (TypeError, ValueError) as error:
            raise BundleError(f"bundle.json cannot be written: {error}") from error

    def _tightened(self, name: str) -> dict[str, float]:
        """The thresholds of a precision, where the bundle has its own."""
        cosines = {} if self.gates[name] == GATES[name] else asdict(self.gates[name])
        return cosines if self.task_gates[name] == TASK_GATE else cosines | asdict(self.task_gates[name])

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Parse and validate bundle.json.

        Raises:
            BundleError: If anything is missing, unknown, of another type, unsafe or newer.
        """
        top = Fields.from_json(text, "bundle.json")
        version = top.integer("format_version", minimum=1)
        if version > FORMAT_VERSION:
            raise BundleError(
                f"bundle.json has format_version {version}, this version reads up to {FORMAT_VERSION}. "
                "Upgrade lrsclip-rt, or export the bundle again with this version"
            )
        thresholds = top.take("thresholds", optional=True)
        gates, task_gates = _gates(thresholds)
        manifest = cls(
            spec=_spec(top.group("model")),
            source=_source(top.group("source")),
            files=MappingProxyType(_files(top.group("files"))),
            precisions=MappingProxyType(_precisions(top.group("precisions"), gates, task_gates)),
            default_precision=top.text("default_precision"),
            gates=MappingProxyType(gates),
            presence_threshold=top.number("presence_threshold") if top.has("presence_threshold") else None,
            task_gates=MappingProxyType(task_gates),
        )
        top.end()
        manifest.check()
        return manifest

    def check(self) -> None:
        """The parts agree with each other.

        Raises:
            BundleError: If a precision names a file that is not recorded, or the default is not there.
        """
        for name, record in self.precisions.items():
            for file in record.files:
                if file not in self.files:
                    raise BundleError(
                        f"precision {name} names {file}, which files of bundle.json does not list"
                    )
        if self.default_precision not in self.precisions:
            raise BundleError(
                f"default_precision is {self.default_precision!r}, "
                f"but the bundle holds {', '.join(self.precisions) or 'no precision'}"
            )
        vocabulary = self.files.get(VOCABULARY_FILE)
        if vocabulary is None:
            raise BundleError(f"files of bundle.json must list {VOCABULARY_FILE}")
        if vocabulary.sha256 != self.spec.tokenizer_sha256:
            raise BundleError(
                f"{VOCABULARY_FILE} has the hash {vocabulary.sha256[:12]}..., "
                f"but model.tokenizer_sha256 is {self.spec.tokenizer_sha256[:12]}..."
            )


def check_relative_path(name: str) -> None:
    """A path that stays inside its folder on every system: ``a/b.onnx``.

    Raises:
        BundleError: If it is empty, absolute, has ``.`` or ``..`` parts, a drive or odd characters.
    """
    parts = name.split("/")
    if (
        len(name) > 255
        or _UNSAFE_IN_PATH.search(name)
        or any(part in {"", ".", ".."} or part.endswith((" ", ".")) for part in parts)
        or PurePosixPath(name).is_absolute()
    ):
        raise BundleError(f"{name[:80]!r} is no path inside the bundle; expected names like image.fp32.onnx")


def _spec(model: Fields) -> ModelSpec:
    kps = model.group("kps")
    grid = model.take("patch_grid")
    if (
        not isinstance(grid, list)
        or len(grid) != 2
        or not all(type(n) is int and 0 < n <= 4096 for n in grid)
    ):
        raise BundleError(f"bundle.json: model: patch_grid must be [rows, cols], got {grid!r:.60}")
    spec = ModelSpec(
        name=model.text("name"),
        architecture=model.text("architecture"),
        embed_dim=model.integer("embed_dim", minimum=1, maximum=65_536),
        image_size=model.integer("image_size", minimum=1, maximum=4_096),
        mean=model.triple("mean"),
        std=model.triple("std", positive=True),
        logit_scale=model.number("logit_scale", positive=True),
        tokenizer_sha256=model.sha256("tokenizer_sha256"),
        patch_grid=(grid[0], grid[1]),
        templates=model.texts("templates"),
        context_length=model.integer("context_length", minimum=2, maximum=65_536),
        kps_keep=kps.integer("keep", minimum=0, maximum=65_536),
        kps_ratio=kps.integer("ratio", minimum=1, maximum=64),
        resize=model.text("resize"),
        dense_recipe=model.text("dense_recipe") if model.has("dense_recipe") else PLAIN_DENSE,
    )
    kps.end()
    model.end()
    if spec.resize != RESIZE_RULE:
        raise BundleError(f"resize rule {spec.resize[:60]!r} is unknown, this version has {RESIZE_RULE!r}")
    for template in spec.templates:
        if template.count("{}") != 1:
            raise BundleError(f"template {template[:60]!r} must hold the placeholder {{}} once")
    return spec


def _source(source: Fields) -> SourceRecord:
    record = SourceRecord(
        checkpoint_sha256=source.sha256("checkpoint_sha256"),
        layout=source.text("layout"),
        how_made=source.text("how_made"),
        licence=source.text("licence"),
        training_data=source.text("training_data"),
    )
    source.end()
    return record


def _files(group: Fields) -> dict[str, FileRecord]:
    records: dict[str, FileRecord] = {}
    folded: set[str] = set()
    for name, value in group.items():
        check_relative_path(name)
        # Two names that differ in case alone are one file on macOS and Windows.
        if name.casefold() in folded or name.casefold() == "bundle.json":
            raise BundleError(f"files of bundle.json lists {name!r} twice, or itself")
        folded.add(name.casefold())
        entry = Fields(value, f"files of bundle.json: {name}")
        records[name] = FileRecord(entry.sha256("sha256"), entry.integer("bytes", minimum=0))
        entry.end()
    return records


def _precisions(
    group: Fields, gates: Mapping[str, Gate], task_gates: Mapping[str, TaskGate]
) -> dict[str, PrecisionRecord]:
    records: dict[str, PrecisionRecord] = {}
    for name, value in group.items():
        if name not in GATES:
            raise BundleError(f"precision {name[:40]!r} is unknown, expected one of {', '.join(GATES)}")
        entry = Fields(value, f"precision {name}")
        files, parity, notes = entry.texts("files"), entry.take("parity"), entry.take("notes")
        tasks = _tasks(entry, name, gates[name], task_gates[name])
        entry.end()
        if not isinstance(notes, dict):
            raise BundleError(f"precision {name}: notes must be an object, got {notes!r:.60}")
        try:
            report = None if parity is None else ParityReport.from_dict(parity)
        except InputError as error:
            raise BundleError(f"precision {name}: {error}") from error
        if report is not None and report.precision != name:
            raise BundleError(f"precision {name} carries the parity report of {report.precision[:40]!r}")
        records[name] = PrecisionRecord(files, report, MappingProxyType(notes), MappingProxyType(tasks))
    return records


def _tasks(entry: Fields, name: str, gate: Gate, tasks: TaskGate) -> dict[str, TaskReport]:
    """What was recorded of a precision on real data, by backend; bundles without it are valid."""
    reports: dict[str, TaskReport] = {}
    if not entry.has("tasks"):
        return reports
    for backend, record in entry.group("tasks").items():
        where = f"precision {name}: tasks: {backend[:40]}"
        report = TaskReport.from_dict(record, where=where, gate=gate, tasks=tasks)
        if (report.precision, report.backend) != (name, backend):
            raise BundleError(f"{where} is of {report.precision[:40]!r} on {report.backend[:40]!r}")
        reports[backend] = report
    return reports


def _gates(thresholds: Any) -> tuple[dict[str, Gate], dict[str, TaskGate]]:
    """The code's gates, tightened by the bundle's; a looser one is refused."""
    gates, task_gates = dict(GATES), dict.fromkeys(GATES, TASK_GATE)
    if thresholds is None:
        return gates, task_gates
    of_tasks = {field.name for field in fields(TaskGate)}
    for name, values in Fields(thresholds, "thresholds of bundle.json").items():
        if name not in gates or not isinstance(values, dict):
            raise BundleError(
                f"thresholds of bundle.json: {name[:40]!r} must be a known precision with an object"
            )
        try:
            cosines = {key: value for key, value in values.items() if key not in of_tasks}
            gates[name] = gates[name].tightened(cosines)
            task_gates[name] = TASK_GATE.tightened({k: v for k, v in values.items() if k in of_tasks})
        except InputError as error:
            raise BundleError(f"thresholds of bundle.json: {name}: {error}") from error
    return gates, task_gates


def _precision_to_json(record: PrecisionRecord) -> dict[str, Any]:
    parity = None if record.parity is None else record.parity.to_dict()
    entry = {"files": sorted(record.files), "parity": parity, "notes": dict(record.notes)}
    if record.tasks:
        entry["tasks"] = {backend: record.tasks[backend].to_dict() for backend in sorted(record.tasks)}
    return entry

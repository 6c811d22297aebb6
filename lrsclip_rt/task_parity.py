"""A precision on one backend against fp32, on real data: what was found, and whether it passes.

Reports are plain data. Whether one passes is computed from its numbers and the gates of today, so a verdict
that a file claims is never believed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lrsclip_rt.errors import BundleError
from lrsclip_rt.json_fields import Fields
from lrsclip_rt.parity import Gate
from lrsclip_rt.task_changes import CosineDistribution, PredictionChange, RetrievalChange, TaskGate

__all__ = ["SetReport", "TaskReport"]


@dataclass(frozen=True, slots=True)
class SetReport:
    """One data set by fp32 and by the precision.

    Attributes:
        name: Of its folder.
        split: The split that was used, None for every image.
        images: Images that were compared.
        failed: Images that could not be read.
        image: Cosines of the image embeddings.
        text: Cosines of the captions, or of the classes of a labelled set.
        top1_agreement: Share of captions whose best image is the same [%]; None without captions, or with
            one image.
        top10_agreement: Mean share of the ten best images of a caption that are the same [%].
        retrieval: One for each length of caption that the set has.
        predictions: Zero-shot classification, where the set names classes.
    """

    name: str
    split: str | None
    images: int
    failed: int
    image: CosineDistribution
    text: CosineDistribution
    top1_agreement: float | None
    top10_agreement: float | None
    retrieval: tuple[RetrievalChange, ...]
    predictions: tuple[PredictionChange, ...]

    @property
    def title(self) -> str:
        """The name, and the split where there is one."""
        return self.name if self.split is None else f"{self.name} {self.split}"

    @property
    def gated_retrieval(self) -> RetrievalChange | None:
        """That of short captions; of long ones where a set has no other."""
        return self.retrieval[0] if self.retrieval else None

    def reasons(self, gate: Gate, tasks: TaskGate) -> list[str]:
        """What is below its gate, in words."""
        said = [
            f"{what} cosine {part.summary.mean:.6f} mean, {part.summary.minimum:.6f} least, "
            f"expected {gate.mean:g} mean, {gate.minimum:g} least"
            for what, part in (("image", self.image), ("text", self.text))
            if not part.summary.reaches(gate)
        ]
        if self.top1_agreement is not None and not self.top1_agreement >= gate.top1:
            said.append(f"top-1 agreement {self.top1_agreement:.1f} %, expected {gate.top1:g} %")
        change = self.gated_retrieval
        if change is not None and not change.drop <= change.allowed(tasks) + 1e-9:
            before, after = change.reference.mean_recall, change.found.mean_recall
            said.append(
                f"{change.captions} mR {before:.2f} -> {after:.2f}, a drop of {change.drop:.2f} points, "
                f"expected at most {change.allowed(tasks):.2f}"
            )
        said += [
            f"{p.lost} of {p.images} predictions by {p.by} lost net ({p.reference_right} -> {p.found_right} "
            f"right), expected at most {p.allowed(tasks)}"
            for p in self.predictions
            if p.lost > p.allowed(tasks)
        ]
        return [f"{self.title}: {reason}" for reason in said]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "name": self.name,
            "split": self.split,
            "images": self.images,
            "failed": self.failed,
            "image": self.image.to_dict(),
            "text": self.text.to_dict(),
            "top1_agreement": self.top1_agreement,
            "top10_agreement": self.top10_agreement,
            "retrieval": [change.to_dict() for change in self.retrieval],
            "predictions": [change.to_dict() for change in self.predictions],
        }

    @classmethod
    def from_fields(cls, entry: Fields) -> SetReport:
        """The inverse of ``to_dict``.

        Raises:
            BundleError: If a key is missing or unknown, or a value is of another type.
        """
        name = entry.text("name")
        split = entry.take("split")
        if split is not None and not isinstance(split, str):
            raise BundleError(f"split of a task report is a name or null, got {split!r:.60}")
        report = cls(
            name=name,
            split=split,
            images=entry.integer("images", minimum=1),
            failed=entry.integer("failed", minimum=0),
            image=CosineDistribution.from_fields(entry.group("image")),
            text=CosineDistribution.from_fields(entry.group("text")),
            top1_agreement=_share(entry, "top1_agreement"),
            top10_agreement=_share(entry, "top10_agreement"),
            retrieval=tuple(map(RetrievalChange.from_fields, _groups(entry, "retrieval"))),
            predictions=tuple(map(PredictionChange.from_fields, _groups(entry, "predictions"))),
        )
        entry.end()
        return report


@dataclass(frozen=True, slots=True)
class TaskReport:
    """One precision on one backend against fp32 on ONNX Runtime, on real data.

    Attributes:
        precision: Its name.
        backend: What ran it.
        at: When (UTC, to the second).
        processor: What it ran on.
        versions: Of this library and of the inference library, by package.
        sets: One for each data set.
        gate: The thresholds of cosines and rankings that apply.
        tasks: The thresholds of recalls and predictions that apply.
    """

    precision: str
    backend: str
    at: str
    processor: str
    versions: Mapping[str, str]
    sets: tuple[SetReport, ...]
    gate: Gate
    tasks: TaskGate

    @property
    def reasons(self) -> tuple[str, ...]:
        """What is below its gate, in words; empty where all is well."""
        return tuple(reason for one in self.sets for reason in one.reasons(self.gate, self.tasks))

    @property
    def passed(self) -> bool:
        """Everything reaches its gate; a report about nothing does not pass."""
        return bool(self.sets) and not self.reasons

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; ``passed`` is added for the reader and never read back."""
        return {
            "precision": self.precision,
            "backend": self.backend,
            "at": self.at,
            "processor": self.processor,
            "versions": dict(self.versions),
            "gate": {**asdict(self.gate), **asdict(self.tasks)},
            "passed": self.passed,
            "sets": [one.to_dict() for one in self.sets],
        }

    @classmethod
    def from_dict(cls, record: Any, *, where: str, gate: Gate, tasks: TaskGate) -> TaskReport:
        """The inverse of ``to_dict``, under the gates of today: those of the record are its history.

        Args:
            record: A JSON object.
            where: What it is called in messages.
            gate: Thresholds of cosines and rankings.
            tasks: Thresholds of recalls and predictions.

        Raises:
            BundleError: If a key is missing or unknown, or a value is of another type.
        """
        entry = Fields(record, where)
        versions = entry.take("versions")
        if not isinstance(versions, dict) or not all(isinstance(v, str) for v in versions.values()):
            raise BundleError(f"{where}: versions must be texts by package, got {versions!r:.60}")
        for key, kind in (("gate", dict), ("passed", bool)):
            value = entry.take(key)
            if not isinstance(value, kind):
                raise BundleError(f"{where}: {key} must be a {kind.__name__}, got {value!r:.60}")
        report = cls(
            precision=entry.text("precision"),
            backend=entry.text("backend"),
            at=entry.text("at"),
            processor=entry.text("processor"),
            versions=versions,
            sets=tuple(map(SetReport.from_fields, _groups(entry, "sets"))),
            gate=gate,
            tasks=tasks,
        )
        entry.end()
        return report


def _groups(entry: Fields, key: str) -> Sequence[Fields]:
    value = entry.take(key)
    if not isinstance(value, list):
        raise BundleError(f"{key} of a task report must be a list, got {value!r:.60}")
    return [Fields(item, f"{key} of a task report") for item in value]


def _share(entry: Fields, key: str) -> float | None:
    if not entry.has(key):
        raise BundleError(f"a task report lacks the key {key!r}")
    value = entry.take(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 100:
        raise BundleError(f"{key} of a task report is a percentage or null, got {value!r:.60}")
    return float(value)

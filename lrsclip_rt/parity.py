"""Does a precision still answer the same? Gates as constants, reports as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.errors import InputError

__all__ = [
    "GATES",
    "SETTINGS",
    "TRIMMING_TOLERANCE",
    "CosineSummary",
    "Embeddings",
    "Gate",
    "ParityReport",
    "compare",
    "cosine_rows",
]


@dataclass(frozen=True, slots=True)
class Gate:
    """What a precision must reach against fp32.

    Attributes:
        mean: Least mean cosine.
        minimum: Least cosine of any row.
        top1: Least share of texts whose best image stays the same [%].
    """

    mean: float
    minimum: float
    top1: float = 0.0

    def tightened(self, other: Mapping[str, float]) -> Gate:
        """This gate with the values of ``other``, none of which may be looser.

        Raises:
            InputError: If a value is unknown, no number within its range, or looser than this gate's.

        Example:
            >>> Gate(0.99, 0.97, 95.0).tightened({"minimum": 0.98})
            Gate(mean=0.99, minimum=0.98, top1=95.0)
        """
        mine = asdict(self)
        for key, value in other.items():
            if key not in mine:
                raise InputError(f"unknown threshold {key!r}, expected one of {', '.join(mine)}")
            upper = 100.0 if key == "top1" else 1.0
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not value <= upper:
                raise InputError(f"threshold {key} is {value!r}, expected a number up to {upper:g}")
            if value < mine[key]:
                raise InputError(
                    f"threshold {key} = {value:g} is looser than {mine[key]:g}, which is the least"
                )
            mine[key] = float(value)
        return Gate(**mine)


_EIGHT_BIT = Gate(mean=0.99, minimum=0.97, top1=95.0)
GATES: Mapping[str, Gate] = MappingProxyType(
    {
        # fp32 is compared with the model it was exported from, or with the bundle's stored probe.
        "fp32": Gate(mean=0.99999, minimum=0.99999),
        "fp16": Gate(mean=0.9995, minimum=0.999, top1=95.0),
        "bf16": _EIGHT_BIT,
        "int8": _EIGHT_BIT,
        "int8-bf16": _EIGHT_BIT,
        "int8-cpu": _EIGHT_BIT,
        "fp8": _EIGHT_BIT,
    }
)
"""Every precision that a bundle may hold, with the gate that it has to pass."""

SETTINGS: Mapping[str, str] = MappingProxyType({"bf16": "fp32", "int8-bf16": "int8"})
"""Precisions that are a setting of a backend, with the precision whose files they run."""

TRIMMING_TOLERANCE = 1e-6
"""Largest difference of any number between the short text graph and the fixed one, in fp32."""


@dataclass(frozen=True, slots=True)
class Embeddings:
    """What one precision made of the same images and texts; rows need not be normalised.

    Attributes:
        images: ``(N, D)`` float, or None.
        texts: ``(M, D)`` float, or None.
        patches: ``(N, P, D)`` float, or None.
    """

    images: NDArray[np.floating[Any]] | None = None
    texts: NDArray[np.floating[Any]] | None = None
    patches: NDArray[np.floating[Any]] | None = None


@dataclass(frozen=True, slots=True)
class CosineSummary:
    """Cosines of matching rows: their mean, the least one and the first percentile."""

    mean: float
    minimum: float
    p1: float

    @classmethod
    def of(cls, cosines: NDArray[np.float64]) -> CosineSummary:
        """Summarise ``(N,)`` cosines; NaN (a zero or non-finite row) counts as -1 and passes no gate."""
        finite = np.nan_to_num(cosines, nan=-1.0)
        return cls(float(finite.mean()), float(finite.min()), float(np.percentile(finite, 1)))

    def reaches(self, gate: Gate) -> bool:
        """The mean and the least cosine are high enough."""
        return self.mean >= gate.mean and self.minimum >= gate.minimum


@dataclass(frozen=True, slots=True)
class ParityReport:
    """One precision against fp32 on the same inputs.

    Attributes:
        precision: Its name.
        n_images: Images compared.
        n_texts: Texts compared.
        image: Cosines of the image embeddings, or None without images.
        text: Cosines of the text embeddings, or None without texts.
        dense: Cosines of the patch embeddings, or None without them.
        top1_agreement: Share of texts whose best image is the same [%], or None where there are not
            at least one text and two images.
        gate: The thresholds that apply.
    """

    precision: str
    n_images: int
    n_texts: int
    image: CosineSummary | None
    text: CosineSummary | None
    dense: CosineSummary | None
    top1_agreement: float | None
    gate: Gate

    @property
    def passed(self) -> bool:
        """Images, texts and ranking reach the gate; a report about nothing does not pass."""
        parts = [part for part in (self.image, self.text) if part is not None]
        ranked = self.top1_agreement is None or self.top1_agreement >= self.gate.top1
        return bool(parts) and ranked and all(part.reaches(self.gate) for part in parts)

    @property
    def dense_passed(self) -> bool | None:
        """Patches reach the gate, with the first percentile of the many rows as their minimum."""
        if self.dense is None:
            return None
        return self.dense.mean >= self.gate.mean and self.dense.p1 >= self.gate.minimum

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; ``passed`` is added for the reader and never read back."""
        return {**asdict(self), "passed": self.passed, "dense_passed": self.dense_passed}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> ParityReport:
        """The inverse of ``to_dict``; verdicts are computed anew from the numbers.

        Raises:
            InputError: If a key is missing or unknown, or a value has the wrong type.
        """
        names = {field.name for field in fields(cls)}
        expected = names | {"passed", "dense_passed"}
        if not isinstance(record, Mapping) or not names <= set(record) <= expected:
            raise InputError(f"a parity report has the keys {', '.join(sorted(expected))}")
        counts = {key: record[key] for key in ("n_images", "n_texts")}
        if any(isinstance(n, bool) or not isinstance(n, int) or n < 0 for n in counts.values()):
            raise InputError(f"counts of a parity report are whole numbers, got {counts}")
        agreement = record["top1_agreement"]
        return cls(
            precision=str(record["precision"]),
            **counts,
            image=_summary_from_dict("image", record["image"]),
            text=_summary_from_dict("text", record["text"]),
            dense=_summary_from_dict("dense", record["dense"]),
            top1_agreement=None if agreement is None else _number("top1_agreement", agreement),
            gate=Gate(**_numbers("gate", record["gate"], {f.name for f in fields(Gate)})),
        )


def compare(
    reference: Embeddings, candidate: Embeddings, *, precision: str, gate: Gate | None = None
) -> ParityReport:
    """Hold ``candidate`` against ``reference``, row by row.

    Args:
        reference: fp32, or the model that a checkpoint holds.
        candidate: The same inputs at ``precision``.
        precision: Its name; picks the gate.
        gate: Tighter thresholds of a bundle; default ``GATES[precision]``.

    Raises:
        InputError: If shapes differ, one side lacks what the other has, or the precision is unknown.

    Example:
        >>> rows = np.eye(3, 8)
        >>> compare(Embeddings(rows, rows), Embeddings(2 * rows, rows), precision="fp16").passed
        True
    """
    if precision not in GATES:
        raise InputError(f"precision {precision!r} is unknown, expected one of {', '.join(GATES)}")
    image = _summary("images", reference.images, candidate.images)
    text = _summary("texts", reference.texts, candidate.texts)
    agreement = None
    if image is not None and text is not None:
        agreement = _top1_agreement(reference, candidate)
    return ParityReport(
        precision=precision,
        n_images=0 if reference.images is None else len(reference.images),
        n_texts=0 if reference.texts is None else len(reference.texts),
        image=image,
        text=text,
        dense=_summary("patches", reference.patches, candidate.patches),
        top1_agreement=agreement,
        gate=GATES[precision] if gate is None else gate,
    )


def cosine_rows(a: NDArray[np.floating[Any]], b: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Cosine of matching rows, in float64.

    Args:
        a: ``(..., D)``.
        b: The same shape.

    Returns:
        ``(n,)`` cosines of all rows; NaN where a row is zero or not finite.
    """
    left = np.asarray(a, np.float64).reshape(-1, a.shape[-1])
    right = np.asarray(b, np.float64).reshape(-1, b.shape[-1])
    with np.errstate(invalid="ignore", divide="ignore"):
        norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
        cosines: NDArray[np.float64] = np.einsum("nd,nd->n", left, right) / norms
    return cosines


def _summary(
    name: str, a: NDArray[np.floating[Any]] | None, b: NDArray[np.floating[Any]] | None
) -> CosineSummary | None:
    if a is None and b is None:
        return None
    if a is None or b is None or a.shape != b.shape or a.ndim < 2 or a.size == 0:
        shapes = " and ".join("nothing" if x is None else str(x.shape) for x in (a, b))
        raise InputError(f"{name} of both precisions must be non-empty and of one shape, got {shapes}")
    return CosineSummary.of(cosine_rows(a, b))


def _top1_agreement(reference: Embeddings, candidate: Embeddings) -> float | None:
    best = []
    for side in (reference, candidate):
        assert side.images is not None
        assert side.texts is not None
        if len(side.images) < 2:
            return None
        best.append((_unit(side.texts) @ _unit(side.images).T).argmax(axis=1))
    return float((best[0] == best[1]).mean() * 100)


def _unit(rows: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    wide = np.asarray(rows, np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        unit: NDArray[np.float64] = wide / np.linalg.norm(wide, axis=1, keepdims=True)
    return unit


def _summary_from_dict(name: str, record: Any) -> CosineSummary | None:
    if record is None:
        return None
    return CosineSummary(**_numbers(name, record, {f.name for f in fields(CosineSummary)}))


def _numbers(name: str, record: Any, keys: set[str]) -> dict[str, float]:
    if not isinstance(record, Mapping) or set(record) != keys:
        raise InputError(
            f"{name} of a parity report has the keys {', '.join(sorted(keys))}, got {record!r:.80}"
        )
    return {key: _number(f"{name}.{key}", record[key]) for key in keys}


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 1e300:
        raise InputError(f"{name} of a parity report is a finite number, got {value!r:.80}")
    return float(value)

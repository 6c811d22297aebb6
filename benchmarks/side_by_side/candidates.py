"""Who takes part: this runtime at each of its precisions, and what people run instead."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lrsclip_rt.errors import InputError

__all__ = ["CANDIDATES", "YARDSTICK", "Candidate", "Job", "ModelFiles", "selected"]


@dataclass(frozen=True)
class Candidate:
    """One way to run a model.

    Attributes:
        name: As ``--only`` takes it.
        library: What computes: ``pytorch``, ``onnxruntime`` or ``openvino``.
        precision: Picks the gate.
        kind: ``lrsclip`` for this runtime, ``plain`` for the library alone in a naive loop, ``default`` for
            that with nothing set but the threads, ``nncf`` for that on a file of OpenVINO's own quantiser,
            ``compiled`` for PyTorch's towers under ``torch.compile``.
    """

    name: str
    library: str
    precision: str
    kind: str

    @property
    def ours(self) -> bool:
        return self.kind == "lrsclip"


@dataclass(frozen=True)
class ModelFiles:
    """One model as the candidates read it.

    Attributes:
        name: As ``--models`` takes it.
        weights: Where its numbers come from, in words.
        bundle: This project's folder.
        checkpoint: The same weights as a state dict.
        nncf: Folder of the files that OpenVINO's own quantiser made.
    """

    name: str
    weights: str
    bundle: Path
    checkpoint: Path
    nncf: Path


@dataclass(frozen=True)
class Job:
    """All that the process of a candidate needs.

    Attributes:
        candidate: Who.
        files: Which model.
        threads: CPU threads of one run, the same for all.
        batch: Images of one run.
        cache: Stands in for the user's cache folder, so that a first start finds none.
    """

    candidate: Candidate
    files: ModelFiles
    threads: int
    batch: int
    cache: Path


YARDSTICK = Candidate("pytorch-fp32", "pytorch", "fp32", "plain")
"""What answers and times of all others are held against."""

CANDIDATES = (
    YARDSTICK,
    Candidate("pytorch-bf16", "pytorch", "bf16", "plain"),
    Candidate("pytorch-compile", "pytorch", "fp32", "compiled"),
    Candidate("onnxruntime-fp32", "onnxruntime", "fp32", "plain"),
    Candidate("openvino-fp32", "openvino", "fp32", "plain"),
    Candidate("openvino-default", "openvino", "fp32", "default"),
    Candidate("openvino-nncf", "openvino", "int8", "nncf"),
    Candidate("lrsclip-onnxruntime-fp32", "onnxruntime", "fp32", "lrsclip"),
    Candidate("lrsclip-onnxruntime-int8-cpu", "onnxruntime", "int8-cpu", "lrsclip"),
    Candidate("lrsclip-openvino-fp32", "openvino", "fp32", "lrsclip"),
    Candidate("lrsclip-openvino-bf16", "openvino", "bf16", "lrsclip"),
    Candidate("lrsclip-openvino-int8", "openvino", "int8", "lrsclip"),
    Candidate("lrsclip-openvino-int8-bf16", "openvino", "int8-bf16", "lrsclip"),
)


def selected(only: str | None) -> tuple[Candidate, ...]:
    """The candidates that a comma-separated list names, the yardstick always; all for None.

    Raises:
        InputError: If a name is unknown.
    """
    known = {candidate.name: candidate for candidate in CANDIDATES}
    names: Sequence[str] = list(known) if only is None else only.split(",")
    unknown = [name for name in names if name not in known]
    if unknown:
        raise InputError(f"{', '.join(unknown)} is no candidate, expected some of {', '.join(known)}")
    return tuple(c for c in CANDIDATES if c.name in names or c == YARDSTICK)

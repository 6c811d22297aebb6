"""What has run where: a claim about hardware names the record that it rests on, or says that nothing ran."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["PROOFS", "Proof"]


@dataclass(frozen=True, slots=True)
class Proof:
    """One claim.

    Attributes:
        what: A short key.
        said: The claim.
        device: Folder of ``benchmarks/results`` with what was recorded there; None where nothing ran.
    """

    what: str
    said: str
    device: str | None = None


PROOFS = (
    Proof("cpu", "tested on CPUs (x86-64)", "amd-epyc-2-cpus"),
    Proof("kernels", "as compiled for the host, in every test; compiled for sm_75 to sm_120"),
    Proof("gpu", "nothing of this version has run on a GPU"),
    Proof(
        "onnxruntime-cuda",
        "no graph has run on a GPU; its flow runs on a device that is made for the host",
    ),
    Proof(
        "tensorrt",
        "no engine has been built or run; calls are held against the bindings of 10.3 and 11.4",
    ),
    Proof("jetson", "nothing has run on a board"),
)

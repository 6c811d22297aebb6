"""The preparation of one model, step by step, each in a process of its own."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.side_by_side.candidates import Candidate, ModelFiles
from benchmarks.side_by_side.preparation import Preparation
from benchmarks.side_by_side.remote import Remote, RemoteError

__all__ = ["Prepared"]

_STEP_S = 7200.0
"""A step that takes longer is ended [s]."""

_log = logging.getLogger("precisions")


@dataclass(frozen=True)
class Prepared:
    """The files of a model and what is to be said about them.

    Attributes:
        preparation: Arguments of the steps.
        files: Where they are.
        calibration: What the bundle says of its int8.
        nncf: Version of NNCF and what it saw; None where it made nothing.
        nncf_obstacle: Why it made nothing; None where it did, or was not asked.
    """

    preparation: tuple[str, Path, Path]
    files: ModelFiles
    calibration: Mapping[str, Any]
    nncf: Mapping[str, Any] | None = None
    nncf_obstacle: str | None = None

    @classmethod
    def of(cls, name: str, folder: Path, data: Path, candidates: Sequence[Candidate]) -> Prepared:
        """Write all that the candidates read.

        Raises:
            RemoteError: If the checkpoint or the bundle cannot be made.
        """
        _log.info("%s: preparing the bundle", name)
        preparation = (name, folder, data)
        files = _step(preparation, "bundle", candidates)
        made = cls(preparation, files, _step(preparation, "calibration_notes", files))
        if not any(candidate.kind == "nncf" for candidate in candidates):
            return made
        if importlib.util.find_spec("nncf") is None:
            return replace(made, nncf_obstacle="nncf is not installed. Install it with: pip install nncf")
        _log.info("%s: quantising with NNCF", name)
        try:
            return replace(made, nncf=made.step("quantise_with_nncf", files))
        except RemoteError as error:
            return replace(made, nncf_obstacle=f"NNCF made no files: {error}")

    def step(self, method: str, *arguments: object) -> Any:
        return _step(self.preparation, method, *arguments)


def _step(preparation: tuple[str, Path, Path], method: str, *arguments: object) -> Any:
    with Remote(Preparation, *preparation) as remote:
        return remote.call(method, *arguments, timeout_s=_STEP_S)

"""What came of a case: an answer, a named error, or a finding."""

from __future__ import annotations

import base64
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fuzz.harness import Harness
from lrsclip_rt.errors import LrsclipError

__all__ = ["Finding", "Tally", "outcome"]

_KEPT_BYTES = 200_000


@dataclass(frozen=True)
class Finding:
    """A case that a parser did not stand: what happened, and the input in base64."""

    what: str
    where: str
    data: str


@dataclass
class Tally:
    """Outcomes of many cases."""

    cases: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    findings: dict[str, Finding] = field(default_factory=dict)
    slowest_s: float = 0.0

    def judge(self, harness: Harness, data: bytes) -> None:
        """Run a case; of findings at one place the first is kept."""
        self.cases += 1
        try:
            self.outcomes[outcome(harness, data)] += 1
        except Exception as error:
            self.outcomes["finding"] += 1
            found = _finding(error, data)
            self.findings.setdefault(f"{found.what.partition(':')[0]} {found.where}", found)

    def as_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "cases": self.cases,
            "outcomes": dict(self.outcomes),
            "findings": [vars(found) for found in self.findings.values()],
            "slowest_s": self.slowest_s,
        }


def outcome(harness: Harness, data: bytes) -> str:
    """``accepted``, or the name of the error by which a parser refused.

    Raises:
        Exception: Whatever a parser must not raise.
    """
    refusals: tuple[type[Exception], ...] = (LrsclipError, *harness.allowed)
    try:
        harness.feed(data)
    except refusals as error:
        refusal: Exception = error
    else:
        return "accepted"
    assert str(refusal).strip(), f"a {type(refusal).__name__} that says nothing"
    return type(refusal).__name__


def _finding(error: Exception, data: bytes) -> Finding:
    """Named by the last of our own lines that it went through."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "lrsclip_" in frame.filename] or frames
    where = f"{Path(own[-1].filename).name}:{own[-1].lineno} {own[-1].name}"
    what = f"{type(error).__name__}: {str(error)[:300]}"
    return Finding(what, where, base64.b64encode(data[:_KEPT_BYTES]).decode())

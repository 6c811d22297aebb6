"""What became of each candidate, which targets this meets, and both as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.side_by_side.candidates import YARDSTICK, Candidate
from benchmarks.tables import markdown
from lrsclip_rt.benchmarking import BenchRow
from lrsclip_rt.parity import ParityReport

__all__ = [
    "FILES",
    "QUERY",
    "Outcome",
    "Target",
    "Verdict",
    "judged",
    "rows_from_outcomes",
    "table",
    "targets",
]

FILES, QUERY = "files to embeddings", "query of 12 tokens"


@dataclass(frozen=True)
class Outcome:
    """One candidate.

    Attributes:
        candidate: Who.
        status: ``passed``, ``failed`` or ``not run``.
        reason: Why it did not pass.
        runs_as: What it computed in.
        parity: Against the yardstick; None for the yardstick itself.
        cold_s: Start without a cache [s].
        warm_s: Start of a second process [s].
        file_bytes: Of what is deployed.
        peak_memory_bytes: Largest resident memory of its process.
        files: Times of image files to embeddings.
        query: Times of single queries.
    """

    candidate: Candidate
    status: str
    reason: str | None = None
    runs_as: str | None = None
    parity: ParityReport | None = None
    cold_s: float | None = None
    warm_s: float | None = None
    file_bytes: int | None = None
    peak_memory_bytes: int | None = None
    files: BenchRow | None = None
    query: BenchRow | None = None

    def times(self, what: str) -> BenchRow | None:
        return self.files if what == FILES else self.query


@dataclass(frozen=True)
class Target:
    """A ratio to PyTorch fp32 that this runtime is to reach.

    Attributes:
        title: In words.
        what: ``FILES`` or ``QUERY``.
        precisions: Those that count.
        ratio: To be reached.
        floor: What a naive choice of library and precision already reaches, where that is known.
    """

    title: str
    what: str
    precisions: tuple[str, ...]
    ratio: float
    floor: float | None = None


@dataclass(frozen=True)
class Verdict:
    """A target and the fastest candidate of ours that passed its gate; None where none did."""

    target: Target
    best: str | None
    ratio: float | None

    @property
    def met(self) -> bool:
        return self.ratio is not None and self.ratio >= self.target.ratio

    def sentence(self) -> str:
        target = self.target
        expected = f"at least {target.ratio:g}x" + (
            "" if target.floor is None else f", floor {target.floor:g}x"
        )
        if self.ratio is None:
            return f"- {target.title}: NOT MET, no candidate passed its gate and was timed ({expected})"
        said = "met" if self.met else "NOT MET"
        return f"- {target.title}: {said}, {self.ratio:.2f}x by {self.best} ({expected})"


def targets(instructions: Sequence[str]) -> list[Target]:
    """The targets of a ViT-B/16 on a processor; without AMX and VNNI there is none for 8 bits of images."""
    found = [
        Target("image files, fp32", FILES, ("fp32",), 1.0),
        Target("12-token query, fp32", QUERY, ("fp32",), 11.0),
        Target("12-token query, int8", QUERY, ("int8", "int8-bf16", "int8-cpu"), 45.0, 38.0),
    ]
    lower = ("int8", "int8-bf16", "int8-cpu", "bf16")
    if any(name.startswith("amx") for name in instructions):
        found.append(Target("image files, within the int8 gate, AMX", FILES, lower, 8.0, 6.5))
    elif any(name.endswith("vnni") for name in instructions):
        found.append(Target("image files, within the int8 gate, VNNI", FILES, lower, 3.3))
    return found


def judged(outcomes: Sequence[Outcome], wanted: Sequence[Target]) -> list[Verdict]:
    """Hold each target against the fastest of ours; what failed a gate never counts."""
    verdicts = []
    for target in wanted:
        found = [
            (ratio, outcome.candidate.name)
            for outcome in outcomes
            if outcome.candidate.ours
            and outcome.status == "passed"
            and outcome.candidate.precision in target.precisions
            and (ratio := ratio_of(outcome, outcomes, target.what)) is not None
        ]
        ratio, name = max(found) if found else (None, None)
        verdicts.append(Verdict(target, name, ratio))
    return verdicts


def ratio_of(outcome: Outcome, outcomes: Sequence[Outcome], what: str) -> float | None:
    """How many times as fast as PyTorch fp32, by medians; None where either was not timed."""
    base = next((o.times(what) for o in outcomes if o.candidate == YARDSTICK), None)
    mine = outcome.times(what)
    return None if base is None or mine is None else mine.per_second / base.per_second


def rows_from_outcomes(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Rows of a record: answers and costs of each candidate, then its times."""
    rows: list[dict[str, Any]] = []
    for outcome in outcomes:
        name = outcome.candidate.name
        if outcome.parity is not None:
            rows.append({"what": "parity", "contender": name, **outcome.parity.to_dict()})
        costs = ("status", "reason", "runs_as", "cold_s", "warm_s", "file_bytes", "peak_memory_bytes")
        rows.append(
            {"what": "candidate", "contender": name, **{cost: getattr(outcome, cost) for cost in costs}}
        )
        for what in (FILES, QUERY):
            times = outcome.times(what)
            if times is not None:
                rows.append({**asdict(times), "ratio": ratio_of(outcome, outcomes, what)})
    return rows


def table(outcomes: Sequence[Outcome]) -> str:
    """A Markdown table, and why a candidate did not pass below it."""
    header = (
        "candidate", "gate", "image cosine", "least", "text cosine", "least", "top-1 [%]",
        "images/s", "ratio", "query p50 [ms]", "p95 [ms]", "ratio",
        "memory [MiB]", "files [MiB]", "start cold [s]", "warm [s]",
    )  # fmt: skip
    lines = [_cells(outcome, outcomes) for outcome in outcomes]
    reasons = [f"- {o.candidate.name}: {o.status}, {o.reason}\n" for o in outcomes if o.reason is not None]
    return markdown(header, lines, right_from=2) + ("\n" + "".join(reasons) if reasons else "")


def _cells(outcome: Outcome, outcomes: Sequence[Outcome]) -> list[str]:
    ran = outcome.candidate == YARDSTICK and outcome.status == "passed"
    gate = "yardstick" if ran else outcome.status.upper() if outcome.status == "failed" else outcome.status
    differs = outcome.runs_as not in (None, outcome.candidate.precision)
    query = outcome.query
    return [
        outcome.candidate.name + (f" (runs as {outcome.runs_as})" if differs else ""),
        gate,
        *_parity_cells(outcome.parity),
        "-" if outcome.files is None else f"{outcome.files.per_second:.1f}",
        _number(ratio_of(outcome, outcomes, FILES), ".2f"),
        *(("-", "-") if query is None else (f"{query.p50_ms:.2f}", f"{query.p95_ms:.2f}")),
        _number(ratio_of(outcome, outcomes, QUERY), ".2f"),
        _number(_mebibytes(outcome.peak_memory_bytes), ".0f"),
        _number(_mebibytes(outcome.file_bytes), ".1f"),
        _number(outcome.cold_s, ".2f"),
        _number(outcome.warm_s, ".2f"),
    ]


def _parity_cells(report: ParityReport | None) -> list[str]:
    if report is None or report.image is None or report.text is None:
        return ["-"] * 5
    cosines = (report.image.mean, report.image.minimum, report.text.mean, report.text.minimum)
    return [*(f"{cosine:.6f}" for cosine in cosines), _number(report.top1_agreement, ".1f")]


def _mebibytes(number: int | None) -> float | None:
    return None if number is None else number / 2**20


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)

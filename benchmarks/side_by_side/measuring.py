"""Candidates beside each other: start them, hold their answers against the yardstick's, time them in turn."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.side_by_side.candidates import Job
from benchmarks.side_by_side.preparation import Materials
from benchmarks.side_by_side.remote import Remote, RemoteError
from benchmarks.side_by_side.report import FILES, QUERY, Outcome
from benchmarks.side_by_side.service import CandidateService, Opened
from lrsclip_rt.benchmarking import BenchRow
from lrsclip_rt.parity import GATES, Embeddings, Gate, ParityReport, compare

__all__ = ["Inputs", "opened", "timed", "with_tasks"]

QUERIES = 10
"""Timed queries of a candidate in a round."""
CALL_S = 900.0
"""A candidate that answers later than this is ended [s]."""


@dataclass(frozen=True)
class Inputs:
    """What the candidates of one model are asked.

    Attributes:
        checked: Images and captions of the comparison.
        timed: Image files of a round.
        query: The timed text.
        ranking: Whether rankings mean something.
    """

    checked: Materials
    timed: tuple[Path, ...]
    query: str
    ranking: bool


def opened(job: Job, inputs: Inputs, reference: Embeddings | None) -> tuple[Remote, Outcome, Embeddings]:
    """Start a candidate twice, and hold the answers of the second process against the yardstick's.

    Raises:
        RemoteError: If it cannot run here, with the reason.
    """
    first = (inputs.checked.paths[0], inputs.query)
    with Remote(CandidateService, job) as remote:
        cold: Opened = remote.call("open", *first, timeout_s=CALL_S)
    remote = Remote(CandidateService, job)
    try:
        warm: Opened = remote.call("open", *first, timeout_s=CALL_S)
        texts = (*inputs.checked.texts, inputs.query)
        answers: Embeddings = remote.call("embed", inputs.checked.paths, texts, timeout_s=CALL_S)
    except RemoteError:
        remote.close()
        raise
    report = None if reference is None else _parity(reference, answers, warm.precision, inputs)
    passed = report is None or report.passed
    return (
        remote,
        Outcome(
            job.candidate,
            "passed" if passed else "failed",
            None if report is None or passed else _below(report),
            runs_as=warm.precision,
            parity=report,
            cold_s=cold.seconds,
            warm_s=warm.seconds,
            file_bytes=warm.file_bytes,
        ),
        answers,
    )


def _below(report: ParityReport) -> str:
    gate = report.gate
    ranking = f", {gate.top1:g} % top-1" if gate.top1 else ""
    return f"below the gate of {report.precision}: {gate.mean:g} mean, {gate.minimum:g} least{ranking}"


def _parity(reference: Embeddings, answers: Embeddings, precision: str, inputs: Inputs) -> ParityReport:
    gate = GATES[precision]
    if not inputs.ranking:
        gate = Gate(gate.mean, gate.minimum)
    return compare(reference, answers, precision=precision, gate=gate)


def with_tasks(outcome: Outcome, tasks: Sequence[Mapping[str, Any]]) -> Outcome:
    """The outcome, failed where ``lrsclip check --data`` failed the same precision on the same backend."""
    candidate = outcome.candidate
    for row in tasks:
        same = candidate.ours and (row["backend"], row["precision"]) == (
            candidate.library,
            candidate.precision,
        )
        if same and row["status"] == "failed":
            reasons = [reason for reason in (outcome.reason, row["reason"]) if reason]
            return replace(outcome, status="failed", reason="; ".join(reasons))
    return outcome


def timed(
    outcomes: Sequence[Outcome],
    remotes: Mapping[str, Remote],
    inputs: Inputs,
    *,
    rounds: int,
    seconds: float,
) -> list[Outcome]:
    """Time all in turn, each round beginning with another one.

    Args:
        outcomes: All candidates.
        remotes: The processes of those that run, by name.
        inputs: What they are asked.
        rounds: At least so many.
        seconds: More rounds until this is used up [s].

    Returns:
        ``outcomes`` with times and memory. Who fails on the way takes no further part and has failed.
    """
    calls: dict[str, tuple[str, tuple[object, ...]]] = {
        FILES: ("time_files", (inputs.timed,)),
        QUERY: ("time_text", (inputs.query, QUERIES)),
    }
    times: dict[tuple[str, str], list[float]] = {(name, what): [] for name in remotes for what in calls}
    errors: dict[str, str] = {}
    end, number = time.monotonic() + seconds, -1
    while number < rounds or time.monotonic() < end:
        for what, (method, values) in calls.items():
            names = [name for name in remotes if name not in errors]
            turn = number % len(names) if names else 0
            for name in names[turn:] + names[:turn]:
                try:
                    found = remotes[name].call(method, *values, timeout_s=CALL_S)
                except RemoteError as error:
                    errors[name] = str(error)
                    continue
                if number >= 0:  # the round before warms up
                    times[name, what] += found
        number += 1
    memory: dict[str, int | None] = {}
    for name in [name for name in remotes if name not in errors]:
        try:
            memory[name] = remotes[name].call("peak_memory_bytes", timeout_s=CALL_S)
        except RemoteError as error:
            errors[name] = str(error)
    return [_with_times(outcome, times, memory, errors, len(inputs.timed)) for outcome in outcomes]


def _with_times(
    outcome: Outcome,
    times: Mapping[tuple[str, str], Sequence[float]],
    memory: Mapping[str, int | None],
    errors: Mapping[str, str],
    files: int,
) -> Outcome:
    name = outcome.candidate.name
    if name in errors:
        return replace(outcome, status="failed", reason=f"while it was timed: {errors[name]}")
    if name not in memory:
        return outcome
    return replace(
        outcome,
        peak_memory_bytes=memory[name],
        files=BenchRow.of(FILES, name, times[name, FILES], batch=files),
        query=BenchRow.of(QUERY, name, times[name, QUERY]),
    )

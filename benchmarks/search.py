"""Text to hits in archives of a million rows and more, beside what people use instead.

    python benchmarks/search.py --data DATA --rows 1000000 --work DIR --record     # DATA holds pairs.jsonl
    python benchmarks/search.py --rows 100000 --only lrsclip,faiss-flat            # rendered tiles and texts
    python benchmarks/search.py --data DATA --rows 10000000 --only lrsclip --work DIR --record

Base: embeddings of real tiles by the built-in model (the train split, and tiles of --scenes). Rows: between
random pairs of distinct base embeddings, at a random place from 0.2 to 0.8; so many real tiles are not at
hand, and perturbed copies would make every index look perfect. Queries: texts that nobody made from rows:
distinct captions of the val split.

Peers search the same float16 rows: NumPy and faiss exactly in memory, usearch and PostgreSQL with pgvector by
HNSW with their own defaults. Everyone has a process of its own, the same number of threads and the
same text tower in fp32, one query at a time, text tower included. Recall counts rows that score no less than
the tenth best of an exact scan. Filters are bands of latitude that 1 % and 10 % of the rows pass.

Prints a table, then the record; ``--record`` also appends it to benchmarks/results/<device>/search.jsonl.
What was made in --work is used again, so a long run can be done in pieces; --prepare only makes it.
"""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

# A script finds what lies beside it; the modules of this one are known from the folder above.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.search_archive import (
    FILTERS,
    INGEST_ROWS,
    Made,
    base_and_queries,
    enlarged_archive,
    ingest_seconds,
)
from benchmarks.search_contenders import CONTENDERS, Job, K, SearchService
from benchmarks.side_by_side.remote import Remote, RemoteError
from lrsclip_rt.archive import Archive
from lrsclip_rt.archive.models import text_bundle
from lrsclip_rt.archive.where import passing_rows
from lrsclip_rt.benchmarking import append_record, make_record
from lrsclip_rt.cpu import available_cpus
from lrsclip_rt.embedder import load
from lrsclip_rt.errors import LrsclipError

RESULTS = Path(__file__).resolve().parent / "results"
_CALL_S = 24 * 3600.0
_AT_ONCE = 25
"""Queries of a turn."""
_TARGETS = {1_000_000: (15.0, None), 10_000_000: (120.0, 1.5e9)}
"""Rows: most milliseconds at the median, most resident bytes."""
_LEAST_RECALL = 0.99
_COLD_TARGET_S = 1.0
_STARTS = 7

_log = logging.getLogger("search")


@dataclass
class Measured:
    """What is known of a contender under one filter."""

    contender: str
    where: str
    recall: float
    seconds: list[float] = field(default_factory=list)

    def as_row(self) -> dict[str, Any]:
        p50, p95, p99 = (1e3 * float(np.percentile(self.seconds, q)) for q in (50, 95, 99))
        times = {"p50_ms": p50, "p95_ms": p95, "p99_ms": p99, "queries": len(self.seconds)}
        rate = {"rounds": len(self.seconds), "batch": 1, "per_second": 1e3 / p50}
        what = {"what": f"text to hits, {self.where}", "contender": self.contender}
        return {**what, "recall_at_10": self.recall, **times, **rate}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with pairs.jsonl; default rendered tiles")
    parser.add_argument("--scenes", type=Path, nargs="*", default=[], help="rasters whose tiles are added")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=1_000, help="texts whose recall is measured")
    parser.add_argument("--only", default=",".join(CONTENDERS), help="contenders, separated by commas")
    parser.add_argument("--budget", type=float, default=60, help="seconds of timing a contender and filter")
    parser.add_argument("--threads", type=int, default=available_cpus())
    parser.add_argument("--work", type=Path, help="keeps archives and indexes; default a temporary folder")
    parser.add_argument("--prepare", action="store_true", help="make what is missing in --work, then end")
    parser.add_argument("--record", action="store_true", help="append the record to the results")
    arguments = parser.parse_args()
    names = arguments.only.split(",")
    for name in names:
        if name not in CONTENDERS:
            parser.error(f"--only: {name} is unknown, expected some of {', '.join(CONTENDERS)}")
    if arguments.prepare and arguments.work is None:
        parser.error("--prepare needs --work")
    if arguments.rows < K or arguments.queries < 1 or arguments.threads < 1:
        parser.error("--rows, --queries and --threads must be positive")
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    logging.getLogger("faiss").setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="search.") as temporary:
        try:
            compare(arguments.work or Path(temporary), names, arguments)
        except (LrsclipError, RemoteError) as error:
            sys.exit(f"search: {error}")


def compare(work: Path, names: Sequence[str], arguments: argparse.Namespace) -> None:
    materials = base_and_queries(
        arguments.data, arguments.scenes, work, count=arguments.queries, threads=arguments.threads
    )
    folder = work / f"archive-{arguments.rows}"
    made = enlarged_archive(folder, materials, arguments.rows, _log.info)
    texts: list[str] = json.loads(materials.queries.read_text(encoding="utf-8"))
    truth = Truth(folder, work, texts, arguments.threads)
    facts: list[dict[str, Any]] = []
    measured: list[Measured] = []
    with ExitStack() as stack:
        remotes: dict[str, Remote] = {}
        for name in names:
            most = CONTENDERS[name].most_rows
            if most is not None and arguments.rows > most:
                facts.append({"what": "not run", "contender": name, "reason": CONTENDERS[name].why_most})
                continue
            _log.info("%s: build and open", name)
            job = Job(name, folder, work / f"{name}-{arguments.rows}", arguments.threads)
            remote = stack.enter_context(Remote(SearchService, job))
            try:
                opened = remote.call("open", tuple(FILTERS), timeout_s=_CALL_S)
                if arguments.prepare:
                    remote.close()
                    continue
                measured += checked(name, remote, truth, texts, bool(opened["filters"]))
            except RemoteError as error:
                _log.warning("%s: not run: %s", name, error)
                facts.append({"what": "not run", "contender": name, "reason": str(error)})
                continue
            remotes[name] = remote
            facts.append({"what": "opened", "contender": name, **opened})
        if arguments.prepare:
            return
        timed(measured, remotes, texts, arguments.budget)
        for name, remote in remotes.items():
            peak = remote.call("peak_memory_bytes", timeout_s=_CALL_S)
            facts.append({"what": "peak memory", "contender": name, "bytes": peak})
    starts = cold_starts(folder, texts[:_STARTS])
    ingest_s = ingest_seconds(work / "ingest", materials)
    report(arguments, materials.origin, made, ingest_s, measured, facts, starts)


class Truth:
    """Exact answers by a plain scan, and the share of them that others find."""

    def __init__(self, folder: Path, work: Path, texts: Sequence[str], threads: int) -> None:
        self._archive = Archive.open(folder)
        model = load(text_bundle(self._archive), precision="fp32", threads=threads)
        self._queries = model.embed_texts(list(texts))
        path = work / f"{folder.name}-truth.npy"
        if not path.is_file():
            _log.info("exact answers of %d texts", len(texts))
            np.save(path, np.stack([self._tenth_scores(where) for where in (None, *FILTERS)]))
        self._tenth = dict(zip((None, *FILTERS), np.load(path), strict=True))

    def recall(self, answers: Sequence[Sequence[int]], where: str | None) -> float:
        """Mean share of ``K`` rows that score no less than the exact ``K``-th best."""
        margin = 1e-6  # of sums in another order
        shares = []
        for query, rows, tenth in zip(self._queries, answers, self._tenth[where], strict=True):
            scores = self._vectors(np.array(rows, np.int64)) @ query
            shares.append(np.count_nonzero(scores >= tenth - margin) / K)
        return float(np.mean(shares))

    def _tenth_scores(self, where: str | None) -> NDArray[np.float32]:
        best = np.full((len(self._queries), K), -np.inf, np.float32)
        for segment in self._archive.mapped_segments:
            passing = np.arange(segment.record.rows)
            if where is not None:
                passing = np.flatnonzero(passing_rows(FILTERS[where], segment, None))
            for start in range(0, len(passing), 16_384):
                rows = segment.f16[passing[start : start + 16_384]].astype(np.float32)
                both = np.concatenate([best, self._queries @ rows.T], axis=1)
                best = np.partition(both, -K, axis=1)[:, -K:]
        tenth: NDArray[np.float32] = best.min(axis=1)
        return tenth

    def _vectors(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        bases = np.array([record.base for record in self._archive.segments])
        where = np.searchsorted(bases, rows, "right") - 1
        segments = self._archive.mapped_segments
        picked = [segments[s].f16[row - bases[s]] for s, row in zip(where, rows, strict=True)]
        return np.array(picked, np.float32).reshape(-1, self._archive.dim)


def checked(name: str, remote: Remote, truth: Truth, texts: Sequence[str], filters: bool) -> list[Measured]:
    """Recall first."""
    found = []
    for where in (None, *(FILTERS if filters else ())):
        answers = remote.call("answers", list(texts), where, timeout_s=_CALL_S)
        found.append(Measured(name, where or "all rows", truth.recall(answers, where)))
        _log.info("%s, %s: recall@10 %.4f", name, found[-1].where, found[-1].recall)
    return found


def timed(
    measured: Sequence[Measured], remotes: Mapping[str, Remote], texts: Sequence[str], budget_s: float
) -> None:
    """A few queries of everyone in turn, until each has had all texts or its time."""
    for start in range(0, len(texts), _AT_ONCE):
        part = list(texts[start : start + _AT_ONCE])
        for one in measured:
            if sum(one.seconds) < budget_s:
                where = None if one.where == "all rows" else one.where
                one.seconds += remotes[one.contender].call("time", part, where, timeout_s=_CALL_S)


def cold_starts(folder: Path, texts: Sequence[str]) -> list[float]:
    """Seconds of whole ``lrsclip search`` processes, from start to output; files may be in memory."""
    command = str(Path(sys.executable).with_name("lrsclip"))
    seconds = []
    for text in texts:
        start = time.perf_counter()
        subprocess.run(
            [command, "search", str(folder), text, "--min-score", "-1"],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        seconds.append(time.perf_counter() - start)
    return seconds


def report(
    arguments: argparse.Namespace,
    origin: str,
    made: Made,
    ingest_s: float,
    measured: Sequence[Measured],
    facts: Sequence[dict[str, Any]],
    starts: Sequence[float],
) -> None:
    rows = [one.as_row() for one in measured]
    peaks = {fact["contender"]: fact["bytes"] for fact in facts if fact["what"] == "peak memory"}
    ingest = {
        "what": "ingest",
        "contender": "lrsclip",
        "ingest_rows": INGEST_ROWS,
        "rows_per_s": INGEST_ROWS / ingest_s,
        **asdict(made),
    }
    cold_s = float(np.median(starts))
    cold = {"what": "cold start", "contender": "lrsclip search", "p50_s": cold_s}
    print(
        f"{'contender':15} {'filter':9} {'recall@10':>9} {'p50 ms':>8} {'p95 ms':>8} {'p99 ms':>8} "
        f"{'peak MB':>8}"
    )
    for one, row in zip(measured, rows, strict=True):
        times = " ".join(f"{row[key]:8.1f}" for key in ("p50_ms", "p95_ms", "p99_ms"))
        peak = (peaks[one.contender] or 0) / 1e6
        print(f"{one.contender:15} {one.where:9} {one.recall:9.4f} {times} {peak:8.0f}")
    for fact in facts:
        if fact["what"] == "not run":
            print(f"{fact['contender']:15} not run: {fact['reason']}")
    print(f"ingest of vectors {ingest['rows_per_s']:.0f} rows/s, codes in {made.codes_s:.0f} s: {made.codes}")
    print(f"lrsclip search, process start to output: {cold_s:.2f} s; rows: {origin}, interpolated")
    targets = verdicts(arguments.rows, rows, peaks, cold_s)
    for verdict in targets:
        print(f"{'met' if verdict['met'] else 'MISSED'}: {verdict['title']}: {verdict['found']:.4g}")
    settings = {
        "model": f"mini, {arguments.rows:,} rows",
        "precision": "fp32",
        "base": origin,
        "enlarged": "interpolated at 0.2-0.8 between random pairs of distinct embeddings",
        **{name: getattr(arguments, name) for name in ("rows", "queries", "budget")},
    }
    results = [*rows, *facts, ingest, cold, *targets]
    record = make_record("search", threads=arguments.threads, settings=settings, results=results)
    if arguments.record:
        append_record(record, RESULTS)
    print(record.to_json())


def verdicts(
    rows: int, found: Sequence[Mapping[str, Any]], peaks: Mapping[str, int | None], cold_s: float
) -> list[dict[str, Any]]:
    """The targets that apply to this size."""
    ours = {row["what"].rpartition(", ")[2]: row for row in found if row["contender"] == "lrsclip"}
    result = []

    def judge(title: str, value: float, met: bool) -> None:
        result.append({"what": "target", "title": title, "found": value, "met": met})

    if "all rows" in ours and rows in _TARGETS:
        most_ms, most_bytes = _TARGETS[rows]
        p50, recall = ours["all rows"]["p50_ms"], ours["all rows"]["recall_at_10"]
        judge(f"p50 at most {most_ms:g} ms", p50, p50 <= most_ms)
        judge(f"recall@10 at least {_LEAST_RECALL}", recall, recall >= _LEAST_RECALL)
        peak = peaks.get("lrsclip")
        if most_bytes is not None and peak is not None:
            judge(f"resident at most {most_bytes / 1e9:g} GB", peak / 1e9, peak <= most_bytes)
    for name in FILTERS:
        if name in ours:
            ratio = ours[name]["p50_ms"] / ours["all rows"]["p50_ms"]
            exact = rows * float(name.split()[0]) / 100 <= 100_000
            least = 1.0 if exact else _LEAST_RECALL
            recall = ours[name]["recall_at_10"]
            judge(f"{name} filter: p50 at most 1.2x unfiltered", ratio, ratio <= 1.2)
            judge(f"{name} filter: recall@10 at least {least:g}", recall, recall >= least)
    if rows == 1_000_000:
        judge(f"cold start at most {_COLD_TARGET_S:g} s", cold_s, cold_s <= _COLD_TARGET_S)
    return result


if __name__ == "__main__":
    main()

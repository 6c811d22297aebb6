"""Every target of this project, met or not, from the newest records; what nobody has measured says so.

Ratios and times hold for the machine that the record names. A record may also judge a target itself, by a row
``{"what": "target", "title", "found", "met"}`` whose title is that of a line here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lrsclip_rt.benchmarking import records_from_file
from lrsclip_rt.bundle import BUILT_IN, MANIFEST_FILE

__all__ = ["HEADER", "TARGETS", "Finding", "Target", "target_rows"]

Record = Mapping[str, Any]
Records = Mapping[str, Sequence[Record]]
"""By benchmark, oldest first."""

HEADER = ("what", "target", "found", "met", "record")


@dataclass(frozen=True)
class Finding:
    """What a record says about a target.

    Attributes:
        found: In words, with its unit.
        met: Whether it is reached.
        source: Benchmark, day and commit.
    """

    found: str
    met: bool
    source: str


@dataclass(frozen=True)
class Target:
    """One line.

    Attributes:
        title: What is measured.
        expected: To be reached, in words.
        find: Its finding in the records, or None.
    """

    title: str
    expected: str
    find: Callable[[Records], Finding | None]


def target_rows(results: Path) -> list[tuple[str, ...]]:
    """The lines of the table: of several processors the newest record counts."""
    records: dict[str, list[Record]] = {}
    for path in sorted(results.glob("*/*.jsonl")):
        records.setdefault(path.stem, []).extend(records_from_file(path))
    for found in records.values():
        found.sort(key=lambda record: str(record["at"]))
    rows: list[tuple[str, ...]] = []
    for target in TARGETS:
        finding = target.find(records) or _judged(records, target.title)
        if finding is None:
            rows.append((target.title, target.expected, "-", "not measured", "-"))
        else:
            met = "met" if finding.met else "NOT MET"
            rows.append((target.title, target.expected, finding.found, met, finding.source))
    return rows


def _source(record: Record) -> str:
    commit = record["commit"][:10] if record["commit"] else "unknown commit"
    return f"{record['bench']}, {record['at'][:10]}, {commit}"


def _newest(records: Records, bench: str, fits: Callable[[Record], bool]) -> Record | None:
    return next((r for r in reversed(records.get(bench, [])) if fits(r)), None)


def _judged(records: Records, title: str, benches: Iterable[str] | None = None) -> Finding | None:
    """What the newest record says of a target that it judged itself."""
    for bench in records if benches is None else benches:
        for record in reversed(records.get(bench, [])):
            for row in record["results"]:
                if row.get("what") == "target" and row["title"] == title and row["found"] is not None:
                    return Finding(f"{row['found']:.4g}", row["met"], _source(record))
    return None


def _precision(title: str, instruction: str | None = None) -> Callable[[Records], Finding | None]:
    """A ratio to PyTorch of a ViT-B/16, on processors with an instruction set where that matters."""

    def find(records: Records) -> Finding | None:
        def fits(record: Record) -> bool:
            flags = record["device"]["instructions"]
            has = instruction is None or any(instruction in flag for flag in flags)
            return has and any(row.get("title") == title for row in record["results"])

        # Of several kinds of weights the one with the lowest ratio counts.
        newest = {r["settings"].get("weights"): r for r in records.get("precisions", []) if fits(r)}
        found = [
            (row["found"] or 0.0, row["met"], record)
            for record in newest.values()
            for row in record["results"]
            if row.get("title") == title
        ]
        if not found:
            return None
        ratio, met, record = min(found, key=lambda one: one[0])
        return Finding(f"{ratio:.2f}x" if ratio else "none within its gate", met, _source(record))

    return find


def _search(rows: int, title: str, form: str, scale: float = 1.0) -> Callable[[Records], Finding | None]:
    """A target that `benchmarks/search.py` judges at this number of rows."""

    def find(records: Records) -> Finding | None:
        def fits(record: Record) -> bool:
            judged = (row for row in record["results"] if row.get("what") == "target")
            return record["settings"]["rows"] == rows and any(row["title"] == title for row in judged)

        record = _newest(records, "search", fits)
        if record is None:
            return None
        row = next(row for row in record["results"] if row.get("title") == title)
        return Finding(form.format(scale * row["found"]), row["met"], _source(record))

    return find


def _absent(records: Records) -> Finding | None:
    record = _newest(records, "absence", lambda record: True)
    if record is None:
        return None
    rows = [row for row in record["results"] if row["what"] == "rule" and row["rule"] == "mean of ten best"]
    worst = max(rows, key=lambda row: float(row["absent_accepted"]))
    found = f"{worst['absent_accepted']:.1f} % ({worst['queries']})"
    return Finding(found, worst["absent_accepted"] <= 25, _source(record))


def _localization(key: str, form: str, most: float) -> Callable[[Records], Finding | None]:
    def find(records: Records) -> Finding | None:
        def measured(record: Record) -> list[Record]:
            # The target is of the ViT; beside the small built-in encoder the rest weighs more.
            rows = [row for row in record["results"] if row.get("size") == [10_000, 10_000]]
            return [row for row in rows if row["model"] == "ViT-B/16"]

        record = _newest(records, "localization_cost", lambda record: bool(measured(record)))
        if record is None:
            return None
        value = max(row[key] for row in measured(record))
        return Finding(form.format(value), value <= most, _source(record))

    return find


def _start(what: str, most: float) -> Callable[[Records], Finding | None]:
    def find(records: Records) -> Finding | None:
        record = _newest(records, "starts", lambda r: any(row["what"] == what for row in r["results"]))
        if record is None:
            return None
        row = next(row for row in record["results"] if row["what"] == what)
        return Finding(f"{row['p50_ms'] / 1000:.3f} s", row["p50_ms"] <= 1000 * most, _source(record))

    return find


def _indexing(records: Records) -> Finding | None:
    record = _newest(records, "indexing", lambda record: True)
    if record is None:
        return None
    share = min(row["share_of_encoder"] for row in record["results"] if row["what"] == "verdict")
    return Finding(f"{100 * share:.1f} %", share >= 0.9, _source(record))


def _built_in(kind: str, least: float) -> Callable[[Records], Finding | None]:
    """What `lrsclip check --data --record` wrote into the built-in bundle about its fp32."""

    def find(records: Records) -> Finding | None:
        manifest = BUILT_IN / MANIFEST_FILE
        if not manifest.is_file():
            return None
        tasks = json.loads(manifest.read_text(encoding="utf-8"))["precisions"]["int8-cpu"].get("tasks", {})
        for report in tasks.values():
            for one in report["sets"]:
                value = _mean_recall(one) if kind == "mR" else _labelled(one)
                if value is not None:
                    found = f"{value:.1f}" if kind == "mR" else f"{value:.1f} % (seed 0)"
                    return Finding(found, value >= least, f"bundle.json, {report['at'][:10]}")
        return None

    return find


def _mean_recall(one: Mapping[str, Any]) -> float | None:
    found = [row["fp32"]["mR"] for row in one["retrieval"] if row["captions"] == "short"]
    return float(found[0]) if found else None


def _labelled(one: Mapping[str, Any]) -> float | None:
    found = [row for row in one["predictions"] if row["by"] == "labels"]
    return 100 * found[0]["reference_right"] / found[0]["images"] if found else None


def _long_text(records: Records) -> Finding | None:
    record = _newest(records, "long_text", lambda record: True)
    if record is None:
        return None
    verdict = next(row for row in record["results"] if row["what"] == "verdict")
    met = bool(verdict["longer_finds_more_images"] and verdict["longer_is_found_more"])
    gains = [row["t2i_r1"] for row in record["results"] if row["what"] == "gain"]
    found = ", ".join(f"+{g['value']:.1f} ({g['low']:.1f} to {g['high']:.1f})" for g in gains)
    return Finding(f"R@1 {found} points", met, _source(record))


def _unknown(records: Records) -> Finding | None:
    """Nothing but a row of its own can say: see ``_judged``."""
    return None


_IMAGES = "image files to embeddings, ViT-B/16 shape, against eager PyTorch fp32"
_QUERY = "12-token query, ViT-B/16 shape, against eager PyTorch fp32 at 248 tokens"
TARGETS = (
    Target(f"{_IMAGES}: 8 bits, AMX", ">= 8x", _precision("image files, within the int8 gate, AMX", "amx")),
    Target(f"{_IMAGES}: 8 bits, VNNI", ">= 3.3x", _precision("image files, within the int8 gate, VNNI")),
    Target(f"{_IMAGES}: fp32", ">= 1.0x", _precision("image files, fp32")),
    Target(f"{_QUERY}: fp32", ">= 11x", _precision("12-token query, fp32")),
    Target(f"{_QUERY}: int8", ">= 45x", _precision("12-token query, int8")),
    Target("search, 1 M rows: p50", "<= 15 ms", _search(1_000_000, "p50 at most 15 ms", "{:.1f} ms")),
    Target("search, 1 M rows: recall@10", ">= 0.99", _search(1_000_000, "recall@10 at least 0.99", "{:.4f}")),
    Target("search, 10 M rows: p50", "<= 120 ms", _search(10_000_000, "p50 at most 120 ms", "{:.1f} ms")),
    Target(
        "search, 10 M rows: recall@10", ">= 0.99", _search(10_000_000, "recall@10 at least 0.99", "{:.4f}")
    ),
    Target(
        "search, 10 M rows: resident memory",
        "<= 1.5 GB",
        _search(10_000_000, "resident at most 1.5 GB", "{:.2f} GB"),
    ),
    *(
        Target(
            f"search, 1 M rows, {share} pass: {what}",
            expected,
            _search(1_000_000, f"{share} filter: {title}", form),
        )
        for share in ("1 %", "10 %")
        for what, expected, title, form in (
            ("p50", "<= 1.2x unfiltered", "p50 at most 1.2x unfiltered", "{:.2f}x"),
            ("recall@10", "1.00", "recall@10 at least 1", "{:.4f}"),
        )
    ),
    Target("absent things accepted, 90 % of present ones accepted", "<= 25 %", _absent),
    Target(
        "localization, 10000 x 10000 px: beside the encoder",
        "<= 10 %",
        _localization("rest_share", "{:.1%}", 0.1),
    ),
    Target(
        "localization, 10000 x 10000 px: a further text",
        "<= 50 ms",
        _localization("further_text_ms", "{:.1f} ms", 50),
    ),
    Target("start: lrsclip --help", "<= 0.3 s", _start("lrsclip --help", 0.3)),
    Target(
        "start: lrsclip search on 1 M rows",
        "<= 1 s",
        _search(1_000_000, "cold start at most 1 s", "{:.2f} s"),
    ),
    Target("start: import lrsclip_rt, beyond numpy", "<= 0.05 s", _start("import beyond numpy", 0.05)),
    Target("indexing, of the encoder's own throughput", ">= 90 %", _indexing),
    Target("GPU preprocess: differing bytes", "0", _unknown),
    Target("GPU preprocess: share of the roof", ">= 50 %", _unknown),
    Target("GPU image tower fp16, ONNX Runtime: share of the matrix peak", ">= 30 %", _unknown),
    Target("GPU image tower fp16, ONNX Runtime: against torch.compile", ">= 1.0x", _unknown),
    Target("GPU image tower fp16, TensorRT: share of the matrix peak", ">= 50 %", _unknown),
    Target("GPU, device-resident scene to heat map: share of the tower", ">= 90 %", _unknown),
    Target("built-in model: short mR, AID/RSICD val", ">= 19", _built_in("mR", 19)),
    Target("built-in model: RSSCN7 zero-shot, mean of three seeds", ">= 72 %", _built_in("labels", 72)),
    Target("long texts beat the same cut at 77 tokens, and that beats 20", "both", _long_text),
)
"""In the order of the table."""

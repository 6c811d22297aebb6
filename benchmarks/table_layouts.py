"""How the records of each benchmark become a table: header, rows and the conditions below."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["LAYOUTS", "Layout", "conditions"]

Record = Mapping[str, Any]
Rows = list[Sequence[str]]

_SETTINGS = ("batch", "files", "images", "captions", "data", "rounds", "weights")
_GATES = {"passed": "within", "failed": "BELOW"}
_LIBRARIES = ("onnxruntime", "openvino", "torch")
_HELPERS = {"setuptools", "onnxscript", "numpy"}
"""Not measured themselves; each environment has its own NumPy."""


@dataclass(frozen=True)
class Layout:
    """A table of one benchmark.

    Attributes:
        header: Names of the columns behind the first, which is the model.
        rows: The cells behind the model.
        right_from: First right-aligned column.
    """

    header: tuple[str, ...]
    rows: Callable[[Record], Rows]
    right_from: int


def conditions(record: Record) -> str:
    """Where, when and from what source a record came."""
    device, settings = record["device"], record["settings"]
    commit = "unknown commit" if record["commit"] is None else f"commit {record['commit'][:10]}"
    parts = (
        f"{device['name'] or device['architecture']}, {record['threads']} threads",
        " ".join(device["instructions"]) or "no vector instructions found",
        *(f"{key} {settings[key]}" for key in _SETTINGS if settings.get(key)),
        ", ".join(f"{name} {version}" for name, version in _libraries(record).items()),
        f"{record['at'][:10]}, {commit}{' with changes' if record['dirty'] else ''}",
    )
    return "; ".join(part for part in parts if part) + "."


def _libraries(record: Record) -> dict[str, str]:
    """Versions of what computed; of peers those in their own environments."""
    environments = record["settings"].get("peers", {})
    of_peers = {name: version for found in environments.values() for name, version in found.items()}
    if of_peers:
        return {name: version for name, version in of_peers.items() if name not in _HELPERS}
    return {name: record["versions"][name] for name in _LIBRARIES if name in record["versions"]}


def _candidate_rows(record: Record) -> Rows:
    """One row a candidate; what failed its gate is shown and marked."""
    by_name: dict[str, dict[str, Record]] = {}
    for row in record["results"]:
        if "contender" in row:
            by_name.setdefault(row["contender"], {})[row["what"]] = row
    rows: Rows = []
    for name, found in by_name.items():
        candidate = found["candidate"]
        files, query = found.get("files to embeddings"), found.get("query of 12 tokens")
        rows.append(
            (
                name,
                _GATES.get(candidate["status"], "not run"),
                "-" if files is None else f"{files['per_second']:.1f}",
                "-" if files is None else f"{files['ratio']:.2f}x",
                "-" if query is None else f"{query['p50_ms']:.2f}",
                "-" if query is None else f"{query['ratio']:.1f}x",
                _mebibytes(candidate["peak_memory_bytes"]),
                _mebibytes(candidate["file_bytes"]),
            )
        )
    return rows


def _strategy_rows(record: Record) -> Rows:
    return [
        (
            row["precision"],
            row["steps"],
            "within" if row["passed"] else "BELOW",
            str(row["float_products"]),
            *(f"{cosine:.5f}" for cosine in (*row["image"], *row["text"])),
            "-" if row["top1_agreement"] is None else f"{row['top1_agreement']:.1f}",
            "-" if row["mean_recall_drop"] is None else f"{row['mean_recall_drop']:.2f}",
            "-" if row["classes_lost"] is None else str(row["classes_lost"]),
        )
        for row in record["results"]
    ]


def _search_rows(record: Record) -> Rows:
    """One row a contender and filter."""
    peaks = {row["contender"]: row["bytes"] for row in record["results"] if row["what"] == "peak memory"}
    return [
        (
            row["contender"],
            row["what"].rpartition(", ")[2],
            f"{row['recall_at_10']:.4f}",
            *(f"{row[key]:.1f}" for key in ("p50_ms", "p95_ms", "p99_ms")),
            _mebibytes(peaks.get(row["contender"])),
        )
        for row in record["results"]
        if row["what"].startswith("text to hits")
    ]


def _localization_rows(record: Record) -> Rows:
    """One row a set of scenes and setting."""
    rows: Rows = []
    for row in record["results"]:
        if row["what"] == "mosaic":
            rows.append(("mosaic", row["setting"], str(row["encodes"]), *["-"] * 6, f"{row['map']:.3f}"))
        elif row["what"] in {"annotated", "rendered"}:
            gain, least, most = row["gain"]["roc_auc"]
            scores = (f"{row[key]:.3f}" for key in ("roc_auc", "rsu", "ras", "rda", "rmi"))
            auc, *others = scores
            encodes = str(sum(row["encodes"].values()))
            gained = f"{gain:+.3f} ({least:+.3f} to {most:+.3f})"
            rows.append((row["what"], row["setting"], encodes, auc, gained, *others, "-"))
    return rows


def _localization_cost_rows(record: Record) -> Rows:
    """One row a model, size and mode."""
    rows: Rows = []
    for row in record["results"]:
        both = row.get("published_map")
        rows.append(
            (
                f"{row['model']}, {' x '.join(map(str, row['size']))} px",
                row["mode"],
                str(row["windows"]),
                f"{row['encoder_s']:.1f}",
                f"{row['rest_s']:.1f}",
                f"{100 * row['rest_share']:.0f} %",
                f"{row['further_text_ms']:.1f}",
                f"{row['memory_mib']:.0f}",
                "-" if both is None else f"{both['ratio']:.1f}x, {both['ratio_one_text']:.1f}x",
            )
        )
    return rows


def _peer_rows(record: Record) -> Rows:
    """One row a task and peer; filtered searches and our further precisions have tables of their own."""
    tasks: dict[str, Rows] = {}
    for row in record["results"]:
        if row["what"] == "not run":
            cells = (row["contender"], f"not run: {row['reason']}", "-", "-")
            tasks.setdefault(row["part"], []).append((row["part"], *cells))
        elif " %" not in row["what"] and not row["contender"].startswith("lrsclip-openvino"):
            what = row["what"].replace(f", {record['settings']['model']}", "")
            cells = (row["contender"], row["note"] or "-", f"{row['p50_ms']:.2f}", f"{row['ratio']:.2f}x")
            tasks.setdefault(what, []).append((what, *cells))
    return [row for rows in tasks.values() for row in rows]


def _mebibytes(number: int | None) -> str:
    return "-" if number is None else f"{number / 2**20:.0f}"


LAYOUTS: Mapping[str, Layout] = {
    "precisions": Layout(
        (
            "who", "gates", "images/s", "against PyTorch", "12-token query p50 [ms]", "against PyTorch",
            "peak [MiB]", "files [MiB]",
        ),
        _candidate_rows,
        3,
    ),
    "int8_strategies": Layout(
        (
            "precision", "steps", "gates", "float products", "image cosine", "least", "text cosine", "least",
            "best image stays [%]", "mR lost", "classes lost",
        ),
        _strategy_rows,
        4,
    ),
    "search": Layout(
        ("who", "filter", "recall@10", "p50 [ms]", "p95 [ms]", "p99 [ms]", "peak [MiB]"), _search_rows, 3
    ),
    "peers": Layout(("what", "who", "note", "p50 [ms]", "against ours"), _peer_rows, 4),
    "localization_quality": Layout(
        (
            "scenes", "setting", "windows", "AUC", "gain of AUC on selo", "Rsu", "Ras (less is better)",
            "Rda", "Rmi", "mAP",
        ),
        _localization_rows,
        3,
    ),
    "localization_cost": Layout(
        (
            "scene", "mode", "windows", "encoder [s]", "the rest [s]", "its share", "a further text [ms]",
            "peak [MiB]", "published map of 3 texts, 1 text",
        ),
        _localization_cost_rows,
        3,
    ),
}  # fmt: skip
"""By the name of the benchmark."""

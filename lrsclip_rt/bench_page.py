"""The record of `lrsclip bench` as a folder: JSON lines, a Markdown page with tables, and pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lrsclip_rt.bench_charts import latency_chart, parity_chart, stage_chart
from lrsclip_rt.benchmarking import BenchRecord
from lrsclip_rt.errors import InputError

__all__ = ["page_from_record", "write_bench"]

Row = Mapping[str, Any]
PICTURES = ("throughput-parity.svg", "latency-batch.svg", "stages.svg")


def write_bench(record: BenchRecord, folder: Path) -> list[Path]:
    """Write ``bench.jsonl``, ``bench.md`` and the pictures that the record has numbers for.

    Args:
        record: What was measured.
        folder: Made where it is missing; files of these names are replaced.

    Returns:
        What was written.

    Raises:
        InputError: If the folder cannot be written.
    """
    texts = {"bench.jsonl": record.to_json() + "\n", **_pictures(record.results)}
    texts["bench.md"] = page_from_record(record, [name for name in PICTURES if name in texts])
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
            written.append(folder / name)
    except OSError as error:
        raise InputError(f"{folder} cannot be written ({error.strerror or error})") from error
    return written


def page_from_record(record: BenchRecord, pictures: Sequence[str] = ()) -> str:
    """All rows as Markdown tables, with the machine, the versions and the settings above."""
    rows, settings = record.results, record.settings
    timed = [row for row in rows if "p50_ms" in row]
    parts = [
        f"# {settings['model']}: how fast it is here",
        _machine(record),
        "## Answers, before anything was timed",
        _table(
            ("contender", "image cosine", "least", "text cosine", "least", "top-1 [%]", "gate"),
            [_parity_cells(row) for row in rows if "parity" in str(row["what"])],
        ),
        "## Times",
        _table(
            ("what", "contender", "batch", "p50 [ms]", "p95 [ms]", "p99 [ms]", "a second"),
            [
                (
                    row["what"],
                    row["contender"],
                    str(row["batch"]),
                    *(f"{row[key]:.2f}" for key in ("p50_ms", "p95_ms", "p99_ms", "per_second")),
                )
                for row in timed
            ],
        ),
    ]
    starts = [row for row in rows if row["what"] == "start"]
    if starts:
        header = ("contender", "cold start [s]", "warm start [s]", "peak memory [MiB]", "files [MiB]")
        parts += ["## Starts, memory, files", _table(header, [_start_cells(row) for row in starts])]
    parts += [f"![{name.removesuffix('.svg')}]({name})" for name in pictures]
    return "\n\n".join(parts) + "\n"


def _pictures(rows: Sequence[Row]) -> dict[str, str]:
    def named(name: str) -> list[Row]:
        return [row for row in rows if str(row["what"]).startswith(name)]

    drawings: dict[str, Callable[[], str]] = {
        PICTURES[0]: lambda: parity_chart(named("parity on the probe"), named("files to embeddings")),
        PICTURES[1]: lambda: latency_chart(named("image tower")),
        PICTURES[2]: lambda: stage_chart(named("stage: ")),
    }
    needed = ("files to embeddings", "image tower", "stage: tower")
    wanted = {name for name, what in zip(PICTURES, needed, strict=True) if named(what)}
    return {name: draw() for name, draw in drawings.items() if name in wanted}


def _machine(record: BenchRecord) -> str:
    device, settings = record.device, record.settings
    versions = ", ".join(f"{name} {number}" for name, number in record.versions.items())
    return "\n".join(
        (
            f"- {device.name or device.architecture}, {record.threads} threads",
            f"- {' '.join(device.instructions) or 'no vector instructions found'}",
            f"- {versions}",
            f"- {settings['files']} image files, {settings['rounds']} rounds, {record.at}",
        )
    )


def _parity_cells(row: Row) -> tuple[str, ...]:
    cosines = [
        "-" if row.get(kind) is None else f"{row[kind][key]:.6f}"
        for kind in ("image", "text")
        for key in ("mean", "minimum")
    ]
    top1 = row.get("top1_agreement")
    gate = "within" if row["passed"] else "BELOW"
    return (str(row["contender"]), *cosines, "-" if top1 is None else f"{top1:.1f}", gate)


def _start_cells(row: Row) -> tuple[str, ...]:
    sizes = ["-" if row[key] is None else f"{row[key] / 2**20:.0f}" for key in ("peak_bytes", "file_bytes")]
    return (str(row["contender"]), f"{row['cold_s']:.2f}", f"{row['warm_s']:.2f}", *sizes)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)

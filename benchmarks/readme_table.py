"""Write the README's tables of measurements from the recorded results, or say that they are stale.

    python benchmarks/readme_table.py            # rewrites README.md
    python benchmarks/readme_table.py --check    # exit status 1 where README.md differs

A table stands between ``<!-- table NAME -->`` and ``<!-- end NAME -->``; NAME is a benchmark's. Of every
processor and model the newest record counts.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lrsclip_rt.benchmarking import records_from_file

ROOT = Path(__file__).resolve().parent.parent
_CONDITIONS = ("batch", "files", "images", "rounds", "weights")
MARKED = re.compile(r"(<!-- table (?P<name>\w+) -->\n)(?P<body>.*?)(<!-- end (?P=name) -->)", re.DOTALL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    arguments = parser.parse_args()
    text = arguments.readme.read_text(encoding="utf-8")
    fresh = with_tables(text, arguments.results)
    if arguments.check:
        if fresh != text:
            sys.exit(f"{arguments.readme.name} is stale. Renew it: python benchmarks/readme_table.py")
        return
    arguments.readme.write_text(fresh, encoding="utf-8")


def with_tables(text: str, results: Path) -> str:
    """``text`` with every marked table made anew."""
    return MARKED.sub(lambda found: found[1] + table(found["name"], results) + found[4], text)


def table(bench: str, results: Path) -> str:
    """A Markdown table of the newest record of every processor and model, conditions as notes below."""
    newest: dict[tuple[str, str, str], dict[str, Any]] = {}
    for path in sorted(results.glob(f"*/{bench}.jsonl")):
        for record in records_from_file(path):
            settings = record["settings"]
            newest[path.parent.name, str(settings.get("model")), str(settings.get("weights", ""))] = record
    if not newest:
        return "\nNo measurement is recorded yet.\n\n"
    rows = []
    notes = []
    for number, record in enumerate(newest.values(), start=1):
        rows += rows_from_record(record, number)
        notes.append(f"[{number}] {conditions(record)}")
    header = ("model", "what", "who", "p50 [ms]", "p95 [ms]", "per second", "against PyTorch")
    return "\n" + markdown(header, rows, right_from=3) + "\n" + "\n".join(notes) + "\n\n"


def rows_from_record(record: Mapping[str, Any], number: int) -> list[Sequence[str]]:
    """One row per timed contender; checks of correctness are in the record, not in the table."""
    model = f"{record['settings'].get('model', '-')} [{number}]"
    return [
        (
            model,
            row["what"],
            row["contender"],
            f"{row['p50_ms']:.1f}",
            f"{row['p95_ms']:.1f}",
            f"{row['per_second']:.1f}",
            f"{row['ratio']:.2f}x" if "ratio" in row else "-",
        )
        for row in record["results"]
        if "p50_ms" in row
    ]


def conditions(record: Mapping[str, Any]) -> str:
    """Where, when and from what source a record came."""
    device, settings, versions = record["device"], record["settings"], record["versions"]
    commit = "unknown commit" if record["commit"] is None else f"commit {record['commit'][:10]}"
    libraries = ", ".join(f"{name} {versions[name]}" for name in ("onnxruntime", "torch") if name in versions)
    parts = (
        f"{device['name'] or device['architecture']}, {record['threads']} threads",
        " ".join(device["instructions"]) or "no vector instructions found",
        *(
            f"{key} {settings[key]}"
            for key in ("batch", "files", "images", "rounds", "weights")
            if key in settings
        ),
        libraries,
        f"{record['at'][:10]}, {commit}{' with changes' if record['dirty'] else ''}",
    )
    return "; ".join(part for part in parts if part) + "."


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]], *, right_from: int) -> str:
    """A padded table whose columns from ``right_from`` on are right-aligned."""
    widths = [max(len(line[column]) for line in (header, *rows)) for column in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.rjust(width) if column >= right_from else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return "| " + " | ".join(padded) + " |"

    rule = [("-" * (w - 1) + ":") if column >= right_from else "-" * w for column, w in enumerate(widths)]
    return "\n".join([line(header), line(rule), *map(line, rows)]) + "\n"


if __name__ == "__main__":
    main()

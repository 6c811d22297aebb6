"""Write the tables of measurements in README and docs from the recorded results, or say that they are stale.

    python benchmarks/tables.py            # rewrites README.md and docs/*.md
    python benchmarks/tables.py --check    # exit status 1 where one differs

A table stands between ``<!-- table NAME -->`` and ``<!-- end NAME -->``; NAME is a benchmark's, and
``NAME: MODEL, MODEL`` keeps those models alone. Of every processor and model the newest record counts.
``targets`` is the table of all targets.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# A script finds what lies beside it; the modules of this one are known from the folder above.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.table_layouts import LAYOUTS, conditions
from benchmarks.target_table import HEADER, target_rows
from lrsclip_rt.benchmarking import records_from_file

ROOT = Path(__file__).resolve().parent.parent
TARGETS = "targets"
"""Name of the table that comes from all records."""
MARKED = re.compile(
    r"(<!-- table (?P<name>\w+)(?:: (?P<models>[^>]*?))? -->\n)(?P<body>.*?)(<!-- end (?P=name) -->)",
    re.DOTALL,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--root", type=Path, default=ROOT, help="with README.md and docs/")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    arguments = parser.parse_args()
    stale = []
    for page in [arguments.root / "README.md", *sorted((arguments.root / "docs").glob("*.md"))]:
        text = page.read_text(encoding="utf-8")
        fresh = with_tables(text, arguments.results)
        if fresh == text:
            continue
        if arguments.check:
            stale.append(page.name)
        else:
            page.write_text(fresh, encoding="utf-8")
    if stale:
        sys.exit(f"stale: {', '.join(stale)}. Renew: python benchmarks/tables.py")


def with_tables(text: str, results: Path) -> str:
    """``text`` with every marked table made anew."""

    def renewed(found: re.Match[str]) -> str:
        models = found["models"] and [name.strip() for name in found["models"].split(",")]
        return found[1] + table(found["name"], results, models) + found[5]

    return MARKED.sub(renewed, text)


def table(bench: str, results: Path, models: Sequence[str] | None = None) -> str:
    """A Markdown table of the newest record of every processor and model, conditions as notes below."""
    if bench == TARGETS:
        return "\n" + markdown(HEADER, target_rows(results), right_from=len(HEADER)) + "\n"
    layout = LAYOUTS[bench]
    newest: dict[tuple[str, str, str], dict[str, Any]] = {}
    for path in sorted(results.glob(f"*/{bench}.jsonl")):
        for record in records_from_file(path):
            settings = record["settings"]
            if models is None or settings.get("model") in models:
                newest[path.parent.name, str(settings.get("model")), str(settings.get("weights", ""))] = (
                    record
                )
    if not newest:
        return "\nNo measurement is recorded yet.\n\n"
    rows: list[Sequence[str]] = []
    notes = []
    for number, record in enumerate(newest.values(), start=1):
        settings = record["settings"]
        names = [model["model"] for model in settings.get("models", [])]
        model = f"{settings.get('model') or ' and '.join(names) or '-'} [{number}]"
        rows += [(model, *cells) for cells in layout.rows(record)]
        notes.append(f"[{number}] {conditions(record)}")
    header = ("model", *layout.header)
    return "\n" + markdown(header, rows, right_from=layout.right_from) + "\n" + "\n".join(notes) + "\n\n"


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

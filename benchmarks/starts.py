"""How long it takes until something answers: `lrsclip --help`, `import lrsclip_rt` and `lrsclip search`.

    python benchmarks/starts.py --record
    python benchmarks/starts.py --archive ARCHIVE --record      # searches in it too; it is only read

Each run is a process of its own; files may be in memory, one run before is not counted. The import is what it
takes beyond `import numpy`; a search lasts from the start of its process to the end of its output. Prints a
table, then the record; ``--record`` also appends it to benchmarks/results/<device>/starts.jsonl.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

# A script finds what lies beside it; the package of this checkout is known from the folder above.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lrsclip_rt.archive import Archive
from lrsclip_rt.benchmarking import BenchRow, append_record, interleaved_seconds, make_record
from lrsclip_rt.cpu import available_cpus
from lrsclip_rt.errors import LrsclipError

RESULTS = Path(__file__).resolve().parent / "results"
IMPORT = """
import numpy, time
start = time.perf_counter()
import lrsclip_rt
print(time.perf_counter() - start)
lrsclip_rt.load
print(time.perf_counter() - start)
"""
IMPORTS = "import beyond numpy", "import of load beyond numpy"
"""The package resolves names when they are first used, so the import alone says little."""
QUERY = "a harbour with ships"
SEARCH_TARGET = 1_000_000, "start: lrsclip search on 1 M rows", 1.0
"""Rows, title in benchmarks/target_table.py, most seconds."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--archive", type=Path, help="search in it; not changed")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--record", action="store_true", help="append the record to the results")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error(f"--rounds must be at least 1, got {arguments.rounds}")
    command = Path(sys.executable).with_name("lrsclip")
    if not command.is_file():
        sys.exit(f"starts: {command} is not there; install this checkout: pip install -e .")
    archive_rows = 0 if arguments.archive is None else rows_of(arguments.archive)
    try:
        rows = measured(command, arguments.archive, archive_rows, rounds=arguments.rounds)
    except subprocess.CalledProcessError as error:
        sys.exit(f"starts: {error}")
    for row in rows:
        print(f"{row.what:32} p50 {row.p50_ms:7.1f} ms   p95 {row.p95_ms:7.1f} ms")
    settings = {"rounds": arguments.rounds, "archive_rows": archive_rows or None}
    results: list[Any] = [*rows, *verdicts(rows, archive_rows)]
    record = make_record("starts", threads=available_cpus(), settings=settings, results=results)
    if arguments.record:
        append_record(record, arguments.results)
    print(record.to_json())


def rows_of(archive: Path) -> int:
    try:
        with Archive.open(archive) as opened:
            return len(opened)
    except LrsclipError as error:
        sys.exit(f"starts: {error}")


def measured(command: Path, archive: Path | None, archive_rows: int, *, rounds: int) -> list[BenchRow]:
    """One row a start.

    Raises:
        CalledProcessError: If one fails; what it said is on stderr.
    """
    imports: list[list[float]] = []

    def import_alone(number: int) -> None:
        python = [sys.executable, "-c", IMPORT]
        done = subprocess.run(python, check=True, stdout=subprocess.PIPE, text=True)
        if number >= 0:
            imports.append([float(line) for line in done.stdout.split()])

    def run(*arguments: str) -> None:
        subprocess.run([str(command), *arguments], check=True, stdout=subprocess.DEVNULL)

    runs: dict[str, Callable[[int], object]] = {
        "lrsclip --help": lambda _: run("--help"),
        IMPORTS[0]: import_alone,
    }
    if archive is not None:
        # The least score is below every row's, so that there are hits to write.
        runs[f"lrsclip search, {archive_rows:,} rows"] = lambda _: run(
            "search", str(archive), QUERY, "--min-score", "-1"
        )
    seconds = interleaved_seconds(runs, rounds=rounds)
    # Their process also starts Python and NumPy, which are not counted.
    seconds |= {what: [times[i] for times in imports] for i, what in enumerate(IMPORTS)}
    return [BenchRow.of(what, "lrsclip", times) for what, times in seconds.items()]


def verdicts(rows: list[BenchRow], archive_rows: int) -> list[dict[str, Any]]:
    """The target of a search, where the archive has its size; the others are judged by target_table.py."""
    wanted, title, most_s = SEARCH_TARGET
    if archive_rows != wanted:
        return []
    found = next(row.p50_ms for row in rows if row.what.startswith("lrsclip search")) / 1000
    return [{"what": "target", "title": title, "found": found, "met": found <= most_s}]


if __name__ == "__main__":
    main()

"""Count what pytest's JUnit files say: ``count_tests.py NAME=FILE.xml ... [--record TABLE.md]``.

The number of skipped tests is always printed, so that a machine without data or GPU cannot look complete.
``--record`` adds a row to a Markdown table: date, commit, processor and the counts.
"""

from __future__ import annotations

import argparse
import xml.etree.ElementTree as ElementTree
from datetime import datetime, timezone
from pathlib import Path


def counts_from_junit(path: Path) -> tuple[int, int, int, float]:
    """``(passed, failed, skipped, seconds)`` of one run."""
    suites = list(ElementTree.parse(path).getroot().iter("testsuite"))
    tests, failures, errors, skipped = (
        sum(int(suite.get(key, "0")) for suite in suites)
        for key in ("tests", "failures", "errors", "skipped")
    )
    failed = failures + errors
    return tests - failed - skipped, failed, skipped, sum(float(suite.get("time", "0")) for suite in suites)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", metavar="NAME=FILE.xml")
    parser.add_argument("--record", type=Path)
    arguments = parser.parse_args()
    cells = []
    for run in arguments.runs:
        name, _, file = run.partition("=")
        if not Path(file).is_file():
            cells.append(f"{name}: did not run")
            continue
        passed, failed, skipped, seconds = counts_from_junit(Path(file))
        cells.append(f"{name}: {passed} passed, {failed} failed, {skipped} skipped in {seconds:.0f} s")
    print("\n".join(cells))
    if arguments.record is not None:
        from lrsclip_rt.benchmarking import source_revision
        from lrsclip_rt.cpu import cpu_info

        commit, dirty = source_revision()
        today = datetime.now(timezone.utc).strftime("%Y-%m-%d")
        state = f"{(commit or 'unknown')[:12]}{' + changes' if dirty else ''}"
        with arguments.record.open("a", encoding="utf-8") as table:
            table.write(
                f"| {today} | {state} | {cpu_info().name}, {cpu_info().cpus} CPUs | {'; '.join(cells)} |\n"
            )


if __name__ == "__main__":
    main()

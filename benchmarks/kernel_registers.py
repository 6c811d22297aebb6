"""What the kernels take of a GPU: registers, local memory and spills, as the compilers report them.

    python benchmarks/kernel_registers.py                       # every architecture, by nvcc
    python benchmarks/kernel_registers.py --arch sm_87,sm_90 --record
    python benchmarks/kernel_registers.py --nvrtc libnvrtc.so.12 --record

``--nvrtc`` adds what that library makes for sm_87: NVRTC 12.6 is the compiler of JetPack 6. No GPU is needed
and nothing is timed. Prints a table, then the record; ``--record`` also appends it to
benchmarks/results/<device>/kernel_registers.jsonl.
"""

from __future__ import annotations

import argparse
import ctypes
import re
import subprocess
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

from lrsclip_kernels import ARCHITECTURES, SOURCES
from lrsclip_kernels.nvcc import KernelResources, nvcc_command, resources_from_ptxas
from lrsclip_rt.benchmarking import append_record, make_record
from lrsclip_rt.cuda.nvrtc import nvrtc_compiled, nvrtc_version

RESULTS = Path(__file__).resolve().parent / "results"
JETSON = "sm_87"
THREADS = {kernel: source.threads for source in SOURCES for kernel in source.kernels()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--arch", default=",".join(ARCHITECTURES), help="separated by commas")
    parser.add_argument("--nvrtc", type=Path, help="libnvrtc.so.12 of nvidia-cuda-nvrtc-cu12==12.6.*")
    parser.add_argument("--record", action="store_true", help="append the record to the results")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    architectures = arguments.arch.split(",")

    found = [resource for name in architectures for resource in compiled_resources(name)]
    print_table(found, architectures)
    rows = [{"compiler": "nvcc", **asdict(resource)} for resource in found]
    settings = {"nvcc": nvcc_version(), "architectures": architectures}
    if arguments.nvrtc is not None:
        library = ctypes.CDLL(str(arguments.nvrtc))
        settings["nvrtc"] = nvrtc_version(library)
        on_board = nvrtc_resources(library, JETSON)
        print(f"\nNVRTC {settings['nvrtc']}")
        print_table(on_board, [JETSON])
        rows += [{"compiler": "nvrtc", **asdict(resource)} for resource in on_board]
    record = make_record("kernel_registers", threads=1, settings=settings, results=rows)
    if arguments.record:
        append_record(record, arguments.results)
    print(record.to_json())


def compiled_resources(architecture: str) -> list[KernelResources]:
    """Compile every source once."""
    found: list[KernelResources] = []
    with TemporaryDirectory() as folder:
        for source in SOURCES:
            command = nvcc_command(source.path, architecture, Path(folder) / source.name)
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise SystemExit(f"{source.path.name} does not compile for {architecture}:\n{done.stderr}")
            found += resources_from_ptxas(done.stdout + done.stderr)
    return found


def nvrtc_resources(library: ctypes.CDLL, architecture: str) -> list[KernelResources]:
    """The same by NVRTC."""
    found: list[KernelResources] = []
    for source in SOURCES:
        made = nvrtc_compiled(source, architecture, library, options=["--ptxas-options=-v"])
        found += resources_from_ptxas(made.log)
    return found


def nvcc_version() -> str:
    done = subprocess.run(["nvcc", "--version"], capture_output=True, text=True, check=True)
    release = re.search(r"\bV([\d.]+)", done.stdout)
    return release[1] if release else "unknown"


def print_table(found: Sequence[KernelResources], architectures: Sequence[str]) -> None:
    """Registers of a thread; ``+n`` adds bytes spilled."""
    by_place = {(resource.kernel, resource.architecture): resource for resource in found}
    print(f"{'kernel':20} {'threads':>8}", *(f"{name:>8}" for name in architectures))
    for kernel, threads in THREADS.items():
        cells = []
        for name in architectures:
            resource = by_place[kernel, name]
            spilled = f"+{resource.spill_bytes}" if resource.spill_bytes else ""
            cells.append(f"{resource.registers}{spilled}")
        print(f"{kernel:20} {threads:>8}", *(f"{cell:>8}" for cell in cells))


if __name__ == "__main__":
    main()

"""The kernels under AddressSanitizer and UndefinedBehaviorSanitizer, and faults that these must see."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from kernel_host import compile_for_host

from lrsclip_kernels import SOURCES
from lrsclip_kernels.host_build import SANITIZERS

TESTS = Path(__file__).resolve().parents[1]
FAULTY = """
extern "C" __global__ void reach_beyond(const float* values, float* copy) {
    copy[threadIdx.x] = values[threadIdx.x];
}
extern "C" __global__ void overflow(int* value) { value[0] += 1; }
"""
LAUNCH = """
import sys
import numpy as np
from pathlib import Path
from kernel_host import HostKernels
kernels = HostKernels(Path(sys.argv[1]) / "faulty.so")
values = np.zeros(4000, np.float32)
kernels.launch("reach_beyond", (1, 1, 1), 64, [values[:64], np.zeros(64, np.float32)])
kernels.launch("overflow", (1, 1, 1), 1, [np.zeros(1, np.int32)])
print("so far clean", flush=True)
if sys.argv[2] == "reach_beyond":
    kernels.launch("reach_beyond", (1, 1, 1), 64, [values[-60:], np.zeros(64, np.float32)])
else:
    kernels.launch("overflow", (1, 1, 1), 1, [np.full(1, 2**31 - 1, np.int32)])
"""


def run_sanitized(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    """Run Python with the sanitizer's runtime loaded before everything else."""
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed; it compiles the kernels for the host")
    found = [
        subprocess.run(
            ["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True, timeout=60
        ).stdout.strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    if not all(Path(path).is_absolute() for path in found):
        pytest.skip("g++ has no sanitizer runtime; install libasan and libubsan")
    environment = {
        **os.environ,
        "LD_PRELOAD": " ".join(found),
        "ASAN_OPTIONS": "detect_leaks=0",  # Python keeps what it has until the end
        "PYTHONMALLOC": "malloc",
        "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path]),
    }
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
        env=environment,
    )


def test_every_kernel_is_clean(tmp_path: Path) -> None:
    for source in SOURCES:
        compile_for_host(source.path, source.kernels(), tmp_path, sanitize=SANITIZERS, options=["-O1"])
    done = run_sanitized([str(TESTS / "sanitized_kernels.py"), str(tmp_path)])
    assert (done.returncode, done.stdout) == (0, "clean\n"), done.stderr


@pytest.mark.parametrize(
    ("fault", "report"), [("reach_beyond", "heap-buffer-overflow"), ("overflow", "signed integer overflow")]
)
def test_a_fault_is_seen(tmp_path: Path, fault: str, report: str) -> None:
    source = tmp_path / "faulty.cu"
    source.write_text(FAULTY)
    compile_for_host(source, ["reach_beyond", "overflow"], tmp_path, sanitize=SANITIZERS, options=["-O1"])
    done = run_sanitized(["-c", LAUNCH, str(tmp_path), fault])
    assert done.returncode != 0
    assert done.stdout == "so far clean\n"
    assert report in done.stderr

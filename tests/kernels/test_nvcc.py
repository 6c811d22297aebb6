"""nvcc compiles every kernel for every architecture, without spilling."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from lrsclip_kernels import ARCHITECTURES, FUSE, RESAMPLE, SOURCES, TOPK, KernelSource
from lrsclip_kernels.launches import topk_capacity, topk_merge_shared_bytes, topk_shared_bytes
from lrsclip_kernels.nvcc import nvcc_command, resources_from_ptxas
from lrsclip_rt.resample_plan import SHARED_BYTES

REGISTERS_OF_A_BLOCK = 65_536
SHARED_WITHOUT_ASKING = 49_152


def compiled(source: KernelSource, architecture: str, folder: Path) -> tuple[Path, str]:
    """The file that nvcc made, and what it reported."""
    if shutil.which("nvcc") is None:
        pytest.skip("nvcc is not installed; it compiles the kernels for GPUs")
    output = folder / f"{source.name}.{architecture}"
    # nvcc keeps its intermediate files where TMPDIR says.
    environment = {**os.environ, "TMPDIR": str(folder)}
    done = subprocess.run(
        nvcc_command(source.path, architecture, output),
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    return output, done.stdout + done.stderr


IN_CI = ("sm_87", "sm_90")


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
@pytest.mark.parametrize(
    "architecture",
    [pytest.param(name, marks=() if name in IN_CI else pytest.mark.slow) for name in ARCHITECTURES],
)
def test_every_kernel_compiles_and_fits_without_spilling(
    tmp_path: Path, source: KernelSource, architecture: str
) -> None:
    _, report = compiled(source, architecture, tmp_path)
    resources = resources_from_ptxas(report)
    assert {found.kernel for found in resources} == set(source.kernels())
    for found in resources:
        assert found.architecture == architecture
        assert (found.stack_bytes, found.spill_bytes) == (0, 0), found
        # At least two blocks share a multiprocessor's registers.
        assert 2 * source.threads * found.registers <= REGISTERS_OF_A_BLOCK, found


@pytest.mark.slow
@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_ptx_for_later_architectures_names_every_kernel(tmp_path: Path, source: KernelSource) -> None:
    output, _ = compiled(source, "compute_75", tmp_path)
    entries = re.findall(r"\.entry (\w+)", output.read_text())
    assert set(entries) == set(source.kernels())


def test_the_kernels_are_listed() -> None:
    names = [source.kernels() for source in SOURCES]
    assert names == [
        (
            "resample_first_u8",
            "resample_first_u16",
            "resample_second_f32",
            "resample_second_f16",
            "resample_second_u8",
        ),
        ("topk_f16", "topk_i8", "topk_merge"),
        ("fuse_windows",),
    ]


@pytest.mark.parametrize("source", [RESAMPLE, TOPK, FUSE], ids=lambda source: source.name)
def test_no_header_of_the_toolkit_is_needed(source: KernelSource) -> None:
    included = re.findall(r"#include\s+(\S+)", source.path.read_text())
    assert included == ['"device.cuh"']
    device = (source.path.parent / "device.cuh").read_text()
    assert re.findall(r"#include\s+(\S+)", device) == ['"../host/shim.cuh"']  # for the host alone


def test_shared_memory_fits_every_device_without_asking() -> None:
    assert SHARED_BYTES <= SHARED_WITHOUT_ASKING
    assert max(topk_shared_bytes(topk_capacity(256), rows) for rows in ("f16", "i8")) <= SHARED_WITHOUT_ASKING
    assert topk_merge_shared_bytes(topk_capacity(256)) <= SHARED_WITHOUT_ASKING

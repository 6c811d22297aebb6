"""How a C++17 compiler makes a library of a kernel file, through the shim in ``host``.

The library has one function a kernel::

    const char *launch_NAME(const unsigned grid[3], const unsigned block[3], unsigned shared_bytes,
                            unsigned long long seed, void **arguments)

``arguments`` are the addresses of the parameters, as for ``cuLaunchKernel``; pointers are host pointers. It
returns NULL, or what went wrong; the seed chooses the order in which blocks and threads run.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

__all__ = ["SANITIZERS", "host_command", "host_driver_command", "host_image", "host_unit"]

SANITIZERS = ("address", "undefined")
"""What a library can be built to watch for, besides the shim's own checks."""

_HOST = Path(__file__).resolve().parent / "host"


def host_unit(source: Path, kernels: Sequence[str]) -> str:
    """The C++ file that includes ``source`` and exports its kernels."""
    lines = [f'#include "{_HOST / "shim.cuh"}"', f'#include "{source}"']
    lines += [f"LRSCLIP_HOST_KERNEL({name})" for name in kernels]
    return "\n".join(lines) + "\n"


def host_command(
    unit: Path, library: Path, *, sanitize: Sequence[str] = (), options: Sequence[str] = ()
) -> list[str]:
    """Make a shared library of what ``host_unit`` wrote.

    Products are not contracted to multiply-adds that the source does not ask for, and every warning is an
    error.

    Args:
        unit: The C++ file.
        library: The library to write.
        sanitize: Of ``SANITIZERS``; the first report ends the process.
        options: More of the compiler's options.

    Example:
        >>> host_command(Path("unit.cpp"), Path("unit.so"))[:3]
        ['g++', '-std=c++17', '-shared']
    """
    command = ["g++", "-std=c++17", "-shared", "-fPIC", "-O2", "-ffp-contract=off", "-DLRSCLIP_HOST"]
    command += ["-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]
    if sanitize:
        # What is left out costs half of the compile time and is seen by AddressSanitizer as well.
        command += ["-g1", f"-fsanitize={','.join(sanitize)}", "-fno-sanitize=null,vptr,object-size"]
        command += ["-fno-sanitize-recover=all"]
    return [*command, *options, "-o", str(library), str(unit)]


def host_driver_command(library: Path) -> list[str]:
    """Make a ``libcuda`` whose device is the host: it runs what ``host_command`` made.

    Example:
        >>> host_driver_command(Path("libcuda.so"))[:2]
        ['gcc', '-shared']
    """
    source = str(_HOST / "driver.c")
    command = ["gcc", "-shared", "-fPIC", "-O1", "-Wall", "-Werror"]
    return [*command, "-o", str(library), source, "-ldl", "-lpthread"]


def host_image(library: Path) -> bytes:
    """What that driver takes for a cubin: it names a library of host-compiled kernels.

    Example:
        >>> host_image(Path("/tmp/topk.so"))
        b'\\x7fELFhost:/tmp/topk.so\\x00'
    """
    return b"\x7fELFhost:" + str(library).encode() + b"\0"

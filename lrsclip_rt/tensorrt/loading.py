"""Import TensorRT, and refuse what this code was not written for."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from types import ModuleType

from lrsclip_rt.errors import BackendError, DependencyError

__all__ = ["SUPPORTED", "check_version", "is_lean", "runtime_module", "tensorrt_module", "version_tuple"]

SUPPORTED = "10.3 to 11.x"
_OLDEST = (10, 3)
_NEWEST_MAJOR = 11
_LEAN = "tensorrt_lean"


def tensorrt_module() -> ModuleType:
    """The Python bindings of TensorRT.

    Raises:
        DependencyError: If they are not installed.
        BackendError: If they cannot be imported, or are of a version that is not supported.
    """
    if importlib.util.find_spec("tensorrt") is None:
        raise DependencyError(
            "tensorrt is not installed. Install it with: pip install 'lrsclip-rt[gpu]'; on Jetson it is "
            "JetPack's own: make the environment with python3 -m venv --system-site-packages"
        )
    try:
        import tensorrt
    except Exception as error:  # its own import raises OSError, RuntimeError and others for a missing library
        words = " ".join(str(error).split())[:300]
        raise BackendError(f"tensorrt is installed but cannot be imported: {words}. Reinstall it") from error
    module: ModuleType = tensorrt
    check_version(str(module.__version__))
    return module


def runtime_module() -> ModuleType:
    """What runs engines: TensorRT, or where that is not installed its lean runtime, which builds none.

    Raises:
        DependencyError: If neither is installed.
        BackendError: If it cannot be imported, or is of a version that is not supported.
    """
    if importlib.util.find_spec("tensorrt") is not None or importlib.util.find_spec(_LEAN) is None:
        return tensorrt_module()
    try:
        module = importlib.import_module(_LEAN)
    except Exception as error:  # its own import raises OSError, RuntimeError and others for a missing library
        words = " ".join(str(error).split())[:300]
        raise BackendError(f"{_LEAN} is installed but cannot be imported: {words}. Reinstall it") from error
    check_version(str(module.__version__))
    return module


def is_lean(module: ModuleType) -> bool:
    """It is the lean runtime: it runs version-compatible engines alone."""
    return sys.modules.get(_LEAN) is module


def check_version(version: str) -> None:
    """Refuse a version that this code was not written for.

    Raises:
        BackendError: If it is none of ``SUPPORTED``.

    Example:
        >>> check_version("10.3.0")
        >>> check_version("8.6.1")
        Traceback (most recent call last):
        lrsclip_rt.errors.BackendError: TensorRT 8.6.1 is not supported. Install one of 10.3 to 11.x
    """
    found = version_tuple(version)
    if found < _OLDEST or found[0] > _NEWEST_MAJOR:
        raise BackendError(f"TensorRT {version} is not supported. Install one of {SUPPORTED}")


def version_tuple(version: str) -> tuple[int, ...]:
    """The numbers of a version, for comparing.

    Raises:
        BackendError: If it does not begin with two numbers.

    Example:
        >>> version_tuple("11.4.0.106") > version_tuple("10.13.3")
        True
    """
    numbers = re.match(r"\d+(\.\d+)+", version)
    if numbers is None:
        raise BackendError(f"{version[:40]!r} is no version of TensorRT, expected one like 10.3.0")
    return tuple(int(part) for part in numbers[0].split("."))

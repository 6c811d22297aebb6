"""The real Python bindings of TensorRT without TensorRT: three stub libraries stand for those of the GPU."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
WHEELS = {"10.3": "tensorrt-cu12-bindings==10.3.0", "11.4": "tensorrt-cu13-bindings==11.4.0.106"}
LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser")
# All that the bindings link against; every factory answers with nothing.
SOURCE = """
int getInferLibVersion(void) { return 0; }
int getNvOnnxParserVersion(void) { return 0; }
void *createInferBuilder_INTERNAL(void *logger, int version) { return 0; }
void *createInferRuntime_INTERNAL(void *logger, int version) { return 0; }
void *createInferRefitter_INTERNAL(void *engine, void *logger, int version) { return 0; }
void *createNvOnnxParser_INTERNAL(void *network, void *logger, int version) { return 0; }
void *createNvOnnxParserRefitter_INTERNAL(void *refitter, void *logger, int version) { return 0; }
void *getBuilderPluginRegistry(int capability) { return 0; }
void *getPluginRegistry(void) { return 0; }
_Bool initLibNvInferPlugins(void *logger, const char *name) { return 1; }
"""


class Unavailable(Exception):
    """Why the bindings cannot be had here."""


def bindings_folder(cache: Path, version: str) -> Path:
    """A folder for ``PYTHONPATH`` with ``tensorrt_bindings`` of a version of ``WHEELS``; made once.

    Raises:
        Unavailable: Without network, pip, a wheel for this Python, or gcc.
    """
    folder = cache / f"tensorrt-{version}-py{sys.version_info[0]}{sys.version_info[1]}"
    if folder.is_dir():
        return folder
    if shutil.which("gcc") is None:
        raise Unavailable("gcc is not installed: it makes the stub libraries")
    with tempfile.TemporaryDirectory(dir=cache) as made:
        work = Path(made) / "bindings"
        _download(WHEELS[version], Path(made))
        for wheel in Path(made).glob("*.whl"):
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(work)
        _compile(work / "tensorrt_bindings", major=version.partition(".")[0])
        try:
            work.rename(folder)
        except OSError:
            # Another process of the same test run was first.
            if not folder.is_dir():
                raise
    return folder


def run_with_bindings(folder: Path, *arguments: str) -> str:
    """Run Python with the bindings; returns what it printed."""
    done = subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(HERE)])},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def surface_of(folder: Path) -> dict[str, Any]:
    """See ``tensorrt_surface.py``."""
    found: dict[str, Any] = json.loads(run_with_bindings(folder, str(HERE / "tensorrt_surface.py")))
    return found


def _download(requirement: str, folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary", ":all:", "--retries", "0", "--timeout", "15", "-d", str(folder), requirement]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"pip download {requirement} took too long") from error
    if done.returncode != 0:
        said = (done.stderr.strip() or "no reason").splitlines()[-1]
        raise Unavailable(f"pip cannot download {requirement}: {said}")


def _compile(folder: Path, *, major: str) -> None:
    source = folder / "stub.c"
    source.write_text(SOURCE)
    for name in LIBRARIES:
        output = str(folder / f"lib{name}.so.{major}")
        subprocess.run(["gcc", "-shared", "-fPIC", "-o", output, str(source)], check=True, timeout=60)

"""What is said where there is no GPU, no TensorRT or one of another version: one line that mends it."""

from __future__ import annotations

import importlib.util
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import pytest
from cuda_stub import CudaStub

from lrsclip_rt.backends import BACKENDS, tensorrt_backend, why_not
from lrsclip_rt.bundle import Bundle
from lrsclip_rt.cli import cli, main
from lrsclip_rt.cli.build import command
from lrsclip_rt.cuda.driver import Driver
from lrsclip_rt.embedder import load
from lrsclip_rt.errors import BackendError, DependencyError


@pytest.fixture
def no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without the NVIDIA driver, also where there is one."""
    set_driver(monkeypatch, lambda: Driver("libcuda-that-is-not-there.so"))


def set_driver(monkeypatch: pytest.MonkeyPatch, driver: object) -> None:
    monkeypatch.setattr("lrsclip_rt.cuda.driver.cuda_driver", driver)
    tensorrt_backend.tensorrt_obstacle.cache_clear()
    tensorrt_backend.has_gpu.cache_clear()


@pytest.fixture(autouse=True)
def forgotten() -> object:
    """What this machine can do is remembered for the process; not from one test to the next."""
    yield
    tensorrt_backend.tensorrt_obstacle.cache_clear()
    tensorrt_backend.has_gpu.cache_clear()


def installed(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    module = ModuleType("tensorrt")
    module.__spec__ = ModuleSpec("tensorrt", None)
    module.__version__ = version  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tensorrt", module)


def run_build(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What ``lrsclip build`` says on stderr when it fails; one line, status 1."""
    # The command by name: where it was installed before it existed its entry point is missing.
    monkeypatch.setattr(cli, "get_command", lambda context, name: command)
    monkeypatch.setattr(sys, "argv", ["lrsclip", "build", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    said = capsys.readouterr()
    assert (stop.value.code, said.out, said.err.count("\n")) == (1, "", 1)
    return said.err


def test_without_a_driver_the_command_says_where_to_run_it(
    no_driver: None, bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = run_build(monkeypatch, capsys, str(bundle.path))
    assert said.startswith("Error: no NVIDIA driver here (")
    assert said.endswith("Run this on the machine with the GPU\n")


def test_without_tensorrt_the_command_says_how_to_get_it(
    stub: CudaStub,
    bundle: Bundle,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    set_driver(monkeypatch, stub.driver)
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "tensorrt" else find(name))
    said = run_build(monkeypatch, capsys, str(bundle.path))
    assert "tensorrt is not installed. Install it with: pip install 'lrsclip-rt[gpu]'; on Jetson" in said
    assert isinstance(why_not(BACKENDS["tensorrt"]), DependencyError)


@pytest.mark.parametrize("version", ["8.6.1", "10.2.0", "12.0.1"])
def test_a_version_that_is_not_supported_is_named(
    stub: CudaStub,
    bundle: Bundle,
    version: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    set_driver(monkeypatch, stub.driver)
    installed(monkeypatch, version)
    said = run_build(monkeypatch, capsys, str(bundle.path))
    assert said == f"Error: TensorRT {version} is not supported. Install one of 10.3 to 11.x\n"


def test_a_device_that_is_not_there_is_named(
    stub: CudaStub,
    bundle: Bundle,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    set_driver(monkeypatch, stub.driver)
    installed(monkeypatch, "10.3.0")
    said = run_build(monkeypatch, capsys, str(bundle.path), "--device", "cuda:2")
    assert said == "Error: there is no cuda:2: the driver finds 1 GPU(s)\n"


def test_the_backend_is_refused_by_its_name_and_left_out_by_auto(no_driver: None, bundle: Bundle) -> None:
    with pytest.raises(BackendError, match="no NVIDIA driver here"):
        load(bundle, backend="tensorrt", precision="fp16")
    with pytest.raises(BackendError, match=r"no backend here runs fp16: .*no NVIDIA driver here"):
        load(bundle, precision="fp16")
    assert load(bundle).backend == "onnxruntime"


def test_without_an_engine_the_backend_names_the_command_that_builds_one(
    stub: CudaStub, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_driver(monkeypatch, stub.driver)
    installed(monkeypatch, "10.3.0")
    model = load(bundle, backend="tensorrt", precision="fp16")
    with pytest.raises(BackendError) as refused:
        model.embed_texts(["a ship"])
    assert str(refused.value) == (
        "there is no fp16 engine of text for sm_87, TensorRT 10.3.0. "
        f"Build it here: lrsclip build {bundle.path} --precision fp16"
    )


def test_a_precision_that_the_gpu_lacks_is_refused(stub: CudaStub, monkeypatch: pytest.MonkeyPatch) -> None:
    set_driver(monkeypatch, stub.driver)
    installed(monkeypatch, "10.3.0")
    assert why_not(BACKENDS["tensorrt"], precision="fp16", device="cuda:0") is None
    assert "sm_89 or newer" in str(why_not(BACKENDS["tensorrt"], precision="fp8"))
    assert "not fp32 (it is the yardstick" in str(why_not(BACKENDS["tensorrt"], precision="fp32"))


def test_the_key_of_an_engines_files_differs_between_precisions(bundle: Bundle) -> None:
    assert bundle.content("fp16") != bundle.content("int8")

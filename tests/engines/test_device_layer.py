"""The device layer through ctypes, on a stub of libcuda: no GPU was seen by these tests."""

from __future__ import annotations

import numpy as np
import pytest
from cuda_stub import CudaStub

from lrsclip_rt.cuda.device import Device, device_index, device_info
from lrsclip_rt.cuda.driver import SIGNATURES, Driver
from lrsclip_rt.cuda.memory import DeviceBuffer, PinnedBuffer
from lrsclip_rt.cuda.streams import Event, Stream
from lrsclip_rt.errors import BackendError, DeviceMemoryError, InputError


def test_a_machine_without_a_driver_is_told_so_in_one_line(tmp_path) -> None:
    with pytest.raises(
        BackendError, match=r"no NVIDIA driver here \(.*libcuda-missing.so cannot be loaded\)"
    ):
        Driver(str(tmp_path / "libcuda-missing.so"))


def test_a_driver_that_lacks_a_function_is_too_old() -> None:
    with pytest.raises(BackendError, match=r"lacks cuInit: its CUDA is older than 11\.4"):
        Driver("libm.so.6")


def test_an_error_has_the_name_and_the_words_of_the_driver(stub: CudaStub) -> None:
    stub.configure(devices=0)
    with pytest.raises(BackendError, match=r"cuInit failed: CUDA_ERROR_NO_DEVICE: no CUDA-capable device"):
        stub.driver()


def test_a_device_says_what_it_is_and_holds_its_primary_context_until_it_is_closed(stub: CudaStub) -> None:
    driver = stub.driver()
    assert driver.version == "12.6"
    assert device_info(driver).architecture == "sm_87"
    with pytest.raises(BackendError, match=r"no cuda:3: the driver finds 1 GPU"):
        device_info(driver, 3)
    assert stub.contexts == 0
    device = Device(driver)
    assert stub.contexts == 1
    with device.current():
        pass
    device.close()
    device.close()
    assert stub.contexts == 0
    with pytest.raises(BackendError, match="was closed"), device.current():
        pass


@pytest.mark.parametrize("name", ["cpu", "cuda:x", "cuda:-1"])
def test_a_device_that_is_no_gpu_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="expected cuda or cuda:N"):
        device_index(name)


def test_bytes_come_back_from_the_device_as_they_went(stub: CudaStub) -> None:
    driver = stub.driver()
    device, stream = Device(driver), Stream(driver)
    sent, received = PinnedBuffer(driver, 64), PinnedBuffer(driver, 64)
    memory, done = DeviceBuffer(driver, 64), Event(driver)
    values = np.arange(16, dtype=np.float32).reshape(4, 4)
    sent.view(np.float32, (4, 4))[...] = values
    stream.upload(sent, memory, 64)
    stream.download(memory, received, 48)
    done.record(stream)
    done.wait()
    assert received.view("float32", (3, 4)).tolist() == values[:3].tolist()
    assert received.view("float32", (4, 4))[3].tolist() == [0, 0, 0, 0]
    for one in (sent, received, memory, done, stream):
        one.free()
        one.free()
    device.close()
    assert (stub.used_bytes, stub.open_handles) == (0, 0)


def test_memory_that_does_not_suffice_is_an_error_of_its_own(stub: CudaStub) -> None:
    stub.configure(memory_bytes=1000)
    driver = stub.driver()
    held = DeviceBuffer(driver, 900)
    with pytest.raises(
        DeviceMemoryError, match="cuMemAlloc_v2 failed: CUDA_ERROR_OUT_OF_MEMORY: out of memory"
    ):
        DeviceBuffer(driver, 200)
    held.free()
    DeviceBuffer(driver, 200).free()
    assert isinstance(DeviceMemoryError("x"), MemoryError)


def test_a_graph_is_captured_once_and_launched_often(stub: CudaStub) -> None:
    launches: list[int] = []
    stub.on_launch(launches.append)
    stream = Stream(stub.driver())
    seen: list[bool] = []
    graph = stream.capture(lambda: seen.append(stub.capturing))
    assert (seen, stub.capturing, launches) == ([True], False, [])
    graph.launch(stream)
    graph.launch(stream)
    assert launches == [1, 1]
    graph.free()
    stream.free()
    assert stub.open_handles == 0


def test_a_capture_that_fails_leaves_the_stream_usable(stub: CudaStub) -> None:
    stream = Stream(stub.driver())

    def fail() -> None:
        raise BackendError("not this")

    with pytest.raises(BackendError, match="not this"):
        stream.capture(fail)
    assert not stub.capturing
    stub.fail_captures(True)
    with pytest.raises(BackendError, match="cuStreamEndCapture failed"):
        stream.capture(lambda: None)
    stream.free()
    assert stub.open_handles == 0


def test_every_function_that_is_called_has_its_types() -> None:
    # A pointer without a declared type is cut to 32 bits.
    assert all(name.startswith("cu") and types for name, types in SIGNATURES.items())

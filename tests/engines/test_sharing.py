"""Arrays of the device in other libraries' hands; NumPy itself reads mapped memory by DLPack."""

from __future__ import annotations

import gc
from types import SimpleNamespace

import numpy as np
import pytest
from host_device import HostDevice

from lrsclip_rt.cuda import sharing
from lrsclip_rt.cuda.memory import DevicePool, PinnedBuffer, pooled_size
from lrsclip_rt.cuda.sharing import DeviceArray, MappedArray, device_array
from lrsclip_rt.errors import DeviceMemoryError, InputError


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8", "int64"])
def test_numpy_reads_mapped_memory_in_place(gpu: HostDevice, dtype: str) -> None:
    with gpu.device.current():
        pinned = PinnedBuffer(gpu.driver, 240, mapped=True)
    values = pinned.view(dtype, (2, 3, 4))
    values[...] = np.arange(24).reshape(2, 3, 4)
    assert pinned.device_address
    array = MappedArray(pinned.device_address, (2, 3, 4), dtype)
    seen = np.from_dlpack(array)
    assert (seen.dtype, seen.tolist()) == (np.dtype(dtype), values.tolist())
    values[1, 2, 3] = 77
    assert seen[1, 2, 3] == 77
    assert len(sharing._handed_out) == 1
    del seen
    gc.collect()
    assert sharing._handed_out == {}
    pinned.free()


def test_a_capsule_that_nobody_takes_is_given_back() -> None:
    capsule = DeviceArray(4096, (2,), "float32").__dlpack__()
    assert len(sharing._handed_out) == 1
    del capsule
    gc.collect()
    assert sharing._handed_out == {}


def test_memory_of_a_device_is_described_as_others_read_it() -> None:
    array = DeviceArray(4096, (2, 3), "float16", 1)
    assert array.__dlpack_device__() == (2, 1)
    assert array.__cuda_array_interface__ == {
        "shape": (2, 3),
        "typestr": "<f2",
        "data": (4096, False),
        "strides": None,
        "version": 3,
    }
    assert device_array(array) is array


def test_arrays_of_others_are_taken_by_their_address() -> None:
    told = {"shape": (4, 8), "typestr": "<f4", "data": (8192, True), "strides": None, "version": 3}
    other = SimpleNamespace(__cuda_array_interface__=told, device=SimpleNamespace(index=2))
    found = device_array(other)
    assert (found.address, found.shape, found.dtype, found.device_id) == (8192, (4, 8), "float32", 2)
    assert found.owner is other
    told["strides"] = (32, 4)
    assert device_array(other).nbytes == 128
    told["strides"] = (4, 16)
    with pytest.raises(InputError, match=r"strides \(4, 16\), expected \(32, 4\): make it contiguous"):
        device_array(other)
    with pytest.raises(InputError, match="ndarray is no array on a GPU"):
        device_array(np.zeros(3))


def test_a_pool_asks_the_driver_once_for_each_size(gpu: HostDevice) -> None:
    with gpu.device.current():
        pool = DevicePool(gpu.driver)
        first = pool.take(1_000_000)
        pool.give(first)
        assert pool.idle_bytes == pooled_size(1_000_000)
        assert pool.take(1_000_001) is first
        second = pool.take(1_000_000)
        assert second is not first
        pool.give(first)
        pool.give(second)
        gpu.stub.configure(memory_bytes=gpu.stub.used_bytes + 4096)
        # What lies idle is given back before the driver's refusal counts.
        larger = pool.take(1_500_000)
        assert pool.idle_bytes == 0
        with pytest.raises(DeviceMemoryError):
            pool.take(5_000_000)
        larger.free()


@pytest.mark.parametrize("size", [1, 4096, 4097, 70_000, (1 << 30) + 1])
def test_a_pool_wastes_an_eighth_at_most(size: int) -> None:
    assert size <= pooled_size(size) <= max(4096, size * 9 // 8 + 1)

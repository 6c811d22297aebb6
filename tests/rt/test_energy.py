"""Energy from the sensors of a board and from NVML; files and a library in their form stand for both."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

import pytest

from lrsclip_rt.energy import BoardMeter, GpuMeter, board_watts, energy_meter, measured_energy
from lrsclip_rt.errors import BackendError

NVML = r"""
#include <string.h>
static unsigned long long counter = 1000, open = 0;
int nvmlInit_v2(void) { open++; return 0; }
int nvmlShutdown(void) { open--; return 0; }
int nvmlDeviceGetHandleByPciBusId_v2(const char *id, void **device) {
  *device = &counter; return strcmp(id, "0000:01:00.0") ? 6 : 0; }
int nvmlDeviceGetTotalEnergyConsumption(void *device, unsigned long long *mj) {
  if (device != &counter) return 2;
  *mj = counter; counter += 2500; return 0; }
const char *nvmlErrorString(int status) { return status == 6 ? "Not Found" : "Not Supported"; }
int stub_open(void) { return (int)open; }
"""


def rails(folder: Path, values: dict[str, tuple[int, int]]) -> Path:
    """Sensors as the kernel lays them out: millivolts and milliamperes by rail."""
    hwmon = folder / "1-0040" / "hwmon" / "hwmon3"
    hwmon.mkdir(parents=True)
    for number, (name, (millivolts, milliamperes)) in enumerate(values.items(), start=1):
        (hwmon / f"in{number}_label").write_text(f"{name}\n")
        (hwmon / f"in{number}_input").write_text(f"{millivolts}\n")
        (hwmon / f"curr{number}_input").write_text(f"{milliamperes}\n")
    # The fourth channel has the sum of the shunts, which is no rail.
    (hwmon / "in7_label").write_text("sum of shunt voltages\n")
    (hwmon / "in7_input").write_text("12\n")
    return folder


@pytest.fixture
def nvml(tmp_path: Path) -> Path:
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed: it makes the stub of NVML")
    source, library = tmp_path / "nvml.c", tmp_path / "libnvml_stub.so"
    source.write_text(NVML)
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", str(library), str(source)], check=True, timeout=60)
    return library


def test_the_rail_that_feeds_all_others_is_the_board(tmp_path: Path) -> None:
    found = rails(tmp_path, {"VDD_IN": (5000, 1200), "VDD_CPU_GPU_CV": (5000, 700), "VDD_SOC": (5000, 300)})
    assert board_watts(found) == pytest.approx(6.0)


def test_without_such_a_rail_all_are_added(tmp_path: Path) -> None:
    found = rails(tmp_path, {"VDD_GPU_SOC": (19000, 400), "VDD_CPU_CV": (19000, 100)})
    assert board_watts(found) == pytest.approx(9.5)


def test_energy_of_a_board_is_power_times_time(tmp_path: Path) -> None:
    meter = BoardMeter(rails(tmp_path, {"VDD_IN": (5000, 2000)}))
    found = measured_energy(meter, lambda: time.sleep(0.3))
    assert found.watts == pytest.approx(10.0, rel=0.1)
    assert found.joules == pytest.approx(10.0 * found.seconds, rel=0.1)
    assert found.source == "sensors of the board's rails"


def test_a_board_whose_power_changes_is_followed(tmp_path: Path) -> None:
    folder = rails(tmp_path, {"VDD_IN": (5000, 2000)})
    meter = BoardMeter(folder)

    def work() -> None:
        time.sleep(0.3)
        part = folder / "part"
        part.write_text("6000")
        part.replace(folder / "1-0040" / "hwmon" / "hwmon3" / "curr1_input")
        time.sleep(0.3)

    assert 15 < measured_energy(meter, work).watts < 25


def test_sensors_that_say_nonsense_are_named(tmp_path: Path) -> None:
    folder = rails(tmp_path, {"VDD_IN": (5000, 2000)})
    (folder / "1-0040" / "hwmon" / "hwmon3" / "in1_input").write_text("")
    with pytest.raises(BackendError, match=r"the board's sensor .*in1_label cannot be read"):
        board_watts(folder)


def test_the_counter_of_a_gpu_is_read_before_and_after(nvml: Path) -> None:
    import ctypes

    meter = GpuMeter("0000:01:00.0", str(nvml))
    found = measured_energy(meter, lambda: None)
    assert found.joules == 2.5
    assert found.source == "NVML's energy counter of the GPU"
    meter.close()
    assert ctypes.CDLL(str(nvml)).stub_open() == 0


def test_a_gpu_that_nvml_does_not_know_is_said_in_its_words(nvml: Path) -> None:
    with pytest.raises(BackendError, match="nvmlDeviceGetHandleByPciBusId_v2 failed: Not Found"):
        GpuMeter("0000:99:00.0", str(nvml))


def test_what_can_be_read_is_taken_and_otherwise_both_reasons_are_said(tmp_path: Path, nvml: Path) -> None:
    nowhere = tmp_path / "no-rails"
    assert isinstance(energy_meter("0000:01:00.0", rails=nowhere, nvml=str(nvml)), GpuMeter)
    board = rails(tmp_path / "board", {"VDD_IN": (5000, 1000)})
    assert isinstance(energy_meter("0000:01:00.0", rails=board, nvml=str(nvml)), BoardMeter)
    with pytest.raises(BackendError, match=r"not readable here: there are no sensors .*; there is no GPU"):
        energy_meter(None, rails=nowhere, nvml=str(nvml))
    with pytest.raises(BackendError, match=r"libnvidia-ml-missing.so cannot be loaded"):
        energy_meter("0000:01:00.0", rails=nowhere, nvml="libnvidia-ml-missing.so")

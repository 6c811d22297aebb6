"""A short race of the precisions that were built together: which is fastest here is not known before."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np

from lrsclip_rt.bundle import Bundle
from lrsclip_rt.cuda.device import Device
from lrsclip_rt.cuda.streams import Event, Stream
from lrsclip_rt.tensorrt.bundle_building import Build
from lrsclip_rt.tensorrt.engine_folders import Engine, replace_record
from lrsclip_rt.tensorrt.engine_session import EngineSession

__all__ = ["noted_race", "race"]

_RUNS, _WARM_UP = 20, 5


def race(trt: ModuleType, bundle: Bundle, builds: Sequence[Build], device: Device) -> dict[str, Any] | None:
    """Time the image towers at the engines' largest batch, one engine in memory at a time.

    Args:
        trt: The bindings.
        bundle: The bundle.
        builds: What was built for it.
        device: Where.

    Returns:
        ``{"batch", "runs", "image_ms": {precision: median [ms]}, "fastest"}``, or None where fewer than two
        precisions have an image tower.

    Raises:
        BackendError: If a run fails.
    """
    entered = [build for build in builds if "image" in build.record.engines]
    if len(entered) < 2:
        return None
    batch = min(build.record.engines["image"].profiles[0].maximum for build in entered)
    times = {build.record.precision: _median_ms(trt, bundle, build, device, batch) for build in entered}
    return {
        "batch": batch,
        "runs": _RUNS,
        "image_ms": {name: round(ms, 4) for name, ms in times.items()},
        "fastest": min(times, key=lambda name: times[name]),
    }


def noted_race(builds: Sequence[Build], outcome: dict[str, Any]) -> list[Build]:
    """Write an outcome into each build.json, in one step each; returns the builds as they are then.

    Raises:
        OSError: If a folder cannot be written.
    """
    noted = []
    for build in builds:
        record = replace(build.record, race=outcome)
        replace_record(build.folder, record)
        noted.append(replace(build, record=record))
    return noted


def _median_ms(trt: ModuleType, bundle: Bundle, build: Build, device: Device, batch: int) -> float:
    record = build.record.engines["image"]
    engine = Engine(build.folder, build.record, record, bundle.path / record.graph)
    session = EngineSession(trt, engine, device)
    try:
        info = session.inputs["pixels"]
        shape = (batch, *(n or 1 for n in info.shape[1:]))
        # Random, not zeros, which can run faster; the timed runs find these pixels where they are.
        session.run({"pixels": np.random.default_rng(0).standard_normal(shape).astype(info.dtype)})
        with device.current():
            first, last = Event(device.driver, timed=True), Event(device.driver, timed=True)
        found = []
        for number in range(-_WARM_UP, _RUNS):
            first.record(session.stream)
            session.run_filled(batch, _as_it_is)
            last.record(session.stream)
            last.wait()
            if number >= 0:
                found.append(last.ms_since(first))
        first.free()
        last.free()
    finally:
        session.close()
    return statistics.median(found)


def _as_it_is(some: range, address: int, stream: Stream) -> None:
    """The input stays what the first run left there."""

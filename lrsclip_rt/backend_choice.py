"""What ``auto`` means: which backend runs a bundle here, and at which precision.

``auto`` never measures by itself, so that the first search is as fast as any other. It takes the backends
in the order of ``BACKENDS`` until ``lrsclip info --measure`` has timed this bundle on this machine; from
then on it takes what was fastest. A measurement holds for one model, number of threads, processor and set
of library versions; any other is measured anew. Precisions are never chosen unless ``auto`` is asked for,
and then among those that passed their gates and that no record on real data speaks against.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lrsclip_rt.backends import BACKENDS, backend_on, choose_backend, why_not
from lrsclip_rt.bundle import Bundle
from lrsclip_rt.cpu import available_cpus, cpu_info
from lrsclip_rt.errors import BackendError
from lrsclip_rt.file_stamps import cache_folder

__all__ = [
    "Choice",
    "Measurement",
    "Timing",
    "candidates",
    "choose",
    "keep_measurement",
    "kept_measurement",
    "passed_on",
]

_log = logging.getLogger(__name__)

_SCHEMA = 1
_LIBRARIES = ("lrsclip-rt", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt")
_MARGIN = 1.1
"""A backend takes another's place only if it is this much faster: noise must not choose."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A backend and a precision that run here."""

    backend: str
    precision: str


@dataclass(frozen=True, slots=True)
class Timing:
    """How fast one choice is, or why it was not timed.

    Attributes:
        backend: A name of ``BACKENDS``.
        precision: One of the bundle's.
        image_ms: Median of one image [ms], or None where the bundle has no image tower.
        text_ms: Median of one short query [ms].
        reason: Why it has no times.
    """

    backend: str
    precision: str
    image_ms: float | None = None
    text_ms: float | None = None
    reason: str | None = None

    @property
    def score_ms(self) -> float:
        """The geometric mean of its times [ms], so that no tower outweighs the other; inf without any."""
        times = [ms for ms in (self.image_ms, self.text_ms) if ms is not None]
        return math.exp(sum(map(math.log, times)) / len(times)) if times else math.inf


@dataclass(frozen=True, slots=True)
class Measurement:
    """What was timed in one run, and when (UTC, to the second)."""

    at: str
    timings: tuple[Timing, ...]

    def ranked(self, choices: Sequence[Choice]) -> list[Choice]:
        """``choices``, those first that are within a tenth of the fastest, then the rest by their times.

        Where one of them is unknown to this measurement it says nothing, and the order stays.

        Example:
            >>> fast, slow = Timing("b", "fp32", 1.0, 2.0), Timing("a", "fp32", 9.0, 2.0)
            >>> measured = Measurement("2026-01-01T00:00:00Z", (fast, slow))
            >>> [choice.backend for choice in measured.ranked([Choice("a", "fp32"), Choice("b", "fp32")])]
            ['b', 'a']
        """
        scores = {Choice(t.backend, t.precision): t.score_ms for t in self.timings}
        if not choices or any(choice not in scores for choice in choices):
            return list(choices)
        limit = _MARGIN * min(scores[choice] for choice in choices)
        return sorted(choices, key=lambda choice: (scores[choice] > limit, max(scores[choice], limit)))


def choose(
    bundle: Bundle,
    *,
    backend: str = "auto",
    precision: str | None = None,
    device: str | None = None,
    threads: int | None = None,
) -> Choice:
    """The backend and precision that run ``bundle``.

    Nothing is measured by this, and of several candidates only the first is imported where it runs.

    Args:
        bundle: The model.
        backend: ``auto`` or a name of ``BACKENDS``.
        precision: None for the bundle's default, or a name, or ``auto``.
        device: For example ``cpu``; None leaves it to the backend.
        threads: CPU threads of one run, as measured.

    Raises:
        BundleError: If the bundle lacks the precision.
        BackendError: If nothing here runs it, with the reasons.
        DependencyError: If the library that is needed is not installed.
    """
    backend = backend_on(backend, device)
    choices = candidates(bundle, backend=backend, precision=precision)
    measured = kept_measurement(bundle, threads=threads) if len(choices) > 1 else None
    if measured is not None and all(_measured_there(choice, device) for choice in choices):
        choices = measured.ranked(choices)
        _log.debug("%s comes first, measured %s", choices[0], measured.at)
    for choice in choices:
        if why_not(BACKENDS[choice.backend], precision=choice.precision, device=device) is None:
            return choice
    # Nothing runs: this says why.
    name = choices[0].precision if choices else _allowed(bundle, precision, backend)[0]
    return Choice(choose_backend(backend, precision=name, device=device).name, name)


def candidates(bundle: Bundle, *, backend: str = "auto", precision: str | None = None) -> list[Choice]:
    """What ``choose`` chooses from, in the order without a measurement; none of it was tried here.

    Backends for a kind of device that this machine does not have are left out, and where none was named those
    too on which the precision is recorded to have failed on data, unless no other runs it.

    Raises:
        BundleError: If the bundle lacks the precision.
        BackendError: If ``precision`` is ``auto`` and none passed its gate.
    """
    allowed = _allowed(bundle, precision, backend)
    found = [
        Choice(candidate.name, name)
        for candidate in BACKENDS.values()
        if backend in ("auto", candidate.name)
        for name in candidate.precisions
        if name in allowed and (precision != "auto" or bundle.passed(name, candidate.name))
        if candidate.has_device()
    ]
    sound = [choice for choice in found if not _failed_on_data(bundle, choice)]
    return sound if sound and backend == "auto" else found


def _failed_on_data(bundle: Bundle, choice: Choice) -> bool:
    report = bundle.record(choice.precision).tasks.get(choice.backend)
    return report is not None and not report.passed


def passed_on(bundle: Bundle, precision: str, backend: str = "auto") -> bool:
    """``precision`` passed its gates on a backend; for ``auto`` on at least one of those that run it."""
    running = [b.name for b in BACKENDS.values() if backend in ("auto", b.name) and precision in b.precisions]
    if not running:
        return bundle.passed(precision)
    return any(bundle.passed(precision, name) for name in running)


def _allowed(bundle: Bundle, precision: str | None, backend: str) -> list[str]:
    """The precision asked for, the default, or for ``auto`` all that passed, the default first."""
    if precision != "auto":
        name = precision or bundle.default_precision
        bundle.record(name)
        return [name]
    passed = [name for name in bundle.precisions if passed_on(bundle, name, backend)]
    if not passed:
        where = "" if backend == "auto" else f" on {backend}"
        raise BackendError(
            f"no precision of {bundle.path} passed its gates{where}, so --precision auto has nothing to "
            f"choose from. Name one of {', '.join(bundle.precisions)}"
        )
    return sorted(passed, key=lambda name: name != bundle.default_precision)


def kept_measurement(bundle: Bundle, *, threads: int | None = None) -> Measurement | None:
    """The measurement of this model on this machine with these libraries, or None where there is none."""
    try:
        folder = _folder()
        if not folder.is_dir():
            return None
        key = _key(bundle, threads)
        record = json.loads(_path(folder, key).read_text(encoding="utf-8"))
        if not isinstance(record, dict) or record.get("key") != key:
            return None
        return Measurement(str(record["at"]), tuple(_timing(row) for row in record["timings"]))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def keep_measurement(bundle: Bundle, measurement: Measurement, *, threads: int | None = None) -> Path | None:
    """Remember a measurement in the user's cache, in place of an earlier one.

    Returns:
        Its file, or None where the cache cannot be written.
    """
    key = _key(bundle, threads)
    record = {"key": key, "at": measurement.at, "timings": [asdict(row) for row in measurement.timings]}
    try:
        path = _path(_folder(), key)
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=".choice-", dir=path.parent)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
                json.dump(record, stream)
            Path(name).replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(name).unlink(missing_ok=True)
            raise
    except OSError:
        return None
    return path


def _measured_there(choice: Choice, device: str | None) -> bool:
    """Backends are timed on their first device: the times say nothing about another."""
    kinds = BACKENDS[choice.backend].devices
    return device is None or device.partition(":")[0].lower() == next(iter(kinds), None)


def _folder() -> Path:
    return cache_folder() / "measured"


def _path(folder: Path, key: dict[str, Any]) -> Path:
    return folder / f"{hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]}.json"


def _key(bundle: Bundle, threads: int | None) -> dict[str, Any]:
    """Everything that decides which choice is fastest; as JSON reads it back."""
    cpu = asdict(cpu_info())
    return {
        "schema": _SCHEMA,
        "identity": bundle.identity,
        "threads": threads or available_cpus(),
        "cpu": {**cpu, "instructions": list(cpu["instructions"])},
        "versions": {name: _version(name) for name in _LIBRARIES},
    }


def _version(package: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _timing(row: Any) -> Timing:
    """One row of a file.

    Raises:
        ValueError: If a time is no positive number.
        TypeError: If a key is missing or unknown.
    """
    timing = Timing(**row)
    for ms in (timing.image_ms, timing.text_ms):
        if ms is not None and not (isinstance(ms, (int, float)) and 0 < ms < math.inf):
            raise ValueError(f"{ms!r} is no time")
    return timing

"""Where engines lie, which of them this device may run, and why not the others.

They lie in the bundle, ``engines/<architecture>-trt<version>-<precision>/``, or where that cannot be written
in the user's cache, by the hash of the files that they were built from.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from lrsclip_rt.errors import BackendError, BundleError
from lrsclip_rt.file_stamps import cache_folder, sha256_of_file, sha256_with_stamp
from lrsclip_rt.folder_swap import put_in_place, reach_disk
from lrsclip_rt.tensorrt.engine_records import BuildRecord, EngineRecord
from lrsclip_rt.tensorrt.loading import version_tuple

__all__ = [
    "BUILD_FILE",
    "Engine",
    "Target",
    "builds_of",
    "find_engine",
    "replace_record",
    "writable_folder",
    "write_build",
]

BUILD_FILE = "build.json"
_MAX_RECORD_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Target:
    """What an engine must fit.

    Attributes:
        bundle: The bundle's folder.
        precision: One of the bundle's.
        content: Hex SHA-256 that changes with any file of the precision.
        architecture: Of the device, for example ``sm_87``.
        tensorrt: Version of the library here.
    """

    bundle: Path
    precision: str
    content: str
    architecture: str
    tensorrt: str

    def obstacle(self, build: BuildRecord) -> str | None:
        """Why a build of this precision is of no use here, or None where it is."""
        if build.architecture != self.architecture or not self._runs(build):
            return (
                f"was built for {build.architecture}, TensorRT {build.tensorrt}; "
                f"this device is {self.architecture}, TensorRT {self.tensorrt}"
            )
        if build.content != self.content:
            return f"was built from other {self.precision} files than the bundle holds now"
        return None

    def _runs(self, build: BuildRecord) -> bool:
        """Equal versions; a version-compatible engine also runs on later ones, never on earlier ones."""
        if build.tensorrt == self.tensorrt:
            return True
        later = version_tuple(self.tensorrt) > version_tuple(build.tensorrt)
        return build.options.version_compatible and later


@dataclass(frozen=True, slots=True)
class Engine:
    """An engine that may run: its folder and records, and the ONNX file for what a stripped plan lacks."""

    folder: Path
    build: BuildRecord
    record: EngineRecord
    graph: Path

    def plan_bytes(self) -> bytes:
        """The plan, as it was built.

        Raises:
            BackendError: If it is missing or was changed.
        """
        path = self.folder / self.record.plan
        try:
            plan = path.read_bytes()
            found = sha256_with_stamp(path)
        except OSError as error:
            raise BackendError(
                f"{path} cannot be read: {error.strerror or error}. {_rebuild(self)}"
            ) from error
        if len(plan) != self.record.bytes or found != self.record.sha256:
            raise BackendError(f"{path} was changed or damaged since it was built. {_rebuild(self)}")
        return plan


def find_engine(target: Target, tower: str) -> Engine:
    """The engine of a tower that fits.

    Args:
        target: Bundle, device and library.
        tower: One of ``ENGINE_TOWERS``.

    Raises:
        BackendError: If there is none; says what there is instead, and the command that builds one.
    """
    command = f"lrsclip build {target.bundle} --precision {target.precision}"
    reasons = []
    for folder, build in builds_of(target.bundle, target.content):
        if build.precision != target.precision or tower not in build.engines:
            continue
        record = build.engines[tower]
        obstacle = target.obstacle(build)
        if obstacle is None:
            return Engine(folder, build, record, target.bundle / record.graph)
        reasons.append(f"{record.plan} {obstacle}")
    if reasons:
        raise BackendError(f"{reasons[0]}. Rebuild it here: {command}")
    raise BackendError(
        f"there is no {target.precision} engine of {tower} for {target.architecture}, "
        f"TensorRT {target.tensorrt}. Build it here: {command}"
    )


def builds_of(bundle: Path, content: str) -> Iterator[tuple[Path, BuildRecord]]:
    """Builds, those in the bundle first, and of those the newest TensorRT first.

    Raises:
        BackendError: If a build.json is damaged; names it.
    """
    for root in _roots(bundle, content):
        found = []
        for path in sorted(root.glob(f"*/{BUILD_FILE}")):
            found.append((path.parent, _read(path)))
        yield from sorted(found, key=lambda pair: version_tuple(pair[1].tensorrt), reverse=True)


def writable_folder(bundle: Path, content: str) -> Path:
    """Where engines of a bundle are put: in it, or in the user's cache where it cannot be written.

    Raises:
        BackendError: If neither can be written.
    """
    reasons = []
    for root in _roots(bundle, content):
        try:
            root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".probe-", dir=root):
                return root
        except OSError as error:
            reasons.append(f"{root}: {error.strerror or error}")
    raise BackendError(
        f"engines can be written neither into the bundle nor into the cache ({'; '.join(reasons)}). "
        "Set XDG_CACHE_HOME to a folder that can be written"
    )


def write_build(root: Path, name: str, fill: Callable[[Path], BuildRecord]) -> tuple[Path, BuildRecord]:
    """Put a build in place in one step, instead of an earlier one of the same name.

    Args:
        root: From ``writable_folder``.
        name: The folder's.
        fill: Writes plans into an empty folder and returns their record; if it raises, nothing changes.

    Returns:
        The folder and its record.
    """
    work = Path(tempfile.mkdtemp(prefix=".build-", dir=root))
    try:
        record = fill(work)
        assert record.folder_name == name
        for engine in record.engines.values():
            assert sha256_of_file(work / engine.plan) == engine.sha256
        (work / BUILD_FILE).write_text(record.to_json(), encoding="utf-8")
        # mkdtemp makes it private; engines may be used by whoever may read the bundle.
        work.chmod(0o755)
        reach_disk(work)
        put_in_place(work, root / name)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return root / name, record


def replace_record(folder: Path, record: BuildRecord) -> None:
    """Put another build.json in place of a build's, in one step."""
    descriptor, name = tempfile.mkstemp(prefix=".build-", dir=folder)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(record.to_json())
        Path(name).chmod(0o644)
        Path(name).replace(folder / BUILD_FILE)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _roots(bundle: Path, content: str) -> list[Path]:
    roots = [bundle / "engines"]
    with contextlib.suppress(OSError):  # no home folder
        roots.append(cache_folder() / "engines" / content[:32])
    return roots


def _read(path: Path) -> BuildRecord:
    try:
        with path.open("rb") as stream:
            raw = stream.read(_MAX_RECORD_BYTES + 1)
        if len(raw) > _MAX_RECORD_BYTES:
            raise BackendError(f"{path} is larger than {_MAX_RECORD_BYTES} bytes. Delete {path.parent}")
        return BuildRecord.from_json(raw.decode("utf-8"))
    except (OSError, UnicodeDecodeError, BundleError) as error:
        raise BackendError(f"{path} cannot be used: {error}. Delete {path.parent} and build again") from error


def _rebuild(engine: Engine) -> str:
    return f"Rebuild it: lrsclip build {engine.graph.parent} --precision {engine.build.precision}"

"""The bundle: one folder that is the deployed model, opened only when it is what it claims to be."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from lrsclip_rt.bundle_records import (
    VOCABULARY_FILE,
    FileRecord,
    Manifest,
    ModelSpec,
    PrecisionRecord,
    SourceRecord,
    check_relative_path,
)
from lrsclip_rt.errors import BundleError
from lrsclip_rt.file_stamps import sha256_of_file, sha256_with_stamp
from lrsclip_rt.parity import SETTINGS, Gate
from lrsclip_rt.task_changes import TaskGate

__all__ = ["BUILT_IN", "MANIFEST_FILE", "PROBE_FILE", "TOWERS", "Bundle", "ModelSpec", "SourceRecord"]

BUILT_IN = Path(__file__).resolve().parent / "bundles" / "mini"
MANIFEST_FILE = "bundle.json"
PROBE_FILE = "probe.npz"
TOWERS = ("image", "dense", "text", "text-248")

_MANIFEST_MAX_BYTES = 4 << 20
_LOCATION_KEY = b"\x0a\x08location\x12"
"""How an ONNX file says where a weight lies: field 1 = "location", then field 2 = the relative path."""


@dataclass(frozen=True, slots=True, eq=False)
class Bundle:
    """An opened bundle: what it is, its files and its precisions.

    Attributes:
        path: The folder, resolved.
        manifest: All of bundle.json.

    Example:
        >>> bundle = Bundle.open("vit-b16/")                                       # doctest: +SKIP
        >>> bundle.spec.embed_dim, bundle.default_precision                        # doctest: +SKIP
        (512, 'fp32')
    """

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: str | Path | None = None, *, verify: bool = True) -> Bundle:
        """Open a bundle folder.

        Args:
            path: The folder, or None for the built-in bundle.
            verify: Also check hashes, once per file version. Sizes and paths are always checked.

        Raises:
            BundleError: If there is no bundle, or anything in it is not as recorded.
        """
        if path is None and not (BUILT_IN / MANIFEST_FILE).is_file():
            raise BundleError(
                "this installation has no built-in bundle (lrsclip_rt/bundles/mini). Name one with "
                "-b BUNDLE or load('BUNDLE'), or make one: lrsclip export CHECKPOINT -o BUNDLE"
            )
        folder = BUILT_IN if path is None else Path(path)
        if not folder.is_dir():
            found = "is a file, not a folder" if folder.exists() else "does not exist"
            raise BundleError(f"bundle {folder} {found}. Make one with: lrsclip export CHECKPOINT -o BUNDLE")
        folder = folder.resolve()
        bundle = cls(folder, _read_manifest(folder))
        bundle.verify(hashes=verify)
        return bundle

    @property
    def spec(self) -> ModelSpec:
        """What the model is and expects."""
        return self.manifest.spec

    @property
    def source(self) -> SourceRecord:
        """Where the weights come from."""
        return self.manifest.source

    @property
    def files(self) -> Mapping[str, FileRecord]:
        """Every recorded file by its relative path."""
        return self.manifest.files

    @property
    def precisions(self) -> Mapping[str, PrecisionRecord]:
        """The precisions this bundle holds."""
        return self.manifest.precisions

    @property
    def default_precision(self) -> str:
        """What runs where no precision is asked for."""
        return self.manifest.default_precision

    @property
    def identity(self) -> str:
        """Hex SHA-256 of the checkpoint's hash and the preprocessing; archives record it."""
        return self.manifest.identity

    @property
    def name(self) -> str:
        """The model's short name."""
        return self.spec.name

    @property
    def vocabulary_path(self) -> Path:
        """The tokenizer's vocabulary."""
        return self.path / VOCABULARY_FILE

    @property
    def probe_path(self) -> Path:
        """The probe's images, texts and fp32 embeddings.

        Raises:
            BundleError: If the bundle has none.
        """
        if PROBE_FILE not in self.files:
            raise BundleError(f"{self.path} has no {PROBE_FILE}. Check it on images of yours: --images DIR")
        return self.path / PROBE_FILE

    def gate(self, precision: str) -> Gate:
        """What ``precision`` must reach: the code's thresholds, or this bundle's tighter ones."""
        return self.manifest.gates[precision]

    def task_gate(self, precision: str) -> TaskGate:
        """What ``precision`` may cost on data: the code's thresholds, or this bundle's tighter ones."""
        return self.manifest.task_gates[precision]

    def passed(self, precision: str, backend: str | None = None) -> bool:
        """The stored reports of ``precision`` reach today's gates; fp32 is the yardstick itself.

        Args:
            precision: One of ``precisions``.
            backend: Its record on real data counts, where there is one; None counts that of every backend.
        """
        record = self.record(precision)
        if any(not tasks.passed for name, tasks in record.tasks.items() if backend in (None, name)):
            return False
        if record.parity is None:
            return precision == "fp32"
        return replace(record.parity, gate=self.gate(precision)).passed

    def record(self, precision: str) -> PrecisionRecord:
        """The record of ``precision``.

        bf16 and int8-bf16 are settings of a backend and need no files of their own: where the bundle does not
        list them, they are the files of fp32 and int8 without a report, so that they run where they are
        named and pass no gate.

        Raises:
            BundleError: If the bundle does not hold it; names those that it holds.
        """
        if precision in self.precisions:
            return self.precisions[precision]
        made = SETTINGS.get(precision, precision)
        if made in self.precisions:
            return PrecisionRecord(self.precisions[made].files)
        raise BundleError(
            f"{self.path} holds the precisions {', '.join(self.precisions)}, not {made}. "
            f"Add it: lrsclip export {self.path} -o {self.path} --precision {made}"
        )

    def content(self, precision: str) -> str:
        """Hex SHA-256 that changes with any file of a precision; opening checked the files."""
        files = sorted(self.record(precision).files)
        return hashlib.sha256("\n".join(self.files[name].sha256 for name in files).encode()).hexdigest()

    def towers(self, precision: str) -> tuple[str, ...]:
        """Which of ``TOWERS`` the bundle holds at ``precision``; an archive's copy holds text alone."""
        return tuple(t for t in TOWERS if _graph_name(self.record(precision), t, precision) is not None)

    def graph_path(self, tower: str, precision: str) -> Path:
        """The ONNX file of a tower.

        Args:
            tower: One of ``TOWERS``.
            precision: One of ``precisions``.

        Raises:
            BundleError: If the bundle does not hold it, or it takes weights from a file that is not listed.
        """
        record = self.record(precision)
        name = _graph_name(record, tower, precision)
        if name is None:
            held = ", ".join(self.towers(precision)) or "none"
            raise BundleError(f"{self.path} has no {tower} graph at {precision}; its towers there: {held}")
        _check_external_weights(self.path / name, record)
        return self.path / name

    def verify(self, *, hashes: bool = True, use_stamps: bool = True) -> None:
        """Hold every recorded file against its record.

        Args:
            hashes: Also the hashes; sizes and paths are always checked.
            use_stamps: Trust the hash of a file version that was hashed before.

        Raises:
            BundleError: Naming the first file that is missing, leaves the folder or differs.
        """
        for name, record in self.files.items():
            path = _file_inside(self.path, name)
            size = path.stat().st_size
            if size != record.bytes:
                raise BundleError(f"{path} has {size} bytes, expected {record.bytes}. Copy the bundle again")
            if not hashes:
                continue
            try:
                found = sha256_with_stamp(path) if use_stamps else sha256_of_file(path)
            except OSError as error:
                raise BundleError(f"{path} cannot be read: {error.strerror or error}") from error
            if found != record.sha256:
                raise BundleError(
                    f"{path} has sha256 {found[:12]}..., expected {record.sha256[:12]}.... "
                    "It was changed or damaged: copy the bundle again"
                )


def _read_manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST_FILE
    if not os.path.lexists(path):
        raise BundleError(f"{folder} has no {MANIFEST_FILE}: it is no bundle")
    _file_inside(folder, MANIFEST_FILE)
    try:
        # One byte more than allowed is read, so that a file that grows meanwhile is refused as well.
        with path.open("rb") as stream:
            raw = stream.read(_MANIFEST_MAX_BYTES + 1)
        if len(raw) > _MANIFEST_MAX_BYTES:
            raise BundleError(f"{path} is larger than {_MANIFEST_MAX_BYTES} bytes: it is no bundle.json")
        text = raw.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BundleError(f"{path} cannot be read: {error}") from error
    try:
        return Manifest.from_json(text)
    except BundleError as error:
        raise BundleError(f"{folder}: {error}") from error.__cause__


def _file_inside(folder: Path, name: str) -> Path:
    """``folder / name``, an ordinary file that really lies in the folder."""
    check_relative_path(name)
    path = folder / name
    try:
        resolved = path.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise BundleError(f"{path} is missing. Copy the bundle again") from error
    if not resolved.is_relative_to(folder):
        raise BundleError(f"{path} is a link to {resolved}, outside the bundle. Copy the file itself there")
    if not resolved.is_file():
        raise BundleError(f"{path} is not an ordinary file")
    return path


def _graph_name(record: PrecisionRecord, tower: str, precision: str) -> str | None:
    """``tower.precision.onnx``, or the tower's only graph where a precision is a setting of another."""
    exact = f"{tower}.{precision}.onnx"
    if exact in record.files:
        return exact
    borrowed = [f for f in record.files if f.startswith(f"{tower}.") and f.endswith(".onnx")]
    return borrowed[0] if len(borrowed) == 1 else None


def _check_external_weights(graph: Path, record: PrecisionRecord) -> None:
    """Every weight file that the graph names is one whose hash this precision records."""
    content = graph.read_bytes()
    start = content.find(_LOCATION_KEY)
    while start >= 0:
        name = _length_delimited(content, start + len(_LOCATION_KEY))
        if name not in record.files:
            raise BundleError(f"{graph} takes weights from {name[:80]!r}, which its precision does not list")
        start = content.find(_LOCATION_KEY, start + len(_LOCATION_KEY))


def _length_delimited(content: bytes, start: int) -> str:
    """The protobuf text whose length (a varint) begins at ``start``."""
    length = shift = 0
    for offset in range(start, min(start + 5, len(content))):
        length |= (content[offset] & 0x7F) << shift
        shift += 7
        if not content[offset] & 0x80:
            return content[offset + 1 : offset + 1 + length].decode("utf-8", "replace")
    return ""

"""Write a bundle so that it is either complete under its name or not there at all."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any

from lrsclip_rt.bundle import MANIFEST_FILE, Bundle
from lrsclip_rt.bundle_records import (
    VOCABULARY_FILE,
    FileRecord,
    Manifest,
    ModelSpec,
    PrecisionRecord,
    SourceRecord,
    check_relative_path,
)
from lrsclip_rt.errors import BundleError, InputError, OutputExistsError
from lrsclip_rt.file_stamps import sha256_of_file
from lrsclip_rt.folder_swap import put_in_place, reach_disk, refuse_target
from lrsclip_rt.parity import GATES, SETTINGS, Gate, ParityReport
from lrsclip_rt.task_changes import TASK_GATE, TaskGate
from lrsclip_rt.task_parity import TaskReport

__all__ = ["BundleWriter", "SourceRecord", "text_tower_copy"]

_ENGINES = "engines"
"""Made on a device and keyed by the graphs' hashes: carried along, never recorded in bundle.json."""


class BundleWriter:
    """Fill a temporary folder beside the target, then put it in place with one rename.

    Leaving the ``with`` block by an exception, or without ``finish``, removes everything.

    Args:
        path: The bundle's folder.
        spec: The model.
        source: Where the weights come from.
        overwrite: Replace an existing bundle; a folder that is no bundle is never replaced.
        gates: Thresholds by precision, tighter than the constants; those not named keep theirs.
        presence_threshold: The calibrated threshold of "is it here at all", a cosine.
        task_gates: The same for what a precision may cost on data.

    Raises:
        OutputExistsError: If ``path`` exists and may not be replaced.

    Example:
        >>> with BundleWriter(path, spec, source) as writer:                       # doctest: +SKIP
        ...     export_into(writer.folder)
        ...     writer.add_precision("fp32", files=["image.fp32.onnx", "image.fp32.weights"])
        ...     bundle = writer.finish()
    """

    def __init__(
        self,
        path: str | Path,
        spec: ModelSpec,
        source: SourceRecord,
        *,
        overwrite: bool = False,
        gates: Mapping[str, Gate] | None = None,
        presence_threshold: float | None = None,
        task_gates: Mapping[str, TaskGate] | None = None,
    ) -> None:
        self._path = Path(path)
        self._spec = spec
        self._source = source
        self._overwrite = overwrite
        self._gates = {**GATES, **(gates or {})}
        self._task_gates = {**dict.fromkeys(GATES, TASK_GATE), **(task_gates or {})}
        self._presence_threshold = presence_threshold
        self._precisions: dict[str, PrecisionRecord] = {}
        self._default: str | None = None
        self._carried: dict[str, FileRecord] = {}
        self._origin: Bundle | None = None
        self._folder: Path | None = None
        refuse_target(self._path, MANIFEST_FILE, overwrite=overwrite)

    @classmethod
    def extending(
        cls, bundle: Bundle, path: str | Path | None = None, *, overwrite: bool | None = None
    ) -> BundleWriter:
        """Start from the files and records of ``bundle``, to add precisions.

        Files are hard links where the disk allows it, so never write into one: remove it first
        (``remove_precision``).

        Args:
            bundle: The bundle to start from.
            path: Where the result goes; default the bundle's own folder, which ``finish`` swaps.
            overwrite: Replace ``path``; default only where it is the bundle's own folder.
        """
        target = bundle.path if path is None else Path(path)
        own = target.exists() and target.resolve() == bundle.path
        writer = cls(
            target,
            bundle.spec,
            bundle.source,
            overwrite=own if overwrite is None else overwrite or own,
            gates=bundle.manifest.gates,
            presence_threshold=bundle.manifest.presence_threshold,
            task_gates=bundle.manifest.task_gates,
        )
        writer._origin = bundle
        writer._precisions = dict(bundle.precisions)
        writer._default = bundle.default_precision
        writer._carried = dict(bundle.files)
        return writer

    def __enter__(self) -> BundleWriter:
        parent = self._path.absolute().parent
        try:
            parent.mkdir(parents=True, exist_ok=True)
            folder = parent / f".{self._path.name}.{secrets.token_hex(8)}.part"
            folder.mkdir()
            self._folder = folder
        except OSError as error:
            raise BundleError(f"no bundle can be written in {parent}: {error.strerror or error}") from error
        try:
            if self._origin is not None:
                _link_files(
                    self._origin.path, self._folder, [*self._carried, *_engine_files(self._origin.path)]
                )
        except BaseException:
            self._discard()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._discard()

    @property
    def folder(self) -> Path:
        """The temporary folder; write the files here."""
        if self._folder is None:
            raise InputError("BundleWriter.folder exists only inside its with block and before finish()")
        return self._folder

    @property
    def precisions(self) -> Mapping[str, PrecisionRecord]:
        """The precisions recorded so far."""
        return MappingProxyType(self._precisions)

    def add_precision(
        self,
        name: str,
        *,
        files: Sequence[str],
        parity: ParityReport | Mapping[str, Any] | None,
        notes: Mapping[str, Any] | None = None,
        tasks: Mapping[str, TaskReport] | None = None,
    ) -> None:
        """Record a precision whose files lie in ``folder``; replaces an earlier record of that name.

        Args:
            name: One of ``parity.GATES``.
            files: Graphs and their weight files, relative to ``folder``.
            parity: The report against fp32, or None where it is the yardstick.
            notes: JSON values worth keeping, for example how it was calibrated.
            tasks: What these files cost on real data, by backend.

        Raises:
            BundleError: If the name is unknown, a file is missing or the report is not one.
        """
        if name not in GATES:
            raise BundleError(f"precision {name!r} is unknown, expected one of {', '.join(GATES)}")
        for file in files:
            check_relative_path(file)
            if not (self.folder / file).is_file():
                raise BundleError(f"precision {name} names {file}, which was not written")
        try:
            report = ParityReport.from_dict(parity) if isinstance(parity, Mapping) else parity
        except InputError as error:
            raise BundleError(f"precision {name}: {error}") from error
        self._precisions[name] = PrecisionRecord(tuple(files), report, dict(notes or {}), dict(tasks or {}))

    def remove_precision(self, name: str) -> None:
        """Forget a precision, what is a setting of it, and the files that no other one uses."""
        for setting in [setting for setting, made in SETTINGS.items() if made == name]:
            self._precisions.pop(setting, None)
        record = self._precisions.pop(name, None)
        if record is None:
            return
        kept = {file for other in self._precisions.values() for file in other.files}
        for file in set(record.files) - kept:
            (self.folder / file).unlink(missing_ok=True)
            self._carried.pop(file, None)
        if self._default == name:
            self._default = None

    def set_default(self, name: str) -> None:
        """The precision that runs where none is asked for; ``fp32`` without this."""
        self._default = name

    def finish(self) -> Bundle:
        """Hash every file, write bundle.json, reach the disk, and put the folder in place.

        Returns:
            The bundle under its final path.

        Raises:
            BundleError: If the parts do not agree, or the folder cannot be written.
            OutputExistsError: If the target appeared meanwhile and may not be replaced.
        """
        folder = self.folder
        try:
            manifest = Manifest(
                spec=self._spec,
                source=self._source,
                files=self._hashed_files(),
                precisions=self._precisions,
                default_precision=self._default
                or ("fp32" if "fp32" in self._precisions else next(iter(self._precisions), "")),
                gates=self._gates,
                presence_threshold=self._presence_threshold,
                task_gates=self._task_gates,
            )
            # What is written must be what every reader accepts, so it is read back by the same rules.
            text = manifest.to_json()
            Manifest.from_json(text)
            (folder / MANIFEST_FILE).write_text(text, encoding="utf-8")
            self._check_graphs(Bundle(folder.resolve(), manifest))
            reach_disk(folder)
            refuse_target(self._path, MANIFEST_FILE, overwrite=self._overwrite)
            put_in_place(folder, self._path.absolute())
        except OSError as error:
            if isinstance(error, OutputExistsError):
                raise
            raise BundleError(f"bundle {self._path} cannot be written: {error.strerror or error}") from error
        finally:
            self._discard()
        return Bundle.open(self._path, verify=False)

    def _hashed_files(self) -> dict[str, FileRecord]:
        records = {}
        for path in sorted(self.folder.rglob("*")):
            name = path.relative_to(self.folder).as_posix()
            if path.is_dir() and not path.is_symlink():
                continue
            if path.is_symlink() or not path.is_file():
                raise BundleError(f"{name} is not an ordinary file; a bundle holds only those")
            if name == MANIFEST_FILE or name.startswith(f"{_ENGINES}/"):
                continue
            records[name] = FileRecord(sha256_of_file(path), path.stat().st_size)
            carried = self._carried.get(name)
            if carried is not None and carried != records[name] and self._shares_inode(name):
                raise BundleError(
                    f"{name} was written over in place, which changed the old bundle too. Remove it first"
                )
        return records

    def _shares_inode(self, name: str) -> bool:
        return self._origin is not None and (self._origin.path / name).samefile(self.folder / name)

    def _check_graphs(self, bundle: Bundle) -> None:
        if not bundle.precisions:
            raise BundleError("a bundle needs at least one precision")
        for precision in bundle.precisions:
            towers = bundle.towers(precision)
            if not towers:
                raise BundleError(
                    f"precision {precision} has no graph; expected text.{precision}.onnx and others"
                )
            for tower in towers:
                bundle.graph_path(tower, precision)

    def _discard(self) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None


def text_tower_copy(bundle: Bundle, path: str | Path, *, precisions: Sequence[str] | None = None) -> Bundle:
    """Copy what texts need into a bundle of its own: the text graphs, their weights, the vocabulary.

    It has the same identity, so its texts find what the whole bundle's images wrote.

    Args:
        bundle: The whole bundle.
        path: The new folder.
        precisions: Default only the bundle's default precision.

    Raises:
        BundleError: If a precision is not there or has no text graph.
        OutputExistsError: If ``path`` exists.
    """
    chosen = list(precisions or [bundle.default_precision])
    wanted = {name: _text_files(bundle, name) for name in chosen}
    writer = BundleWriter(
        path,
        bundle.spec,
        bundle.source,
        gates=bundle.manifest.gates,
        presence_threshold=bundle.manifest.presence_threshold,
        task_gates=bundle.manifest.task_gates,
    )
    with writer:
        files = {VOCABULARY_FILE, *(file for names in wanted.values() for file in names)}
        for file in sorted(files):
            target = writer.folder / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(bundle.path / file, target)
        for name, names in wanted.items():
            record = bundle.record(name)
            writer.add_precision(
                name, files=names, parity=record.parity, notes=record.notes, tasks=record.tasks
            )
        writer.set_default(chosen[0])
        return writer.finish()


def _text_files(bundle: Bundle, precision: str) -> list[str]:
    names = [f for f in bundle.record(precision).files if f.startswith(("text.", "text-"))]
    bundle.graph_path("text", precision)
    return names


def _engine_files(folder: Path) -> list[str]:
    engines = folder / _ENGINES
    return [p.relative_to(folder).as_posix() for p in sorted(engines.rglob("*")) if p.is_file()]


def _link_files(origin: Path, target: Path, names: Sequence[str]) -> None:
    for name in names:
        destination = target / name
        destination.parent.mkdir(parents=True, exist_ok=True)
        source = (origin / name).resolve()
        try:
            destination.hardlink_to(source)
        except OSError:
            # Another file system, or one without hard links.
            shutil.copy2(source, destination)

"""Every error a caller can cause.

::

    LrsclipError
    |-- InputError              (ValueError)         an argument, text or data set that cannot be used
    |   |-- ImageError                               an image that cannot be decoded
    |   `-- RasterError                              a raster that cannot be read as asked
    |-- BundleError             (ValueError)         a bundle that is broken, foreign or unsafe
    |-- CheckpointError         (ValueError)         a checkpoint whose layout or shapes do not fit
    |-- ArchiveError            (ValueError)         an archive that cannot be used as asked
    |   |-- ArchiveModelError                        the archive holds vectors of another model
    |   |-- ArchiveLockedError                       another writer holds the archive
    |   `-- ArchiveCorruptError                      a file of the archive does not match its record
    |-- BackendError            (RuntimeError)       a backend or precision that cannot run here
    |   `-- DeviceMemoryError   (MemoryError)        a device that has no memory left for it
    |-- ParityError             (RuntimeError)       a precision that fell below its gate
    |-- WorkerError             (RuntimeError)       a worker process that died
    |-- TrainingError           (RuntimeError)       a training run that cannot go on
    |-- DependencyError         (ImportError)        an optional library that is not installed
    |-- DownloadError           (OSError)            a checkpoint that could not be fetched
    `-- OutputExistsError       (FileExistsError)    an output that would be overwritten

A message says what was found, what was expected and what to do.
"""

from __future__ import annotations

__all__ = [
    "ArchiveCorruptError",
    "ArchiveError",
    "ArchiveLockedError",
    "ArchiveModelError",
    "BackendError",
    "BundleError",
    "CheckpointError",
    "DependencyError",
    "DeviceMemoryError",
    "DownloadError",
    "ImageError",
    "InputError",
    "LrsclipError",
    "OutputExistsError",
    "ParityError",
    "RasterError",
    "TrainingError",
    "WorkerError",
]


class LrsclipError(Exception):
    """Base of all errors raised by lrsclip-rt."""


class InputError(LrsclipError, ValueError):
    """An argument, text or data set that cannot be used."""


class ImageError(InputError):
    """An image that cannot be decoded."""


class RasterError(InputError):
    """A raster that cannot be read as asked."""


class BundleError(LrsclipError, ValueError):
    """A bundle that is broken, foreign or unsafe."""


class CheckpointError(LrsclipError, ValueError):
    """A checkpoint whose layout or shapes do not fit."""


class ArchiveError(LrsclipError, ValueError):
    """An archive that cannot be used as asked."""


class ArchiveModelError(ArchiveError):
    """The archive holds vectors of another model."""


class ArchiveLockedError(ArchiveError):
    """Another writer holds the archive."""


class ArchiveCorruptError(ArchiveError):
    """A file of the archive does not match its record."""


class BackendError(LrsclipError, RuntimeError):
    """A backend or precision that cannot run here."""


class DeviceMemoryError(BackendError, MemoryError):
    """A device that has no memory left for what was asked of it."""


class ParityError(LrsclipError, RuntimeError):
    """A precision that fell below its gate."""


class WorkerError(LrsclipError, RuntimeError):
    """A worker process that died."""


class TrainingError(LrsclipError, RuntimeError):
    """A training run that cannot go on; its last checkpoint stays."""


class DependencyError(LrsclipError, ImportError):
    """An optional library that is not installed.

    Example:
        >>> DependencyError.of("pyogrio", extra="geo")
        DependencyError("pyogrio is not installed. Install it with: pip install 'lrsclip-rt[geo]'")
    """

    @classmethod
    def of(cls, library: str, *, extra: str) -> DependencyError:
        """Name the library that is missing and the extra that brings it."""
        return cls(f"{library} is not installed. Install it with: pip install 'lrsclip-rt[{extra}]'")


class DownloadError(LrsclipError, OSError):
    """A checkpoint that could not be fetched."""


class OutputExistsError(LrsclipError, FileExistsError):
    """An output that would be overwritten."""

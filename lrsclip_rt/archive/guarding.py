"""Whatever a damaged database makes SQLite or our parsing raise, as one named error."""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Concatenate, ParamSpec, Protocol, TypeVar, cast

from lrsclip_rt.errors import ArchiveCorruptError, ArchiveError, LrsclipError

__all__ = ["DAMAGE", "HasPath", "guarded", "reading", "refuse_unless"]

DAMAGE = (
    sqlite3.Error,
    UnicodeError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    OverflowError,
    struct.error,
)
"""What values that nobody wrote can raise on their way into records."""

P = ParamSpec("P")
R = TypeVar("R")


class HasPath(Protocol):
    """Anything that knows which database it reads."""

    @property
    def path(self) -> Path:
        """archive.db."""


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what reading the database at ``path`` raises into ``ArchiveError``; our own errors pass.

    Raises:
        ArchiveCorruptError: If its content makes no sense.
        ArchiveError: If it is closed or busy, or the disk refuses.
    """
    try:
        yield
    except LrsclipError:
        raise
    except sqlite3.ProgrammingError as error:
        raise ArchiveError(f"{path} is not open ({error}); open the archive again") from error
    except DAMAGE as error:
        if isinstance(error, sqlite3.OperationalError) and "locked" in str(error):
            raise ArchiveError(f"{path} is busy ({error}); try again") from error
        if isinstance(error, sqlite3.OperationalError) and "disk" in str(error):
            raise ArchiveError(
                f"{path} could not be used: {error}. Make room on its disk and run the same command again; "
                "everything committed is intact"
            ) from error
        raise ArchiveCorruptError(
            f"{path} cannot be understood ({type(error).__name__}: {error}). "
            "Restore it from a copy, or index again"
        ) from error


S = TypeVar("S", bound=HasPath)


def guarded(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
    """Run a method under ``reading``."""

    @wraps(method)
    def run(self: S, *args: P.args, **kwargs: P.kwargs) -> R:
        with reading(self.path):
            return method(self, *args, **kwargs)

    return cast("Callable[Concatenate[S, P], R]", run)


def refuse_unless(condition: bool, what: str) -> None:
    """Raise for a value that nobody wrote.

    Raises:
        ValueError: To be turned into ``ArchiveCorruptError`` by ``reading``.
    """
    if not condition:
        raise ValueError(what)

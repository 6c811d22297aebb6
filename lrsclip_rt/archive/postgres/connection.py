"""Reaching PostgreSQL: one connection, one name for it that holds no password, and named errors."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lrsclip_rt.errors import ArchiveError, DependencyError, InputError, LrsclipError

if TYPE_CHECKING:
    from psycopg import Connection

__all__ = ["DEFAULT_SCHEMA", "Server", "connect", "import_psycopg", "is_postgres_url", "server_errors"]

DEFAULT_SCHEMA = "lrsclip"

_URL = re.compile(r"postgres(?:ql)?:/{1,2}")
_CONNECT_SECONDS = 10
_REASONS = (
    ("refused", "nobody listens there"),
    ("No such file", "nobody listens there"),
    ("could not translate host name", "the host is not known"),
    ("timeout", f"no answer within {_CONNECT_SECONDS} s"),
    ("no password supplied", "it asks for a password"),
    ("authentication failed", "it does not accept this user and password"),
    ("does not exist", "there is no such database or user"),
    ("no pg_hba.conf entry", "it does not let this machine in"),
    ("too many connections", "it has too many connections"),
)
"""What libpq says, in words that name neither user nor password."""


@dataclass(frozen=True, slots=True)
class Server:
    """A database and the schema of an archive in it.

    Attributes:
        url: ``postgresql://...``; never shown.
        schema: Its schema.
        name: ``host/database`` for messages.
    """

    url: str = field(repr=False)
    schema: str
    name: str

    @classmethod
    def from_url(cls, url: str, schema: str = DEFAULT_SCHEMA) -> Server:
        """Take a URL apart.

        Raises:
            InputError: If it is no ``postgresql://`` URL, or the schema's name is not usable.
            DependencyError: If psycopg is not installed.
        """
        psycopg = import_psycopg()
        if not is_postgres_url(url):
            raise InputError("expected a URL like postgresql://user@host:5432/database")
        # A path on the command line loses one of two slashes.
        whole = _URL.sub("postgresql://", url, count=1)
        try:
            parts = psycopg.conninfo.conninfo_to_dict(whole)
        except (psycopg.Error, UnicodeError):  # the latter for bytes of the command line that are no UTF-8
            # Without the cause: it repeats the URL.
            raise InputError(
                "the postgresql:// URL cannot be understood; special characters of a password must be "
                "percent-encoded, as in postgresql://user:p%40ss@host:5432/database"
            ) from None
        if not schema or len(schema.encode()) > 63 or "\0" in schema or schema.startswith("pg_"):
            raise InputError(f"{schema!r} cannot be the name of a schema; expected 1 to 63 bytes, not pg_...")
        host = parts.get("host") or parts.get("hostaddr") or "localhost"
        port = parts.get("port")
        database = parts.get("dbname") or parts.get("user") or "postgres"
        names = f"{host}{database}"
        if "@" in names or ":/" in names or re.fullmatch(r"[\d,]*", str(port or "")) is None:
            # What libpq takes for a name or a port is a part of the password, or a second address.
            raise InputError(
                "the postgresql:// URL has @ or :/ in its host or database, or a port that is no number; "
                "special characters of a password must be percent-encoded, as in "
                "postgresql://user:p%40ss@host:5432/database"
            )
        return cls(whole, schema, f"{host}{f':{port}' if port else ''}/{database}")

    def __str__(self) -> str:
        return f"schema {self.schema} of {self.name}"


def is_postgres_url(text: object) -> bool:
    """Whether an archive's name is a database rather than a folder.

    Example:
        >>> is_postgres_url("postgresql://host/db"), is_postgres_url("archive/")
        (True, False)
    """
    return _URL.match(str(text)) is not None


def import_psycopg() -> Any:
    """The module ``psycopg``.

    Raises:
        DependencyError: If it is not installed.
    """
    try:
        import psycopg
        import psycopg.conninfo
    except ImportError as error:
        raise DependencyError.of("psycopg", extra="cluster") from error
    return psycopg


def connect(server: Server) -> Connection[Any]:
    """Open a connection in autocommit mode; its transactions are begun by name.

    Raises:
        ArchiveError: If it cannot be reached; names host and database only.
        DependencyError: If psycopg is not installed.
    """
    psycopg = import_psycopg()
    try:
        connection: Connection[Any] = psycopg.connect(
            server.url, autocommit=True, connect_timeout=_CONNECT_SECONDS, application_name="lrsclip"
        )
    except psycopg.Error as error:
        said = str(error)
        reason = next((ours for theirs, ours in _REASONS if theirs in said), "it cannot be reached")
        # Without the cause: what libpq says may hold the user's name.
        raise ArchiveError(f"PostgreSQL at {server.name}: {reason}") from None
    # Plans of one-off searches are not worth compiling.
    connection.execute("SET jit = off")
    return connection


@contextmanager
def server_errors(server: Server, doing: str) -> Iterator[None]:
    """Turn what the server raises into ``ArchiveError``; our own errors pass.

    Raises:
        ArchiveError: With the server's first line.
    """
    psycopg = import_psycopg()
    try:
        yield
    except LrsclipError:
        raise
    except psycopg.Error as error:
        said = str(error).partition("\n")[0] or type(error).__name__
        raise ArchiveError(f"{doing} {server} failed: {said}") from error

"""Objects that live in processes of their own, so that a crash costs one of them and memory is freed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

__all__ = ["Remote", "RemoteError", "keep_freed_memory"]

_STOP_S = 5.0
_KEPT = {"MALLOC_MMAP_THRESHOLD_": str(4 << 30), "MALLOC_TRIM_THRESHOLD_": str(16 << 30)}


class RemoteError(RuntimeError):
    """A call in another process failed, or the process ended."""


class Remote:
    """Makes ``make(*arguments)`` in a new process and calls its methods there.

    Args:
        make: A class or function that the new process can import.
        arguments: For ``make``; sent by pickle, like those of the calls.
    """

    def __init__(self, make: Callable[..., object], *arguments: object) -> None:
        # A fresh interpreter: a fork would hold what this process has imported.
        context = get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, make, arguments), daemon=True)
        self._process.start()
        theirs.close()

    def __enter__(self) -> Remote:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def call(self, method: str, *arguments: object, timeout_s: float) -> Any:
        """Call a method and wait for what it returns.

        Raises:
            RemoteError: If it raised (the message is its own), the process ended, or ``timeout_s`` passed,
                which ends the process.
        """
        try:
            self._connection.send((method, arguments))
            if not self._connection.poll(timeout_s):
                self.close()
                raise RemoteError(f"{method} gave no answer within {timeout_s:g} s and was ended")
            worked, value = self._connection.recv()
        except (EOFError, OSError):
            self._process.join(_STOP_S)
            status = self._process.exitcode
            raise RemoteError(f"its process ended during {method} with status {status}") from None
        if not worked:
            raise RemoteError(str(value))
        return value

    def close(self) -> None:
        """End the process; a second time does nothing."""
        self._connection.close()
        self._process.join(_STOP_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def keep_freed_memory() -> dict[str, str]:
    """Have glibc keep what a process frees, in every process started from now on.

    A virtual machine that hands free memory back to its host pays for each page again: eager PyTorch, which
    asks for large blocks anew in every layer, then takes twice as long and more. A comparison should not
    live on that.

    Returns:
        The variables, for the record; those that are set already stay.
    """
    return {name: os.environ.setdefault(name, value) for name, value in _KEPT.items()}


def _serve(connection: Connection, make: Callable[..., object], arguments: tuple[object, ...]) -> None:
    """Answer calls until the other side closes."""
    made: object | None = None
    with contextlib.suppress(EOFError, OSError):
        while True:
            method, values = connection.recv()
            try:
                if made is None:
                    made = make(*arguments)
                answer = (True, getattr(made, method)(*values))
            except Exception as error:  # whatever a library raises is told to the caller, who goes on
                answer = (False, f"{type(error).__name__}: {' '.join(str(error).split())[:400]}")
            connection.send(answer)

"""Tell systemd that a service is ready and still alive; nothing happens outside a service.

A unit with ``WatchdogSec=`` restarts a service that stops saying so. It is said between units of work, by
whatever does the work: a thread that says it beside work that hangs would prove nothing.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping

from lrsclip_rt.errors import InputError

__all__ = ["Watchdog"]


class Watchdog:
    """Messages to systemd of one process.

    Args:
        environment: Where systemd names its socket and the interval: ``NOTIFY_SOCKET``, ``WATCHDOG_USEC``.
        clock: Seconds that only rise.

    Raises:
        InputError: If the interval is no number.

    Example:
        >>> Watchdog({}).alive()        # no service: nothing is sent
        False
    """

    def __init__(
        self, environment: Mapping[str, str] = os.environ, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._address = _address(environment.get("NOTIFY_SOCKET", ""))
        self._clock = clock
        self._last: float | None = None
        given = environment.get("WATCHDOG_USEC", "0")
        if not given.isdecimal():
            raise InputError(f"WATCHDOG_USEC is {given!r}, expected microseconds as systemd sets them")
        # Half of it, as systemd asks: one message that comes late is no death.
        self.interval_s = int(given) / 2e6

    def ready(self, status: str = "") -> bool:
        """The service has started; returns whether anybody was told."""
        return self._send("READY=1" + (f"\nSTATUS={_line(status)}" if status else ""))

    def status(self, text: str) -> bool:
        """What ``systemctl status`` shows."""
        return self._send(f"STATUS={_line(text)}")

    def alive(self) -> bool:
        """Call this often: at most one message is sent in half of the interval that the unit asks for."""
        now = self._clock()
        if not self.interval_s or (self._last is not None and now - self._last < self.interval_s):
            return False
        self._last = now
        return self._send("WATCHDOG=1")

    def stopping(self) -> bool:
        """The service ends by itself."""
        return self._send("STOPPING=1")

    def _send(self, message: str) -> bool:
        """A failure costs a message, never the work."""
        if self._address is None:
            return False
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.setblocking(False)
                sender.sendto(message.encode(), self._address)
        except OSError:
            return False
        return True


def _address(path: str) -> str | None:
    """A path, or a name in the abstract namespace, which systemd writes with an ``@``."""
    if path.startswith("@"):
        return "\0" + path[1:]
    return path if path.startswith("/") else None


def _line(text: str) -> str:
    return " ".join(text.split())

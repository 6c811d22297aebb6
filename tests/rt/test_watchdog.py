"""What a service says to systemd, over a socket like systemd's."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lrsclip_rt.errors import InputError
from lrsclip_rt.watchdog import Watchdog

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="systemd is Linux's")


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "notify"))
        receiver.settimeout(5)
        yield receiver


def messages(receiver: socket.socket) -> list[str]:
    """Everything that has arrived."""
    receiver.setblocking(False)
    found = []
    try:
        while True:
            found.append(receiver.recv(4096).decode())
    except BlockingIOError:
        return found


def test_a_service_says_what_it_does_one_line_each(systemd: socket.socket) -> None:
    watchdog = Watchdog({"NOTIFY_SOCKET": systemd.getsockname(), "WATCHDOG_USEC": "20000000"})
    assert watchdog.interval_s == 10
    assert watchdog.ready("waiting for\nimages")
    assert watchdog.status("12 images")
    assert watchdog.stopping()
    assert messages(systemd) == ["READY=1\nSTATUS=waiting for images", "STATUS=12 images", "STOPPING=1"]


def test_it_is_alive_once_in_half_of_the_interval(systemd: socket.socket) -> None:
    now = [100.0]
    watchdog = Watchdog(
        {"NOTIFY_SOCKET": systemd.getsockname(), "WATCHDOG_USEC": "4000000"}, clock=lambda: now[0]
    )
    said = []
    for second in (0, 0.5, 1.9, 2.0, 2.1, 3.9, 4.0):
        now[0] = 100.0 + second
        said.append(watchdog.alive())
    assert said == [True, False, False, True, False, False, True]
    assert messages(systemd) == ["WATCHDOG=1"] * 3


def test_a_name_without_a_file_is_understood() -> None:
    name = f"lrsclip-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind("\0" + name)
        assert Watchdog({"NOTIFY_SOCKET": "@" + name}).ready()
        assert messages(receiver) == ["READY=1"]


@pytest.mark.parametrize("environment", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "/not/there"}])
def test_without_systemd_nothing_is_sent_and_nothing_fails(environment: dict[str, str]) -> None:
    watchdog = Watchdog({**environment, "WATCHDOG_USEC": "1000000"})
    assert not watchdog.ready()
    assert not watchdog.alive()
    assert not Watchdog(environment).alive()


def test_an_interval_that_is_no_number_is_refused() -> None:
    with pytest.raises(InputError, match="WATCHDOG_USEC is 'soon', expected microseconds"):
        Watchdog({"WATCHDOG_USEC": "soon"})

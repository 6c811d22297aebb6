"""Run an iterator in a thread of its own, a bounded number of items ahead of its consumer."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterable
from queue import Empty, Queue
from threading import Event, Thread
from typing import Generic, TypeVar

__all__ = ["run_ahead"]

T = TypeVar("T")


class _Ahead(Generic[T]):
    """The thread and its queue; each entry is an item, or the error or end that came instead."""

    def __init__(self, items: Iterable[T], depth: int) -> None:
        self._items = items
        self._stopped = Event()
        self.queue: Queue[tuple[T] | BaseException | None] = Queue(maxsize=depth)
        self._thread = Thread(target=self._work, name="lrsclip-read", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread, also while it waits for room, and wait for it."""
        self._stopped.set()
        while self._thread.is_alive():
            with contextlib.suppress(Empty):
                self.queue.get(timeout=0.05)
        self._thread.join()

    def _work(self) -> None:
        last: BaseException | None = None
        try:
            for item in self._items:
                self.queue.put((item,))
                if self._stopped.is_set():
                    break
        except BaseException as error:  # handed to the consumer, whose error it is
            last = error
        finally:
            # A generator's own clean-up belongs to the thread that ran it.
            close = getattr(self._items, "close", None)
            if close is not None:
                close()
        self.queue.put(last)


def run_ahead(items: Iterable[T], *, depth: int) -> Generator[T, None, None]:
    """Yield ``items`` in order while a thread prepares up to ``depth`` more.

    Closing this generator ends the thread and closes ``items``. An error of ``items`` is raised here, at its
    place in the order.

    Example:
        >>> list(run_ahead(iter("abc"), depth=1))
        ['a', 'b', 'c']
    """
    ahead = _Ahead(items, depth)
    try:
        while True:
            entry = ahead.queue.get()
            if entry is None:
                return
            if isinstance(entry, BaseException):
                raise entry
            yield entry[0]
    finally:
        ahead.stop()

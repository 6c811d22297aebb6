"""Run an iterator in a thread of its own, a bounded amount of work ahead of its consumer."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from threading import Condition, Thread
from typing import Generic, TypeVar

__all__ = ["run_ahead"]

T = TypeVar("T")


class _Ahead(Generic[T]):
    """The thread and what it prepared: items with their weights, then the error or end that came last."""

    def __init__(
        self, items: Iterable[T], depth: int, weigh: Callable[[T], int] | None, most: int, name: str
    ) -> None:
        self._items = items
        self._depth = depth
        self._weigh = weigh
        self._most = most
        self._ready: deque[tuple[T, int]] = deque()
        self._weight = 0
        self._changed = Condition()
        self._stopped = self._ended = False
        self._error: BaseException | None = None
        self._thread = Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def take(self) -> tuple[T] | None:
        """The next item; None at the end.

        Raises:
            BaseException: What ``items`` raised, at its place in the order.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._ready or self._ended)
            if self._ready:
                item, weight = self._ready.popleft()
                self._weight -= weight
                self._changed.notify_all()
                return (item,)
            error, self._error = self._error, None
        if error is not None:
            raise error
        return None

    def stop(self) -> None:
        """End the thread, also while it waits for room, and wait for it."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._thread.join()

    def _work(self) -> None:
        error: BaseException | None = None
        try:
            for item in self._items:
                if not self._put(item):
                    break
        except BaseException as raised:  # handed to the consumer, whose error it is
            error = raised
        finally:
            # A generator's own clean-up belongs to the thread that ran it.
            close = getattr(self._items, "close", None)
            if close is not None:
                close()
            with self._changed:
                self._error, self._ended = error, True
                self._changed.notify_all()

    def _put(self, item: T) -> bool:
        """Add an item when there is room; False when nobody wants it any more."""
        weight = 0 if self._weigh is None else self._weigh(item)
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or self._has_room(weight))
            if self._stopped:
                return False
            self._ready.append((item, weight))
            self._weight += weight
            self._changed.notify_all()
            return True

    def _has_room(self, weight: int) -> bool:
        fits = not self._ready or self._weight + weight <= self._most
        return len(self._ready) < self._depth and fits


def run_ahead(
    items: Iterable[T],
    *,
    depth: int,
    weigh: Callable[[T], int] | None = None,
    most: int = 0,
    name: str = "lrsclip-read",
) -> Generator[T, None, None]:
    """Yield ``items`` in order while a thread prepares up to ``depth`` more.

    Closing this generator ends the thread and closes ``items``. An error of ``items`` is raised here, at its
    place in the order.

    Args:
        items: What the thread iterates over.
        depth: Most items that are ready and not taken.
        weigh: Weight of an item, for example its bytes; default none has any.
        most: Largest sum of weights that are ready; an item that is heavier alone still passes, alone.
        name: Of the thread.

    Example:
        >>> list(run_ahead(iter("abc"), depth=1))
        ['a', 'b', 'c']
    """
    ahead = _Ahead(items, depth, weigh, most, name)
    try:
        while (entry := ahead.take()) is not None:
            yield entry[0]
    finally:
        ahead.stop()

"""Times as int64 microseconds since 1970-01-01 UTC, and the texts they come from."""

from __future__ import annotations

import re
from datetime import date, datetime, timedelta, timezone

import numpy as np

from lrsclip_rt.errors import InputError

__all__ = [
    "NO_TIME",
    "TimeLike",
    "interval_us",
    "is_time_us",
    "text_from_time_us",
    "time_us_from_text",
]

NO_TIME = int(np.iinfo(np.int64).min)
"""What the ``time`` column holds for a row without a time."""

TimeLike = str | date | datetime
"""ISO 8601 text, a date or a datetime; without an offset it is UTC."""

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_FIRST_US, _LAST_US = -62_135_596_800_000_000, 253_402_300_799_999_999
_ISO = re.compile(
    r"(\d{4})-(\d{2})-(\d{2})"
    r"(?:[T ](\d{2}):(\d{2})(?::(\d{2})(?:[.,](\d{1,9}))?)?\s*(Z|z|[+-]\d{2}:?\d{2})?)?"
)


def time_us_from_text(text: str) -> int:
    """Microseconds since the epoch of an ISO 8601 date or time; a bare date is its midnight.

    Raises:
        InputError: If it is neither.

    Example:
        >>> time_us_from_text("1970-01-02"), time_us_from_text("1970-01-01T02:00:00.5+02:00")
        (86400000000, 500000)
    """
    return interval_us(text)[0]


def interval_us(value: TimeLike) -> tuple[int, int]:
    """First microsecond of ``value`` and the one after its last: a bare date is the whole day.

    A time is an instant: both ends are equal.

    Raises:
        InputError: If it is no date or time.

    Example:
        >>> start, end = interval_us("2020-02-29")
        >>> text_from_time_us(start), text_from_time_us(end)
        ('2020-02-29T00:00:00Z', '2020-03-01T00:00:00Z')
    """
    if isinstance(value, datetime):
        moment = value if value.tzinfo is not None else value.replace(tzinfo=timezone.utc)
        return _us(moment), _us(moment)
    if isinstance(value, date):
        return _day(value)
    match = _ISO.fullmatch(value.strip())
    try:
        if match is None:
            raise ValueError("no ISO 8601 form")
        year, month, day = (int(part) for part in match.groups()[:3])
        if match.group(4) is None:
            return _day(date(year, month, day))
        hour, minute, second = (int(part or 0) for part in match.groups()[3:6])
        fraction_us = int((match.group(7) or "").ljust(6, "0")[:6])
        zone = _zone(match.group(8))
        start = _us(datetime(year, month, day, hour, minute, second, fraction_us, tzinfo=zone))
    except (ValueError, OverflowError) as error:
        raise InputError(
            f"{value!r} is no date or time ({error}); expected for example 2024-05-31 or 2024-05-31T10:20:00Z"
        ) from error
    return start, start


def is_time_us(time_us: int) -> bool:
    """Whether it lies in the years 1 to 9999, which dates can name."""
    return _FIRST_US <= time_us <= _LAST_US


def text_from_time_us(time_us: int) -> str:
    """ISO 8601 in UTC with ``Z``; a fraction only where there is one.

    Example:
        >>> text_from_time_us(-1)
        '1969-12-31T23:59:59.999999Z'
    """
    moment = _EPOCH + timedelta(microseconds=time_us)
    return moment.replace(tzinfo=None).isoformat() + "Z"


def _day(day: date) -> tuple[int, int]:
    start = _us(datetime(day.year, day.month, day.day, tzinfo=timezone.utc))
    return start, start + 86_400_000_000


def _us(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(microseconds=1)


def _zone(text: str | None) -> timezone:
    if text is None or text in "Zz":
        return timezone.utc
    sign = -1 if text[0] == "-" else 1
    return timezone(sign * timedelta(hours=int(text[1:3]), minutes=int(text[-2:])))

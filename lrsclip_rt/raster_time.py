"""When a scene was taken: from its tags, else from its file name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone

__all__ = ["datetime_from_name", "datetime_from_tags", "datetime_from_tiff_tag"]

ACQUISITION_TAGS = (
    "ACQUISITIONDATETIME",
    "ACQUISITION_DATETIME",
    "ACQUISITION_TIME",
    "ACQUISITION_DATE",
    "DATE_ACQUIRED",
    "SENSING_TIME",
    "DATETIME",
)
"""Names that producers use for the time of acquisition, upper case, the surest first."""

# A date of eight digits or with dashes, then perhaps a time; no further digit on either side.
_NAMED = re.compile(
    r"(?<!\d)(?P<year>19[5-9]\d|20\d\d)(?P<dash>-?)(?P<month>\d\d)(?P=dash)(?P<day>\d\d)"
    r"(?:[T_](?P<hour>\d\d)[:-]?(?P<minute>\d\d)[:-]?(?P<second>\d\d))?(?!\d)"
)
_TAGGED = re.compile(
    r"^\s*(\d{4})[:\-/](\d\d)[:\-/](\d\d)(?:[T\s]+(\d\d):(\d\d)(?::(\d\d)(?:\.\d+)?)?\s*(Z|[+-]\d\d:?\d\d)?)?\s*$"
)


def datetime_from_tags(tags: Mapping[str, str]) -> str | None:
    """Time of acquisition in a raster's metadata, as UTC.

    Times without a zone are taken as UTC. The TIFF tag DateTime counts only when nothing else does,
    because many programs write the time of processing there.

    Example:
        >>> datetime_from_tags({"ACQUISITION_DATE": "2020-08-31"})
        '2020-08-31T00:00:00Z'
    """
    by_name = {name.upper(): value for name, value in tags.items()}
    for name in ACQUISITION_TAGS:
        found = _parsed(by_name.get(name, ""))
        if found is not None:
            return found
    return None


def datetime_from_name(name: str) -> str | None:
    """First date in a file name, as UTC.

    Example:
        >>> datetime_from_name("S2A_MSIL1C_20200831T173901_N0209.tif")
        '2020-08-31T17:39:01Z'
        >>> datetime_from_name("naip_m_4709963_se_14_1_20100629.tif")
        '2010-06-29T00:00:00Z'
    """
    keys = ("year", "month", "day", "hour", "minute", "second")
    match = _NAMED.search(name)
    while match is not None:
        found = _iso(*(int(match.group(key) or 0) for key in keys))
        if found is not None:
            return found
        match = _NAMED.search(name, match.start() + 1)  # no such day: the next may begin inside
    return None


def datetime_from_tiff_tag(value: str) -> str | None:
    """The TIFF tag DateTime, ``YYYY:MM:DD HH:MM:SS``, as UTC."""
    return _parsed(value)


def _parsed(value: str) -> str | None:
    match = _TAGGED.match(value) if value else None
    if match is None:
        return datetime_from_name(value) if re.fullmatch(r"\s*\d{8}(T\d{6})?Z?\s*", value or "") else None
    numbers = [int(part or 0) for part in match.groups()[:6]]
    return _iso(*numbers, zone=match.group(7))


def _iso(
    year: int, month: int, day: int, hour: int, minute: int, second: int, *, zone: str | None = None
) -> str | None:
    try:
        moment = datetime(year, month, day, hour, minute, min(second, 59), tzinfo=timezone.utc)
    except ValueError:
        return None
    if zone not in (None, "Z"):
        assert zone is not None
        digits = zone[1:].replace(":", "")
        offset = timedelta(hours=int(digits[:2]), minutes=int(digits[2:]))
        moment -= offset if zone[0] == "+" else -offset
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")

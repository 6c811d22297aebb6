from __future__ import annotations

from collections.abc import Iterator
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import archive_makers as makers
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrsclip_rt.archive import Archive, ArchiveWriter, Hits, Location, NewTile, Where
from lrsclip_rt.archive.footprints import Bbox, Rings, rings_meet_bbox, simplified
from lrsclip_rt.archive.times import interval_us, text_from_time_us, time_us_from_text
from lrsclip_rt.archive.where import inside_box, touching_box
from lrsclip_rt.errors import InputError
from lrsclip_rt.tiles import Window

DAY_US = 86_400_000_000

PLACES: dict[str, tuple[Bbox | None, str | None]] = {
    "fiji": ((179.0, -18.0, -179.0, -17.0), "2020-01-01T12:00:00Z"),
    "vegas": ((-115.3, 36.1, -115.1, 36.3), "2020-01-02"),
    "port": ((4.0, 51.8, 4.2, 52.0), "2020-01-02T23:59:59.999999Z"),
    "old": ((4.1, 51.9, 4.3, 52.1), "1969-07-20T20:17:40Z"),
    "nowhere": (None, "2020-01-03"),
    "never": ((100.0, 0.0, 101.0, 1.0), None),
}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    folder = tmp_path_factory.mktemp("where") / "archive"
    with ArchiveWriter(folder, makers.MODEL, makers.FP32, segment_rows=4) as writer:
        for number, (name, (bbox, time)) in enumerate(PLACES.items()):
            source = writer.add_source(makers.content(number))
            writer.add_location(source, Location("/data/scenes", f"{name}/scene.tif"))
            writer.add_metadata(source, {"sensor": "naip" if number % 2 else "planet", "name": name})
            time_us = None if time is None else time_us_from_text(time)
            tile = NewTile(256, Window(0, 0, 256, 256), bbox, rings(bbox), time_us)
            writer.append(source, [tile], makers.unit_rows(1, number))
    with Archive.open(folder) as opened:
        yield opened


def rings(bbox: Bbox | None) -> Rings:
    if bbox is None:
        return ()
    west, south, east, north = bbox
    if west <= east:
        return (makers.square(bbox),)
    return makers.square((west, south, 180.0, north)), makers.square((-180.0, south, east, north))


def names(hits: Hits) -> set[str]:
    return {Path(hit.source).parent.name for hit in hits}


def search(archive: Archive, **conditions: Any) -> set[str]:
    [hits] = archive.search(makers.unit_rows(1), where=Where(**conditions))
    assert hits.rows == len(hits)
    return names(hits)


def test_a_filter_that_is_kept_gives_way_to_the_next(archive: Archive) -> None:
    asked = (
        ({"bbox": (3, 51, 5, 53)}, {"port", "old"}),
        ({"bbox": (3, 51, 5, 53), "start": "2000-01-01"}, {"port"}),
        ({"bbox": (3, 51, 5, 53), "metadata": {"sensor": "naip"}}, {"old"}),
        ({"bbox": (4.25, 52.05, 5, 53)}, {"old"}),
        ({"bbox": (3, 51, 5, 53), "sources": ["*port*"]}, {"port"}),
    )
    for conditions, expected in (*asked, *reversed(asked)):
        for _ in range(2):
            assert search(archive, **conditions) == expected


@pytest.mark.parametrize(
    ("bbox", "expected"),
    [
        ((-180, -90, 180, 90), {"fiji", "vegas", "port", "old", "never"}),
        ((3, 51, 5, 53), {"port", "old"}),
        ((4.25, 52.05, 5, 53), {"old"}),
        ((4.2, 52.0, 4.2, 52.0), {"port", "old"}),
        ((170, -20, -170, -10), {"fiji"}),
        ((170, -20, 179.5, -10), {"fiji"}),
        ((-179.5, -20, -170, -10), {"fiji"}),
        ((-178.9, -20, 178.9, -10), set()),
        ((100, -90, 10, 90), {"fiji", "vegas", "port", "old", "never"}),
        ((102, -90, -116, 90), {"fiji"}),
    ],
)
def test_a_box_finds_what_touches_it(archive: Archive, bbox: Any, expected: set[str]) -> None:
    assert search(archive, bbox=bbox) == expected


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        ("2020-01-01", None, {"fiji", "vegas", "port", "nowhere"}),
        ("2020-01-01T12:00:00Z", None, {"fiji", "vegas", "port", "nowhere"}),
        ("2020-01-01T12:00:00.000001Z", None, {"vegas", "port", "nowhere"}),
        (None, "2020-01-01T12:00:00Z", {"old"}),
        (None, "2020-01-01", {"old", "fiji"}),
        ("2020-01-02", "2020-01-02", {"vegas", "port"}),
        ("2020-01-02", "2020-01-02T23:59:59.999999Z", {"vegas"}),
        (date(2020, 1, 2), date(2020, 1, 2), {"vegas", "port"}),
        (datetime(2020, 1, 2), datetime(2020, 1, 3), {"vegas", "port"}),
        (datetime(2020, 1, 2, 1, tzinfo=timezone(timedelta(hours=1))), "2020-01-02", {"vegas", "port"}),
        (None, "1970-01-01T00:00:00Z", {"old"}),
    ],
)
def test_the_start_is_inclusive_the_end_exclusive_and_a_bare_date_the_whole_day(
    archive: Archive, start: Any, end: Any, expected: set[str]
) -> None:
    assert search(archive, start=start, end=end) == expected


def test_rows_without_place_or_time_never_pass_and_are_counted(archive: Archive) -> None:
    query = makers.unit_rows(1)
    [placed] = archive.search(query, where=Where(bbox=(-180, -90, 180, 90)))
    assert (placed.without_place, placed.without_time) == (1, 0)
    assert "nowhere" not in names(placed)
    [timed] = archive.search(query, where=Where(start="1900-01-01"))
    assert (timed.without_place, timed.without_time) == (0, 1)
    assert "never" not in names(timed)
    [both] = archive.search(query, where=Where(bbox=(-180, -90, 180, 90), end="2100-01-01"))
    assert (both.without_place, both.without_time) == (1, 1)
    [free] = archive.search(query, where=Where())
    assert (len(free), free.without_place, free.without_time) == (6, 0, 0)


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["port/scene.tif"], {"port"}),
        (["/data/scenes/port/scene.tif", "vegas/*"], {"port", "vegas"}),
        (["*/scene.tif"], set(PLACES)),
        (["scene.tif"], set()),
    ],
)
def test_sources_are_chosen_by_path_or_pattern(
    archive: Archive, patterns: list[str], expected: set[str]
) -> None:
    assert search(archive, sources=patterns) == expected


def test_metadata_must_all_agree(archive: Archive) -> None:
    assert search(archive, metadata={"sensor": "naip"}) == {"vegas", "old", "never"}
    assert search(archive, metadata={"sensor": "naip", "name": "old"}) == {"old"}
    assert search(archive, metadata={"sensor": "landsat"}) == set()
    assert search(archive, metadata={"sensor": "naip"}, sources=["old/*", "port/*"]) == {"old"}
    with pytest.raises(
        InputError, match="no source of this archive has metadata 'sensr'; known keys: name, sensor"
    ):
        search(archive, metadata={"sensr": "naip"})


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        ({"bbox": (1, 2, 3)}, "four numbers"),
        ({"bbox": (0, 5, 1, 4)}, "south <= north"),
        ({"bbox": (0, -91, 1, 4)}, "south <= north"),
        ({"bbox": (0, 0, 200, 4)}, "west > east"),
        ({"bbox": (0, 0, float("nan"), 4)}, "four numbers"),
        ({"start": "yesterday"}, "no date or time"),
        ({"start": "2023-02-30"}, "no date or time"),
        ({"end": "2023-02-01T25:00"}, "no date or time"),
        ({"start": "2020-01-02", "end": "2020-01-01"}, "must lie behind"),
        ({"start": "2020-01-02T00:00:00Z", "end": "2020-01-02T00:00:00Z"}, "must lie behind"),
        ({"sources": "a.tif"}, "is a list"),
    ],
)
def test_a_malformed_filter_is_refused(conditions: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Where(**conditions)


def test_the_footprint_decides_where_its_box_only_touches(tmp_path: Path) -> None:
    """A diamond's box covers its corners, its footprint does not."""
    diamond = ((0.0, 1.0), (1.0, 0.0), (2.0, 1.0), (1.0, 2.0), (0.0, 1.0))
    with ArchiveWriter(tmp_path, makers.MODEL, makers.FP32) as writer:
        source = writer.add_source(makers.content(0))
        tile = NewTile(256, Window(0, 0, 256, 256), (0.0, 0.0, 2.0, 2.0), (diamond,))
        writer.append(source, [tile], makers.unit_rows(1))
    with Archive.open(tmp_path) as archive:
        for bbox, found in [
            ((0.0, 0.0, 0.4, 0.4), 0),
            ((0.0, 0.0, 0.5, 0.5), 1),
            ((0.9, 0.9, 1.1, 1.1), 1),
            ((-5.0, -5.0, 5.0, 5.0), 1),
            ((1.7, 1.7, 3.0, 3.0), 0),
        ]:
            [hits] = archive.search(makers.unit_rows(1), where=Where(bbox=bbox))
            assert len(hits) == found, bbox


degrees = st.floats(-180, 180).map(lambda value: round(value, 1))
latitudes = st.floats(-90, 90).map(lambda value: round(value, 1))


@st.composite
def boxes(draw: st.DrawFn) -> Bbox:
    south, north = sorted((draw(latitudes), draw(latitudes)))
    return draw(degrees), south, draw(degrees), north


def pieces(bbox: Bbox) -> list[tuple[float, float]]:
    west, _, east, _ = bbox
    return [(west, east)] if west <= east else [(west, 180.0), (-180.0, east)]


@settings(max_examples=300, deadline=None)
@given(box=boxes(), asked=boxes())
def test_box_tests_equal_the_slow_twin(box: Bbox, asked: Bbox) -> None:
    touch_lat = box[1] <= asked[3] and asked[1] <= box[3]
    pairs = [(a, b) for a in pieces(box) for b in pieces(asked)]
    expected = touch_lat and any(a[0] <= b[1] and b[0] <= a[1] for a, b in pairs)
    assert touching_box(np.array([box]), asked)[0] == expected
    assert rings_meet_bbox(rings(box), asked) == expected
    if inside_box(box, asked):
        assert expected
        assert box[1] >= asked[1]
        assert box[3] <= asked[3]


@settings(max_examples=200, deadline=None)
@given(
    turn=st.floats(0, 6.28),
    centre=st.tuples(st.floats(-3, 3), st.floats(-3, 3)),
    radius=st.floats(0.2, 2),
)
def test_a_turned_square_meets_a_box_as_sampled_points_say(
    turn: float, centre: tuple[float, float], radius: float
) -> None:
    angles = turn + np.pi / 2 * np.arange(5)
    corners = np.column_stack([centre[0] + radius * np.cos(angles), centre[1] + radius * np.sin(angles)])
    corners[-1] = corners[0]
    ring = tuple((float(x), float(y)) for x, y in corners)
    grid = np.stack(np.meshgrid(np.linspace(-1, 1, 41), np.linspace(-1, 1, 41)), axis=-1).reshape(-1, 2)
    edges = np.diff(corners, axis=0)
    across = [
        edge[0] * (grid[:, 1] - start[1]) - edge[1] * (grid[:, 0] - start[0])
        for edge, start in zip(edges, corners[:-1], strict=True)
    ]
    inside = (np.array(across) >= 0).all(axis=0)
    found = rings_meet_bbox((ring,), (-1.0, -1.0, 1.0, 1.0))
    if inside.any():
        assert found
    nearest = np.clip(centre, -1, 1)
    if np.hypot(*(nearest - centre)) > radius:
        assert not found


def test_straight_edges_lose_their_middle_points_and_bent_ones_keep_them() -> None:
    straight = [(x / 8, 0.0) for x in range(8)] + [(1.0, y / 8) for y in range(8)]
    back = [(1 - x / 8, 1.0) for x in range(8)] + [(0.0, 1 - y / 8) for y in range(8)]
    ring = tuple([*straight, *back, (0.0, 0.0)])
    assert simplified((ring,), 1e-9) == (((0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0), (0.0, 0.0)),)
    bent = tuple((x, y + (0.1 if (x, y) == (0.5, 0.0) else 0.0)) for x, y in ring)
    assert (0.5, 0.1) in simplified((bent,), 0.01)[0]
    assert (0.5, 0.1) not in simplified((bent,), 0.2)[0]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-01", 0),
        ("2000-02-29T12:30", 951827400),
        ("2000-02-29 12:30:15", 951827415),
        ("2000-02-29T12:30:15Z", 951827415),
        ("2000-02-29T12:30:15.5+05:30", 951807615.5),
        ("2000-02-29T12:30:15,123456789-0100", 951831015.123456),
        ("0001-01-01", -62135596800),
        ("9999-12-31T23:59:59Z", 253402300799),
    ],
)
def test_times_are_read_to_the_microsecond(text: str, seconds: float) -> None:
    assert time_us_from_text(text) == round(seconds * 1_000_000)


@settings(max_examples=100)
@given(st.datetimes(timezones=st.just(timezone.utc)))
def test_a_time_survives_the_way_through_text(moment: datetime) -> None:
    time_us = interval_us(moment)[0]
    assert time_us_from_text(text_from_time_us(time_us)) == time_us


@pytest.mark.parametrize(
    "text", ["", "2020", "2020-1-1", "2020-13-01", "2020-01-01T", "2020-01-01T10", "1e9"]
)
def test_other_texts_are_no_times(text: str) -> None:
    with pytest.raises(InputError, match="no date or time"):
        time_us_from_text(text)

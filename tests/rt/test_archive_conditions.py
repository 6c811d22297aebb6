"""Conditions on metadata: what passes, what is counted as left out, what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import archive_makers as makers
import pytest

from lrsclip_rt.archive import Archive, ArchiveWriter, Location, Where
from lrsclip_rt.archive.conditions import Condition
from lrsclip_rt.errors import InputError

FACTS = [
    {"eo:cloud_cover": "5", "platform": "sentinel-2a", "day": "2024-05-01"},
    {"eo:cloud_cover": "20.0", "platform": "sentinel-2b", "day": "2024-06-01"},
    {"eo:cloud_cover": "1e2", "platform": "landsat-8"},
    {"eo:cloud_cover": "unknown", "day": "2023-12-31"},
    {},
]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    folder = tmp_path_factory.mktemp("conditions") / "archive"
    with ArchiveWriter(folder, makers.MODEL, makers.FP32) as writer:
        for number, facts in enumerate(FACTS):
            source = writer.add_source(makers.content(number))
            writer.add_location(source, Location("/data", f"{number}.tif"))
            writer.add_metadata(source, facts)
            writer.append(source, makers.grid(number), makers.unit_rows(6, number))
    with Archive.open(folder) as opened:
        yield opened


def found(archive: Archive, *conditions: str) -> tuple[set[int], int]:
    [hits] = archive.search(makers.unit_rows(1), 100, Where(conditions=conditions), merge=False)
    return {int(Path(hit.source).stem) for hit in hits}, hits.without_metadata


@pytest.mark.parametrize(
    ("condition", "expected", "left_out"),
    [
        ("eo:cloud_cover<=20", {0, 1}, 6),
        ("eo:cloud_cover<20", {0}, 6),
        ("eo:cloud_cover>=20", {1, 2}, 6),
        ("eo:cloud_cover>5", {1, 2}, 6),
        ("eo:cloud_cover=20", set(), 6),
        ("eo:cloud_cover=20.0", {1}, 6),
        ("eo:cloud_cover!=20.0", {0, 2, 3}, 6),
        ("eo:cloud_cover >= 99.5", {2}, 6),
        ("platform=landsat-8", {2}, 12),
        ("platform!=landsat-8", {0, 1}, 12),
        ("platform>=sentinel-2b", {1}, 12),
        ("day>=2024-01-01", {0, 1}, 12),
        ("day<2024-01-01", {3}, 12),
    ],
)
def test_numbers_are_compared_as_numbers_and_texts_as_texts(
    archive: Archive, condition: str, expected: set[int], left_out: int
) -> None:
    assert found(archive, condition) == (expected, left_out)


def test_all_conditions_have_to_hold_and_rows_without_a_key_are_counted_once(archive: Archive) -> None:
    assert found(archive, "eo:cloud_cover<=20", "platform!=sentinel-2a") == ({1}, 12)
    assert found(archive, "eo:cloud_cover>=0", "eo:cloud_cover<=20") == ({0, 1}, 6)
    [both] = archive.search(
        makers.unit_rows(1), 100, Where(metadata={"platform": "landsat-8"}, conditions=["day>2000"])
    )
    assert (len(both), both.rows, both.without_metadata) == (0, 0, 18)


@pytest.mark.parametrize(
    "hostile", ["x' OR '1'='1", 'platform" OR 1=1 --', "platform; DROP TABLE sources", "%", "PLATFORM"]
)
def test_a_key_is_a_name_and_never_a_statement(archive: Archive, hostile: str) -> None:
    with pytest.raises(InputError, match="no source of this archive has metadata"):
        archive.search(makers.unit_rows(1), where=Where(conditions=[Condition(hostile, "=", "1")]))
    values = found(archive, "platform=' OR '1'='1", "platform!=x")
    assert values == (set(), 12)


@pytest.mark.parametrize("text", ["", "cloud", "=5", "<=5", "  !=5"])
def test_what_is_no_condition_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="is no condition"):
        Where(conditions=[text])
    with pytest.raises(InputError, match="a list of them"):
        Where(conditions="cloud<5")


def test_the_first_sign_divides_and_the_value_may_hold_others() -> None:
    assert Condition.from_text("formula=a<=b") == Condition("formula", "=", "a<=b")
    assert Condition.from_text("a!=b=c") == Condition("a", "!=", "b=c")
    assert str(Condition.from_text("a >= 5")) == "a>= 5"


@pytest.mark.parametrize("value", ["nan", "inf", "1_000", "0x10", "1e999"])
def test_only_finite_decimal_numbers_are_numbers(value: str) -> None:
    assert not Condition("a", ">=", "-1e300").is_met(value)

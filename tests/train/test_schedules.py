"""Schedules at their corners, and the refusals."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrsclip_rt.errors import InputError
from lrsclip_train.schedules import PAIR_WEIGHT_NAMES, PairWeight, learning_rate, pair_weight_from_name


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("constant", (0.5, 0.5, 0.5, 0.5, 0.5)),
        ("linear", (0.9, 0.8, 0.7, 0.6, 0.5)),
        ("cosine", (0.9, 0.7 + 0.2 * math.sqrt(0.5), 0.7, 0.7 - 0.2 * math.sqrt(0.5), 0.5)),
        ("three-stage", (0.9, 0.9, 0.7, 0.5, 0.5)),
        ("short-only", (0.0,) * 5),
        ("long-only", (1.0,) * 5),
    ],
)
def test_each_named_weight_takes_its_usual_values(name: str, values: tuple[float, ...]) -> None:
    weight = pair_weight_from_name(name)
    found = [weight.at(p) for p in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert found == pytest.approx(values)


def test_every_name_is_covered_above_and_an_unknown_one_lists_them() -> None:
    assert PAIR_WEIGHT_NAMES == ("constant", "linear", "cosine", "three-stage", "short-only", "long-only")
    for make in (pair_weight_from_name, lambda name: PairWeight(name, 0.5, 0.5)):
        with pytest.raises(InputError, match="'cosin'; known are constant, linear, cosine, three-stage"):
            make("cosin")


@given(
    name=st.sampled_from(["linear", "cosine", "three-stage"]),
    start=st.floats(0, 1),
    end=st.floats(0, 1),
    a=st.floats(0, 1),
    b=st.floats(0, 1),
)
def test_a_weight_moves_one_way_between_its_ends(
    name: str, start: float, end: float, a: float, b: float
) -> None:
    weight = PairWeight(name, start, end)
    low, high = sorted((a, b))
    before, after = weight.at(low), weight.at(high)
    assert min(start, end) - 1e-12 <= before <= max(start, end) + 1e-12
    assert (after - before) * (end - start) >= -1e-12
    assert weight.at(0.0) == pytest.approx(start)
    assert weight.at(1.0) == pytest.approx(end)


def test_the_stages_can_be_moved_and_may_meet() -> None:
    weight = pair_weight_from_name("three-stage", start=1.0, end=0.2, leave=0.5, settle=0.9)
    assert weight.at(0.5) == 1.0
    assert weight.at(0.7) == pytest.approx(0.6)
    assert weight.at(0.9) == pytest.approx(0.2)
    step = pair_weight_from_name("three-stage", leave=0.4, settle=0.4)
    assert (step.at(0.4), step.at(0.41)) == (0.9, 0.5)


def test_numbers_that_do_not_fit_are_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"start of the pair weight must be in \[0, 1\], got 1.2"):
        PairWeight("linear", 1.2, 0.5)
    with pytest.raises(InputError, match="end of the pair weight"):
        pair_weight_from_name("linear", end=-0.1)
    with pytest.raises(InputError, match=r"leaves at 0.8 and settles at 0.7"):
        pair_weight_from_name("three-stage", leave=0.8)
    with pytest.raises(InputError, match="constant does not change"):
        PairWeight("constant", 0.3, 0.5)
    with pytest.raises(InputError, match=r"short-only does not change.*give 0.0 for both"):
        pair_weight_from_name("short-only", start=0.4)
    with pytest.raises(InputError, match=r"progress must be in \[0, 1\], got 1.01"):
        pair_weight_from_name("constant").at(1.01)


def test_a_weight_can_be_written_down_and_made_again() -> None:
    weight = pair_weight_from_name("three-stage", leave=0.2)
    assert PairWeight(**dataclasses.asdict(weight)) == weight


def test_the_rate_rises_in_a_line_to_its_peak_and_falls_by_half_a_cosine() -> None:
    rates = [learning_rate(step, 110, 10, 2.0, 0.5) for step in range(111)]
    assert rates[:10] == pytest.approx([0.2 * (i + 1) for i in range(10)])
    assert rates[10] == 2.0
    assert rates[60] == pytest.approx(1.25)
    assert rates[110] == 0.5
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_a_rate_without_warmup_starts_at_its_peak_and_a_bad_floor_is_refused() -> None:
    assert learning_rate(0, 10, 0, 1.0) == 1.0
    assert learning_rate(10, 10, 10, 1.0) == 0.0
    with pytest.raises(InputError, match=r"lowest rate must be in \[0, 1.0\]"):
        learning_rate(0, 10, 0, 1.0, 2.0)
    with pytest.raises(InputError, match="must not be negative, got -1 and 0"):
        learning_rate(-1, 10, 0, 1.0)

"""What changes over a run: the weight of the long texts and the learning rate. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from lrsclip_rt.errors import InputError

__all__ = ["PAIR_WEIGHT_NAMES", "PairWeight", "learning_rate", "pair_weight_from_name"]


@dataclass(frozen=True, slots=True)
class PairWeight:
    """a(p) in ``L = a(p) L_long + (1 - a(p)) L_short`` over the progress p of a run.

    Neither the weights nor the schedule of the dual-granularity curriculum are published, so each
    is named here and a checkpoint can say which one it used. Long-CLIP's ``L_long + L_short`` is
    twice ``constant`` at 0.5.

    Attributes:
        name: One of :data:`PAIR_WEIGHT_NAMES`.
        start: a at p = 0, in [0, 1].
        end: a at p = 1, in [0, 1]; the same as ``start`` where the name says that nothing changes.
        leave: Progress at which ``three-stage`` leaves ``start``.
        settle: Progress at which ``three-stage`` reaches ``end``.

    Raises:
        InputError: If the name is unknown or a number does not fit it.

    Example:
        >>> linear = PairWeight("linear", 0.8, 0.4)
        >>> [round(linear.at(p), 3) for p in (0.0, 0.25, 1.0)]
        [0.8, 0.7, 0.4]
    """

    name: str
    start: float
    end: float
    leave: float = 0.3
    settle: float = 0.7

    def __post_init__(self) -> None:
        _known(self.name)
        for field, value in (("start", self.start), ("end", self.end)):
            if not 0.0 <= value <= 1.0:
                raise InputError(f"{field} of the pair weight must be in [0, 1], got {value}")
        if not 0.0 <= self.leave <= self.settle <= 1.0:
            raise InputError(
                f"three-stage leaves at {self.leave} and settles at {self.settle}; "
                "give 0 <= leave <= settle <= 1"
            )
        only = {"short-only": 0.0, "long-only": 1.0}.get(self.name, self.start)
        if self.name in _STEADY and (self.start != only or self.end != only):
            raise InputError(
                f"{self.name} does not change, but start is {self.start} and end is {self.end}; "
                f"give {only} for both"
            )

    def at(self, progress: float) -> float:
        """The weight at ``progress``, which is 0 before the first step and 1 at the end.

        Raises:
            InputError: If ``progress`` is outside [0, 1].

        Example:
            >>> curriculum = pair_weight_from_name("three-stage")
            >>> [round(curriculum.at(p), 3) for p in (0.0, 0.3, 0.5, 0.7, 1.0)]
            [0.9, 0.9, 0.7, 0.5, 0.5]
        """
        if not 0.0 <= progress <= 1.0:
            raise InputError(f"progress must be in [0, 1], got {progress}")
        return self.start + (self.end - self.start) * _SHARES[self.name](self, progress)


def pair_weight_from_name(
    name: str,
    *,
    start: float | None = None,
    end: float | None = None,
    leave: float = 0.3,
    settle: float = 0.7,
) -> PairWeight:
    """A schedule by its name, with its usual numbers where none are given.

    Args:
        name: One of :data:`PAIR_WEIGHT_NAMES`.
        start: a at the beginning; 0.5 for ``constant``, 0.9 for the schedules that put long texts
            first, fixed for ``short-only`` and ``long-only``.
        end: a at the end; 0.5 for a schedule that changes, else ``start``.
        leave: See :class:`PairWeight`.
        settle: See :class:`PairWeight`.

    Raises:
        InputError: If the name is unknown or a number does not fit it.

    Example:
        >>> pair_weight_from_name("cosine", end=0.3).at(0.5)
        0.6
        >>> pair_weight_from_name("short-only").at(0.5)
        0.0
    """
    _known(name)
    first = _USUAL_START[name] if start is None else start
    last = (first if name in _STEADY else 0.5) if end is None else end
    return PairWeight(name, first, last, leave, settle)


def learning_rate(step: int, steps: int, warmup: int, peak: float, floor: float = 0.0) -> float:
    """Linear warm-up, then half a cosine.

    Args:
        step: 0 for the first step.
        steps: Steps of the whole run; beyond them the rate stays at ``floor``.
        warmup: Steps of the warm-up; the last of them runs at ``peak``.
        peak: Highest rate.
        floor: Rate after the last step.

    Raises:
        InputError: If ``step`` or ``warmup`` is negative, or ``floor`` is not in [0, ``peak``].

    Example:
        >>> [learning_rate(step, 8, 4, 1.0, 0.5) for step in (0, 3, 4, 6, 8, 100)]
        [0.25, 1.0, 1.0, 0.75, 0.5, 0.5]
    """
    if step < 0 or warmup < 0:
        raise InputError(f"step and warmup must not be negative, got {step} and {warmup}")
    if not 0.0 <= floor <= peak:
        raise InputError(f"the lowest rate must be in [0, {peak}], the highest, got {floor}")
    if step < warmup:
        return peak * (step + 1) / warmup
    if step >= steps:
        return floor
    return floor + (peak - floor) * _falling((step - warmup) / (steps - warmup))


def _falling(progress: float) -> float:
    """Half a cosine from 1 to 0."""
    return 0.5 * (1.0 + math.cos(math.pi * progress))


def _three_stages(weight: PairWeight, progress: float) -> float:
    if progress <= weight.leave:
        return 0.0
    if progress >= weight.settle:
        return 1.0
    return 1.0 - _falling((progress - weight.leave) / (weight.settle - weight.leave))


_SHARES: dict[str, Callable[[PairWeight, float], float]] = {
    "constant": lambda weight, progress: 0.0,
    "linear": lambda weight, progress: progress,
    "cosine": lambda weight, progress: 1.0 - _falling(progress),
    "three-stage": _three_stages,
    "short-only": lambda weight, progress: 0.0,
    "long-only": lambda weight, progress: 0.0,
}
"""Share of the way from ``start`` to ``end`` at a progress."""

_USUAL_START = {
    "constant": 0.5,
    "linear": 0.9,
    "cosine": 0.9,
    "three-stage": 0.9,
    "short-only": 0.0,
    "long-only": 1.0,
}
_STEADY = frozenset({"constant", "short-only", "long-only"})

PAIR_WEIGHT_NAMES = tuple(_SHARES)
"""Names of the schedules."""


def _known(name: str) -> None:
    if name not in _SHARES:
        raise InputError(f"unknown pair weight {name!r}; known are {', '.join(PAIR_WEIGHT_NAMES)}")

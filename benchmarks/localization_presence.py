"""Presence in localization_quality.py: does what a scene shows pass, and what it lacks not?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.localization_cases import CachedModel, Case
from lrsclip_rt.archive.presence import ACCEPTED, acceptance, calibrated_threshold, presence_hits, separation
from lrsclip_rt.localization import Localization, localize_scene
from lrsclip_rt.localization.asking import ask
from lrsclip_rt.localization.presence import BEST_WINDOWS, ODDS, Presence

__all__ = ["presence_rows"]

IN_USE = f"{BEST_WINDOWS} best over background, odds of {ODDS:g}"
BEST = f"{BEST_WINDOWS} best"
ARCHIVE = "the archive's rule"
LIFT = "best over the scene's middle"
ASKED = ("alone", "together")
"""Whether each text has a call of its own, as people ask, or all of a scene share one."""


def presence_rows(
    model: CachedModel, groups: Mapping[str, Sequence[Case]], threshold: float | None
) -> list[dict[str, Any]]:
    """One row a group of cases, way of asking and rule.

    Args:
        model: The model.
        groups: Cases by kind.
        threshold: The bundle's, for archives.
    """
    rows = []
    for group, cases in groups.items():
        for asked in ASKED:
            present: dict[str, list[float]] = {}
            absent: dict[str, list[float]] = {}
            for case in cases:
                _judge(model, case, present, absent, together=asked == "together")
            bars = {IN_USE: 0.0, ARCHIVE: threshold}
            rows += [
                {"what": "presence", "group": group, "asked": asked, "rule": rule}
                | _verdict(np.array(values), np.array(absent[rule]), bars.get(rule))
                for rule, values in present.items()
            ]
            print(f"presence: {group} {asked} done", flush=True)
    return rows


def _judge(
    model: CachedModel,
    case: Case,
    present: dict[str, list[float]],
    absent: dict[str, list[float]],
    *,
    together: bool,
) -> None:
    """Add each rule's number for each text of a case to those of its kind."""
    there = (*case.texts, *case.shown)
    texts = [*there, *case.absent]
    calls = [texts] if together else [[text] for text in texts]
    number = 0
    with case.opened() as scene:
        for call in calls:
            found = localize_scene(model, scene, call)
            for index in range(len(call)):
                target = present if number < len(there) else absent
                for rule, value in _values(model, found, index).items():
                    target.setdefault(rule, []).append(value)
                number += 1


def _values(model: CachedModel, found: Localization, index: int) -> dict[str, float]:
    """What each rule decides on; a bar is subtracted where the rule has its own."""
    heat = found[index]
    judged = heat.presence
    assert judged is not None
    row = ask(model, [heat.text], templates=True).rows
    scores = np.sort(found.embedding.scores(row)[:, 0])
    return {
        IN_USE: _lead(judged),
        BEST: judged.score,
        ARCHIVE: float(scores[-presence_hits(len(scores)) :].mean()),
        LIFT: float(scores[-1] - np.median(scores)),
    }


def _lead(judged: Presence) -> float:
    return judged.score - judged.bar


def _verdict(present: NDArray[np.float64], absent: NDArray[np.float64], bar: float | None) -> dict[str, Any]:
    """How well present and absent part, at the bar in use and where 90 % of the present pass."""
    own = calibrated_threshold({"all": present}, accepted=ACCEPTED)
    here = None if bar is None else acceptance(bar, present, absent)
    return {
        "texts_present": len(present),
        "texts_absent": len(absent),
        "auc": separation(present, absent),
        "present_accepted": None if here is None else here.present,
        "absent_accepted": None if here is None else here.absent,
        "absent_accepted_at_90": acceptance(own, present, absent).absent,
        "threshold_at_90": own,
    }

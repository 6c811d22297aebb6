"""Texts that stand for what people ask, to measure the recall that the codes of an archive reach."""

from __future__ import annotations

__all__ = ["calibration_texts"]

_THINGS = (
    "airport runways", "parked airplanes", "a harbour with many ships", "a marina full of sailing boats",
    "a container terminal", "white storage tanks", "a river through fields", "a winding river",
    "a bridge over water", "a viaduct", "a railway station", "railway tracks side by side", "a car park",
    "a road junction", "a motorway interchange", "a roundabout", "dense houses with red roofs",
    "scattered houses among trees", "tall office buildings", "a stadium with a running track",
    "a baseball field", "tennis courts", "a football pitch", "a school with a playground", "a church",
    "a round square with paths", "a park with a pond", "a golf course", "a lake", "a dam",
    "green farmland in rows", "round irrigated fields", "bare ploughed soil", "a dense forest",
    "a meadow", "a rocky mountain ridge", "snow on mountains", "a sandy desert", "dunes",
    "a beach with surf", "an island", "open sea", "a wetland with channels", "a factory with chimneys",
    "warehouses with grey roofs", "a power station", "solar panels", "greenhouses", "a quarry",
    "a building site", "a resort with pools", "a swimming pool", "a cemetery", "wind turbines",
    "a village by the coast", "burnt land",
    "a flooded field", "a helipad", "a sewage works with round basins", "orchards in a grid",
)  # fmt: skip
_TEMPLATES = (
    "{}",
    "an aerial image of {}",
    "there is {} next to a road in this picture",
    "a satellite view that shows {}, surrounded by trees and a few small buildings",
    "Most of the scene is covered by {}. In the upper left corner lies a patch of bare ground, and a narrow "
    "path leads from there to the lower edge.",
)


def calibration_texts() -> tuple[str, ...]:
    """Every thing in every template, from one noun phrase to two sentences: 300 texts.

    Example:
        >>> len(calibration_texts()), calibration_texts()[61]
        (300, 'an aerial image of parked airplanes')
    """
    return tuple(template.format(thing) for template in _TEMPLATES for thing in _THINGS)

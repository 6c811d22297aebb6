"""What is known of a rendered scene: objects, facts, and the scene itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "COLOURS",
    "COUNT_WORDS",
    "OPPOSITE",
    "SIDES",
    "Fact",
    "Painted",
    "RenderedScene",
    "Slot",
    "TruthObject",
    "Zone",
    "colour_slot",
    "count_phrase",
    "count_slot",
    "word_slot",
]

COUNT_WORDS = (
    "no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
)  # fmt: skip
COLOURS = (
    "white", "grey", "black", "red", "brown", "yellow", "green", "blue", "orange",
)  # fmt: skip
SIDES = ("left", "right", "top", "bottom")
OPPOSITE = {"left": "right", "right": "left", "top": "bottom", "bottom": "top"}


@dataclass(frozen=True, slots=True)
class Slot:
    """One checkable detail of a sentence: its true wording and wordings that would be wrong."""

    kind: str
    text: str
    wrong: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Fact:
    """A sentence with ``{0}``, ``{1}`` ... where its slots go."""

    template: str
    slots: tuple[Slot, ...] = ()

    def sentence(self, swap: int | None = None, wrong: int = 0) -> str:
        """The sentence, with slot ``swap`` (if given) in its ``wrong``-th wrong wording."""
        texts = [s.wrong[wrong] if i == swap else s.text for i, s in enumerate(self.slots)]
        filled = self.template.format(*texts)
        return filled[0].upper() + filled[1:]


def count_phrase(n: int, noun: str, plural: str | None = None) -> str:
    """``three ships``, ``one ship``, ``24 ships``."""
    number = COUNT_WORDS[n] if n < len(COUNT_WORDS) else str(n)
    return f"{number} {noun if n == 1 else plural or noun + 's'}"


def count_slot(n: int, noun: str, plural: str | None = None, *, verb: bool = False) -> Slot:
    """A count with its noun; ``verb`` puts "is" or "are" before it."""

    def worded(k: int) -> str:
        phrase = count_phrase(k, noun, plural)
        return phrase if not verb else f"{'is' if k == 1 else 'are'} {phrase}"

    others = [k for k in (n + 2, n + 3, 2 * n + 1, n // 2) if k > 0 and k != n]
    return Slot("count", worded(n), tuple(dict.fromkeys(worded(k) for k in others)))


def colour_slot(colour: str) -> Slot:
    """A colour word; shades such as "dark green" are told apart from other hues only."""
    near = {"white", "grey"} if {"white", "grey"} & set(colour.split()) else set(colour.split())
    if near & {"brown", "yellow", "orange", "red"}:
        near |= {"brown", "yellow", "orange", "red"}
    if near & {"dark", "black"}:
        near |= {"black"}
    if near & {"turquoise", "blue", "green"}:
        near |= {"blue", "green"} if "turquoise" in near else set()
    return Slot("colour", colour, tuple(c for c in COLOURS if c not in near))


def word_slot(kind: str, text: str, others: Sequence[str]) -> Slot:
    """A word out of a closed list."""
    return Slot(kind, text, tuple(o for o in others if o != text))


@dataclass(frozen=True, slots=True)
class TruthObject:
    """One zone of a scene.

    Attributes:
        name: Its class, one of ``CLASSES``.
        row_off: First row of its box [px].
        col_off: First column of its box [px].
        height: Rows of its box [px].
        width: Columns of its box [px].
        polygon: Its outline as (col, row) vertices [px], cut to the scene's rectangle.
        counts: How many of each thing are visible, such as ``(("ship", 12), ("pier", 3))``.
        attributes: Words that apply, such as colours.
        facts: What can be said of it.
    """

    name: str
    row_off: int
    col_off: int
    height: int
    width: int
    polygon: tuple[tuple[float, float], ...]
    counts: tuple[tuple[str, int], ...]
    attributes: tuple[str, ...]
    facts: tuple[Fact, ...]

    def count(self, noun: str) -> int:
        """How many ``noun`` are visible; 0 when none was drawn."""
        return dict(self.counts).get(noun, 0)


@dataclass(frozen=True, slots=True, eq=False)
class RenderedScene:
    """A picture and everything known of it.

    Attributes:
        pixels: ``(H, W, 3) uint8``.
        seed: The seed it was drawn from.
        objects: Its zones.
        facts: What can be said of the surroundings and the light.
        gsd_m: Ground width of a pixel [m].
        short: One caption.
        long: The full description.
    """

    pixels: NDArray[np.uint8]
    seed: int
    objects: tuple[TruthObject, ...]
    facts: tuple[Fact, ...]
    gsd_m: float
    short: str
    long: str


@dataclass(frozen=True, slots=True)
class Zone:
    """Where a painter may work: centre and size in canvas pixels.

    ``sides`` are edges of the picture that water may run out of; a ``loose`` zone lets roads and runways go
    on past its box.
    """

    col: float
    row: float
    width: float
    height: float
    sides: tuple[str, ...] = ()
    loose: bool = False


@dataclass(frozen=True, slots=True)
class Painted:
    """What a painter drew, in canvas pixels."""

    outline: Sequence[tuple[float, float]]
    counts: tuple[tuple[str, int], ...] = ()
    attributes: tuple[str, ...] = ()
    facts: tuple[Fact, ...] = ()

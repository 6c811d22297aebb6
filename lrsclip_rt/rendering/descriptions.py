"""Captions and full descriptions from what is known of a scene."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from lrsclip_rt.errors import InputError

from .captions import NOUNS, captions_of
from .outlines import area_of
from .textures import Dice
from .truth import Fact, RenderedScene, Slot, TruthObject, count_phrase, word_slot

__all__ = [
    "ALIKE",
    "EXTRAS",
    "HEADLINES",
    "LONG_TOKENS",
    "PHRASES",
    "PLACES",
    "Contradiction",
    "clip_token_count",
    "contradict",
    "contradiction",
    "describe_long",
    "describe_short",
    "facts_of",
    "noun_slot",
    "place_slot",
]

PHRASES: Mapping[str, str] = MappingProxyType(
    {
        "airport": "an airport with planes and a runway",
        "beach": "a beach with waves and sand",
        "bridge": "a bridge over a river",
        "desert": "a desert with sand dunes",
        "farmland": "many pieces of farmland",
        "forest": "a forest with many green trees",
        "harbour": "a harbour with many ships",
        "industrial": "an industrial area with large buildings",
        "mountain": "a mountain with ridges",
        "parking_lot": "a parking lot with many cars",
        "pond": "a pond surrounded by trees",
        "residential": "a residential area with many houses",
        "river": "a curved river",
        "road": "a viaduct with crossing roads",
        "sports_ground": "a football field on a sports ground",
        "storage_tanks": "white storage tanks",
    }
)
# Classes that a wrong name must not come from, because both are really there.
ALIKE: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "bridge": frozenset({"river", "road"}),
        "river": frozenset({"bridge"}),
        "road": frozenset({"bridge"}),
        "harbour": frozenset({"beach"}),
        "beach": frozenset({"harbour"}),
        "residential": frozenset({"industrial"}),
        "industrial": frozenset({"residential", "parking_lot"}),
    }
)
PLACES = (
    ("in the upper left", "at the top", "in the upper right"),
    ("on the left", "in the middle", "on the right"),
    ("in the lower left", "at the bottom", "in the lower right"),
)
LONG_TOKENS = (80, 220)


def clip_token_count(text: str) -> int:
    """About how many CLIP tokens a description takes: one a word, digit or sign, and two markers."""
    return len(re.findall(r"[a-z]+|\d|[^\sa-z\d]", text.lower())) + 2


def place_slot(row: float, col: float) -> Slot:
    """Where a point lies, given as fractions of the scene's height and width."""
    r, c = min(2, int(row * 3)), min(2, int(col * 3))
    far = [PLACES[i][j] for i in range(3) for j in range(3) if abs(i - r) == 2 or abs(j - c) == 2]
    if (r, c) == (1, 1):
        far = [PLACES[i][j] for i in (0, 2) for j in (0, 2)]
    return Slot("position", PLACES[r][c], tuple(far))


def noun_slot(name: str, present: frozenset[str]) -> Slot:
    """The noun of a class; wrong ones are classes that are not in the scene."""
    barred = present | ALIKE.get(name, frozenset())
    return Slot("object", NOUNS[name], tuple(NOUNS[n] for n in NOUNS if n not in barred))


def _centre(scene: RenderedScene, obj: TruthObject) -> tuple[float, float]:
    height, width = scene.pixels.shape[:2]
    return (obj.row_off + obj.height / 2) / height, (obj.col_off + obj.width / 2) / width


def facts_of(scene: RenderedScene) -> tuple[Fact, ...]:
    """Every sentence of the long description, in order."""
    texts = {s.text for f in scene.facts for s in f.slots}
    present = frozenset(o.name for o in scene.objects) | frozenset(n for n in NOUNS if NOUNS[n] in texts)
    dice = Dice(scene.seed, len(scene.objects), 77)
    if len(scene.objects) == 1:
        facts = _tile_facts(scene, scene.objects[0], present, dice)
    else:
        facts = _scene_facts(scene, present, dice)
    kept: list[Fact] = []
    used = 2
    for fact in facts:
        cost = clip_token_count(fact.sentence()) - 1
        if used + cost <= LONG_TOKENS[1] - 6:
            kept.append(fact)
            used += cost
    for extra in EXTRAS:
        cost = clip_token_count(extra.sentence()) - 1
        if used < LONG_TOKENS[0] + 6:
            kept.append(extra)
            used += cost
    return tuple(kept)


EXTRAS = (
    Fact(
        "The picture was taken from high above, looking straight down in {0}",
        (word_slot("light", "daylight", ("darkness",)),),
    ),
    Fact("The ground shows natural patches of lighter and darker colour with a fine grain"),
    Fact("The scene is calm and clear, and its parts can be told apart easily from the air"),
    Fact("No text or border covers any part of the view"),
)


def _tile_facts(scene: RenderedScene, obj: TruthObject, present: frozenset[str], dice: Dice) -> list[Fact]:
    height, width = scene.pixels.shape[:2]
    share = area_of(obj.polygon) / (height * width)
    opening = dice.pick(
        (
            "This aerial image shows {0}",
            "In this picture taken from the air there is {0}",
            "Seen from above this is {0}",
            "The satellite image shows {0}",
        )
    )
    facts = [Fact(opening, (noun_slot(obj.name, present),)), *obj.facts]
    if share > 0.85:
        facts.append(
            Fact(
                dice.pick(("It fills {0} of the picture", "It covers {0} of the image")),
                (word_slot("size", "nearly all", ("only a small corner", "less than a third")),),
            )
        )
    else:
        parts = (
            (0.5, "more than half"),
            (0.3, "about two fifths"),
            (0.15, "about a fifth"),
            (0.0, "a small part"),
        )
        part = next(word for least, word in parts if share > least)
        facts.append(
            Fact(
                "It lies {0} and covers {1} of the picture",
                (place_slot(*_centre(scene, obj)), word_slot("size", part, ("nearly all",))),
            )
        )
    return [*facts, *scene.facts]


def _scene_facts(scene: RenderedScene, present: frozenset[str], dice: Dice) -> list[Fact]:
    facts = [
        Fact(
            "This large aerial image shows a landscape with {0}",
            (
                Slot(
                    "count",
                    count_phrase(len(scene.objects), "different area"),
                    (count_phrase(len(scene.objects) + 4, "different area"),),
                ),
            ),
        )
    ]
    for obj in scene.objects:
        where = place_slot(*_centre(scene, obj))
        noun = noun_slot(obj.name, present)
        # With many areas the text would outgrow its tokens; naming them all comes first.
        detail = _detail(obj) if len(scene.objects) <= 11 else None
        order = dice.chance(0.6)
        template = "{0} there is {1}" if order else "{1} lies {0}"
        facts.append(
            Fact(template + (" with {2}" if detail else ""), (where, noun, *((detail,) if detail else ())))
        )
    return [*facts, *scene.facts]


# What a zone is known by among many others: the noun of a count, or what its colour belongs to.
HEADLINES: Mapping[str, str] = MappingProxyType(
    {
        "airport": "plane",
        "bridge": "bridge",
        "farmland": "field",
        "harbour": "",
        "industrial": "building",
        "parking_lot": "car",
        "residential": "house",
        "road": "car",
        "storage_tanks": "tank",
        "beach": "sand",
        "desert": "sand",
        "forest": "trees",
        "pond": "water",
        "river": "water",
        "sports_ground": "running track",
    }
)


def _detail(obj: TruthObject) -> Slot | None:
    """The most telling detail of a zone, for a sentence among many."""
    noun = HEADLINES.get(obj.name)
    if noun is None:
        return None
    slots = [s for f in obj.facts for s in f.slots]
    if obj.name in ("beach", "desert", "forest", "pond", "river", "sports_ground"):
        if noun == "running track" and len(obj.attributes) < 2:
            return None
        slot = next(s for s in slots if s.kind == "colour")
        article = "a " if noun == "running track" else ""
        return Slot(
            "colour", f"{article}{slot.text} {noun}", tuple(f"{article}{w} {noun}" for w in slot.wrong)
        )
    found = next((s for s in slots if s.kind == "count" and noun in s.text), None)
    if found is None:
        return None
    strip = re.compile(r"^(is|are) ")
    return Slot("count", strip.sub("", found.text), tuple(strip.sub("", w) for w in found.wrong))


def _joined(sentences: list[str]) -> str:
    return " ".join(f"{s}." for s in sentences)


def describe_long(scene: RenderedScene) -> str:
    """An exact description of 80 to 220 CLIP tokens."""
    return _joined([fact.sentence() for fact in facts_of(scene)])


@dataclass(frozen=True, slots=True)
class Contradiction:
    """A long description with exactly one detail made wrong.

    Attributes:
        text: The description with the wrong detail in it.
        kind: What was changed: ``colour``, ``count``, ``position``, ``object``, ``size`` ...
        right: The detail as the truth has it.
        wrong: The same place in ``text``.
    """

    text: str
    kind: str
    right: str
    wrong: str


def contradict(scene: RenderedScene) -> str:
    """The long description with exactly one detail made wrong: a count, colour, place or object."""
    return contradiction(scene).text


def contradiction(scene: RenderedScene, index: int = 0) -> Contradiction:
    """One of a scene's contradictions; the kinds of details take turns.

    Args:
        scene: The scene that is described.
        index: Which one; different indices give different texts, in an order that the seed decides.

    Raises:
        InputError: If the scene has fewer contradictions.
    """
    facts = facts_of(scene)
    left = [
        (i, j, k) for i, f in enumerate(facts) for j, s in enumerate(f.slots) for k in range(len(s.wrong))
    ]
    if not 0 <= index < len(left):
        raise InputError(f"contradiction {index} of a scene that has {len(left)}; count from 0")
    dice = Dice(scene.seed, len(left), 78)
    waiting: list[str] = []
    for _ in range(index + 1):
        # One kind of detail first, so that long lists of wrong colours do not crowd out the rest.
        kinds = sorted({facts[i].slots[j].kind for i, j, _ in left})
        waiting = [kind for kind in waiting if kind in kinds] or kinds
        kind = dice.pick(waiting)
        at, slot, wrong = chosen = dice.pick([c for c in left if facts[c[0]].slots[c[1]].kind == kind])
        waiting.remove(kind)
        left.remove(chosen)
    text = _joined([f.sentence(slot, wrong) if i == at else f.sentence() for i, f in enumerate(facts)])
    detail = facts[at].slots[slot]
    return Contradiction(text, kind, right=detail.text, wrong=detail.wrong[wrong])


def describe_short(scene: RenderedScene) -> str:
    """One caption in the manner of RSICD, 6 to 18 words."""
    dice = Dice(scene.seed, len(scene.objects), 79)
    if len(scene.objects) > 1:
        names = [NOUNS[o.name] for o in dice.shuffled(scene.objects)[:3]]
        return (
            dice.pick(
                (
                    f"{names[0]} , {names[1]} and {names[2]} are in this large scene .",
                    f"an aerial view with {names[0]} , {names[1]} and {names[2]} .",
                    f"{names[0]} is near {names[1]} and {names[2]} in this landscape .",
                )
            )
            if len(names) > 2
            else f"{names[0]} and {names[1]} are in this large scene ."
        )
    return dice.pick(captions_of(scene, scene.objects[0]))

"""Short captions of tiles, in the manner of RSICD."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from .truth import RenderedScene, TruthObject, count_phrase

__all__ = ["NOUNS", "captions_of", "is_or_are", "scene_surroundings"]

NOUNS: Mapping[str, str] = MappingProxyType(
    {
        "airport": "an airport",
        "beach": "a beach",
        "bridge": "a bridge",
        "desert": "a desert",
        "farmland": "farmland",
        "forest": "a forest",
        "harbour": "a harbour",
        "industrial": "an industrial area",
        "mountain": "a mountain",
        "parking_lot": "a parking lot",
        "pond": "a pond",
        "residential": "a residential area",
        "river": "a river",
        "road": "a road junction",
        "sports_ground": "a sports ground",
        "storage_tanks": "a group of storage tanks",
    }
)


def _amount(n: int) -> str:
    return "many" if n > 8 else "several" if n > 4 else "some" if n > 2 else ""


def is_or_are(n: int) -> str:
    """The verb for ``n`` things."""
    return "is" if n == 1 else "are"


def captions_of(scene: RenderedScene, obj: TruthObject) -> list[str]:
    """Captions that are true of a tile, to choose from."""
    near = scene_surroundings(scene)
    word = obj.attributes[0] if obj.attributes else ""

    def some(noun: str, singular: str) -> str:
        n = obj.count(noun)
        return f"{_amount(n)} {singular}s" if n > 2 else count_phrase(n, singular)

    vessel = "boat" if "marina" in obj.attributes else "ship"
    density = "dense" if "dense" in obj.attributes else "medium"
    bridges = count_phrase(obj.count("bridge"), "bridge")
    table: dict[str, list[str]] = {
        "airport": [
            f"{some('plane', 'plane')} are parked in an airport near a runway ."
            if obj.count("plane") > 1
            else "a long runway and a terminal building are in an airport .",
            "an airport with a runway , a taxiway and a terminal building .",
        ],
        "beach": [
            f"a piece of {word} beach is near a piece of {obj.attributes[-1]} ocean .",
            f"{obj.attributes[-1]} sea water and white waves are beside a {word} beach .",
            f"white waves come to the {word} sand of the beach .",
        ],
        "bridge": [
            f"{bridges} {is_or_are(obj.count('bridge'))} over a river with {word} water .",
            f"a river with {near} in two sides of it has a bridge over it .",
        ],
        "desert": [
            f"it is a large piece of {word} desert with dunes .",
            f"many dunes form a piece of {word} desert .",
        ],
        "farmland": [
            "many pieces of farmlands are together .",
            f"several pieces of {word} farmland are divided by paths .",
            f"{some('field', 'field')} with straight furrows are in a piece of {word} farmland .",
        ],
        "forest": [
            f"many {word} trees form a dense piece of forest .",
            f"many {word} trees are in a piece of forest .",
        ],
        "harbour": [
            f"{some('ship', vessel)} are in a port with {word} water ."
            if obj.count("ship") > 1
            else f"a harbour with a concrete quay and {word} water .",
            "many boats are in a harbour beside a concrete quay ."
            if obj.count("ship") > 8
            else f"a harbour basin with {word} water is beside a concrete quay .",
        ],
        "industrial": [
            f"many buildings with {word} roofs are in an industrial area ."
            if obj.count("building") > 8
            else f"some large buildings with {word} roofs are in an industrial area .",
            "large factory buildings and paved yards are in an industrial area .",
        ],
        "mountain": [
            "it is a piece of irregular mountain with ridges .",
            {
                "green": "it is a large piece of green mountains .",
                "brown": "it is a piece of bare brown mountain .",
                "grey": "it is a piece of grey rocky mountain .",
                "snow": "some white snow covers a piece of mountain .",
            }.get(word, "several ridges form a mountain ."),
        ],
        "parking_lot": [
            f"{some('car', 'car')} are parked in a parking lot ."
            if obj.count("car") > 1
            else "a nearly empty parking lot is here .",
            f"{some('car', 'car')} are parked neatly in a parking lot near {near} ."
            if obj.count("car") > 1
            else f"a parking lot is near {near} and it is almost empty .",
        ],
        "pond": [
            f"{some('tree', 'tree')} are around {count_phrase(obj.count('pond'), word + ' pond')} ."
            if obj.count("tree") > 1
            else f"{count_phrase(obj.count('pond'), word + ' pond')} can be seen near {near} .",
            f"{count_phrase(obj.count('pond'), word + ' pond')} near {near} can be seen from above .",
        ],
        "residential": [
            f"many houses with {word} roofs are in a {density} residential area .",
            "many houses and streets are in a residential area .",
        ],
        "river": [
            f"a curved {word} river winds past {near} .",
            f"{near} are in two sides of a curved river .",
        ],
        "road": [
            "two wide roads cross each other at a viaduct .",
            f"{some('car', 'car')} are on the roads of a viaduct near {near} ."
            if obj.count("car") > 1
            else f"a viaduct with crossing roads is near {near} .",
        ],
        "sports_ground": [
            f"a football field with a {obj.attributes[-1]} running track is near {near} ."
            if len(obj.attributes) > 1
            else f"a green football field with white lines is near {near} .",
            f"a football field is surrounded by {near} .",
        ],
        "storage_tanks": [
            f"{some('tank', word + ' storage tank')} are near {near} ."
            if obj.count("tank") > 1
            else f"a {word} storage tank is near {near} .",
            f"{some('tank', 'round ' + word + ' tank')} stand in an oil depot ."
            if obj.count("tank") > 1
            else f"a round {word} tank stands in an oil depot .",
        ],
    }
    return table[obj.name]


def scene_surroundings(scene: RenderedScene) -> str:
    """What lies around a tile's object, in two or three words, as its facts say."""
    texts = [s.text for f in scene.facts for s in f.slots]
    for noun, words in (
        ("forest", "a dense forest"),
        ("farmland", "some farmland"),
        ("residential", "many houses"),
        ("industrial", "some factory buildings"),
    ):
        if NOUNS[noun] in texts:
            return words
    if any("small house" in t for t in texts):
        return "some houses"
    if any("green tree" in t for t in texts) or scene.objects[0].count("tree") > 2:
        return "some green trees"
    return "open land"

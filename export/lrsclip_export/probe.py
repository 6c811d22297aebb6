"""What a bundle is proven on where the caller brings nothing: rendered tiles, and texts of our own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.errors import InputError

__all__ = ["PROBE_TEXTS", "Probe", "default_probe", "probe_from_arrays", "read_probe", "write_probe"]

# A range of its own: these tiles are neither trained on nor shown by the demo.
_FIRST_SEED = 4_000_000

_SHORT = (
    "harbour",
    "an airport",
    "a photo of a forest",
    "a satellite photo of farmland.",
    "an aerial image of storage tanks",
    "many white boats are moored at two long piers",
    "a river winds through green meadows",
    "a baseball field next to a car park",
    "a bridge with cars on it crosses dark water",
    "rows of small houses with red roofs",
    "a desert of yellow sand without any trace of people",
    "snow lies on the ridges of a mountain",
    "waves roll onto a white beach",
    "an empty parking lot beside a large building",
    "a small pond surrounded by trees",
    "two football pitches and a running track",
    "grey factory halls with long roofs",
    "a motorway junction with several levels",
    "four planes stand in front of the terminal",
    "a tanker leaves the port",
    "bare soil with the tracks of machines",
    "a church with a green dome in an old town centre",
    "Is there a railway station near the stadium?",
    "NO ships, only water & clouds (10 % cover)",
)

_LONG = (
    "The picture shows a commercial harbour at low tide. Two container ships are moored along the "
    "northern quay, and a third one is being turned by a small tug in the middle of the basin. Behind the "
    "quay stand stacks of containers in red, blue and orange, with five gantry cranes above them. A "
    "railway line with eight parallel tracks separates the terminal from a row of warehouses with flat "
    "grey roofs. In the lower left corner a breakwater of rough stones ends in a round lighthouse.",
    "A wide river flows from the upper left to the lower right. On its western bank there are long, "
    "narrow fields in different shades of green and brown, divided by hedges and by an unpaved road. On "
    "the eastern bank a village of about forty houses with red tiled roofs lies around a church. A single "
    "bridge of concrete with two lanes connects both sides, and three cars are on it. South of the bridge "
    "a sandbank splits the river into two arms, and the water is lighter there.",
    "An airport with two runways that cross each other at an acute angle. The longer runway is light grey "
    "and marked with white stripes at both ends; the shorter one is dark and looks newly paved. Between "
    "them lies the terminal, a building in the form of a horseshoe, with eleven aircraft parked at its "
    "gates, most of them white, one of them blue. A car park with hundreds of cars is in front of the "
    "entrance, and a motorway passes along the lower edge of the image. Dry grass covers the rest of the "
    "area.",
    "Densely built residential blocks fill the image. The streets form a regular grid, running from north "
    "to south and from east to west, and each block holds two rows of small houses back to back with "
    "narrow gardens between them. Most of the roofs are dark grey, some are reddish brown. In the centre "
    "one block is left free for a park with a pond, a playground and a circle of old trees. Long shadows "
    "fall to the north west, so the photograph was taken in the morning.",
    "Eighteen round storage tanks stand in three rows of six on a fenced industrial site. The tanks of "
    "the first row are white and large, those of the second row are white and of half the size, and those "
    "of the third row are rusty brown. Each tank is surrounded by a low square wall of earth. Pipelines "
    "lead from the tanks to a jetty in the upper right corner, at which one red tanker is moored. A "
    "narrow service road runs around the whole site, and two lorries wait at the gate in the south.",
    "Forest covers nearly the whole scene. In the north it is dark and dense and consists of conifers; "
    "towards the south it becomes lighter and more open, with single large crowns that cast clear "
    "shadows. A straight cutting for a power line passes through the forest from left to right, and four "
    "pylons can be counted in it. Near the lower edge there is a clearing with a hut, stacked logs beside "
    "it, and a forest track that leads away from the clearing in two gentle curves and disappears under "
    "the trees.",
    "A sports centre seen from above on a sunny day: one stadium with an oval red running track around a "
    "striped green pitch and with a covered stand along its western side, two smaller pitches of "
    "artificial turf without stands, six blue tennis courts in two groups of three, and an outdoor "
    "swimming pool of turquoise colour. Between them run paths lined with young trees. Buses and cars are "
    "parked along the street at the right edge, and a construction site with a yellow crane lies in the "
    "upper right corner.",
    "The coast runs diagonally through the image. Above it lies the sea, deep blue far from the shore and "
    "turquoise close to it, with three lines of white breakers. Below it a beach of pale sand, at some "
    "places more than fifty metres wide, is dotted with umbrellas and small figures. Behind the beach "
    "come a promenade with palm trees, a road with parked cars on both sides and a row of tall hotels "
    "with swimming pools. There is neither a harbour nor a ship to be seen, and the hills in the south "
    "are dry.",
)

# The last one has more than 200 tokens.
PROBE_TEXTS: tuple[str, ...] = (*_SHORT, *_LONG, f"{_LONG[0]} {_LONG[1]}")


@dataclass(frozen=True, slots=True)
class Probe:
    """Images and texts on which graphs are compared.

    Attributes:
        images: (n, h, w, 3) uint8.
        texts: m texts.
    """

    images: NDArray[np.uint8]
    texts: tuple[str, ...]


def default_probe() -> Probe:
    """One rendered tile of each class, and :data:`PROBE_TEXTS`."""
    from lrsclip_rt.rendering import CLASSES, render_tile

    tiles = [render_tile(name, _FIRST_SEED + index).pixels for index, name in enumerate(CLASSES)]
    return Probe(np.stack(tiles), PROBE_TEXTS)


def probe_from_arrays(images: Sequence[NDArray[np.uint8]] | None, texts: Sequence[str] | None) -> Probe:
    """The caller's images and texts; what is None comes from :func:`default_probe`.

    Args:
        images: (h, w, 3) uint8, all of one size.
        texts: Texts that are not blank.

    Raises:
        InputError: If there are no images or texts, or the images differ in size or type.
    """
    if images is None:
        images = list(default_probe().images)
    texts = PROBE_TEXTS if texts is None else tuple(texts)
    shapes = {(array.shape, array.dtype.name) for array in images}
    if len(shapes) != 1 or not texts or not all(text.strip() for text in texts):
        found = ", ".join(f"{dtype} {shape}" for shape, dtype in sorted(shapes)) or "none"
        raise InputError(
            f"probe images must be uint8 (h, w, 3) of one size and texts not blank, got images: {found}; "
            f"{len(texts)} texts"
        )
    stacked = np.stack(list(images))
    if stacked.dtype != np.uint8 or stacked.ndim != 4 or stacked.shape[3] != 3:
        raise InputError(f"probe images must be uint8 (h, w, 3), got {stacked.dtype} {stacked.shape[1:]}")
    return Probe(stacked, texts)


def write_probe(
    path: Path, probe: Probe, image_embeddings: NDArray[np.float32], text_embeddings: NDArray[np.float32]
) -> None:
    """Write the probe with its fp32 embeddings, (n, D) and (m, D), as a compressed ``.npz``."""
    np.savez_compressed(
        path,
        images=probe.images,
        texts=np.asarray(probe.texts, dtype=np.str_),
        image_embeddings=image_embeddings,
        text_embeddings=text_embeddings,
    )


def read_probe(path: Path) -> Probe:
    """The images and texts of a bundle's ``probe.npz``."""
    with np.load(path, allow_pickle=False) as arrays:
        return Probe(arrays["images"], tuple(str(text) for text in arrays["texts"]))

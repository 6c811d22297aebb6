"""Is long text understood? Mosaics found by text in full and cut, and one wrong detail in a description.

    python benchmarks/long_text.py ../shared/data/aid_rsicd                    # the built-in model
    python benchmarks/long_text.py DATA -b BUNDLE --mosaics 600 --seed 0 --record

DATA holds ``pairs.jsonl`` with a val split. Mosaics are laid out from its images, each with one sentence a
cell in reading order and 100-220 tokens in all; no image is used twice before all are used. Each text looks
for its mosaic among all of them: in full, cut at 77 tokens and cut at 20.

Rendered tiles and scenes of unseen seeds are compared with their long description and with the same one with
exactly one detail made wrong.

Nothing is timed. Prints a table, then the record; ``--record`` also appends it to
benchmarks/results/<device>/long_text.jsonl.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lrsclip_rt.benchmarking import append_record, make_record
from lrsclip_rt.cpu import available_cpus
from lrsclip_rt.datasets import PairSet, pair_set_from_folder
from lrsclip_rt.demonstration.contradictions import (
    ALL,
    NoticedShare,
    contradicted_cases,
    noticed_shares,
    unseen_scenes,
    unseen_tiles,
)
from lrsclip_rt.embedder import Embedder, load
from lrsclip_rt.errors import InputError
from lrsclip_rt.images import rgb_from_source
from lrsclip_rt.long_text import CutComparison, compare_cuts
from lrsclip_rt.rendering import TEST_SEEDS
from lrsclip_rt.tokenizer import Tokenizer
from lrsclip_train.mosaics import LAYOUTS, describe_mosaic, make_mosaic

RESULTS = Path(__file__).resolve().parent / "results"
TOKENS = (100, 220)
"""Fewest and most tokens of a mosaic's text, SOT and EOT among them."""
CELL = 150
"""Edge of a mosaic's cell [px]: that of AID's images here."""
NOTICED_TARGET = 70.0
"""Wrong details that are to be noticed [%]."""
SETTINGS = ("split", "mosaics", "tiles", "scenes", "each", "resamples", "seed")


@dataclass(frozen=True)
class MosaicPlan:
    """Which images and captions go where.

    Attributes:
        rows: Cells from top to bottom.
        cols: Cells from left to right.
        members: Index of the pair in each cell, row-major.
        captions: Of each cell.
        tokens: Of the whole text.
    """

    rows: int
    cols: int
    members: tuple[int, ...]
    captions: tuple[str, ...]
    tokens: int

    @property
    def text(self) -> str:
        return describe_mosaic(self.captions, self.rows, self.cols)


def plan_mosaics(pairs: PairSet, tokenizer: Tokenizer, count: int, *, seed: int) -> list[MosaicPlan]:
    """Deal the images out to mosaics; when too few are left for the largest, shuffle them all again.

    Args:
        pairs: Images with short captions.
        tokenizer: Counts the tokens.
        count: Mosaics.
        seed: Of images, layouts and captions; the same seed gives the same mosaics.

    Raises:
        InputError: If there are too few images, or no layout of theirs has a text of ``TOKENS``.
    """
    rng = np.random.default_rng(seed)
    usable = [i for i, item in enumerate(pairs.items) if item.short]
    largest = max(rows * cols for rows, cols in LAYOUTS)
    if len(usable) < largest:
        raise InputError(f"{pairs.root} has {len(usable)} images with captions, expected {largest} or more")
    plans: list[MosaicPlan] = []
    while len(plans) < count:
        before = len(plans)
        deck = rng.permutation(usable).tolist()
        while len(deck) >= largest and len(plans) < count:
            plan = _fitting_plan(pairs, tokenizer, deck[:largest], rng)
            if plan is not None:
                plans.append(plan)
            del deck[: largest if plan is None else len(plan.members)]
        if len(plans) == before:
            raise InputError(
                f"no mosaic of {pairs.root} has a text of {TOKENS[0]}-{TOKENS[1]} tokens; "
                "its captions are too short or too long"
            )
    return plans


def _fitting_plan(
    pairs: PairSet, tokenizer: Tokenizer, deck: Sequence[int], rng: np.random.Generator
) -> MosaicPlan | None:
    """The first layout, in random order, whose text is neither too short nor too long."""
    shorts = [tuple(dict.fromkeys(pairs.items[i].short)) for i in deck]
    captions = [own[int(rng.integers(len(own)))] for own in shorts]
    for index in rng.permutation(len(LAYOUTS)):
        rows, cols = LAYOUTS[index]
        n = rows * cols
        batch = tokenizer.encode_batch(describe_mosaic(captions[:n], rows, cols))
        tokens = int(batch.eot[0]) + 1
        if TOKENS[0] <= tokens <= TOKENS[1] and not batch.cut[0]:
            return MosaicPlan(rows, cols, tuple(deck[:n]), tuple(captions[:n]), tokens)
    return None


def picture_from_plan(pairs: PairSet, plan: MosaicPlan, *, size: int) -> NDArray[np.uint8]:
    """Lay a mosaic out, (size, size, 3).

    Made square as in training: the model's centre crop would cut the outer cells of the others away.
    """
    images = [rgb_from_source(pairs.image_path(pairs.items[i])) for i in plan.members]
    mosaic = make_mosaic(images, plan.captions, plan.members, plan.rows, plan.cols, cell=CELL)
    return np.asarray(Image.fromarray(mosaic.pixels).resize((size, size), Image.Resampling.BICUBIC))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with pairs.jsonl")
    parser.add_argument("-b", "--bundle", type=Path, help="default: the built-in bundle")
    parser.add_argument("--precision", help="default: the bundle's")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--split", default="val")
    parser.add_argument("--mosaics", type=int, default=600)
    parser.add_argument("--tiles", type=int, default=20, help="rendered tiles a class")
    parser.add_argument("--scenes", type=int, default=150, help="rendered scenes")
    parser.add_argument("--each", type=int, default=4, help="contradictions a rendered picture")
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0, help="of the mosaics and the bootstrap")
    parser.add_argument("--record", action="store_true", help="append the record to the results")
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()

    model = load(
        arguments.bundle,
        backend=arguments.backend,
        precision=arguments.precision,
        threads=arguments.threads,
    )
    pairs = pair_set_from_folder(arguments.data, split=arguments.split)
    plans = plan_mosaics(pairs, model.tokenizer, arguments.mosaics, seed=arguments.seed)
    found = measure_mosaics(model, pairs, plans, resamples=arguments.resamples, seed=arguments.seed)
    shares = measure_contradictions(model, arguments)
    print_tables(found, shares)

    rows = [described_plans(pairs, plans), *retrieval_rows(found)]
    rows += [{"what": "contradictions", **share.as_dict()} for share in shares]
    settings = {
        "model": model.spec.name,
        "identity": model.identity,
        "precision": model.precision,
        "backend": model.backend,
        "data": arguments.data.resolve().name,
        "first_seed": TEST_SEEDS[0],
        **{name: getattr(arguments, name) for name in SETTINGS},
    }
    threads = arguments.threads or available_cpus()
    verdict = verdicts(found, shares)
    record = make_record("long_text", threads=threads, settings=settings, results=[*rows, verdict])
    if arguments.record:
        append_record(record, arguments.results)
    print(record.to_json())


def measure_mosaics(
    model: Embedder, pairs: PairSet, plans: Sequence[MosaicPlan], *, resamples: int, seed: int
) -> CutComparison:
    """Embed the mosaics once, then retrieve with their texts in full and cut."""
    pictures = [picture_from_plan(pairs, plan, size=model.spec.image_size) for plan in plans]
    images = model.embed_images(list(pictures))
    return compare_cuts(model, images, [plan.text for plan in plans], resamples=resamples, seed=seed)


def measure_contradictions(model: Embedder, arguments: argparse.Namespace) -> list[NoticedShare]:
    """Render and embed, then count what was noticed."""
    pictures = chain(unseen_tiles(arguments.tiles), unseen_scenes(arguments.scenes))
    cases = contradicted_cases(model, pictures, each=arguments.each)
    return noticed_shares(cases, resamples=arguments.resamples, seed=arguments.seed)


def described_plans(pairs: PairSet, plans: Sequence[MosaicPlan]) -> dict[str, Any]:
    """What the gallery is made of."""
    tokens = [plan.tokens for plan in plans]
    uses = Counter(member for plan in plans for member in plan.members)
    return {
        "what": "mosaics",
        "count": len(plans),
        "layouts": dict(sorted(Counter(f"{plan.rows}x{plan.cols}" for plan in plans).items())),
        "tokens": {"min": min(tokens), "median": float(np.median(tokens)), "max": max(tokens)},
        "images": len(pairs),
        "images_used": len(uses),
        "most_uses_of_an_image": max(uses.values()),
    }


def retrieval_rows(found: CutComparison) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [{"what": "retrieval", **score.as_dict()} for score in found.scores]
    for i, (t2i, i2t) in enumerate(zip(found.t2i_gains, found.i2t_gains, strict=True)):
        lengths = [found.scores[i].tokens, found.scores[i + 1].tokens]
        rows.append({"what": "gain", "tokens": lengths, "t2i_r1": t2i.as_dict(), "i2t_r1": i2t.as_dict()})
    return rows


def verdicts(found: CutComparison, shares: Sequence[NoticedShare]) -> dict[str, Any]:
    overall = next(share for share in shares if share.group == ALL and share.kind == ALL)
    return {
        "what": "verdict",
        "longer_finds_more_images": found.longer_finds_more_images,
        "longer_is_found_more": found.longer_is_found_more,
        "noticed": overall.share.as_dict(),
        "noticed_target": NOTICED_TARGET,
        "noticed_reached": overall.share.value >= NOTICED_TARGET,
    }


def print_tables(found: CutComparison, shares: Sequence[NoticedShare]) -> None:
    print(f"{'tokens':>10} {'text -> mosaic R@1':>22} {'R@5':>6} {'R@10':>6}", end=" ")
    print(f"{'mosaic -> text R@1':>22} {'R@5':>6} {'R@10':>6}")
    for score in found.scores:
        t2i, i2t = score.metrics.t2i, score.metrics.i2t
        print(f"{score.tokens:>10} {score.t2i_r1!s:>22} {t2i.r5:6.1f} {t2i.r10:6.1f}", end=" ")
        print(f"{score.i2t_r1!s:>22} {i2t.r5:6.1f} {i2t.r10:6.1f}")
    for i, (t2i_gain, i2t_gain) in enumerate(zip(found.t2i_gains, found.i2t_gains, strict=True)):
        name = f"{found.scores[i].tokens} - {found.scores[i + 1].tokens}"
        print(f"{name:>10} {t2i_gain!s:>22} {'':13} {i2t_gain!s:>22}")
    print(f"\n{'group':8} {'wrong detail':14} {'cases':>6} {'noticed [%]':>22}")
    for share in shares:
        print(f"{share.group:8} {share.kind:14} {share.cases:6} {share.share!s:>22}")


if __name__ == "__main__":
    main()

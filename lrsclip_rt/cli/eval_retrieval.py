"""``lrsclip eval retrieval``: images by captions and captions by images."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lrsclip_rt.cli.eval_shared import bounds, data_options, embed_files, finish, run_record, split_option
from lrsclip_rt.cli.options import json_option
from lrsclip_rt.cli.output import emit, progress_bar, wants_json
from lrsclip_rt.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from lrsclip_rt.datasets import PairSet
    from lrsclip_rt.embedder import Embedder

__all__ = ["retrieval"]

TEXTS_PER_CALL = 256


@dataclass(frozen=True, slots=True, eq=False)
class EmbeddedTexts:
    """Texts of one call.

    Attributes:
        rows: (N, D) float32.
        keys: What tells texts apart: the text, or its tokens where texts were cut short on purpose.
        cut: Distinct texts that did not fit.
    """

    rows: NDArray[np.float32]
    keys: list[str]
    cut: int


@click.command()
@data_options
@split_option
@click.option(
    "--min-captions",
    type=click.IntRange(min=1),
    default=None,
    help="Ask only with images of N or more distinct short captions; all stay in the gallery.  "
    "[default: all ask]",
)
@click.option(
    "--tokens",
    type=click.IntRange(min=3),
    default=None,
    help="Cut texts at N tokens, SOT and EOT included.  [default: the model's context]",
)
@json_option
def retrieval(
    data: Path,
    split: str | None,
    bundle: Path | None,
    backend: str,
    precision: str | None,
    device: str | None,
    threads: int | None,
    batch_size: int,
    min_captions: int | None,
    tokens: int | None,
    as_json: bool,
) -> None:
    """Find images by captions and captions by images, short and long ones apart.

    DATA is a folder with pairs.jsonl. A repeated caption is one candidate, a tie counts against the model,
    and the words of another image are never a hit.

    \b
    Example:
        lrsclip eval retrieval data/aid_rsicd --split val -b vit-b16/ --json
        lrsclip eval retrieval data/aid_rsicd --split val --min-captions 2 --tokens 20
    """
    import numpy as np

    from lrsclip_rt.datasets import pair_set_from_folder
    from lrsclip_rt.embedder import load

    pairs = pair_set_from_folder(data, split=split)
    model = load(bundle, backend=backend, precision=precision, device=device, threads=threads)
    if tokens is not None and tokens > model.spec.context_length:
        raise InputError(f"--tokens {tokens} exceeds the model's context of {model.spec.context_length}")
    _refuse_no_query(pairs, min_captions, range(len(pairs)))
    names = [item.image for item in pairs.items]
    images, kept, failures = embed_files(model, pairs.root, names, batch_size=batch_size)
    _refuse_no_query(pairs, min_captions, kept)
    asking = np.array([_distinct_captions(pairs, index) >= (min_captions or 0) for index in kept])
    record: dict[str, Any] = {
        length: _scores(
            model, images, [_captions(pairs, index, length) for index in kept], asking, length, tokens
        )
        for length in ("short", "long")
    }
    short = record["short"]
    record["mR"] = None if short is None else short["mR"]
    record["mR_ci95"] = None if short is None else short["mR_ci95"]
    record.update(min_captions=min_captions, tokens=tokens, queried_images=int(asking.sum()))
    record.update(run_record(model, data, split=split, images=len(kept), failed=len(failures)))
    _show(record, as_json=as_json)
    finish(failures)


def _distinct_captions(pairs: PairSet, index: int) -> int:
    return len(set(pairs.items[index].short))


def _refuse_no_query(pairs: PairSet, min_captions: int | None, indices: Sequence[int]) -> None:
    if min_captions is None:
        return
    most = max(_distinct_captions(pairs, index) for index in indices)
    if most < min_captions:
        raise InputError(
            f"--min-captions {min_captions} leaves no query: no image of {pairs.root} has more than {most} "
            "distinct short captions"
        )


def _captions(pairs: PairSet, index: int, length: str) -> tuple[str, ...]:
    item = pairs.items[index]
    if length == "short":
        return item.short
    return () if item.long is None else (item.long,)


def _scores(
    model: Embedder,
    images: NDArray[np.float32],
    captions: Sequence[tuple[str, ...]],
    asking: NDArray[np.bool_],
    length: str,
    tokens: int | None,
) -> dict[str, Any] | None:
    """Recalls of one granularity, None where no image that asks has such captions."""
    import numpy as np

    from lrsclip_rt.evaluation import bootstrap_interval, retrieval_ranks

    texts = [text for own in captions for text in own]
    owner = np.repeat(np.arange(len(captions)), [len(own) for own in captions])
    if not asking[owner].any():
        return None
    embedded = _embed(model, texts, length, tokens)
    ranks = retrieval_ranks(images, embedded.rows, owner, embedded.keys).asked_only(asking)
    metrics = ranks.metrics()
    return {
        **metrics.as_dict(),
        "mR_ci95": bounds(bootstrap_interval(ranks)),
        "queries": metrics.captions,
        "cut": embedded.cut,
    }


def _embed(model: Embedder, texts: Sequence[str], length: str, tokens: int | None) -> EmbeddedTexts:
    import numpy as np

    from lrsclip_rt.text_batching import refuse_blank
    from lrsclip_rt.tokenizer import Tokenizer

    context = model.spec.context_length if tokens is None else tokens
    tokenizer = Tokenizer(model.bundle.vocabulary_path, context_length=context)
    distinct = list(dict.fromkeys(texts))
    refuse_blank(distinct)
    parts: list[NDArray[np.float32]] = []
    keys: list[str] = []
    cut = 0
    with progress_bar(f"{length} captions", len(distinct)) as advance:
        for start in range(0, len(distinct), TEXTS_PER_CALL):
            part = distinct[start : start + TEXTS_PER_CALL]
            batch = tokenizer.encode_batch(part)
            parts.append(model.embed_tokens(batch))
            # Texts that agree up to the cut are one text now.
            keys += part if tokens is None else [row.tobytes().hex() for row in batch.tokens]
            cut += int(batch.cut.sum())
            advance(len(part))
    if cut:
        click.echo(f"{cut} of {len(distinct)} {length} captions were cut at {context} tokens", err=True)
    position = {text: row for row, text in enumerate(distinct)}
    rows = [position[text] for text in texts]
    return EmbeddedTexts(np.concatenate(parts)[rows], [keys[row] for row in rows], cut)


def _show(record: Mapping[str, Any], *, as_json: bool) -> None:
    if wants_json(as_json):
        click.echo(json.dumps(record))
        return
    rows = [
        {"captions": length, "direction": direction, **record[length][key]}
        for length in ("short", "long")
        if record[length] is not None
        for key, direction in (("t2i", "text -> image"), ("i2t", "image -> text"))
    ]
    means = [_mean(length, record[length]) for length in ("short", "long")]
    asked = f"{record['queried_images']} of {record['images']} images ask"
    emit(
        rows,
        columns=["captions", "direction", "r1", "r5", "r10"],
        as_json=False,
        title=", ".join([*means, asked]),
    )


def _mean(length: str, scores: Mapping[str, Any] | None) -> str:
    if scores is None:
        return f"no {length} captions"
    low, high = scores["mR_ci95"]
    return f"{length} mR {scores['mR']:.2f} [{low:.1f}, {high:.1f}]"

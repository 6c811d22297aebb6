"""``lrsclip eval``: score a model on a data set."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lrsclip_rt.cli.options import bundle_option, json_option, model_options
from lrsclip_rt.cli.output import emit, progress_bar, report_failures, wants_json
from lrsclip_rt.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from lrsclip_rt.datasets import PairSet
    from lrsclip_rt.embedder import Embedder
    from lrsclip_rt.evaluation import RetrievalRanks

__all__ = ["command"]

TEXTS_PER_CALL = 256


@click.group()
def command() -> None:
    """Score a model on a data set; percentages are 0-100.

    \b
    Example:
        lrsclip eval retrieval data/aid_rsicd --split val --json
    """


def _data_options(function: Any) -> Any:
    for option in (
        click.option(
            "--batch-size", type=click.IntRange(min=1), default=32, show_default=True, help="Images per run."
        ),
        model_options,
        bundle_option,
        click.option("--split", default=None, help="Use this split alone.  [default: every image]"),
        click.argument("data", type=click.Path(path_type=Path)),
    ):
        function = option(function)
    return function


@command.command()
@_data_options
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
    as_json: bool,
) -> None:
    """Find images by captions and captions by images, short and long ones apart.

    DATA is a folder with pairs.jsonl. A repeated caption is one candidate, a tie counts against the model,
    and the words of another image are never a hit.

    \b
    Example:
        lrsclip eval retrieval data/aid_rsicd --split val -b vit-b16/ --json
    """
    from lrsclip_rt.datasets import pair_set_from_folder
    from lrsclip_rt.embedder import load
    from lrsclip_rt.evaluation import bootstrap_interval

    pairs = pair_set_from_folder(data, split=split)
    model = load(bundle, backend=backend, precision=precision, device=device, threads=threads)
    names = [item.image for item in pairs.items]
    images, kept, failures = _embed_files(model, pairs.root, names, batch_size=batch_size)
    ranks = {
        length: _ranks(model, images, [_captions(pairs, index, length) for index in kept], length)
        for length in ("short", "long")
    }
    record: dict[str, Any] = {
        length: None if found is None else found.metrics().as_dict() for length, found in ranks.items()
    }
    record["mR"] = None if record["short"] is None else record["short"]["mR"]
    if ranks["short"] is not None:
        interval = bootstrap_interval(ranks["short"])
        record["mR_ci95"] = [interval.low, interval.high]
    record.update(_run_record(model, data, split, images=len(kept), failed=len(failures)))
    _show_retrieval(record, as_json=as_json)
    _finish(failures)


@command.command()
@_data_options
@json_option
def classify(
    data: Path,
    split: str | None,
    bundle: Path | None,
    backend: str,
    precision: str | None,
    device: str | None,
    threads: int | None,
    batch_size: int,
    as_json: bool,
) -> None:
    """Name the class of each image by words alone.

    DATA is a folder with labels.csv and classes.json. Templates of classes.json win over the bundle's; the
    output says which were used.

    \b
    Example:
        lrsclip eval classify data/rsscn7_dev --json
    """
    import numpy as np

    from lrsclip_rt.accuracy import classification_metrics
    from lrsclip_rt.classification import class_embeddings
    from lrsclip_rt.datasets import labelled_set_from_folder
    from lrsclip_rt.embedder import load

    labelled = labelled_set_from_folder(data, split=split)
    model = load(bundle, backend=backend, precision=precision, device=device, threads=threads)
    templates = labelled.templates or model.spec.templates or ("{}",)
    source = "classes.json" if labelled.templates else "bundle" if model.spec.templates else "none"
    classes = class_embeddings(model, labelled.phrases, templates)
    names = [item.image for item in labelled.items]
    images, kept, failures = _embed_files(model, labelled.root, names, batch_size=batch_size)
    labels = np.array([labelled.items[index].label for index in kept])
    metrics = classification_metrics((images @ classes.T).argmax(axis=1), labels, labelled.classes)
    record = {
        **metrics.as_dict(),
        "templates": list(templates),
        "template_source": source,
        **_run_record(model, data, split, images=len(kept), failed=len(failures)),
    }
    _show_classification(record, as_json=as_json)
    _finish(failures)


def _embed_files(
    model: Embedder, root: Path, names: Sequence[str], *, batch_size: int
) -> tuple[NDArray[np.float32], list[int], list[tuple[str, str]]]:
    """Embeddings (n, D), the indices they belong to, and ``(name, reason)`` of what could not be read."""
    import numpy as np

    parts: list[NDArray[np.float32]] = []
    kept: list[int] = []
    failures: list[tuple[str, str]] = []
    items = ((index, root / name) for index, name in enumerate(names))
    with progress_bar("images", len(names)) as advance:
        for part in model.stream_images(items, batch_size=batch_size):
            parts.append(part.embeddings)
            kept += part.keys
            failures += [(names[index], str(error)) for index, error in part.failures]
            advance(len(part.keys) + len(part.failures))
    if not kept:
        report_failures(failures)
        raise InputError(f"none of the {len(names)} images of {root} can be read; nothing to score")
    return np.concatenate(parts), kept, failures


def _captions(pairs: PairSet, index: int, length: str) -> tuple[str, ...]:
    item = pairs.items[index]
    if length == "short":
        return item.short
    return () if item.long is None else (item.long,)


def _ranks(
    model: Embedder, images: NDArray[np.float32], captions: Sequence[tuple[str, ...]], length: str
) -> RetrievalRanks | None:
    import numpy as np

    from lrsclip_rt.evaluation import retrieval_ranks

    texts = [text for own in captions for text in own]
    if not texts:
        return None
    owner = np.repeat(np.arange(len(captions)), [len(own) for own in captions])
    rows = {text: row for row, text in enumerate(dict.fromkeys(texts))}
    distinct = list(rows)
    parts = []
    with progress_bar(f"{length} captions", len(distinct)) as advance:
        for start in range(0, len(distinct), TEXTS_PER_CALL):
            parts.append(model.embed_texts(distinct[start : start + TEXTS_PER_CALL]))
            advance(len(parts[-1]))
    embeddings = np.concatenate(parts)[[rows[text] for text in texts]]
    return retrieval_ranks(images, embeddings, owner, texts)


def _run_record(
    model: Embedder, data: Path, split: str | None, *, images: int, failed: int
) -> dict[str, Any]:
    return {
        "data": str(data),
        "split": split,
        "images": images,
        "failed": failed,
        "model": model.spec.name,
        "precision": model.precision,
        "backend": model.backend,
    }


def _show_retrieval(record: Mapping[str, Any], *, as_json: bool) -> None:
    if wants_json(as_json):
        click.echo(json.dumps(record))
        return
    rows = [
        {"captions": length, "direction": direction, **record[length][key]}
        for length in ("short", "long")
        if record[length] is not None
        for key, direction in (("t2i", "text -> image"), ("i2t", "image -> text"))
    ]
    mean = "no short captions" if record["mR"] is None else f"short mR {record['mR']:.2f}"
    emit(rows, columns=["captions", "direction", "r1", "r5", "r10"], as_json=False, title=mean)


def _show_classification(record: Mapping[str, Any], *, as_json: bool) -> None:
    if wants_json(as_json):
        click.echo(json.dumps(record, ensure_ascii=False))
        return
    rows = [{"class": name, "recall": value} for name, value in record["per_class"].items()]
    title = (
        f"top-1 {record['top1']:.2f} % of {record['images']} images, templates of {record['template_source']}"
    )
    emit(rows, columns=["class", "recall"], as_json=False, title=title)


def _finish(failures: Sequence[tuple[str, str]]) -> None:
    report_failures(failures)
    if failures:
        raise click.exceptions.Exit(1)

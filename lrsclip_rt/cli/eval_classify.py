"""``lrsclip eval classify``: zero-shot classification of a labelled data set."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lrsclip_rt.cli.eval_shared import bounds, data_options, embed_files, finish, run_record, split_option
from lrsclip_rt.cli.options import json_option, overwrite_option
from lrsclip_rt.cli.output import emit, refuse_existing, wants_json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["classify"]


@click.command()
@data_options
@split_option
@click.option(
    "--plot", type=click.Path(path_type=Path, dir_okay=False), help="Write the confusion matrix here."
)
@overwrite_option
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
    plot: Path | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Name the class of each image by words alone.

    DATA is a folder with labels.csv and classes.json. Templates of classes.json win over the bundle's; the
    output says which were used.

    \b
    Example:
        lrsclip eval classify data/rsscn7_dev --plot confusion.png --json
    """
    import numpy as np

    from lrsclip_rt.accuracy import classification_metrics, confusion_matrix, top1_interval
    from lrsclip_rt.classification import class_embeddings
    from lrsclip_rt.datasets import labelled_set_from_folder
    from lrsclip_rt.embedder import load

    if plot is not None:
        refuse_existing(plot, overwrite=overwrite)
    labelled = labelled_set_from_folder(data, split=split)
    model = load(bundle, backend=backend, precision=precision, device=device, threads=threads)
    templates = labelled.templates or model.spec.templates or ("{}",)
    source = "classes.json" if labelled.templates else "bundle" if model.spec.templates else "none"
    class_rows = class_embeddings(model, labelled.phrases, templates)
    names = [item.image for item in labelled.items]
    images, kept, failures = embed_files(model, labelled.root, names, batch_size=batch_size)
    labels = np.array([labelled.items[index].label for index in kept])
    predicted = (images @ class_rows.T).argmax(axis=1)
    matrix = confusion_matrix(predicted, labels, len(labelled.classes))
    record = {
        **classification_metrics(predicted, labels, labelled.classes).as_dict(),
        "top1_ci95": bounds(top1_interval(predicted, labels)),
        "templates": list(templates),
        "template_source": source,
        **run_record(model, data, split=split, images=len(kept), failed=len(failures)),
    }
    if plot is not None:
        _write_plot(plot, matrix, labelled.classes, record)
    _show(record, matrix, labelled.classes, as_json=as_json)
    finish(failures)


def _write_plot(
    path: Path, matrix: NDArray[np.int64], classes: Sequence[str], record: Mapping[str, Any]
) -> None:
    from lrsclip_rt.confusion_picture import render_confusion

    low, high = record["top1_ci95"]
    title = f"Zero-shot classes of {Path(record['data']).name}"
    facts = (
        f"top-1 {record['top1']:.1f} % [{low:.1f}, {high:.1f}]  |  {record['images']} images  |  "
        f"{record['model']} {record['precision']}"
    )
    picture = render_confusion(matrix, classes, title=title, facts=facts)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, "PNG", optimize=True)
    click.echo(f"confusion matrix: {path}", err=True)


def _show(
    record: Mapping[str, Any], matrix: NDArray[np.int64], classes: Sequence[str], *, as_json: bool
) -> None:
    if wants_json(as_json):
        click.echo(json.dumps(record, ensure_ascii=False))
        return
    rows = [
        {
            "class": name,
            "images": int(matrix[index].sum()),
            "recall": record["per_class"][name],
            "taken for": _taken_for(matrix[index], index, classes),
        }
        for index, name in enumerate(classes)
        if name in record["per_class"]
    ]
    low, high = record["top1_ci95"]
    title = (
        f"top-1 {record['top1']:.2f} % [{low:.1f}, {high:.1f}] of {record['images']} images, "
        f"templates of {record['template_source']}"
    )
    emit(rows, columns=["class", "images", "recall", "taken for"], as_json=False, title=title)


def _taken_for(counts: NDArray[np.int64], own: int, classes: Sequence[str]) -> str:
    """The class that most of the others were taken for, and how many; "-" where all were right."""
    others = counts.copy()
    others[own] = 0
    best = int(others.argmax())
    return f"{classes[best]} ({others[best]})" if others[best] else "-"

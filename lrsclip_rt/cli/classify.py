"""``lrsclip classify``: the best of some labels for each image, without training."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lrsclip_rt.cli.options import bundle_option, json_option, model_options, split_commas
from lrsclip_rt.cli.output import emit, report_failures
from lrsclip_rt.errors import InputError

if TYPE_CHECKING:
    from lrsclip_rt.embedder import Embedder

__all__ = ["command"]


@click.command("classify")
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="IMAGE...")
@bundle_option
@click.option("--labels", multiple=True, required=True, help="Labels with commas between them; repeats.")
@click.option(
    "--template", "templates", multiple=True, help="Prompt with {} for the label.  [default: the bundle's]"
)
@click.option(
    "--batch-size", type=click.IntRange(min=1), default=32, show_default=True, help="Images of one run."
)
@model_options
@json_option
def command(
    images: tuple[Path, ...],
    bundle: Path | None,
    labels: tuple[str, ...],
    templates: tuple[str, ...],
    batch_size: int,
    backend: str,
    precision: str | None,
    device: str | None,
    threads: int | None,
    as_json: bool,
) -> None:
    """Give each image the label whose prompts it is nearest to.

    A folder stands for the images in it. The score is the cosine; the probability is among the given
    labels only.

    \b
    Example:
        lrsclip classify scenes/ --labels harbour,airport,forest
    """
    from lrsclip_rt.classification import check_templates, class_embeddings
    from lrsclip_rt.embedder import load
    from lrsclip_rt.images import iter_image_paths

    classes = split_commas(labels)
    check_templates(templates)
    paths = list(iter_image_paths(images))
    if not paths:
        raise InputError(f"no images found in {', '.join(map(str, images))}")
    model = load(bundle, backend=backend, precision=precision, device=device, threads=threads)
    used = templates or model.spec.templates or ("{}",)
    source = "given" if templates else "bundle" if model.spec.templates else "none"
    class_rows = class_embeddings(model, classes, used)
    click.echo(f"templates ({source}): {' | '.join(used)}", err=True)
    failures: list[tuple[str, str]] = []
    template_set = {"template_source": source, "templates": list(used)}
    rows = _rows(model, paths, classes, class_rows, template_set, failures, batch_size=batch_size)
    emit(rows, columns=["image", "label", "score", "probability"], as_json=as_json)
    report_failures(failures)
    if failures:
        raise click.exceptions.Exit(1)


def _rows(
    model: Embedder,
    paths: list[Path],
    classes: list[str],
    class_rows: Any,
    template_set: dict[str, Any],
    failures: list[tuple[str, str]],
    *,
    batch_size: int,
) -> Iterator[dict[str, Any]]:
    """One row per readable image; the others are added to ``failures`` on the way."""
    from lrsclip_rt.classification import classify

    for batch in model.stream_images(((path, path) for path in paths), batch_size=batch_size):
        failures += [(str(path), str(error)) for path, error in batch.failures]
        result = classify(batch.embeddings, class_rows, classes=classes, logit_scale=model.spec.logit_scale)
        for i, path in enumerate(batch.keys):
            best = int(result.best[i])
            yield {
                "image": str(path),
                "label": result.label(i),
                "score": round(float(result.scores[i, best]), 6),
                "probability": round(float(result.probabilities[i, best]), 6),
                "scores": {
                    name: round(float(s), 6) for name, s in zip(classes, result.scores[i], strict=True)
                },
                **template_set,
            }

"""``lrsclip check``: does this bundle still answer as it should, on this machine?"""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lrsclip_rt.cli.options import backend_option, json_option
from lrsclip_rt.cli.output import emit, progress_bar, report_failures, wants_json
from lrsclip_rt.errors import InputError

if TYPE_CHECKING:
    from lrsclip_rt.checking import CheckResult

__all__ = ["command"]


@click.command("check")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--images", type=click.Path(path_type=Path), default=None, help="Compare on the images of this folder."
)
@click.option(
    "--limit",
    type=click.IntRange(min=2),
    default=500,
    show_default=True,
    help="Images of --images to use, evenly spread.",
)
@backend_option
@click.option("--threads", type=click.IntRange(min=1), default=None, help="CPU threads of the model.")
@json_option
def command(
    bundle: Path, images: Path | None, limit: int, backend: str, threads: int | None, as_json: bool
) -> None:
    """Hash every file again and hold every precision that runs here against its gate.

    fp32 must repeat the bundle's stored answers, the others must be near fp32. Cosines are shown as
    mean/least, of patches the mean. A precision that cannot run here is named with the reason, not
    passed. `--backend openvino` runs all of it there, and bf16 too where the CPU has it. Exit status 1 if
    one fails.

    \b
    Example:
        lrsclip check vit-b16/ --images photos/
    """
    from lrsclip_rt.bundle import Bundle
    from lrsclip_rt.checking import check_bundle, row_from_result

    opened = Bundle.open(bundle, verify=False)
    paths = [] if images is None else _spread(images, limit)
    with progress_bar("Checking", len(paths)) if paths else nullcontext(lambda n: None) as advance:
        summary = check_bundle(opened, paths, backend=backend, threads=threads, advance=advance)
    shown = row_from_result if wants_json(as_json) else _table_row
    columns = ["precision", "status", "image", "text", "patch", "top-1 %"]
    title = f"{opened.spec.name}: {len(opened.files)} files intact"
    emit(map(shown, summary.results), columns=columns, as_json=as_json, title=title)
    for result in summary.results:
        if result.precision not in opened.precisions:
            click.echo(
                f"{result.precision}: not in bundle.json, so it runs where it is named and --precision auto "
                "leaves it out",
                err=True,
            )
        if result.reason is not None:
            click.echo(f"{result.precision}: {result.status}: {result.reason}", err=True)
        if result.report is not None and result.report.dense_passed is False:
            click.echo(f"{result.precision}: its patches are below the gate: not for --mode dense", err=True)
    report_failures([(str(path), str(error)) for path, error in summary.failures])
    if summary.failures or not summary.passed:
        raise click.exceptions.Exit(1)


def _table_row(result: CheckResult) -> dict[str, Any]:
    """Mean and least cosines, narrow enough for 80 columns."""
    row: dict[str, Any] = {"precision": result.precision, "status": result.status}
    report = result.report
    if report is not None:
        for name, part in (("image", report.image), ("text", report.text)):
            row[name] = None if part is None else f"{part.mean:.5f}/{part.minimum:.4f}"
        row["patch"] = None if report.dense is None else f"{report.dense.mean:.5f}"
        row["top-1 %"] = None if report.top1_agreement is None else f"{report.top1_agreement:.1f}"
    return row


def _spread(folder: Path, limit: int) -> list[Path]:
    from lrsclip_rt.images import iter_image_paths

    paths = list(iter_image_paths([folder]))
    if not paths:
        raise InputError(f"no images found in {folder}")
    if len(paths) <= limit:
        return paths
    # Folders are sorted by class or date, so the first ones alone would say little.
    return [paths[i * len(paths) // limit] for i in range(limit)]

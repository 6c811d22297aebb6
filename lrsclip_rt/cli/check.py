"""``lrsclip check``: does this bundle still answer as it should, on this machine?"""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lrsclip_rt.cli.options import json_option, overwrite_option
from lrsclip_rt.cli.output import emit, progress_bar, refuse_existing, report_failures, wants_json
from lrsclip_rt.errors import InputError

if TYPE_CHECKING:
    from lrsclip_rt.bundle import Bundle
    from lrsclip_rt.checking import CheckResult, CheckSummary
    from lrsclip_rt.task_parity import SetReport, TaskReport

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
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    multiple=True,
    help="Compare scores on this folder with pairs.jsonl, or labels.csv and classes.json. Repeats.",
)
@click.option("--split", default=None, help="Use this split of --data alone.  [default: every image]")
@click.option(
    "--backend",
    "backends",
    type=click.Choice(["auto", "onnxruntime", "openvino", "tensorrt", "onnxruntime-cuda"]),
    multiple=True,
    default=("auto",),
    help="What runs the precisions. Repeats.  [default: auto, with --data every backend that runs here]",
)
@click.option("--threads", type=click.IntRange(min=1), default=None, help="CPU threads of the model.")
@click.option("--record", is_flag=True, help="Write what --data showed into bundle.json.")
@click.option(
    "--plot", type=click.Path(path_type=Path, dir_okay=False), help="Draw what --data showed, as a PNG."
)
@overwrite_option
@json_option
def command(
    bundle: Path,
    images: Path | None,
    limit: int,
    data: tuple[Path, ...],
    split: str | None,
    backends: tuple[str, ...],
    threads: int | None,
    record: bool,
    plot: Path | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Hash every file again and hold every precision that runs here against its gate.

    fp32 must repeat the bundle's stored answers, the others must be near fp32. Cosines are shown as
    mean/least, of patches the mean. A precision that cannot run here is named with the reason, not
    passed. `--backend openvino` runs all of it there, and bf16 and int8-bf16 too where the CPU has bf16.
    With --data every precision on every backend is also held against fp32 on ONNX Runtime by the scores
    it loses; --record then lists such a setting in the bundle. Exit status 1 if one fails.

    \b
    Example:
        lrsclip check vit-b16/ --images photos/
        lrsclip check vit-b16/ --data data/aid_rsicd --data data/rsscn7_dev --split val --plot cost.png
    """
    from lrsclip_rt.bundle import Bundle
    from lrsclip_rt.checking import row_from_result

    _refuse_stray(data, images=images, split=split, record=record, plot=plot)
    if plot is not None:
        refuse_existing(plot, overwrite=overwrite)
    opened = Bundle.open(bundle, verify=False)
    if data:
        summary = _check_on_data(opened, data, split, backends, threads)
    else:
        summary = _check(opened, [] if images is None else _spread(images, limit), backends, threads)
    shown = row_from_result if wants_json(as_json) else _table_row
    columns = ["precision", "status", "image", "text", "patch", "top-1 %"]
    if data or len(backends) > 1:
        columns.insert(1, "backend")
    title = f"{opened.spec.name}: {len(opened.files)} files intact"
    emit(map(shown, summary.results), columns=columns, as_json=as_json, title=title)
    reports = [result.tasks for result in summary.results if result.tasks is not None]
    if data and not wants_json(as_json):
        _show_tasks(reports)
    for result in summary.results:
        _explain(opened, result, several="backend" in columns)
    if plot is not None:
        _write_plot(plot, opened, reports)
    if record:
        _record(opened, summary)
    report_failures([(str(path), str(error)) for path, error in summary.failures])
    if summary.failures or not summary.passed:
        raise click.exceptions.Exit(1)


def _refuse_stray(data: tuple[Path, ...], *, images: Path | None, **of_data: Any) -> None:
    if data and images is not None:
        raise click.UsageError("--images and --data exclude each other: name one of them")
    for name, value in of_data.items():
        if value and not data:
            raise click.UsageError(f"--{name} belongs to --data, which is missing")


def _check(bundle: Bundle, paths: list[Path], backends: tuple[str, ...], threads: int | None) -> CheckSummary:
    from lrsclip_rt.checking import CheckSummary, check_bundle

    summaries = []
    names = list(dict.fromkeys(backends))
    with _progress(len(names) * len(paths)) as advance:
        for name in names:
            summaries.append(check_bundle(bundle, paths, backend=name, threads=threads, advance=advance))
    results = tuple(result for summary in summaries for result in summary.results)
    return CheckSummary(results, summaries[0].failures)


def _check_on_data(
    bundle: Bundle, data: tuple[Path, ...], split: str | None, backends: tuple[str, ...], threads: int | None
) -> CheckSummary:
    from lrsclip_rt.task_answers import data_sets_from_folder, inputs_from_sets
    from lrsclip_rt.task_checking import check_on_data

    sets = [one for folder in dict.fromkeys(data) for one in data_sets_from_folder(folder, split=split)]
    for one in sets:
        if one.split != split:
            click.echo(f"{one.root} names no split: all of its {len(one)} images are used", err=True)
    inputs = inputs_from_sets(sets)
    with _progress(inputs.steps) as advance:
        return check_on_data(bundle, inputs, backends=backends, threads=threads, advance=advance)


def _progress(total: int) -> Any:
    return progress_bar("Checking", total) if total else nullcontext(lambda n: None)


def _explain(bundle: Bundle, result: CheckResult, *, several: bool) -> None:
    """What a table cannot say, on stderr."""
    name = result.precision
    if several and result.backend is not None:
        name = f"{result.precision} on {result.backend}"
    if result.precision not in bundle.precisions:
        click.echo(
            f"{name}: not in bundle.json, so it runs where it is named and --precision auto leaves it out",
            err=True,
        )
    if result.reason is not None:
        click.echo(f"{name}: {result.status}: {result.reason}", err=True)
    if result.report is not None and result.report.dense_passed is False:
        click.echo(f"{name}: its patches are below the gate: not for --mode dense", err=True)


def _table_row(result: CheckResult) -> dict[str, Any]:
    """Mean and least cosines, narrow enough for 80 columns."""
    row: dict[str, Any] = {
        "precision": result.precision, "backend": result.backend, "status": result.status
    }  # fmt: skip
    report = result.report
    if report is not None:
        for name, part in (("image", report.image), ("text", report.text)):
            row[name] = None if part is None else f"{part.mean:.5f}/{part.minimum:.4f}"
        row["patch"] = None if report.dense is None else f"{report.dense.mean:.5f}"
        row["top-1 %"] = None if report.top1_agreement is None else f"{report.top1_agreement:.1f}"
    return row


def _show_tasks(reports: list[TaskReport]) -> None:
    if not reports:
        click.echo("fp32 on onnxruntime alone runs here, so there is nothing to hold against it", err=True)
        return
    columns = ["data", "precision", "image", "text", "top-1/10 %", "mR", "lost"]
    rows = [
        _task_row(one, f"{report.precision} {report.backend}") for report in reports for one in report.sets
    ]
    emit(rows, columns=columns, as_json=False, title="on data, against fp32 on onnxruntime")


def _task_row(one: SetReport, precision: str) -> dict[str, Any]:
    """Cosines as mean/least, the change of mR, and right predictions lost net."""
    row: dict[str, Any] = {"data": one.title, "precision": precision}
    for name, part in (("image", one.image), ("text", one.text)):
        row[name] = f"{part.summary.mean:.5f}/{part.summary.minimum:.4f}"
    if one.top1_agreement is not None:
        row["top-1/10 %"] = f"{one.top1_agreement:.1f}/{one.top10_agreement:.1f}"
    change = one.gated_retrieval
    if change is not None:
        row["mR"] = f"{change.reference.mean_recall:.2f} {-change.drop:+.2f}"
    if one.predictions:
        row["lost"] = ", ".join(f"{p.lost} of {p.images}" for p in one.predictions)
    return row


def _write_plot(path: Path, bundle: Bundle, reports: list[TaskReport]) -> None:
    from lrsclip_rt.parity_picture import render_parity

    if not reports:
        raise InputError(f"nothing ran beside fp32 on onnxruntime, so {path} was not drawn")
    picture = render_parity(reports, title=f"What each precision of {bundle.spec.name} costs")
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, "PNG", optimize=True)
    click.echo(f"plot: {path}", err=True)


def _record(bundle: Bundle, summary: CheckSummary) -> None:
    from lrsclip_rt.task_checking import record_tasks

    record_tasks(bundle, summary.results)
    for result in summary.results:
        if result.tasks is None:
            continue
        said = "passed" if result.tasks.passed else "failed"
        click.echo(f"recorded: {result.precision} on {result.backend}: {said}", err=True)


def _spread(folder: Path, limit: int) -> list[Path]:
    from lrsclip_rt.images import iter_image_paths

    paths = list(iter_image_paths([folder]))
    if not paths:
        raise InputError(f"no images found in {folder}")
    if len(paths) <= limit:
        return paths
    # Folders are sorted by class or date, so the first ones alone would say little.
    return [paths[i * len(paths) // limit] for i in range(limit)]

"""``lrsclip demo``: index, search and localize with a report that a newcomer understands."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lrsclip_rt.cli.options import bundle_option, json_option, model_options, overwrite_option
from lrsclip_rt.cli.output import emit, report_failures, wants_json

if TYPE_CHECKING:
    from lrsclip_rt.demonstration import Story

__all__ = ["command"]

COLUMNS = ("part", "query", "answer", "score", "ms")


@click.command("demo")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("lrsclip-demo"),
    show_default=True,
    help="Folder for the report, its pictures, scenes and archive.",
)
@click.option(
    "--images",
    type=click.Path(path_type=Path),
    default=None,
    help="Folder of images and GeoTIFFs to show it on.  [default: rendered scenes]",
)
@bundle_option
@model_options
@json_option
@overwrite_option
def command(
    output: Path,
    images: Path | None,
    bundle: Path | None,
    backend: str,
    precision: str | None,
    device: str | None,
    threads: int | None,
    as_json: bool,
    overwrite: bool,
) -> None:
    """Index, search and localize, and write a report with pictures.

    Without --images, scenes are rendered and every answer is compared with what they really show. With
    --images, general questions are asked about the images of a folder. Open report.html in a browser.

    \b
    Example:
        lrsclip demo -o my-report --images my_images/
    """
    from lrsclip_rt.demonstration import demonstrate
    from lrsclip_rt.embedder import load

    model = load(bundle, backend=backend, precision=precision, device=device, threads=threads)
    story = demonstrate(model, output, images=images, overwrite=overwrite, say=_say)
    as_lines = wants_json(as_json)
    rows = [*_rows(story), *([story.summary()] if as_lines else [])]
    emit(rows, columns=COLUMNS, as_json=as_json, title="What the model answered")
    if not as_lines:
        _say_summary(story)
    report_failures(story.failures)
    if story.failures:
        raise click.exceptions.Exit(1)


def _say(message: str) -> None:
    """Progress for people; gone when stderr is not a terminal."""
    if sys.stderr.isatty():
        click.echo(message, err=True)


def _rows(story: Story) -> list[dict[str, Any]]:
    """One row an answer: of the whole story, not only of what the report draws."""
    rows: list[dict[str, Any]] = []
    for kind, answers in (
        ("search", story.answers),
        ("example", [story.example] if story.example else []),
        ("absent", [story.absent] if story.absent else []),
    ):
        for answer in answers:
            best = answer.places[0] if answer.places else None
            row: dict[str, Any] = {
                "part": kind,
                "query": answer.text,
                "answer": None if best is None else best.title,
                "score": None if best is None else round(best.hit.score, 4),
                "ms": round(answer.query_ms, 2),
            }
            if answer.expected is not None:
                row |= {"first_right": answer.first_right}
                row["answer"] = _worded(answer.first_right, row["answer"])
            rows.append(row)
    for ranking in story.rankings:
        title = story.scenes[ranking.expected].title
        rows.append(
            {
                "part": "long text",
                "query": f"{ranking.tokens} tokens about {title}",
                "answer": f"ranks {title} at {ranking.rank}",
                "score": round(ranking.scores[ranking.expected], 4),
                "ms": round(ranking.query_ms, 2),
                "rank": ranking.rank,
            }
        )
    for located in story.located:
        scene = story.scenes[located.scene].title
        judged = {True: ", peak inside", False: ", peak outside", None: ""}[located.inside]
        rows.append(
            {
                "part": "localize",
                "query": located.heatmap.text,
                "answer": f"{scene}{judged}",
                "score": round(located.heatmap.score_range[1], 4),
                "ms": None,
                "inside": located.inside,
            }
        )
    return rows


def _worded(first_right: int | None, title: str | None) -> str:
    if title is None:
        return "no hit"
    return "missed" if first_right is None else f"right at {first_right}, best in {title}"


def _say_summary(story: Story) -> None:
    timings = story.timings
    if story.images is None:
        click.echo(
            f"Right: {story.first_right} of {len(story.answers)} best hits, {story.rankings_right} of "
            f"{len(story.rankings)} long texts, {story.peaks_inside} of {len(story.located)} heat map peaks."
        )
    click.echo(
        f"{timings.index_rows} tiles at {timings.tiles_per_second:.1f} tiles/s, "
        f"a question {timings.query_p50_ms:.1f} ms."
    )
    click.echo(f"Report: {story.report}")

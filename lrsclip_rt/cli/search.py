"""``lrsclip search``: an archive asked by words, a picture, or examples of its own."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lrsclip_rt.cli.codes_reporting import tell_unused_codes
from lrsclip_rt.cli.options import bundle_option, json_option, model_options, overwrite_option
from lrsclip_rt.cli.output import refuse_existing, report_failures
from lrsclip_rt.cli.search_output import FORMATS, check_output, tell, write_answer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from lrsclip_rt.archive import Archive, Hits, Where
    from lrsclip_rt.archive.conditions import Condition
    from lrsclip_rt.archive.sentences import SentenceMatch

__all__ = ["command"]


def _box(ctx: click.Context, parameter: click.Parameter, text: str | None) -> tuple[float, ...] | None:
    from lrsclip_rt.archive.footprints import check_bbox

    if text is None:
        return None
    try:
        return check_bbox([float(part) for part in text.split(",")])
    except ValueError as error:  # InputError is one too
        raise click.BadParameter(f"{error}; expected W,S,E,N") from error


def _conditions(
    ctx: click.Context, parameter: click.Parameter, texts: tuple[str, ...]
) -> tuple[Condition, ...]:
    from lrsclip_rt.archive.conditions import Condition
    from lrsclip_rt.errors import InputError

    try:
        return tuple(Condition.from_text(text) for text in texts)
    except InputError as error:
        raise click.BadParameter(str(error)) from error


@click.command("search")
@click.argument("archive", type=click.Path(path_type=Path))
@click.argument("text", required=False)
@bundle_option
@click.option("--image", type=click.Path(path_type=Path, dir_okay=False), help="Search by a picture.")
@click.option("--like", multiple=True, metavar="ID", help="More like this hit; repeats.")
@click.option("--unlike", multiple=True, metavar="ID", help="Less like this hit; repeats.")
@click.option("--sentences", "by_sentence", is_flag=True, help="Say which sentence of TEXT matches where.")
@click.option("--bbox", callback=_box, metavar="W,S,E,N", help="Only footprints that touch this box [deg].")
@click.option(
    "--aoi",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Only footprints that touch these polygons: GeoJSON, or GeoPackage in any CRS.",
)
@click.option("--since", metavar="DATE", help="Only from this moment on, UTC.")
@click.option("--until", metavar="DATE", help="Only before this moment, UTC; a bare date is that whole day.")
@click.option(
    "--where",
    "conditions",
    multiple=True,
    callback=_conditions,
    metavar="KEY=VALUE",
    help="Only sources with this metadata; also !=, >=, <=, > and <; repeats.",
)
@click.option(
    "--source", "sources", multiple=True, metavar="PATTERN", help="Only sources at such a path; repeats."
)
@click.option("-k", "k", type=click.IntRange(min=1), default=10, show_default=True, help="Places to show.")
@click.option(
    "--min-score",
    type=float,
    help="No match where the mean of the best cosines is lower.  [default for texts: the model's]",
)
@click.option("--exact", is_flag=True, help="Score every row that passes, in a large archive too.")
@click.option("--no-merge", is_flag=True, help="Show overlapping tiles one by one.")
@click.option(
    "--diverse",
    type=click.FloatRange(0, 1),
    metavar="F",
    help="Prefer hits that differ from each other: 0 not at all, 1 above all.",
)
@click.option(
    "--chips", type=click.Path(path_type=Path, file_okay=False), help="Write pictures of the hits here."
)
@click.option(
    "--format",
    "output_format",
    type=click.Choice(FORMATS),
    help="rows: a table on a terminal, else JSON lines.  [default: by the ending of -o, else rows]",
)
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write the hits here.")
@click.option("--schema", help="Schema of a postgresql:// archive.  [default: lrsclip]")
@click.option("--approximate", is_flag=True, help="Use the approximate index of a postgresql:// archive.")
@model_options
@json_option
@overwrite_option
def command(
    archive: Path,
    text: str | None,
    bundle: Path | None,
    image: Path | None,
    like: tuple[str, ...],
    unlike: tuple[str, ...],
    by_sentence: bool,
    bbox: tuple[float, ...] | None,
    aoi: Path | None,
    since: str | None,
    until: str | None,
    conditions: tuple[Condition, ...],
    sources: tuple[str, ...],
    k: int,
    min_score: float | None,
    exact: bool,
    no_merge: bool,
    diverse: float | None,
    chips: Path | None,
    output_format: str | None,
    output: Path | None,
    schema: str | None,
    approximate: bool,
    backend: str,
    precision: str | None,
    device: str | None,
    threads: int | None,
    as_json: bool,
    overwrite: bool,
) -> None:
    """Find places in an archive by words, a picture, examples, or all of them.

    The text is embedded by the text tower that the archive keeps; a picture needs the whole bundle (-b, or
    where it was when the archive was made). TEXT - reads it from stdin. Overlapping tiles of a
    source are one place: the best is shown. With --device cuda the rows are searched on the GPU too.

    \b
    Example:
        lrsclip search archive/ "a harbour with many ships" --bbox -5,40,10,50 --since 2024-05-01 -k 20
    """
    from lrsclip_rt.archive import Archive, Where
    from lrsclip_rt.archive.answer import Answer
    from lrsclip_rt.archive.opening import measured_recall, open_archive

    if text is None and image is None and not like and not unlike:
        raise click.UsageError("nothing to search for: give TEXT, --image, --like or --unlike")
    if by_sentence and text is None:
        raise click.UsageError("--sentences needs TEXT")
    kind = check_output(output_format, output, as_json=as_json)
    for target in (chips, output):
        if target is not None:
            refuse_existing(target, overwrite=overwrite)
    words = sys.stdin.read() if text == "-" else text
    where = Where(
        bbox=bbox,
        start=since,
        end=until,
        sources=sources or None,
        aoi=_area(aoi),
        conditions=conditions or None,
    )
    opening = {"backend": backend, "precision": precision, "device": device, "threads": threads}
    with open_archive(archive, schema=schema, approximate=approximate, bundle=bundle) as opened:
        if approximate:
            click.echo(measured_recall(opened), err=True)
        on_gpu = isinstance(opened, Archive) and device is not None and device.lower().startswith("cuda")
        if on_gpu and device is not None:
            opened.use_gpu(device)
        if isinstance(opened, Archive):
            opened.prepare()
        question = _question(opened, words, image, like, unlike, bundle, opening, by_sentence)
        threshold = question.threshold if min_score is None else min_score
        hits = _search(
            opened,
            question,
            k,
            where,
            merge=not no_merge,
            min_score=threshold,
            diverse=diverse,
            exact=exact,
        )
        if isinstance(opened, Archive) and not exact and not on_gpu:
            tell_unused_codes(opened)
        matches = _matches(opened, question, hits, where, threshold)
        asked = _asked(bbox, aoi, since, until, conditions, sources, diverse)
        answer = Answer(_title(words, image, like, unlike), hits, where, asked, threshold, matches)
        tell(answer)
        files, failures = (None, []) if chips is None else _write_chips(opened, hits, chips)
        unread = write_answer(opened, answer, kind, output, files)
        failures += [failure for failure in unread if failure not in failures]
    report_failures(failures)
    if failures:
        raise click.exceptions.Exit(1)


@dataclass(frozen=True, eq=False)
class _Question:
    """Query vectors: of the text, of the picture, of the examples together; and of the text's sentences."""

    parts: Sequence[NDArray[np.float32]]
    threshold: float | None
    sentences: Sequence[str] = ()
    vectors: NDArray[np.float32] | None = None


def _question(
    archive: Archive,
    words: str | None,
    image: Path | None,
    like: tuple[str, ...],
    unlike: tuple[str, ...],
    bundle: Path | None,
    opening: dict[str, Any],
    by_sentence: bool,
) -> _Question:
    from lrsclip_rt.archive.models import image_bundle, text_bundle
    from lrsclip_rt.archive.queries import examples_query
    from lrsclip_rt.archive.sentences import split_sentences
    from lrsclip_rt.embedder import load

    parts: list[NDArray[np.float32]] = []
    sentences: list[str] = []
    vectors, threshold = None, None
    if words is not None:
        model = load(text_bundle(archive), **opening)
        threshold = model.bundle.manifest.presence_threshold
        parts.append(model.embed_texts([words])[0])
        if model.cut_count:
            limit = model.spec.context_length
            click.echo(f"the text is longer than {limit} tokens; the rest was left out", err=True)
        if by_sentence:
            sentences = split_sentences(words)
            vectors = model.embed_texts(sentences)
    if image is not None:
        parts.append(load(image_bundle(archive, bundle), **opening).embed_images([image])[0])
    if like or unlike:
        examples = (archive.vectors([archive.tile(name) for name in names]) for names in (like, unlike))
        parts.append(examples_query(*examples))
    # Calibrated on texts, the threshold says nothing about pictures and mixtures.
    return _Question(parts, threshold if len(parts) == 1 else None, sentences, vectors)


def _search(
    archive: Archive,
    question: _Question,
    k: int,
    where: Where,
    *,
    merge: bool,
    min_score: float | None,
    diverse: float | None,
    exact: bool,
) -> Hits:
    from lrsclip_rt.archive.diversity import diverse_hits, pool_size
    from lrsclip_rt.archive.queries import mixed_query

    query = mixed_query(question.parts, archive.sample)
    wanted = k if diverse is None else pool_size(k)
    [hits] = archive.search(query[None], wanted, where, merge=merge, min_score=min_score, exact=exact)
    return hits if diverse is None else diverse_hits(archive, hits, k, diverse)


def _matches(
    archive: Archive, question: _Question, hits: Hits, where: Where, threshold: float | None
) -> tuple[SentenceMatch, ...]:
    from lrsclip_rt.archive.sentences import sentence_matches

    if question.vectors is None:
        return ()
    return sentence_matches(
        archive, hits, question.sentences, question.vectors, where=where, min_score=threshold
    )


def _area(path: Path | None) -> Any:
    if path is None:
        return None
    from lrsclip_rt.archive.areas.files import area_from_file

    return area_from_file(path)


def _title(words: str | None, image: Path | None, like: Sequence[str], unlike: Sequence[str]) -> str:
    """What was asked for, in words."""
    parts = [] if words is None else [" ".join(words.split())]
    if image is not None:
        parts.append(f"like the picture {image.name}")
    if like:
        parts.append("more like " + ", ".join(name[:8] for name in like))
    if unlike:
        parts.append("less like " + ", ".join(name[:8] for name in unlike))
    return "; ".join(parts)


def _asked(
    bbox: tuple[float, ...] | None,
    aoi: Path | None,
    since: str | None,
    until: str | None,
    conditions: Sequence[Condition],
    sources: Sequence[str],
    diverse: float | None,
) -> list[str]:
    """The conditions for people."""
    asked = [] if bbox is None else ["touching " + ", ".join(f"{degree:g}" for degree in bbox)]
    asked += [] if aoi is None else [f"touching {aoi.name}"]
    asked += [f"{word} {date}" for word, date in (("since", since), ("until", until)) if date is not None]
    asked += [str(condition) for condition in conditions]
    asked += [f"source {pattern}" for pattern in sources]
    return asked if diverse is None else [*asked, f"diverse {diverse:g}"]


def _write_chips(archive: Archive, hits: Hits, folder: Path) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """Pictures of the hits: their paths by id, and what could not be read."""
    from lrsclip_rt.archive.chips import chip_name, write_chips

    written, failures = write_chips(archive, hits, folder)
    click.echo(f"{len(written)} chips in {folder}", err=True)
    pictures = {path.name: str(path) for path in written}
    found = {hit.id: pictures.get(f"{chip_name(hit)}.png") for hit in hits}
    return {name: path for name, path in found.items() if path is not None}, failures

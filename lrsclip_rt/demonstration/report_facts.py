"""Sections of the report about what answered, how fast, within which limits, and how to go on."""

from __future__ import annotations

import shlex

from lrsclip_rt.demonstration.markup import Child, Markup, element
from lrsclip_rt.demonstration.results import Story

__all__ = ["commands_section", "facts_section", "failures_section", "limits_section"]

LISTED_FAILURES = 50


def failures_section(story: Story) -> Markup | None:
    """Files that could not be used."""
    if not story.failures:
        return None
    count = len(story.failures)
    items = [
        element("li", element("b", name), ": ", _without_name(reason, name))
        for name, reason in story.failures[:LISTED_FAILURES]
    ]
    rest = count - len(items)
    return element(
        "section",
        element("h2", f"{count} file{'s' if count != 1 else ''} could not be used"),
        element("div", element("ul", items), f"... and {rest} more" if rest else None, class_="card alert"),
        id="failures",
    )


def _without_name(reason: str, name: str) -> str:
    """A message that begins with the file's name, without it."""
    return reason.removeprefix(name).lstrip(": ") or reason


def facts_section(story: Story) -> Markup:
    """The model and the times of this machine."""
    return element(
        "section",
        element("h2", "Model and speed"),
        element(
            "p", f"Measured during this run on {story.machine}; other work on the machine slows it down."
        ),
        element(
            "div",
            element("div", _table(_times(story)), class_="card"),
            element("div", _table(_model(story)), class_="card"),
            class_="grid pair top",
        ),
        _precisions(story),
        id="facts",
    )


def limits_section(story: Story) -> Markup:
    """What these answers do not show."""
    model = story.model
    if story.images is None:
        items = [
            "The scenes are rendered and their place is invented. They are cleaner and better separated "
            "than real imagery, so right answers here are easier to get than there: try your own images.",
            "A search ranks tiles and a heat map shows where words fit best. Neither counts objects nor "
            "draws their borders.",
        ]
    else:
        items = [
            "Nobody told the program what your images show, so nothing here is marked right or wrong: look "
            "at the pictures.",
            "The questions are general ones about aerial and satellite imagery seen from above; they say "
            "little about other photographs.",
        ]
    if model.built_in:
        items.append(
            "The built-in model is small, so that it fits into the package, and it was trained on imagery "
            "that is free for research only. Larger models answer better: lrsclip pull and lrsclip export "
            "make bundles of published ones."
        )
    return element(
        "section",
        element("h2", "Limits"),
        element("div", element("ul", [element("li", item) for item in items]), class_="card"),
        id="limits",
    )


def commands_section(story: Story) -> Markup:
    """The same steps as commands."""
    archive = shlex.quote(str(story.folder / "archive"))
    lines: list[tuple[str, str]] = []
    if story.answers:
        question = "a harbour with many ships" if story.images is None else story.answers[0].text
        lines.append(("ask this archive something else", f"lrsclip search {archive} {shlex.quote(question)}"))
    if story.scenes:
        scene = shlex.quote(str(story.scenes[0].path))
        text = shlex.quote(story.located[0].heatmap.text) if story.located else "'white storage tanks'"
        lines.append(("where in a scene", f"lrsclip localize {scene} {text} -o heat/"))
    lines += [
        ("this report on your images", "lrsclip demo --images my_images/ -o my-report"),
        ("your own archive: folders, images, GeoTIFFs", "lrsclip index my_images/ -a my-archive"),
        (
            "search it by words, long descriptions or a picture",
            "lrsclip search my-archive --image example.jpg",
        ),
    ]
    code: list[Child] = []
    for comment, command in lines:
        code += [element("span", f"# {comment}\n", class_="soft"), f"{command}\n"]
    return element(
        "section",
        element("h2", "The same on your own data"),
        element("pre", code, tabindex=0),
        id="own",
    )


def _table(rows: list[tuple[str, str]]) -> Markup:
    body = [element("tr", element("th", name, scope="row"), element("td", value)) for name, value in rows]
    return element("table", element("tbody", body))


def _times(story: Story) -> list[tuple[str, str]]:
    timings = story.timings
    rows = [
        (
            "Indexing",
            f"{timings.index_rows} tiles in {timings.index_s:.1f} s: {timings.tiles_per_second:.1f} tiles/s",
        ),
    ]
    if timings.query_ms:
        rows.append(
            (
                "A question",
                f"{timings.query_p50_ms:.1f} ms (median of {len(timings.query_ms)}; "
                f"{min(timings.query_ms):.1f} to {max(timings.query_ms):.1f} ms), sentence to hits",
            )
        )
    if timings.localize_windows:
        rows.append(
            (
                "Localizing",
                f"{timings.localize_texts} texts on {timings.localize_windows} windows in "
                f"{timings.localize_s:.1f} s; a window is embedded once for all texts",
            )
        )
    rows.append(("All of it", f"{timings.total_s:.1f} s before this page was drawn"))
    return rows


def _precisions(story: Story) -> Markup | None:
    """A line for each precision of the model that runs here."""
    if not story.precisions:
        return None
    head = ("Precision", "Library", "Cosine with fp32", "Gate", "Images/s", "A query", "Files")
    lines = [
        (
            one.name,
            one.backend,
            "-" if one.cosine is None else f"{one.cosine:.5f}",
            "within" if one.passed else "below",
            f"{one.images_per_second:.1f}",
            f"{one.query_ms:.1f} ms",
            f"{one.size_bytes / 1e6:.1f} MB",
        )
        for one in story.precisions
    ]
    table = element(
        "table",
        element("thead", element("tr", [element("th", name, scope="col") for name in head])),
        element("tbody", [element("tr", [element("td", cell) for cell in line]) for line in lines]),
    )
    about = (
        "The precisions of this model that run here: a few rounds of the image tower alone and of one short "
        "query. A precision below its gate is never chosen by itself."
    )
    return element("div", element("p", about), table, class_="card wide")


def _model(story: Story) -> list[tuple[str, str]]:
    model = story.model
    return [
        ("Model", f"{model.name} ({model.architecture}){', built in' if model.built_in else ''}"),
        ("Runs as", f"{model.precision} on {model.backend}"),
        ("Size", f"{model.size_bytes / 1e6:.1f} MB, all files of the bundle"),
        ("Sees", f"{model.image_size} x {model.image_size} px"),
        ("Reads", f"up to {model.context_length} tokens"),
        ("Answers in", f"{model.dim} dimensions"),
        ("Made", model.how_made),
        ("Trained on", model.training_data),
        ("Licence", model.licence),
    ]

"""``report.html``: one file that shows the whole demonstration and loads nothing."""

from __future__ import annotations

from pathlib import Path

from lrsclip_rt.demonstration.markup import Markup, document, element
from lrsclip_rt.demonstration.picture_book import PictureBook
from lrsclip_rt.demonstration.pictures import OpenImages, data_uri, open_images, overlay
from lrsclip_rt.demonstration.report_facts import (
    commands_section,
    facts_section,
    failures_section,
    limits_section,
)
from lrsclip_rt.demonstration.report_maps import maps_section
from lrsclip_rt.demonstration.report_search import (
    absent_section,
    answers_section,
    example_section,
    rankings_section,
)
from lrsclip_rt.demonstration.results import Story
from lrsclip_rt.demonstration.scenes import PLACE
from lrsclip_rt.demonstration.style import STYLE
from lrsclip_rt.errors import InputError

__all__ = ["write_report"]

SHEET_SIDE = 160
"""Longest side of a picture of the contact sheet [px]."""


def write_report(story: Story) -> Path:
    """Draw a story: ``report.html`` and ``pictures/*.png`` in its folder.

    Returns:
        The path of the page.

    Raises:
        InputError: If a file cannot be written.
    """
    book = PictureBook(story.folder / "pictures")
    with open_images() as images:
        page = document(
            title=_window_title(story),
            style=STYLE,
            body=[_header(story, images), *_parts(story, book, images)],
        )
    path = story.report
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error}. Make room, or choose another -o") from error
    return path


def _window_title(story: Story) -> str:
    return "lrsclip demo" if story.images is None else f"lrsclip demo: {story.images.name}"


def _parts(story: Story, book: PictureBook, images: OpenImages) -> list[Markup]:
    sections = [
        failures_section(story),
        _scenes_section(story, book, images),
        _sheet_section(story, images),
        answers_section(story, book, images),
        rankings_section(story, book, images),
        example_section(story, book, images),
        absent_section(story, book, images),
        maps_section(story, book, images),
        facts_section(story),
        limits_section(story),
        commands_section(story),
    ]
    main = element("main", [section for section in sections if section is not None])
    closing = (
        "Written by lrsclip demo. The pictures lie beside this page in pictures/; nothing here is loaded "
        "from a network."
    )
    return [main, element("footer", closing)]


def _header(story: Story, images: OpenImages) -> Markup:
    who = (
        "A small model that comes with lrsclip-rt"
        if story.model.built_in
        else f"The model {story.model.name}"
    )
    lead = (
        f"{who} turns pictures and sentences into vectors, so that a sentence finds the pictures that fit "
        "it. "
    )
    if story.images is None:
        title = "Finding things in aerial images by describing them"
        lead += (
            f"Here it indexed {len(story.scenes)} rendered scenes, answered questions in words, and marked "
            "where things are; since the scenes are rendered, every answer could be checked against the "
            "truth."
        )
    else:
        title = "Searching your images by describing what they show"
        lead += (
            f"Here it indexed {story.sources} of your images, and each of the sentences below is shown with "
            "the places that fit it best."
        )
    words = element(
        "div",
        element("p", f"lrsclip demo, model {story.model.name}", class_="eyebrow"),
        element("h1", title),
        element("p", lead, class_="lead"),
        _navigation(story),
    )
    return element(
        "header",
        element("div", words, _hero(story, images), class_="hero"),
        element("div", [_tile(*tile) for tile in _tiles(story)], class_="tiles"),
    )


def _hero(story: Story, images: OpenImages) -> Markup | None:
    """The first heat map, to show at once what this is about."""
    located = next((located for located in story.located if located.shown), None)
    if located is None:
        return None
    scene, text = story.scenes[located.scene], located.heatmap.text
    picture = overlay(images.whole(scene.path), located)
    quoted = f"\N{LEFT DOUBLE QUOTATION MARK}{text}\N{RIGHT DOUBLE QUOTATION MARK}"
    return element(
        "figure",
        element("img", src=data_uri(picture), alt=f"heat map of {text} in {scene.title}"),
        element("figcaption", f"{quoted} in {scene.title}"),
    )


def _navigation(story: Story) -> Markup:
    links = [
        ("scenes", "Scenes", story.images is None),
        ("sheet", "Your images", bool(story.sheet)),
        ("questions", "Questions in words", bool(story.answers)),
        ("long", "Long descriptions", bool(story.rankings)),
        ("example", "By example", story.example is not None),
        ("absent", "Not there", story.absent is not None),
        ("maps", "Heat maps", bool(story.located)),
        ("facts", "Model and speed", True),
        ("own", "Your own data", True),
    ]
    return element("nav", [element("a", text, href=f"#{target}") for target, text, there in links if there])


def _tile(value: str, unit: str, meaning: str) -> Markup:
    return element(
        "div", element("b", value, element("small", unit)), element("span", meaning), class_="tile"
    )


def _tiles(story: Story) -> list[tuple[str, str, str]]:
    timings = story.timings
    speed = [
        (f"{timings.query_p50_ms:.0f}", " ms", "from a sentence to its hits (median)"),
        (f"{timings.tiles_per_second:.0f}", " tiles/s", f"indexed; {timings.index_rows} in all"),
    ]
    if story.images is not None:
        return [
            (str(story.sources), "", "images in the archive"),
            (str(len(story.answers)), "", "questions asked"),
            *speed,
        ]
    return [
        (f"{story.first_right}", f" of {len(story.answers)}", "questions whose best hit is right"),
        (
            f"{story.rankings_right}",
            f" of {len(story.rankings)}",
            "long descriptions that find their scene first",
        ),
        (
            f"{story.peaks_inside}",
            f" of {len(story.located)}",
            "heat maps whose peak lies in the true object",
        ),
        *speed,
    ]


def _scenes_section(story: Story, book: PictureBook, images: OpenImages) -> Markup | None:
    if story.images is not None:
        return None
    figures = []
    for number, scene in enumerate(story.scenes, start=1):
        picture = images.whole(scene.path)
        address = book.add(f"scene-{number}", picture)
        about = f"{scene.width} x {scene.height} px"
        if scene.gsd_m is not None:
            about += f", {scene.gsd_m:g} m per pixel"
        names = ", ".join(name.replace("_", " ") for name in scene.classes)
        caption = element("figcaption", element("b", scene.title), f". {about}. Shows: {names}.")
        figures.append(element("figure", element("img", src=address, alt=f"{scene.title}: {names}"), caption))
    trained = ""
    if story.model.built_in:
        trained = " The model was trained on other rendered pictures and on real images, never on these."
    return element(
        "section",
        element("h2", "The scenes"),
        element(
            "p",
            "Drawn by the program for this demonstration, so that everything in them is known exactly. "
            f"They are stored as GeoTIFFs at {PLACE}.{trained}",
        ),
        element("div", figures, class_="grid scenes"),
        id="scenes",
    )


def _sheet_section(story: Story, images: OpenImages) -> Markup | None:
    """A contact sheet of the user's images."""
    if not story.sheet:
        return None
    figures = [
        element(
            "figure",
            element("img", src=data_uri(images.whole(path, longest=SHEET_SIDE)), alt=path.name),
            element("figcaption", element("span", path.name, class_="file")),
            class_="chip",
        )
        for path in story.sheet
    ]
    shown = "All" if len(story.sheet) == story.sources else f"{len(story.sheet)}"
    return element(
        "section",
        element("h2", "Your images"),
        element("p", f"{shown} of the {story.sources} files in the archive, as the program reads them."),
        element("div", figures, class_="sheet"),
        id="sheet",
    )

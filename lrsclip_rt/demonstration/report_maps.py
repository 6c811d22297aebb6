"""Section of the report about localization: heat maps over their scenes."""

from __future__ import annotations

from lrsclip_rt.demonstration.markup import Markup, element
from lrsclip_rt.demonstration.picture_book import PictureBook, file_slug
from lrsclip_rt.demonstration.pictures import OpenImages, colour_ramp, data_uri, overlay
from lrsclip_rt.demonstration.results import LocatedText, Story

__all__ = ["maps_section"]


def maps_section(story: Story, book: PictureBook, images: OpenImages) -> Markup | None:
    """The heat maps that are drawn, and how all of them compare with the truth."""
    drawn = [located for located in story.located if located.shown]
    if not drawn:
        return None
    figures = [_figure(story, located, number, book, images) for number, located in enumerate(drawn, start=1)]
    return element(
        "section",
        element("h2", "Where in the scene"),
        element("p", _about(story, len(drawn))),
        _legend(with_truth=story.images is None),
        element("div", figures, class_="grid maps"),
        id="maps",
    )


def _about(story: Story, drawn: int) -> str:
    scales = ", ".join(str(scale) for scale in story.located[0].heatmap.scales) or "all"
    how = f"Overlapping windows of {scales} px are compared with the words, and their scores are averaged."
    if story.images is not None:
        return f"The questions that stand out most in your largest image. {how}"
    return (
        f"{how} All {len(story.located)} things in the scenes were asked for; in {story.peaks_inside} of "
        f"them the hottest place lies inside the true object. These {drawn} were picked for their variety, "
        "not for their answers."
    )


def _legend(*, with_truth: bool) -> Markup:
    ramp = element("img", src=data_uri(colour_ramp(), quality=95), alt="colours from low to high")
    return element(
        "div",
        element("span", "fits less", ramp, "fits more"),
        element("span", element("i", class_="ring"), "hottest place"),
        element("span", element("i", class_="key"), "true outline") if with_truth else None,
        class_="legend",
    )


def _figure(story: Story, located: LocatedText, number: int, book: PictureBook, images: OpenImages) -> Markup:
    heatmap, scene = located.heatmap, story.scenes[located.scene]
    picture = overlay(images.whole(scene.path), located)
    address = book.add(f"heat-{number:02d}-{file_slug(heatmap.text)}", picture)
    pill = None
    if located.inside is not None:
        word, kind = ("inside", "right") if located.inside else ("outside", "wrong")
        pill = element("span", f"peak {word}", class_=f"pill {kind}")
    quoted = f"\N{LEFT DOUBLE QUOTATION MARK}{heatmap.text}\N{RIGHT DOUBLE QUOTATION MARK}"
    return element(
        "div",
        element("div", element("h3", quoted), pill, class_="head"),
        element(
            "figure",
            element("img", src=address, alt=f"heat map of {heatmap.text} in {scene.title}", loading="lazy"),
            element("figcaption", f"{scene.title}. Best {heatmap.score_range[1]:.3f}, z {heatmap.z:.1f}."),
        ),
        class_="card",
    )

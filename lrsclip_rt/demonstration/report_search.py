"""Sections of the report about searching: words, long descriptions, an example, something absent."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from lrsclip_rt.demonstration.markup import Markup, element
from lrsclip_rt.demonstration.picture_book import PictureBook, file_slug
from lrsclip_rt.demonstration.pictures import OpenImages, contact_sheet, data_uri
from lrsclip_rt.demonstration.results import Answer, FoundPlace, SceneRanking, Story

__all__ = ["absent_section", "answers_section", "example_section", "rankings_section"]

CHIP_RULE = (
    "A hit counts as right where the thing covers at least a fifth of the tile, "
    "or half of it lies in the tile."
)


def answers_section(story: Story, book: PictureBook, images: OpenImages) -> Markup | None:
    """One card a query, with its hits."""
    if not story.answers:
        return None
    cards = [
        _answer_card(answer, book, images, f"search-{number:02d}-{file_slug(answer.text)}")
        for number, answer in enumerate(story.answers, start=1)
    ]
    if story.images is None:
        about = (
            f"Each question goes to all {story.timings.index_rows} tiles of the archive "
            "and is answered with the four places that fit best. The number is the cosine of question and "
            "tile. Most things are in only one to three of the scenes, so later hits must be something "
            "else. " + CHIP_RULE
        )
    else:
        about = (
            "A search always answers with the nearest places it has, so a question about something that "
            "your images do not show gets an answer as well. What is likely here by the model's threshold "
            "comes first, then what stands out most: z says by how many standard deviations the best hit "
            "lies above the average tile for this question."
        )
    return element(
        "section",
        element("h2", "Questions in words"),
        element("p", about),
        element("div", cards, class_="grid pair"),
        id="questions",
    )


def rankings_section(story: Story, book: PictureBook, images: OpenImages) -> Markup | None:
    """Full descriptions, each with the scene that it found."""
    if not story.rankings:
        return None
    limit = story.rankings[0].short_tokens
    return element(
        "section",
        element("h2", "Long descriptions"),
        element(
            "p",
            f"Models of this family read up to {story.model.context_length} tokens, where usual CLIP models "
            f"stop at {limit}. Each text below describes one scene in full. Since every tile shows only a "
            "part, a scene is ranked by the mean score of its tiles.",
        ),
        [_ranking_card(story, ranking, images) for ranking in story.rankings],
        id="long",
    )


def example_section(story: Story, book: PictureBook, images: OpenImages) -> Markup | None:
    """A query by picture."""
    answer = story.example
    if answer is None or answer.example is None:
        return None
    picture = Image.fromarray(answer.example)
    book.add("example", picture)
    shown = element(
        "figure",
        element("img", src=data_uri(picture), alt=f"example picture: {answer.text}"),
        element("figcaption", "the question"),
        class_="chip",
    )
    chips = _chips(answer.places, images)
    book.save("example-hits", contact_sheet("More like this", chips, answer.places, example=picture))
    card = element(
        "div",
        element(
            "div", element("h3", f"More like this picture ({answer.text})"), _verdict(answer), class_="head"
        ),
        element("div", shown, _chip_figures(answer.places, chips), class_="chips five"),
        class_="card",
    )
    return element(
        "section",
        element("h2", "By example"),
        element(
            "p",
            "Pictures and sentences live in the same space, so a picture can be the question too. This one "
            f"is in none of the scenes. It took {answer.query_ms:.0f} ms.",
        ),
        card,
        id="example",
    )


def absent_section(story: Story, book: PictureBook, images: OpenImages) -> Markup | None:
    """A question about something that is nowhere, compared with the questions about what is there."""
    answer = story.absent
    if answer is None or not answer.places or not story.answers:
        return None
    scores = sorted(a.best_score for a in story.answers)
    above = sum(score > answer.best_score for score in scores)
    chips = _chips(answer.places, images)
    book.save("absent", contact_sheet(answer.text, chips, answer.places))
    more = f"all {above}" if above == len(scores) else f"{above} of the {len(scores)}"
    finding = (
        f"Its best score, the red dot, is {answer.best_score:.3f}; {more} questions about things that are "
        f"there reach more ({scores[0]:.3f} to {scores[-1]:.3f})."
    )
    card = element(
        "div",
        element(
            "div",
            element("h3", f"\N{LEFT DOUBLE QUOTATION MARK}{answer.text}\N{RIGHT DOUBLE QUOTATION MARK}"),
            element("span", "in none of the scenes", class_="pill"),
            class_="head",
        ),
        _strip(scores, answer.best_score),
        element("p", finding, class_="small"),
        element("div", _chip_figures(answer.places, chips), class_="chips few"),
        class_="card",
    )
    return element(
        "section",
        element("h2", "Something that is not there"),
        element(
            "p",
            "A search always answers with the nearest tiles. Whether a thing is there at all shows in how "
            "near they are: lrsclip search --min-score S finds nothing where the best tiles stay below S "
            "on average.",
        ),
        card,
        id="absent",
    )


def _answer_card(answer: Answer, book: PictureBook, images: OpenImages, name: str) -> Markup:
    chips = _chips(answer.places, images)
    book.save(name, contact_sheet(answer.text, chips, answer.places))
    quoted = f"\N{LEFT DOUBLE QUOTATION MARK}{answer.text}\N{RIGHT DOUBLE QUOTATION MARK}"
    return element(
        "div",
        element("div", element("h3", quoted), _verdict(answer), class_="head"),
        element("div", _chip_figures(answer.places, chips), class_="chips"),
        class_="card",
    )


def _verdict(answer: Answer) -> Markup:
    """What the hits are worth, in three words."""
    if answer.expected is None:
        z = f"z {answer.places[0].hit.z:.1f}" if answer.places else "no hit"
        if answer.here is None:
            return element("span", z, class_="pill")
        said = "likely here" if answer.here else "hardly here"
        return element("span", f"{said}, {z}", class_="pill right" if answer.here else "pill")
    where = f"in {answer.scenes_with_it} scene{'s' if answer.scenes_with_it != 1 else ''}"
    if answer.first_right == 1:
        return element("span", f"right, {where}", class_="pill right")
    if answer.first_right is not None:
        return element("span", f"right at {answer.first_right}, {where}", class_="pill")
    return element("span", f"missed, {where}", class_="pill wrong")


def _chips(places: Sequence[FoundPlace], images: OpenImages) -> list[Image.Image]:
    return [images.chip(Path(place.hit.source), place.hit.window) for place in places]


def _chip_figures(places: Sequence[FoundPlace], chips: Sequence[Image.Image]) -> list[Markup]:
    return [_chip_figure(place, chip) for place, chip in zip(places, chips, strict=True)]


def _chip_figure(place: FoundPlace, chip: Image.Image) -> Markup:
    kind = None if place.right is None else "right" if place.right else "wrong"
    mark = None
    if kind is not None:
        sign = "\N{CHECK MARK}" if place.right else "\N{MULTIPLICATION X}"
        mark = element("span", sign, class_=f"mark {kind}", title=kind)
    told = place.title
    if place.shows is not None:
        told += ": " + (", ".join(name.replace("_", " ") for name in place.shows) or "open land")
    caption = element(
        "figcaption",
        element("span", element("span", f"{place.hit.score:.3f}"), mark, class_="score"),
        element("span", told, class_="where" if place.shows is not None else "file"),
    )
    alt = f"hit {place.hit.rank}, {told}"
    return element(
        "figure",
        element("img", src=data_uri(chip), alt=alt, title=alt, loading="lazy"),
        caption,
        class_=f"chip {kind}" if kind else "chip",
    )


def _ranking_card(story: Story, ranking: SceneRanking, images: OpenImages) -> Markup:
    best = max(range(len(ranking.scores)), key=ranking.scores.__getitem__)
    scene, described = story.scenes[best], story.scenes[ranking.expected]
    right = ranking.rank == 1
    picture = element(
        "figure",
        element("img", src=data_uri(images.whole(scene.path, longest=420)), alt=scene.title, loading="lazy"),
        element("figcaption", element("b", scene.title), f" ranks first. {ranking.query_ms:.0f} ms."),
    )
    beginning = f"Its first {ranking.short_tokens} tokens alone rank {described.title} "
    if ranking.short_rank == 1:
        beginning += "first as well."
    else:
        beginning += f"at {ranking.short_rank}{': the rest of the text matters' if right else ''}."
    words = element(
        "div",
        element(
            "div",
            element("h3", f"{ranking.tokens} tokens about {described.title}"),
            element("span", f"finds {scene.title}", class_=f"pill {'right' if right else 'wrong'}"),
            class_="head",
        ),
        element("blockquote", ranking.text),
        _bars(story, ranking),
        element("p", beginning, class_="small soft"),
    )
    return element("div", picture, words, class_="card long")


def _bars(story: Story, ranking: SceneRanking) -> Markup:
    """A bar a scene, from the lowest score (or 0) to the highest."""
    low, high = min(0.0, *ranking.scores), max(ranking.scores)
    span = (high - low) or 1.0
    rows = []
    for number, (scene, score) in enumerate(zip(story.scenes, ranking.scores, strict=True)):
        mine = "mine" if number == ranking.expected else None
        width = f"width: {100 * (score - low) / span:.1f}%"
        rows += [
            element("span", scene.title, class_=mine),
            element("div", element("i", class_=mine, style=width)),
            element("span", f"{score:.3f}", class_=mine),
        ]
    return element("div", rows, class_="bars")


def _strip(scores: Sequence[float], absent: float) -> Markup:
    """Best scores of all questions as dots on one line, the absent thing's among them."""
    low, high = min(*scores, absent), max(*scores, absent)
    span = (high - low) or 1.0

    def placed(score: float) -> str:
        return f"left: {100 * (score - low) / span:.1f}%"

    return element(
        "div",
        element("div", f"{low:.3f}", class_="least"),
        element("div", f"{high:.3f}", class_="most"),
        [element("i", style=placed(score)) for score in scores],
        element("i", class_="absent", style=placed(absent)),
        role="img",
        aria_label="best scores of all questions, from low to high",
        class_="strip",
    )

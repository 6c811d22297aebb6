"""HTML from nested calls; whatever is not markup already is escaped."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

__all__ = ["Child", "Markup", "document", "element"]

_VOID = frozenset({"br", "hr", "img", "link", "meta"})
"""Elements without content."""


class Markup(str):
    """HTML that needs no escaping."""

    __slots__ = ()


Child = str | None | Iterable["Child"]
"""Text, markup, nothing, or several of these."""


def element(tag: str, *children: Child, **attributes: str | float | bool | None) -> Markup:
    """One element.

    Args:
        tag: Its name.
        children: Texts are escaped, ``Markup`` is not.
        attributes: ``class_`` stands for ``class``, ``data_x`` for ``data-x``; None and False are left out.

    Example:
        >>> element("p", "1 < 2", element("b", "!"), class_="note")
        '<p class="note">1 &lt; 2<b>!</b></p>'
    """
    written = "".join(_attribute(name, value) for name, value in attributes.items())
    if tag in _VOID:
        return Markup(f"<{tag}{written}>")
    return Markup(f"<{tag}{written}>{_content(children)}</{tag}>")


def document(*, title: str, style: str, body: Child) -> str:
    """A whole page in UTF-8 that loads nothing: its style is inside, scripts are forbidden.

    Args:
        title: Of the window.
        style: A style sheet.
        body: The page.
    """
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("title", title),
        element("style", Markup(style)),
    )
    return "<!doctype html>\n" + element("html", head, element("body", body), lang="en") + "\n"


def _content(child: Child) -> str:
    if child is None:
        return ""
    if isinstance(child, str):
        return child if isinstance(child, Markup) else escape(_printable(child))
    return "".join(_content(part) for part in child)


def _attribute(name: str, value: str | float | bool | None) -> str:
    if value is None or value is False:
        return ""
    key = name.rstrip("_").replace("_", "-")
    return f" {key}" if value is True else f' {key}="{escape(_printable(str(value)), quote=True)}"'


def _printable(text: str) -> str:
    """Without what no HTML file may hold: undecodable bytes of file names and control characters."""
    clean = text.encode("utf-8", "replace").decode("utf-8")
    return "".join(c if c >= " " or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in clean)

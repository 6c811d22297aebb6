"""The page on troubleshooting quotes messages that the source really has, word by word between the names."""

from __future__ import annotations

import ast
import importlib.util
import re
from functools import cache
from pathlib import Path

import doc_pages
import pytest

PAGE = (doc_pages.ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
QUOTES = re.findall(r"^> (.*)$", PAGE, re.M)
PACKAGES = ("lrsclip_rt", "lrsclip_export", "lrsclip_train")
LEAST_OWN = 0.4
"""Share of a quote that must be fixed words of the source, so that `{name}: {reason}` explains nothing."""


@cache
def messages() -> list[tuple[int, re.Pattern[str]]]:
    """Every text of the sources: its fixed characters, and a pattern with anything for what is filled in."""
    found = set()
    for package in PACKAGES:
        for path in package_files(package):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                parts = texts_of(node)
                own = sum(len(part) for part in parts if part is not None)
                found.add((own, "".join(".*" if part is None else re.escape(part) for part in parts)))
    return [(own, re.compile(pattern)) for own, pattern in sorted(found)]


def is_ours(quote: str) -> bool:
    return any(own >= LEAST_OWN * len(quote) and pattern.fullmatch(quote) for own, pattern in messages())


def package_files(package: str) -> list[Path]:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"{package} is not installed")
    return sorted(Path(next(iter(spec.submodule_search_locations))).rglob("*.py"))


def texts_of(node: ast.AST) -> list[str | None]:
    """The fixed parts of a text, None for each part that is filled in."""
    if isinstance(node, ast.JoinedStr):
        return [part.value if isinstance(part, ast.Constant) else None for part in node.values]
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [node.value]
    return []


@pytest.mark.parametrize("quote", QUOTES)
def test_a_quoted_message_is_one_of_ours(quote):
    assert is_ours(quote)


@pytest.mark.parametrize(
    "invented",
    ["rasterio is missing. Install it with: pip install rasterio", "scene.tif: something went wrong"],
)
def test_a_message_that_nobody_prints_is_noticed(invented):
    assert not is_ours(invented)


def test_the_page_quotes_many():
    assert len(QUOTES) >= 15

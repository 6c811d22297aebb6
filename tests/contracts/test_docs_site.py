"""docs/ builds to a static site without a warning, every page in its menu; links lead to what exists."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys

import doc_pages
import pytest

CONFIG = doc_pages.ROOT / "mkdocs.yml"
LINK = re.compile(r"\]\((?!https?:)([^)#\s]+)(?:#[^)]*)?\)")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    if importlib.util.find_spec("mkdocs") is None:
        pytest.skip("mkdocs is not installed; it comes with lrsclip-rt[docs]")
    if not CONFIG.is_file():
        pytest.skip("mkdocs.yml is not beside these tests")
    folder = tmp_path_factory.mktemp("docs") / "site"
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "-q",
        "-f",
        str(CONFIG),
        "-d",
        str(folder),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stdout + done.stderr
    return folder


def test_every_page_is_built_and_reached_from_the_first(site):
    pages = {path.stem for path in (doc_pages.ROOT / "docs").glob("*.md")}
    start = (site / "index.html").read_text(encoding="utf-8")
    reached = set(re.findall(r'href="(?:\./)?([\w-]+)\.html"', start))
    assert pages - reached == set()
    assert all((site / f"{page}.html").is_file() for page in pages)


def test_no_page_loads_anything_from_elsewhere(site):
    for path in site.glob("*.html"):
        text = path.read_text(encoding="utf-8")
        loaded = re.findall(r'<(?:script|img|iframe)[^>]*\bsrc="([^"]+)"', text)
        loaded += re.findall(r'<link[^>]*rel="(?:stylesheet|shortcut icon)"[^>]*href="([^"]+)"', text)
        assert [name for name in loaded if name.startswith(("http:", "https:", "//"))] == [], path.name


@pytest.mark.parametrize("path", doc_pages.PAGES, ids=lambda path: path.name)
def test_links_to_files_lead_somewhere(path):
    text = doc_pages.FENCED.sub("", path.read_text(encoding="utf-8"))
    missing = [name for name in LINK.findall(text) if not (path.parent / name).exists()]
    assert missing == []

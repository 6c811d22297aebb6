"""Every command and snippet of README and docs runs as it stands, or says what it needs."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import click
import doc_folder
import doc_pages
import pytest
from click.testing import CliRunner

from lrsclip_rt import bundle as bundle_module
from lrsclip_rt.bundle import BUILT_IN, MANIFEST_FILE
from lrsclip_rt.cli import cli

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = doc_pages.ROOT
COMMANDS: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
    "entry-points"
]["lrsclip.commands"]
BLOCKS = [block for page in doc_pages.PAGES for block in doc_pages.blocks_from_page(page)]

NEEDS = {
    "a board": "a Jetson with its own packages",
    "a checkpoint and a GPU": "a published checkpoint and CUDA",
    "a cluster": "a Ray cluster, or several processes that speak to each other",
    "a GPU": "an NVIDIA GPU with TensorRT",
    "a PostgreSQL server": "pgvector too; other tests start one",
    "a large archive": "codes begin at 4,096 rows",
    "Citus": "PostgreSQL with that extension",
    "Docker": "a container engine, and the internet",
    "systemd": "the unit is verified by a test of its own",
    "the internet": "packages or weights are downloaded",
    "you to end it": "the command goes on until it is stopped",
}
"""What a block may need; everything else runs here."""

GIVEN: dict[str, tuple[str, ...]] = {
    "archive.md": (
        "lrsclip index scenes /mnt/disk1/scenes -a archive",
        "lrsclip index images -a part-0 --shard 1/2",
        "lrsclip index images -a part-1 --shard 2/2",
    ),
    "formats.md": ("lrsclip index images scene.tif -a archive",),
    "localization.md": ("lrsclip index scene.tif -a archive",),
}
"""What a page takes for granted, by commands."""
WITHOUT_BUNDLE = {"README.md"}
"""Pages that make `bundle` themselves."""


def test_what_a_block_needs_is_one_of_a_known_list_and_each_of_these_is_used():
    found = {need for block in BLOCKS if block.needs for need in block.needs.split(", ")}
    assert found == set(NEEDS)


def test_blocks_are_fenced_and_name_their_language():
    for path in doc_pages.PAGES:
        text = doc_pages.FENCED.sub("", path.read_text(encoding="utf-8"))
        assert "```" not in text, f"{path.name}: a fence that is not closed"
        loose = re.findall(r"^ {4}(?:\$ )?(?:lrsclip|pip|python|torchrun|sudo|docker) .*", text, re.M)
        assert loose == [], f"{path.name}: fence these, so that they run"
    for block in BLOCKS:
        assert block.language or block.needs is None, f"{block} has no language"


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "sh"], ids=str)
def test_every_command_and_option_of_a_shell_block_exists(block):
    for words in doc_pages.our_commands(block):
        _check_words(words, str(block))


@pytest.mark.parametrize("path", doc_pages.PAGES, ids=lambda path: path.name)
def test_every_command_that_a_sentence_names_exists(path):
    text = doc_pages.FENCED.sub("", path.read_text(encoding="utf-8"))
    for code in re.findall(r"(?<!`)`(lrsclip [^`]+)`(?!`)", text):
        _check_words(code.replace("...", "").split(), f"{path.name}: {code}")


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language in {"json", "toml"}], ids=str)
def test_a_block_of_data_is_what_it_says(block):
    if block.language == "toml":
        tomllib.loads(block.text)
        return
    text = block.text if block.text.lstrip()[0] in "[{" else "{" + block.text + "}"
    json.loads(text)


@pytest.mark.parametrize(
    "path", [p for p in doc_pages.PAGES if any(b.page == p.name for b in BLOCKS)], ids=lambda path: path.name
)
def test_a_page_runs_from_top_to_bottom(path, folder):
    names = run_page(path)
    if names is None:
        pytest.skip("nothing on this page can run here")
    if path.name == "README.md":
        assert {made.suffix for made in (folder / "heat").iterdir()} >= {".tif", ".png", ".geojson"}
        assert len(names["hits"]) == len(names["heat"]) == 1
        assert len(names["hits"][0]) > 0, "the place of the filter is that of the scene"
        assert names["images"].shape == (1, names["model"].dim)


def test_the_tutorial_runs_on_real_imagery(folder, data_dir):
    lines = (data_dir / "aid_rsicd" / "pairs.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    for row, letter in zip([row for row in rows if row["split"] == "val"][::300], "abcd", strict=False):
        shutil.copyfile(data_dir / "aid_rsicd" / row["image"], folder / "images" / f"{letter}.jpg")
    shutil.copyfile(data_dir / "scenes" / "mosaic_val_1800.tif", folder / "scene.tif")
    names = run_page(ROOT / "docs" / "tutorial.md")
    assert names is not None
    assert (folder / "hits.html").is_file()
    assert len(list((folder / "maps").glob("*-heat.tif"))) == 2


def test_the_python_of_the_readme_has_eight_lines_and_the_shell_five():
    readme = doc_pages.blocks_from_page(ROOT / "README.md")
    (program,) = [block for block in readme if block.language == "python"]
    assert len(program.text.strip().splitlines()) == 8
    (shell,) = [b for b in readme if b.language == "sh" and "lrsclip index" in b.text]
    assert len(shell.text.strip().splitlines()) == 5


def run_page(path: Path) -> dict[str, Any] | None:
    """Run the blocks of a page in order; the names that its Python leaves, or None where nothing can run."""
    blocks = [b for b in doc_pages.blocks_from_page(path) if b.language in {"sh", "python"} and not b.needs]
    if not blocks:
        return None
    if path.name in WITHOUT_BUNDLE:
        shutil.rmtree("bundle", ignore_errors=True)
    for line in GIVEN.get(path.name, ()):
        _run(line, "given")
    names: dict[str, Any] = {}
    for block in blocks:
        if block.language == "python":
            with contextlib.redirect_stdout(None):
                exec(compile("\n" * block.line + block.text, block.page, "exec"), names)
        else:
            for line in doc_pages.command_lines(block):
                _run(line, str(block))
    return names


@pytest.fixture(scope="session")
def shelf(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("shelf")
    doc_folder.fill(folder)
    if (BUILT_IN / MANIFEST_FILE).is_file():
        write_checkpoint(folder / "checkpoint.pt")
    return folder


@pytest.fixture
def folder(shelf, tmp_path, monkeypatch, request) -> Path:
    """A copy of all files that the pages speak of, entered."""
    if not (BUILT_IN / MANIFEST_FILE).is_file():
        monkeypatch.setattr(bundle_module, "BUILT_IN", request.getfixturevalue("tiny_bundle"))
    place = tmp_path / "place"
    shutil.copytree(shelf, place)
    shutil.copytree(bundle_module.BUILT_IN, place / "bundle")
    shutil.copytree(place / "scenes", place / "mnt" / "disk1" / "scenes")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(place)
    return place


def write_checkpoint(path: Path) -> None:
    """The weights of the built-in model as a checkpoint, for the pages that export one."""
    torch = pytest.importorskip("torch", reason="a checkpoint is written with torch")
    sys.path.insert(0, str(ROOT))
    try:
        from benchmarks.side_by_side.weights import state_from_bundle
    finally:
        sys.path.remove(str(ROOT))
    torch.save(state_from_bundle(BUILT_IN), path)


def _check_words(words: list[str], where: str) -> None:
    """The command, the commands below it and options are known; of a script, its text names them."""
    if words[0] != "lrsclip":
        script = (ROOT / words[0]).read_text(encoding="utf-8")
        unknown = [
            word for word in words[1:] if word.startswith("--") and word.partition("=")[0] not in script
        ]
        assert unknown == [], where
        return
    rest = words[1:]
    if not rest or rest[0].startswith("-"):
        return
    assert rest[0] in COMMANDS, where
    command: click.Command = EntryPoint(rest[0], COMMANDS[rest[0]], "lrsclip.commands").load()
    rest = rest[1:]
    while isinstance(command, click.Group) and rest and rest[0] in command.commands:
        command, rest = command.commands[rest[0]], rest[1:]
    known = {opt for p in command.params for opt in (*p.opts, *p.secondary_opts)} | {"--help"}
    options = [word.partition("=")[0] for word in rest if re.match(r"--?[a-z]", word)]
    assert [option for option in options if option not in known] == [], where


def _run(line: str, where: str) -> None:
    """One line: our commands in this process, everything else by the shell."""
    given = None
    for words in doc_pages.stages(line):
        if words[0] == "lrsclip":
            result = CliRunner().invoke(
                cli, [arg for word in words[1:] for arg in _spread(word)], input=given
            )
            assert result.exit_code == 0, (where, line, result.output, result.exception)
            given = result.stdout
        else:
            done = subprocess.run(words, input=given, capture_output=True, text=True, check=False, timeout=60)
            assert done.returncode == 0, (where, line, done.stderr)
            given = done.stdout


def _spread(word: str) -> list[str]:
    """Folders in place of a pattern that ends in a slash; an absolute path lies below the page's folder."""
    if word.startswith("/"):
        word = f"{Path.cwd()}{word}"
    folders = sorted(f"{path}/" for path in Path().glob(word)) if word.endswith("*/") else []
    return folders or [word]

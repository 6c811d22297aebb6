"""Hostile files that were found or thought of, each with the one error that it must end in.

``corpus.jsonl`` has an entry a line: ``parser`` and ``what`` it is, the name of the ``error`` (``accepted``
where the file only has to do no harm), a part of its ``message``, and ``data``, the input of that parser's
harness in ``tests/fuzz``, packed by zlib and written in base64.
"""

from __future__ import annotations

import base64
import json
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fuzz.harness import Harness
from fuzz.registry import NEEDED, PARSERS, harness_from_name

from lrsclip_rt.errors import LrsclipError

CORPUS = [json.loads(line) for line in Path(__file__).with_name("corpus.jsonl").read_text().splitlines()]
CANARY = Path("/tmp/lrsclip-was-here")  # what the pickles and the Python code among them would make
MOST_SECONDS = 20.0
"""Processor time of an entry; the slowest, an endless view, is interrupted after two."""


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Harness]]:
    """The harness of a parser, made once."""
    made: dict[str, Harness] = {}

    def get(name: str) -> Harness:
        for library in NEEDED.get(name, ()):
            pytest.importorskip(library, reason=f"{name} are fuzzed with {library}")
        if name not in made:
            made[name] = harness_from_name(name, tmp_path_factory.mktemp("harness"))
        return made[name]

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", tempfile.mkdtemp(dir=tmp_path_factory.getbasetemp()))
        yield get


@pytest.mark.filterwarnings("ignore")  # of Pillow and NumPy, about damaged files
@pytest.mark.parametrize("entry", CORPUS, ids=[f"{entry['parser']}: {entry['what']}" for entry in CORPUS])
def test_a_hostile_file_ends_in_its_error(entry: dict[str, Any], harness: Callable[[str], Harness]) -> None:
    parser, data = harness(entry["parser"]), zlib.decompress(base64.b64decode(entry["data"]))
    CANARY.unlink(missing_ok=True)
    start, found, said = time.process_time(), "accepted", ""
    refusals: tuple[type[Exception], ...] = (LrsclipError, *parser.allowed)
    try:
        parser.feed(data)
    except refusals as error:
        found, said = type(error).__name__, str(error)
    assert found == entry["error"]
    assert entry["message"] in said
    assert not CANARY.exists(), "code of the file was run"
    assert time.process_time() - start < MOST_SECONDS


def test_every_parser_has_entries_and_no_two_are_alike() -> None:
    assert {entry["parser"] for entry in CORPUS} == set(PARSERS)
    assert len({(entry["parser"], entry["data"]) for entry in CORPUS}) == len(CORPUS)
    assert len({(entry["parser"], entry["what"]) for entry in CORPUS}) == len(CORPUS)


def test_the_code_in_the_corpus_does_run_where_it_is_let() -> None:
    """Otherwise a canary that is not there would prove nothing."""
    import pickle

    [entry] = [
        e for e in CORPUS if (e["parser"], e["what"]) == ("checkpoints", "a pickle that runs a command")
    ]
    CANARY.unlink(missing_ok=True)
    pickle.loads(zlib.decompress(base64.b64decode(entry["data"])))
    assert CANARY.exists()
    CANARY.unlink()

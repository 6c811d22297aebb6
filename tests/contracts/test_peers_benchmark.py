"""benchmarks/peers.py: rows from the records of its parts, and environments that are made once."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def peers(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module("benchmarks.peers")


def test_ratios_are_to_ours_of_the_same_thing_and_what_failed_is_listed(peers):
    part = peers.Part("some", (), "search.py", "lrsclip")
    times = [
        {"what": what, "contender": who, "p50_ms": ms, "p95_ms": ms, **more}
        for what, who, ms, more in (
            ("all rows", "lrsclip", 10.0, {"recall_at_10": 0.995}),
            ("all rows", "faiss", 25.0, {}),
            ("filtered", "lrsclip", 4.0, {}),
            ("filtered", "faiss", 2.0, {}),
            ("only theirs", "faiss", 2.0, {}),
        )
    ]
    failures = [{"what": "not run", "contender": "usearch", "reason": "usearch is not installed"}]
    rows = peers.rows_from_record(part, {"settings": {"model": "m"}, "results": [*times, *failures]})
    assert [(row["what"], row["contender"], row["ratio"]) for row in rows[:-1]] == [
        ("all rows, m", "lrsclip", 1.0),
        ("all rows, m", "faiss", 2.5),
        ("filtered, m", "lrsclip", 1.0),
        ("filtered, m", "faiss", 0.5),
    ]
    assert rows[0]["note"] == "recall@10 0.9950"
    assert rows[-1] == {"what": "not run", "contender": "usearch", "reason": "usearch is not installed"}
    assert all(len(peers.cells({"part": "some", **row})) == len(peers.HEADER) for row in rows)


def test_an_environment_with_the_same_packages_is_used_again(peers, tmp_path, monkeypatch):
    part = peers.Part("some", ("nothing",), "search.py", "lrsclip")
    place = tmp_path / "some"
    place.mkdir()
    (place / "packages.json").write_text(json.dumps([*peers.RUNTIME, "nothing"]))
    monkeypatch.setattr(peers, "run", lambda *_: pytest.fail("nothing is to be made"))
    assert peers.environment(part, tmp_path) == place / "bin" / "python"


def test_what_a_command_says_before_it_fails_is_the_reason(peers):
    program = "import sys; sys.exit('no such package')"
    with pytest.raises(peers.NotRunError, match="pip cannot install it: no such package"):
        peers.run([sys.executable, "-c", program], "pip cannot install it")


def test_every_part_names_a_program_and_a_contender_of_it(peers):
    for part in peers.PARTS:
        text = (ROOT / "benchmarks" / part.program).read_text(encoding="utf-8")
        text += (ROOT / "benchmarks" / "side_by_side" / "candidates.py").read_text(encoding="utf-8")
        text += (ROOT / "benchmarks" / "search_contenders.py").read_text(encoding="utf-8")
        assert f'"{part.ours}"' in text, part.name


def test_our_own_benchmark_of_starts_measures_what_the_targets_ask_for(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    text = (ROOT / "benchmarks" / "starts.py").read_text(encoding="utf-8")
    for what in ("lrsclip --help", "import beyond numpy"):
        assert f'"{what}"' in text
        assert f'_start("{what}"' in (ROOT / "benchmarks" / "target_table.py").read_text(encoding="utf-8")

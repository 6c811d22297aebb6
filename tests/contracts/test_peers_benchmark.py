"""benchmarks/peers.py: rows from the records of its parts, and environments that are made once."""

from __future__ import annotations

import importlib
import json
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lrsclip_rt.benchmarking import BenchRow, make_record
from lrsclip_rt.embedder import load

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def benchmark(monkeypatch):
    """Imports a script of benchmarks/."""
    monkeypatch.syspath_prepend(str(ROOT))
    return lambda name: importlib.import_module(f"benchmarks.{name}")


@pytest.fixture
def peers(benchmark):
    return benchmark("peers")


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
    failures += [{"what": "opened", "contender": "faiss", "build_s": 7.2}]
    failures += [{"what": "tasks", "precision": "bf16", "status": "failed", "reason": "of no contender"}]
    rows = peers.rows_from_record(part, {"settings": {"model": "m"}, "results": [*times, *failures]})
    assert [(row["what"], row["contender"], row["ratio"]) for row in rows[:-1]] == [
        ("all rows, m", "lrsclip", 1.0),
        ("all rows, m", "faiss", 2.5),
        ("filtered, m", "lrsclip", 1.0),
        ("filtered, m", "faiss", 0.5),
    ]
    assert rows[0]["note"] == "recall@10 0.9950"
    assert rows[1]["note"] == "index made in 7 s"
    assert rows[-1] == {"what": "not run", "contender": "usearch", "reason": "usearch is not installed"}
    assert all(len(peers.cells({"part": "some", **row})) == len(peers.HEADER) for row in rows)


def test_the_short_table_leaves_out_what_has_a_table_of_its_own(benchmark):
    timed = (
        ("text to hits, all rows, mini", "lrsclip", 1.0, ""),
        ("text to hits, 10 %, mini", "lrsclip", 1.0, ""),
        ("files, mini", "lrsclip-openvino-int8", 1.0, ""),
        ("files, mini", "openvino", 1.5, "below its gate"),
        ("text to hits, all rows, mini", "numpy", 2.0, "recall@10 1.0000"),
    )
    rows = [
        {"what": what, "contender": who, "p50_ms": 8 * ratio, "ratio": ratio, "note": note}
        for what, who, ratio, note in timed
    ]
    rows += [{"part": "search", "what": "not run", "contender": "usearch", "reason": "not installed"}]
    layout = benchmark("table_layouts").LAYOUTS["peers"]
    shown = layout.rows({"settings": {"model": "mini"}, "results": rows})
    assert shown == [
        ("text to hits, all rows", "lrsclip", "-", "8.00", "1.00x"),
        ("text to hits, all rows", "numpy", "recall@10 1.0000", "16.00", "2.00x"),
        ("files", "openvino", "below its gate", "12.00", "1.50x"),
        ("search", "usearch", "not run: not installed", "-", "-"),
    ]
    assert {len(cells) for cells in shown} == {len(layout.header)}


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


def test_both_searches_share_archives_and_the_newest_record_holds_everyone(peers, tmp_path):
    arguments = Namespace(
        threads=2,
        record=True,
        data=None,
        work=tmp_path,
        archives=None,
        budget=60,
        rows=5_000,
        side=512,
        seconds=1,
    )
    given = {part.name: peers.options(part, arguments) for part in peers.PARTS if part.program == "search.py"}
    works = {options[options.index("--work") + 1] for options in given.values()}
    assert works == {str(tmp_path / "archives")}
    assert {name for name, options in given.items() if "--record" in options} == {"search"}
    arguments.archives = tmp_path / "kept"
    assert str(tmp_path / "kept") in peers.options(peers.PARTS[1], arguments)


def test_a_program_that_fails_after_a_record_leaves_its_rows_and_the_reason(peers, tmp_path, monkeypatch):
    rows = [BenchRow.of("search", "lrsclip", [0.1])]
    record = make_record("some", threads=1, settings={"model": "m"}, results=rows)
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "some.py").write_text(f"print({record.to_json()!r})\nraise SystemExit(3)\n")
    monkeypatch.setattr(peers, "ROOT", tmp_path)
    part = peers.Part("some", (), "some.py", "lrsclip", only="lrsclip")
    arguments = Namespace(
        threads=1, record=False, data=None, work=tmp_path, archives=None, budget=60, rows=10
    )
    found = peers.measured(part, Path(sys.executable), arguments)
    assert [row["what"] for row in found] == ["search, m", "not run"]
    assert found[-1]["reason"] == "some.py ended with status 3 after 1 records"


def test_scores_of_our_windows_are_those_of_the_slices_embedded_as_images(benchmark, tmp_path):
    slicing = benchmark("slicing")
    path = slicing.write_scene(tmp_path / "scene.png", 600)
    pixels = np.asarray(Image.open(path))
    model = load()
    texts = model.embed_texts(slicing.TEXTS)
    found = slicing.by_windows(model, path, texts)
    corners = [(col, row) for row in (0, 256, 344) for col in (0, 256, 344)]
    assert sorted(found) == sorted(corners)
    images = [pixels[row : row + slicing.TILE, col : col + slicing.TILE] for col, row in corners]
    expected = model.embed_images(images) @ texts.T
    scores = np.array([found[corner] for corner in corners])
    assert np.abs(scores - expected).max() < slicing.MOST_DIFFERENCE
    assert len(slicing.maps(model, path).embedding) == len(corners)


def test_sahi_and_ours_score_the_same_windows(benchmark, tmp_path):
    pytest.importorskip("sahi", reason="benchmarks/peers.py installs it in an environment of its own")
    slicing = benchmark("slicing")
    model = load()
    path = slicing.write_scene(tmp_path / "scene.png", 600)
    assert slicing.checked(model, path, model.embed_texts(slicing.TEXTS))[1] == 9


def test_every_part_names_a_program_and_a_contender_of_it(peers):
    for part in peers.PARTS:
        text = (ROOT / "benchmarks" / part.program).read_text(encoding="utf-8")
        text += (ROOT / "benchmarks" / "side_by_side" / "candidates.py").read_text(encoding="utf-8")
        text += (ROOT / "benchmarks" / "search_contenders.py").read_text(encoding="utf-8")
        assert f'"{part.ours}"' in text, part.name


def test_our_own_benchmark_of_starts_measures_what_the_targets_ask_for(benchmark):
    starts, targets = benchmark("starts"), benchmark("target_table")
    rows = [BenchRow.of(what, "lrsclip", [0.04]) for what in ("lrsclip --help", starts.IMPORTS[0])]
    rows.append(BenchRow.of("lrsclip search, 1,000,000 rows", "lrsclip", [0.7, 0.8, 0.9]))
    results = [*rows, *starts.verdicts(rows, 1_000_000)]
    record = json.loads(make_record("starts", threads=1, settings={}, results=results).to_json())
    found = [target.find({"starts": [record]}) for target in targets.TARGETS if "start" in target.title]
    assert [finding.met for finding in found if finding is not None] == [True, True]
    judged = starts.verdicts(rows, 1_000_000)
    assert judged == [
        {"what": "target", "title": starts.SEARCH_TARGET[1], "found": pytest.approx(0.8), "met": True}
    ]
    assert starts.SEARCH_TARGET[1] in {target.title for target in targets.TARGETS}
    assert starts.verdicts(rows, 20_000) == []


def test_starts_are_measured_and_an_archive_that_is_none_is_named(benchmark, tmp_path):
    starts = benchmark("starts")
    with pytest.raises(SystemExit, match=r"^starts: .*nothing"):
        starts.rows_of(tmp_path / "nothing")
    command = Path(sys.executable).with_name("lrsclip")
    if not command.is_file():
        pytest.skip("lrsclip is not installed beside this interpreter")
    rows = starts.measured(command, None, 0, rounds=1)
    assert [row.what for row in rows] == ["lrsclip --help", *starts.IMPORTS]
    assert all(row.p50_ms > 0 for row in rows)
    assert rows[1].p50_ms < rows[2].p50_ms < 5_000

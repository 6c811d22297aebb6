"""A sample of the cases of ``scripts/fuzz``, and that its runs notice what they look for."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from random import Random

import pytest

from fuzz.harness import packed, unpacked
from fuzz.judging import Tally
from fuzz.registry import GUIDED, NEEDED, PARSERS, harness_from_name
from fuzz.running import run_parser

CASES = 200

pytestmark = pytest.mark.usefixtures("cache_home")


@pytest.mark.filterwarnings("ignore")  # of Pillow and NumPy, about damaged files
@pytest.mark.parametrize("name", PARSERS)
def test_a_parser_answers_or_refuses_by_name(name: str, tmp_path: Path) -> None:
    for library in NEEDED.get(name, ()):
        pytest.importorskip(library, reason=f"{name} are fuzzed with {library}")
    harness, tally = harness_from_name(name, tmp_path), Tally()
    for seed in harness.seeds:
        tally.judge(harness, seed)
    for number in range(CASES):
        tally.judge(harness, harness.case(Random(f"{name} 1 {number}")))
    found = [f"{finding.what} ({finding.where})" for finding in tally.findings.values()]
    assert found == []
    assert tally.outcomes["accepted"] > 0, "sound input must pass"


@pytest.mark.parametrize("name", [name for name in PARSERS if name not in ("STAC items",)])
def test_damage_gets_past_the_first_check_and_is_refused(name: str, tmp_path: Path) -> None:
    """A harness whose every case passes, or whose cases are all alike, would prove nothing."""
    for library in NEEDED.get(name, ()):
        pytest.importorskip(library, reason=f"{name} are fuzzed with {library}")
    harness = harness_from_name(name, tmp_path)
    cases = {harness.case(Random(f"{name} 2 {number}")) for number in range(40)}
    assert len(cases) > 20
    assert cases == {harness.case(Random(f"{name} 2 {number}")) for number in range(40)}, "not repeatable"


def test_files_come_out_of_an_input_as_they_went_in() -> None:
    files = {0: b"", 3: b"abc", 130: b"/etc/passwd"}
    assert unpacked(packed(files)) == files
    assert unpacked(packed(files)[:-4]) == {0: b"", 3: b"abc", 130: b"/etc/pa"}
    for seed in range(200):
        unpacked(Random(seed).randbytes(seed))


def test_guided_parsers_are_among_all() -> None:
    assert set(GUIDED) <= set(PARSERS)


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch) -> None:
    """Child processes find these modules."""
    tests = str(Path(__file__).resolve().parents[1])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([tests, os.environ.get("PYTHONPATH", "")]))


@pytest.mark.usefixtures("children")
def test_a_crash_is_found_with_its_input_and_the_run_goes_on(tmp_path: Path) -> None:
    report = run_parser("planted:Crashing", 60, seed=1, folder=tmp_path)
    assert report.cases == 60
    assert {found["what"] for found in report.findings} == {"crash: the process died of SIGSEGV"}
    assert {base64.b64decode(found["data"]) for found in report.findings} == {b"crash"}


@pytest.mark.usefixtures("children")
def test_a_hang_is_found_by_its_processor_time(tmp_path: Path) -> None:
    report = run_parser("planted:Hanging", 50, seed=1, folder=tmp_path)
    assert report.cases == 50
    assert report.findings
    assert all(found["what"].startswith("hang: ") for found in report.findings)
    assert base64.b64decode(report.findings[0]["data"]) == b"hang"


@pytest.mark.usefixtures("children")
def test_an_error_without_a_name_or_a_text_is_found(tmp_path: Path) -> None:
    report = run_parser("planted:Unnamed", 80, seed=1, folder=tmp_path)
    assert sorted(found["what"].partition(":")[0] for found in report.findings) == [
        "AssertionError",
        "KeyError",
    ]
    assert report.outcomes["InputError"] > 0
    assert sum(report.outcomes.values()) == report.cases == 80


@pytest.mark.usefixtures("children")
def test_kept_memory_is_found(tmp_path: Path) -> None:
    report = run_parser("planted:Leaking", 500, seed=1, folder=tmp_path)
    assert [found["what"].rpartition(" by ")[0] for found in report.findings] == ["memory grew"]


@pytest.mark.usefixtures("children")
def test_a_sound_parser_has_no_findings(tmp_path: Path) -> None:
    report = run_parser("planted:PlantedHarness", 300, seed=1, folder=tmp_path)
    assert (report.cases, report.findings) == (300, [])
    assert report.outcomes.keys() == {"accepted", "InputError"}

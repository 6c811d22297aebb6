"""What commands print."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lrsclip_rt.cli import output
from lrsclip_rt.errors import OutputExistsError


def test_a_bracket_in_a_file_name_is_shown_as_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(output, "wants_json", lambda as_json: False)
    output.emit([{"source": "a[bold]b[/x].jpg", "score": 0.5}], columns=("source", "score"), as_json=False)
    assert "a[bold]b[/x].jpg" in capsys.readouterr().out


def test_a_table_shows_places_to_the_metre_and_truth_in_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(output, "wants_json", lambda as_json: False)
    row = {"lonlat": [-32.9965437, 44.9962], "area_m2": 139152.04, "score": 0.123456, "present": True}
    output.emit([row], columns=tuple(row), as_json=False)
    printed = capsys.readouterr().out
    for text in ("-32.99654 44.9962", "139152 ", "0.1235", "yes"):
        assert text in printed


def test_a_pipe_gets_every_key_as_json_lines(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"rank": 1, "hidden": "é"}, {"rank": 2, "hidden": None}]
    output.emit(rows, columns=("rank",), as_json=False)
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == rows


def test_a_failure_names_its_file_once(capsys: pytest.CaptureFixture[str]) -> None:
    output.report_failures([("a.jpg", "a.jpg is cut short"), ("b.jpg", "no image")])
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["failed: a.jpg is cut short", "failed: b.jpg: no image", "2 input(s) failed"]


def test_only_a_missing_path_or_an_empty_folder_may_be_written(tmp_path: Path) -> None:
    output.refuse_existing(tmp_path / "new", overwrite=False)
    (tmp_path / "empty").mkdir()
    output.refuse_existing(tmp_path / "empty", overwrite=False)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    with pytest.raises(OutputExistsError, match="--overwrite"):
        output.refuse_existing(tmp_path / "full", overwrite=False)
    output.refuse_existing(tmp_path / "full", overwrite=True)

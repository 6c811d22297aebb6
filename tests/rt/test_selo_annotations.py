"""Annotation files: found, read, and refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lrsclip_rt.errors import InputError
from lrsclip_rt.localization.selo_annotations import (
    find_annotations,
    mosaic_from_file,
    selo_annotations_from_file,
)
from lrsclip_rt.tiles import Window

TRIANGLE = [[1, 2], [30.5, 2], [30.5, 40.25]]


def entry(**changes):
    return {"caption": "a pier\n", "jpg_name": "a.png", "points": [TRIANGLE], **changes}


def written(folder: Path, value, name="anno.json") -> Path:
    path = folder / name
    path.write_text(json.dumps(value))
    return path


def test_queries_keep_their_order_and_group_by_scene(tmp_path):
    path = written(tmp_path, [entry(), entry(jpg_name="b.png"), entry(caption="a dam")])
    annotated = selo_annotations_from_file(path)
    assert [query.caption for query in annotated.queries] == ["a pier", "a pier", "a dam"]
    assert annotated.queries[0].outlines == (((1.0, 2.0), (30.5, 2.0), (30.5, 40.25)),)
    groups = annotated.by_scene()
    assert list(groups) == ["a.png", "b.png"]
    assert [query.number for query in groups["a.png"]] == [0, 2]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"caption": " \n"}, "caption is ' \\n', expected what to look for"),
        ({"caption": 3}, "caption is 3"),
        ({"jpg_name": ""}, "jpg_name is ''"),
        ({"jpg_name": "../a.png"}, "leaves the folder"),
        ({"jpg_name": "/a.png"}, "leaves the folder"),
        ({"points": []}, "points is [], expected at least one polygon"),
        ({"points": [TRIANGLE, TRIANGLE[:2]]}, "polygon 1 is 2 points, expected at least 3"),
        ({"points": [[[1, 2], [3, 4], [5]]]}, "polygon 0 has the point [5]"),
        ({"points": [[[1, 2], [3, 4], [5, None]]]}, "polygon 0 has the point [5, None]"),
        ({"points": [[[1, 2], [3, 4], [5, 1e300]]]}, "polygon 0 has the point [5, 1e+300]"),
        ({"points": [7]}, "polygon 0 is 7"),
    ],
)
def test_a_query_that_cannot_be_asked_is_listed_and_the_rest_stays(tmp_path, changes, reason):
    annotated = selo_annotations_from_file(written(tmp_path, [entry(**changes), entry()]))
    assert len(annotated.queries) == 1
    ((name, said),) = annotated.failures
    assert name == "query 0"
    assert reason in said


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ({"cells": []}, "an object with cells"),
        ([], "an empty list"),
        ([{"caption": "a"}], "a list of 1, first {'caption': 'a'}"),
        ([entry(), 5], "a list of 2"),
        ("text", "'text'"),
    ],
)
def test_a_file_of_another_form_is_named(tmp_path, value, found):
    with pytest.raises(InputError) as error:
        selo_annotations_from_file(written(tmp_path, value))
    assert found in str(error.value)
    assert "expected a list of objects with caption, jpg_name, points" in str(error.value)


def test_a_file_that_is_no_json_or_missing_is_named(tmp_path):
    (tmp_path / "a.json").write_bytes(b"\xff\xfe[")
    with pytest.raises(InputError, match=r"a\.json is not JSON"):
        selo_annotations_from_file(tmp_path / "a.json")
    with pytest.raises(InputError, match=r"b\.json cannot be read"):
        selo_annotations_from_file(tmp_path / "b.json")


def test_the_one_file_of_that_form_is_found_among_others(tmp_path):
    written(tmp_path, {"cells": []}, "truth.json")
    (tmp_path / "broken.json").write_text("{")
    own = written(tmp_path, [entry()], "hand.json")
    assert find_annotations(tmp_path) == own


def test_none_or_several_are_named(tmp_path):
    written(tmp_path, {"cells": []}, "truth.json")
    with pytest.raises(InputError, match=r"no annotation file \(found truth\.json\)"):
        find_annotations(tmp_path)
    written(tmp_path, [entry()], "a.json")
    written(tmp_path, [entry()], "b.json")
    with pytest.raises(InputError, match=r"2 annotation files: a\.json, b\.json\. Choose one"):
        find_annotations(tmp_path)
    with pytest.raises(InputError, match="is not a folder"):
        find_annotations(tmp_path / "nowhere")


def test_the_truth_of_a_mosaic_is_read(tmp_path):
    cells = [{"window": [0, 0, 50, 40], "class": "Port"}, {"window": [50, 0, 50, 40], "class": "Beach"}]
    truth = mosaic_from_file(written(tmp_path, {"cells": cells}))
    assert truth.windows == (Window(0, 0, 50, 40), Window(50, 0, 50, 40))
    assert truth.classes == ("Port", "Beach")
    assert truth.names == ("Beach", "Port")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([entry()], "expected an object with cells"),
        ({"cells": [7]}, "cell 0: window is None"),
        ({"cells": [{"window": [0, 0, 0, 4], "class": "Port"}]}, "cell 0: window is"),
        ({"cells": [{"window": [0, 0, 4, True], "class": "Port"}]}, "cell 0: window is"),
        ({"cells": [{"window": [0, 0, 4, 4], "class": " "}]}, "cell 0: class is"),
        ({"cells": [{"window": [0, 0, 4, 4], "class": "Port"}]}, "cells of Port alone"),
    ],
)
def test_a_truth_of_another_form_is_named(tmp_path, value, message):
    with pytest.raises(InputError, match=message):
        mosaic_from_file(written(tmp_path, value))

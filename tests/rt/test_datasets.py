"""Data sets on disk: what is read, and what is refused by name."""

from __future__ import annotations

import json

import pytest

from lrsclip_rt.datasets import labelled_set_from_folder, pair_set_from_folder
from lrsclip_rt.errors import InputError

GOOD = {
    "image": "images/a.jpg",
    "split": "val",
    "short": ["a pier .", "a long pier"],
    "long": "A pier. A boat.",
}


def write_pairs(folder, *lines):
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    (folder / "pairs.jsonl").write_text(text + "\n", encoding="utf-8")
    return folder


def write_labels(folder, rows, classes):
    (folder / "labels.csv").write_text(rows, encoding="utf-8")
    (folder / "classes.json").write_text(classes if isinstance(classes, str) else json.dumps(classes))
    return folder


def test_pairs_are_read_in_file_order_with_their_captions(tmp_path):
    write_pairs(tmp_path, GOOD, {"image": "b.png", "short": ["a dam"]})
    pairs = pair_set_from_folder(tmp_path)
    assert [item.image for item in pairs.items] == ["images/a.jpg", "b.png"]
    assert pairs.items[0].short == ("a pier .", "a long pier")
    assert pairs.items[0].long == "A pier. A boat."
    assert pairs.items[1].long is None
    assert pairs.image_path(pairs.items[0]) == tmp_path / "images" / "a.jpg"


def test_a_split_selects_its_images(tmp_path):
    write_pairs(tmp_path, GOOD, {"image": "b.png", "split": "train", "short": ["a dam"]})
    assert [item.image for item in pair_set_from_folder(tmp_path, split="train").items] == ["b.png"]


def test_an_unknown_split_is_refused_and_the_known_ones_are_named(tmp_path):
    write_pairs(tmp_path, GOOD, {"image": "b.png", "split": "train", "short": ["a dam"]})
    with pytest.raises(InputError, match=r"split 'test'; splits found: train, val"):
        pair_set_from_folder(tmp_path, split="test")


def test_blank_lines_and_a_byte_order_mark_are_no_error(tmp_path):
    (tmp_path / "pairs.jsonl").write_text("\ufeff" + json.dumps(GOOD) + "\n\n", encoding="utf-8")
    assert len(pair_set_from_folder(tmp_path)) == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: not JSON"),
        ("[1]", "line 2: found .*expected a JSON object"),
        ({"short": ["a"]}, "line 2: image is None"),
        ({"image": "../../etc/passwd", "short": ["a"]}, "leaves the data set"),
        ({"image": "/etc/passwd", "short": ["a"]}, "leaves the data set"),
        ({"image": "b.jpg", "short": "a pier"}, "expected a list of captions"),
        ({"image": "b.jpg", "short": ["a", "  "]}, "none empty"),
        ({"image": "b.jpg", "short": []}, "no caption"),
        ({"image": "b.jpg", "short": ["a"], "long": 3}, "long is 3"),
        ({"image": "b.jpg", "short": ["a"], "split": 3}, "split is 3"),
        ({"image": "images/a.jpg", "short": ["a"]}, "occurs twice"),
    ],
)
def test_a_malformed_line_is_named(tmp_path, line, message):
    write_pairs(tmp_path, GOOD, line)
    with pytest.raises(InputError, match=message):
        pair_set_from_folder(tmp_path)


def test_a_missing_folder_or_file_is_named(tmp_path):
    with pytest.raises(InputError, match="is not a folder"):
        pair_set_from_folder(tmp_path / "absent")
    with pytest.raises(InputError, match=r"has no pairs\.jsonl"):
        pair_set_from_folder(tmp_path)
    with pytest.raises(InputError, match=r"has no labels\.csv"):
        labelled_set_from_folder(tmp_path)


def test_a_file_that_is_empty_or_not_utf8_is_named(tmp_path):
    with pytest.raises(InputError, match="names no image"):
        pair_set_from_folder(write_pairs(tmp_path, ""))
    (tmp_path / "pairs.jsonl").write_bytes(b'{"image": "\xff"}')
    with pytest.raises(InputError, match="not UTF-8"):
        pair_set_from_folder(tmp_path)


CLASSES = {
    "classes": ["forest", "river_lake"],
    "prompt_phrases": {"river_lake": "a river or a lake"},
    "templates": ["an aerial photo of {}."],
}


def test_labels_are_read_with_phrases_and_templates(tmp_path):
    write_labels(tmp_path, "image,label\nimages/1.jpg,forest\nimages/2.jpg,river_lake\n", CLASSES)
    data = labelled_set_from_folder(tmp_path)
    assert [(item.image, item.label) for item in data.items] == [("images/1.jpg", 0), ("images/2.jpg", 1)]
    assert data.phrases == ("forest", "a river or a lake")
    assert data.templates == ("an aerial photo of {}.",)


def test_without_templates_there_are_none(tmp_path):
    write_labels(tmp_path, "image,label\n1.jpg,forest\n", {"classes": ["forest"]})
    data = labelled_set_from_folder(tmp_path)
    assert data.templates is None
    assert data.phrases == ("forest",)


def test_a_split_column_selects_rows(tmp_path):
    rows = "image,label,split\n1.jpg,forest,train\n2.jpg,river_lake,val\n"
    write_labels(tmp_path, rows, CLASSES)
    assert [item.image for item in labelled_set_from_folder(tmp_path, split="val").items] == ["2.jpg"]
    with pytest.raises(InputError, match="splits found: train, val"):
        labelled_set_from_folder(tmp_path, split="test")


@pytest.mark.parametrize(
    ("rows", "classes", "message"),
    [
        ("image,label\n1.jpg,meadow\n", CLASSES, "line 2: label 'meadow' is not among the 2"),
        ("image,label\n1.jpg\n", CLASSES, "line 2: label None"),
        ("image,label\n../1.jpg,forest\n", CLASSES, "leaves the data set"),
        ("name,label\n1.jpg,forest\n", CLASSES, "expected image,label"),
        ('image,label\n"1.jpg,forest\n', CLASSES, "not readable as CSV"),
        ("image,label\n", CLASSES, "names no image"),
        ("image,label\n1.jpg,forest\n", "{", "not JSON"),
        ("image,label\n1.jpg,forest\n", {"classes": ["forest", "forest"]}, "distinct names"),
        ("image,label\n1.jpg,forest\n", {"classes": []}, "distinct names"),
        ("image,label\n1.jpg,forest\n", {**CLASSES, "prompt_phrases": {"sea": "the sea"}}, "names 'sea'"),
        ("image,label\n1.jpg,forest\n", {**CLASSES, "prompt_phrases": {"forest": ""}}, "expected a phrase"),
        ("image,label\n1.jpg,forest\n", {**CLASSES, "templates": ["a photo"]}, "contain {}"),
    ],
)
def test_a_malformed_label_set_is_named(tmp_path, rows, classes, message):
    write_labels(tmp_path, rows, classes)
    with pytest.raises(InputError, match=message):
        labelled_set_from_folder(tmp_path)


def test_a_split_without_a_column_is_refused(tmp_path):
    write_labels(tmp_path, "image,label\n1.jpg,forest\n", CLASSES)
    with pytest.raises(InputError, match="no column split"):
        labelled_set_from_folder(tmp_path, split="val")


def test_the_real_data_sets_are_read(data_dir):
    pairs = pair_set_from_folder(data_dir / "aid_rsicd", split="val")
    assert len(pairs) == 1766
    labelled = labelled_set_from_folder(data_dir / "rsscn7_dev")
    assert len(labelled) == 140
    assert len(labelled.classes) == 7

"""`lrsclip eval`: the numbers are those of the model's own embeddings, and bad data sets are named."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from lrsclip_rt.accuracy import classification_metrics
from lrsclip_rt.cli import main
from lrsclip_rt.cli.eval import command
from lrsclip_rt.evaluation import retrieval_metrics, retrieval_ranks

SHORT = [
    ["many planes in an airport", "planes near a terminal"],
    ["a harbour with ships"],
    ["a harbour with ships", "boats at a pier", "boats at a pier"],
    ["green farmland"],
    ["a dense forest"],
]
LONG = [
    "Many planes are parked in rows beside a long terminal building.",
    None,
    "Boats lie at a pier.",
    None,
    None,
]
COLOURS = np.random.default_rng(4).integers(0, 256, (len(SHORT), 3))


def write_image(path: Path, colour) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 36), tuple(int(value) for value in colour)).save(path)


@pytest.fixture
def pairs(tmp_path) -> Path:
    """Five plain images with short captions, two of them with long ones; a caption repeats across images."""
    lines = []
    for index, (short, long) in enumerate(zip(SHORT, LONG, strict=True)):
        write_image(tmp_path / "images" / f"{index}.png", COLOURS[index])
        split = "val" if index < 4 else "test"
        lines.append(
            json.dumps({"image": f"images/{index}.png", "split": split, "short": short, "long": long})
        )
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines))
    return tmp_path


@pytest.fixture
def labelled(tmp_path) -> Path:
    """Twelve plain images in three classes."""
    colours = np.random.default_rng(7).integers(0, 256, (12, 3))
    rows = ["image,label"]
    for index, colour in enumerate(colours):
        write_image(tmp_path / f"{index}.png", colour)
        rows.append(f"{index}.png,{('forest', 'sea', 'town')[index % 3]}")
    (tmp_path / "labels.csv").write_text("\n".join(rows) + "\n")
    write_classes(tmp_path, templates=["an aerial photo of {}.", "{} from above"])
    return tmp_path


def write_classes(folder: Path, **more) -> None:
    record = {"classes": ["forest", "sea", "town"], "prompt_phrases": {"sea": "the open sea"}, **more}
    (folder / "classes.json").write_text(json.dumps(record))


def run(*arguments, status=0):
    result = CliRunner().invoke(command, [str(argument) for argument in arguments])
    assert result.exit_code == status, result.output + str(result.exception)
    return result


def without_interval(scores):
    return {key: value for key, value in scores.items() if key != "mR_ci95"}


def embedded_texts(handmade, texts):
    from lrsclip_rt.tokenizer import Tokenizer

    batch = Tokenizer(handmade.REAL_VOCABULARY).encode_batch(texts)
    return handmade.texts_by_numpy(batch.tokens, batch.eot, handmade.Weights.seeded(0))


def embedded_colours(handmade, colours):
    pixels = (np.asarray(colours, np.float64) / 255 - 0.5) / 0.25
    image = np.broadcast_to(pixels[:, :, None, None], (len(colours), 3, 32, 32)).astype(np.float32)
    return handmade.images_by_numpy(image, handmade.Weights.seeded(0))


def test_retrieval_scores_the_embeddings_of_the_model(pairs, made_bundle, handmade, cache_home):
    record = json.loads(run("retrieval", pairs, "-b", made_bundle, "--json").stdout)
    images = embedded_colours(handmade, COLOURS)
    owner = [index for index, short in enumerate(SHORT) for _ in short]
    texts = [text for short in SHORT for text in short]
    expected = retrieval_metrics(images, embedded_texts(handmade, texts), np.array(owner), texts)
    assert expected.captions == 7  # the caption that an image repeats is one entry
    assert without_interval(record["short"]) == {**expected.as_dict(), "queries": 7, "cut": 0}
    long_texts = [text for text in LONG if text]
    long = retrieval_metrics(images, embedded_texts(handmade, long_texts), np.array([0, 2]), long_texts)
    assert without_interval(record["long"]) == {**long.as_dict(), "queries": 2, "cut": 0}
    assert record["mR"] == record["short"]["mR"]
    assert record["mR_ci95"] == record["short"]["mR_ci95"]
    for part in (record, record["short"], record["long"]):
        assert part["mR_ci95"][0] <= (part["mR"]) <= part["mR_ci95"][1]
    assert (record["min_captions"], record["tokens"], record["queried_images"]) == (None, None, 5)
    assert (record["images"], record["failed"], record["precision"]) == (5, 0, "fp32")


def test_a_split_limits_queries_and_candidates(pairs, made_bundle, cache_home):
    record = json.loads(run("retrieval", pairs, "--split", "val", "-b", made_bundle).stdout)
    assert (record["images"], record["split"]) == (4, "val")


def test_without_long_captions_their_part_is_null(tmp_path, made_bundle, cache_home):
    write_image(tmp_path / "a.png", (9, 90, 200))
    (tmp_path / "pairs.jsonl").write_text(json.dumps({"image": "a.png", "short": ["the sea"]}))
    record = json.loads(run("retrieval", tmp_path, "-b", made_bundle).stdout)
    assert record["long"] is None
    assert record["mR"] == 100


def test_without_short_captions_there_is_no_mean_recall(tmp_path, made_bundle, cache_home):
    write_image(tmp_path / "a.png", (9, 90, 200))
    (tmp_path / "pairs.jsonl").write_text(json.dumps({"image": "a.png", "short": [], "long": "The sea."}))
    record = json.loads(run("retrieval", tmp_path, "-b", made_bundle).stdout)
    assert record["short"] is None
    assert record["mR"] is None
    assert record["long"]["mR"] == 100


def test_a_missing_and_a_broken_image_are_listed_and_the_rest_is_scored(pairs, made_bundle, cache_home):
    (pairs / "images" / "1.png").unlink()
    (pairs / "images" / "3.png").write_bytes(b"not an image")
    result = run("retrieval", pairs, "-b", made_bundle, status=1)
    record = json.loads(result.stdout)
    assert (record["images"], record["failed"]) == (3, 2)
    assert "failed: images/1.png: " in result.stderr
    assert "failed: images/3.png: " in result.stderr
    assert "2 input(s) failed" in result.stderr


def test_a_pair_without_its_image_is_neither_query_nor_candidate(pairs, made_bundle, handmade, cache_home):
    (pairs / "images" / "0.png").unlink()
    record = json.loads(run("retrieval", pairs, "-b", made_bundle, status=1).stdout)
    owner = [index for index, short in enumerate(SHORT[1:]) for _ in short]
    texts = [text for short in SHORT[1:] for text in short]
    images = embedded_colours(handmade, COLOURS[1:])
    expected = retrieval_metrics(images, embedded_texts(handmade, texts), np.array(owner), texts)
    assert without_interval(record["short"]) == {**expected.as_dict(), "queries": 5, "cut": 0}


def test_images_of_few_captions_stay_in_the_gallery_and_do_not_ask(pairs, made_bundle, handmade, cache_home):
    record = json.loads(run("retrieval", pairs, "-b", made_bundle, "--min-captions", 2).stdout)
    images = embedded_colours(handmade, COLOURS)
    owner = np.array([index for index, short in enumerate(SHORT) for _ in short])
    texts = [text for short in SHORT for text in short]
    asking = np.array([len(set(short)) >= 2 for short in SHORT])  # a repeated caption counts once
    ranks = retrieval_ranks(images, embedded_texts(handmade, texts), owner, texts).asked_only(asking)
    assert without_interval(record["short"]) == {**ranks.metrics().as_dict(), "queries": 4, "cut": 0}
    assert record["long"]["queries"] == 2
    assert (record["min_captions"], record["queried_images"], record["images"]) == (2, 2, 5)


def test_more_captions_than_any_image_has_leave_no_query(pairs, made_bundle, cache_home):
    result = CliRunner().invoke(
        command, ["retrieval", str(pairs), "-b", str(made_bundle), "--min-captions", "3"]
    )
    assert result.exit_code == 1
    assert "--min-captions 3 leaves no query" in str(result.exception)
    assert "has more than 2 distinct" in str(result.exception)


def test_texts_are_cut_at_the_tokens_asked_for(pairs, made_bundle, handmade, cache_home):
    from lrsclip_rt.tokenizer import Tokenizer

    result = run("retrieval", pairs, "-b", made_bundle, "--tokens", 4)
    record = json.loads(result.stdout)
    batch = Tokenizer(handmade.REAL_VOCABULARY).encode_batch(texts := [t for short in SHORT for t in short])
    cut = np.zeros_like(batch.tokens)
    cut[:, :3] = batch.tokens[:, :3]
    cut[:, 3] = 49407
    assert (batch.eot >= 3).all()
    assert int((batch.eot == 3).sum()) == 1  # "green farmland" fits
    rows = handmade.texts_by_numpy(cut, np.full(len(texts), 3), handmade.Weights.seeded(0))
    owner = np.array([index for index, short in enumerate(SHORT) for _ in short])
    words = [" ".join(text.split()[:2]) for text in texts]  # "a harbour" occurs twice, "boats at" once
    expected = retrieval_metrics(embedded_colours(handmade, COLOURS), rows, owner, words)
    assert without_interval(record["short"]) == {**expected.as_dict(), "queries": 7, "cut": 5}
    assert record["tokens"] == 4
    assert "5 of 6 short captions were cut at 4 tokens" in result.stderr


def test_captions_that_agree_up_to_the_cut_are_one_text(tmp_path, made_bundle, cache_home):
    lines = []
    for index, short in enumerate((["a pier with boats", "a pier at night"], ["a pier with cranes"])):
        write_image(tmp_path / f"{index}.png", (40 + 150 * index, 90, 200 - 150 * index))
        lines.append(json.dumps({"image": f"{index}.png", "short": short}))
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines))
    record = json.loads(run("retrieval", tmp_path, "-b", made_bundle, "--tokens", 4).stdout)
    assert record["short"]["queries"] == 2  # one of each image, the same words
    assert record["short"]["i2t"]["r1"] == 0  # they tie, and a tie counts against the model
    whole = json.loads(run("retrieval", tmp_path, "-b", made_bundle).stdout)
    assert whole["short"]["queries"] == 3


def test_more_tokens_than_the_model_reads_are_refused(pairs, made_bundle, cache_home):
    result = CliRunner().invoke(command, ["retrieval", str(pairs), "-b", str(made_bundle), "--tokens", "249"])
    assert "--tokens 249 exceeds the model's context of 248" in str(result.exception)


def test_classification_uses_the_templates_of_the_data_set_and_says_so(
    labelled, made_bundle, handmade, cache_home
):
    record = json.loads(run("classify", labelled, "-b", made_bundle, "--json").stdout)
    assert record["template_source"] == "classes.json"
    assert record["templates"] == ["an aerial photo of {}.", "{} from above"]
    expected = expected_accuracy(handmade, record["templates"])
    assert record["top1"] == pytest.approx(expected.top1)
    assert record["per_class"] == pytest.approx(expected.per_class)
    assert record["top1_ci95"][0] <= record["top1"] <= record["top1_ci95"][1]
    assert record["top1_ci95"][0] < record["top1_ci95"][1]


def test_the_confusion_matrix_is_written_and_never_over_a_file(labelled, made_bundle, tmp_path, cache_home):
    path = tmp_path / "new" / "confusion.png"
    result = run("classify", labelled, "-b", made_bundle, "--plot", path)
    assert f"confusion matrix: {path}" in result.stderr
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 300
    again = CliRunner().invoke(
        command, ["classify", str(labelled), "-b", str(made_bundle), "--plot", str(path)]
    )
    assert "pass --overwrite" in str(again.exception)
    run("classify", labelled, "-b", made_bundle, "--plot", path, "--overwrite")


def test_a_terminal_sees_each_class_with_what_it_was_taken_for(
    labelled, made_bundle, cache_home, monkeypatch
):
    monkeypatch.setattr("lrsclip_rt.cli.output.wants_json", lambda as_json: as_json)
    monkeypatch.setattr("lrsclip_rt.cli.eval_classify.wants_json", lambda as_json: as_json)
    shown = run("classify", labelled, "-b", made_bundle).stdout
    assert "top-1" in shown
    assert "taken for" in shown
    assert all(name in shown for name in ("forest", "sea", "town"))


def test_without_templates_of_its_own_the_bundle_s_are_used(labelled, made_bundle, handmade, cache_home):
    write_classes(labelled)
    record = json.loads(run("classify", labelled, "-b", made_bundle).stdout)
    assert record["template_source"] == "bundle"
    assert record["templates"] == ["a satellite photo of {}.", "an aerial image of {}."]
    assert record["top1"] == pytest.approx(expected_accuracy(handmade, record["templates"]).top1)


def expected_accuracy(handmade, templates):
    classes = []
    for phrase in ("forest", "the open sea", "town"):
        rows = embedded_texts(handmade, [template.replace("{}", phrase) for template in templates])
        mean = rows.mean(axis=0)
        classes.append(mean / np.linalg.norm(mean))
    images = embedded_colours(handmade, np.random.default_rng(7).integers(0, 256, (12, 3)))
    predicted = (images @ np.array(classes).T).argmax(axis=1)
    return classification_metrics(predicted, np.arange(12) % 3, ["forest", "sea", "town"])


def test_a_broken_image_of_a_labelled_set_is_listed_and_left_out(labelled, made_bundle, cache_home):
    (labelled / "5.png").write_bytes(b"")
    result = run("classify", labelled, "-b", made_bundle, status=1)
    assert json.loads(result.stdout)["images"] == 11
    assert "failed: 5.png: " in result.stderr


@pytest.mark.parametrize("kind", ["retrieval", "classify"])
def test_a_data_set_without_its_files_is_one_line_and_status_1(kind, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["lrsclip", "eval", kind, str(tmp_path)])
    with pytest.raises(SystemExit) as stop:
        run_main(monkeypatch)
    assert stop.value.code == 1
    error = capsys.readouterr().err
    assert error.startswith("Error: ")
    assert "a data set holds" in error
    assert error.count("\n") == 1


def run_main(monkeypatch) -> None:
    # The command itself, so that this holds before the package is installed.
    monkeypatch.setattr("lrsclip_rt.cli.cli.get_command", lambda context, name: command)
    main()


def test_a_data_set_of_which_no_image_can_be_read_is_an_error(pairs, made_bundle, cache_home):
    for path in (pairs / "images").iterdir():
        path.unlink()
    result = CliRunner().invoke(command, ["retrieval", str(pairs), "-b", str(made_bundle)])
    assert result.exit_code == 1
    assert "none of the 5 images" in str(result.exception)


def test_a_terminal_gets_a_table(pairs, made_bundle, cache_home, monkeypatch):
    monkeypatch.setattr("lrsclip_rt.cli.output.wants_json", lambda as_json: as_json)
    monkeypatch.setattr("lrsclip_rt.cli.eval_retrieval.wants_json", lambda as_json: as_json)
    shown = run("retrieval", pairs, "-b", made_bundle).stdout
    assert "short mR" in shown
    assert "text -> image" in shown


@pytest.mark.slow
def test_the_built_in_model_finds_real_images_by_their_captions(data_dir):
    record = json.loads(run("retrieval", data_dir / "aid_rsicd", "--split", "val").stdout)
    assert record["images"] == 1766
    assert record["mR"] >= 10  # chance is 0.3


def test_the_built_in_model_names_the_classes_of_real_images(data_dir):
    record = json.loads(run("classify", data_dir / "rsscn7_dev").stdout)
    assert record["template_source"] == "classes.json"
    assert record["top1"] >= 60  # chance is 14.3

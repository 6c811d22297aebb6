from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from lrsclip_rt.classification import class_embeddings
from lrsclip_rt.cli.classify import command
from lrsclip_rt.embedder import load
from lrsclip_rt.errors import InputError

LABELS = ["harbour", "airport", "forest"]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(1)
    for i in range(5):
        Image.new("RGB", (40, 40), tuple(rng.integers(0, 256, 3).tolist())).save(folder / f"{i}.png")
    return folder


def run(*arguments: object) -> Result:
    return CliRunner().invoke(command, [str(a) for a in arguments])


def expected(bundle: Path, photos: Path, templates: tuple[str, ...]) -> np.ndarray:
    model = load(bundle)
    return model.embed_images(sorted(photos.iterdir())) @ class_embeddings(model, LABELS, templates).T


def test_each_image_gets_its_nearest_label_with_the_bundles_templates(
    made_bundle: Path, photos: Path
) -> None:
    result = run("-b", made_bundle, photos, "--labels", "harbour,airport", "--labels", "forest")
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    scores = expected(made_bundle, photos, ("a satellite photo of {}.", "an aerial image of {}."))
    assert [row["image"] for row in rows] == [str(photos / f"{i}.png") for i in range(5)]
    assert [row["label"] for row in rows] == [LABELS[i] for i in scores.argmax(axis=1)]
    assert len({row["label"] for row in rows}) > 1
    np.testing.assert_allclose([[r["scores"][n] for n in LABELS] for r in rows], scores, atol=2e-6)
    np.testing.assert_allclose([row["score"] for row in rows], scores.max(axis=1), atol=2e-6)
    soft = np.exp(100 * (scores - scores.max(axis=1, keepdims=True)))
    np.testing.assert_allclose([r["probability"] for r in rows], 1 / soft.sum(axis=1), atol=1e-4)
    assert rows[0]["template_source"] == "bundle"
    assert rows[0]["templates"] == ["a satellite photo of {}.", "an aerial image of {}."]
    assert "templates (bundle): a satellite photo of {}. | an aerial image of {}." in result.stderr


def test_given_templates_win_and_are_named(made_bundle: Path, photos: Path) -> None:
    result = run(
        "-b", made_bundle, photos, "--labels", ",".join(LABELS), "--template", "{} seen from a plane"
    )
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    scores = expected(made_bundle, photos, ("{} seen from a plane",))
    np.testing.assert_allclose([row["score"] for row in rows], scores.max(axis=1), atol=2e-6)
    assert rows[0]["template_source"] == "given"


def test_an_image_that_fails_is_listed_and_the_rest_classified(made_bundle: Path, photos: Path) -> None:
    (photos / "2.png").write_bytes(b"no image")
    result = run("-b", made_bundle, photos, "--labels", "a,b")
    assert result.exit_code == 1
    assert len(result.stdout.splitlines()) == 4
    assert "2.png" in result.stderr
    assert "1 input(s) failed" in result.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--labels", "a,a"], "more than once"),
        (["--labels", " , "], "0 classes"),
        (["--labels", "a", "--template", "no place"], "0 times"),
    ],
)
def test_labels_and_templates_that_cannot_be_used_are_refused(
    made_bundle: Path, photos: Path, options: list[str], message: str
) -> None:
    result = run("-b", made_bundle, photos, *options)
    assert isinstance(result.exception, InputError)
    assert message in str(result.exception)


def test_an_empty_folder_is_no_input(made_bundle: Path, tmp_path: Path, handmade: ModuleType) -> None:
    result = run("-b", made_bundle, tmp_path, "--labels", "a,b")
    assert isinstance(result.exception, InputError)
    assert "no images found" in str(result.exception)

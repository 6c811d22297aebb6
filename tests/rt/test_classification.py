from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from lrsclip_rt.classification import class_embeddings, classify
from lrsclip_rt.errors import InputError


class Words:
    """Embeds a text as the unit vector of its words: enough to see which prompts were asked for."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def embed_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.seen += texts
        rows = np.zeros((len(texts), 64), np.float32)
        for i, text in enumerate(texts):
            for word in text.split():
                rows[i, sum(map(ord, word)) % 64] += 1
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_each_template_is_filled_and_the_normalised_mean_taken() -> None:
    model = Words()
    rows = class_embeddings(model, ["port", "farm"], ["a photo of {}", "{} from above now"])
    assert model.seen == ["a photo of port", "port from above now", "a photo of farm", "farm from above now"]
    prompts = Words().embed_texts(model.seen).reshape(2, 2, 64).mean(axis=1)
    np.testing.assert_allclose(rows, prompts / np.linalg.norm(prompts, axis=1, keepdims=True), atol=1e-6)
    assert rows.dtype == np.float32


def test_braces_in_names_and_templates_are_plain_text() -> None:
    model = Words()
    class_embeddings(model, ["{0} {port}"], ["{x} {} {"])
    assert model.seen == ["{x} {0} {port} {"]


@pytest.mark.parametrize(
    ("classes", "templates", "message"),
    [
        ([], ["{}"], "0 classes"),
        (["a"], [], "0 templates"),
        (["a", " "], ["{}"], "class 1 has an empty name"),
        (["a", "b", "a "], ["{}"], "a occurs more than once"),
        (["a"], ["a photo"], "0 times"),
        (["a"], ["{} {}"], "2 times"),
    ],
)
def test_classes_and_templates_that_cannot_be_used_are_refused(
    classes: list[str], templates: list[str], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        class_embeddings(Words(), classes, templates)


def test_the_best_class_has_the_largest_cosine_and_probabilities_are_its_softmax() -> None:
    rng = np.random.default_rng(0)
    images, classes = (
        r / np.linalg.norm(r, axis=1, keepdims=True)
        for r in (rng.standard_normal((5, 8)), rng.standard_normal((3, 8)))
    )
    result = classify(
        images.astype(np.float32), classes.astype(np.float32), classes=list("abc"), logit_scale=100.0
    )
    cosines = images @ classes.T
    np.testing.assert_allclose(result.scores, cosines, atol=1e-6)
    np.testing.assert_array_equal(result.best, cosines.argmax(axis=1))
    expected = np.exp(100 * cosines) / np.exp(100 * cosines).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(result.probabilities, expected, atol=1e-4)
    assert [result.label(i) for i in range(5)] == ["abc"[i] for i in cosines.argmax(axis=1)]
    assert repr(result) == "Classification(5 images, 3 classes)"


def test_a_large_scale_overflows_nothing_and_equal_classes_share() -> None:
    result = classify(np.eye(1, 4), np.ones((2, 4)), classes=["a", "b"], logit_scale=1e6)
    np.testing.assert_allclose(result.probabilities, [[0.5, 0.5]])
    assert result.label(0) == "a"
    assert (
        len(classify(np.empty((0, 4), np.float32), np.ones((2, 4)), classes=["a", "b"], logit_scale=1)) == 0
    )


def test_images_of_another_model_are_refused() -> None:
    with pytest.raises(InputError, match="must agree in D"):
        classify(np.eye(2, 3), np.eye(2, 4), classes=["a", "b"], logit_scale=1)

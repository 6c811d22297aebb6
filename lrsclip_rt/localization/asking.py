"""Texts as the model is asked them.

A short phrase is asked in each of the bundle's prompt templates and as the mean of them, as in zero-shot
classification. A sentence or a description is asked as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.localization.scene_embedding import SceneModel

__all__ = ["BACKGROUND", "MAX_PHRASE_WORDS", "Asked", "ask"]

BACKGROUND = (
    "an aerial photo",
    "a satellite image",
    "a picture of the ground",
    "land seen from above",
)
"""Descriptions that fit every scene and say nothing of what is in it."""

MAX_PHRASE_WORDS = 20
"""Longer texts are asked as they are."""


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """The texts of one call.

    Attributes:
        rows: (T, D) float32 unit rows.
        background: (B, D) float32 unit rows of ``BACKGROUND``.
        logit_scale: Of the model: logarithm of odds a unit of cosine.
        model_id: Identity of the model.
    """

    rows: NDArray[np.float32]
    background: NDArray[np.float32]
    logit_scale: float
    model_id: str | None = None


def ask(model: SceneModel, texts: Sequence[str], *, templates: bool) -> Asked:
    """Embed the texts of a call and the background.

    Args:
        model: The model.
        texts: T texts.
        templates: Ask short phrases in the bundle's templates.

    Raises:
        InputError: If a text is blank.
    """
    rows = np.array(model.embed_texts(list(texts)))
    forms = model.spec.templates
    if templates and forms:
        for number, text in enumerate(texts):
            if len(text.split()) <= MAX_PHRASE_WORDS:
                asked = model.embed_texts([form.replace("{}", text.strip().rstrip(".")) for form in forms])
                mean = asked.mean(axis=0)
                rows[number] = mean / np.linalg.norm(mean)
    return Asked(rows, model.embed_texts(BACKGROUND), model.spec.logit_scale, model.bundle.identity)

"""From the answers of two models to a report: the same sets, scored once for each model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.datasets import LabelledSet, PairSet
from lrsclip_rt.evaluation import RetrievalMetrics, retrieval_metrics
from lrsclip_rt.parity import cosine_rows
from lrsclip_rt.task_answers import DataSet, ModelAnswers, TaskAnswers, class_names, image_paths
from lrsclip_rt.task_changes import CosineDistribution, PredictionChange, RetrievalChange
from lrsclip_rt.task_parity import SetReport

__all__ = ["SetScores", "compare_sets", "score_sets"]

_BEST = 10
_BLOCK_BYTES = 64 << 20


@dataclass(frozen=True, slots=True, eq=False)
class SetScores:
    """One set by one model.

    Attributes:
        data: The set.
        failed: Images that could not be read.
        images: ``(n, D) float32``, those that could.
        texts: ``(q, D) float32``, distinct captions of those images; the classes where there are none.
        best: ``(q, k) int64``, the images of the highest cosine, best first; None without captions or with
            one image.
        retrieval: By length of the captions, short before long.
        predicted: ``(p,) int64``, the class of each image that has one; None without classes.
        labels: ``(p,) int64``, the right ones.
    """

    data: DataSet
    failed: int
    images: NDArray[np.float32]
    texts: NDArray[np.float32]
    best: NDArray[np.int64] | None
    retrieval: Mapping[str, RetrievalMetrics]
    predicted: NDArray[np.int64] | None
    labels: NDArray[np.int64] | None


def score_sets(answers: TaskAnswers, model: ModelAnswers) -> list[SetScores]:
    """Search and classify every set with the rows of one model.

    Raises:
        InputError: If its rows are no unit rows.
    """
    return [
        _score_set(answers, model, data, classes)
        for data, classes in zip(answers.inputs.sets, model.classes, strict=True)
    ]


def compare_sets(reference: Sequence[SetScores], found: Sequence[SetScores]) -> tuple[SetReport, ...]:
    """Hold the scores of a precision against those of fp32, set by set."""
    return tuple(_set_report(ours, theirs) for ours, theirs in zip(reference, found, strict=True))


def _score_set(
    answers: TaskAnswers, model: ModelAnswers, data: DataSet, classes: NDArray[np.float32] | None
) -> SetScores:
    paths = image_paths(data)
    kept = [i for i, path in enumerate(paths) if path in answers.image_rows]
    images = model.images[[answers.image_rows[paths[i]] for i in kept]]
    retrieval: dict[str, RetrievalMetrics] = {}
    distinct: dict[str, None] = {}
    if isinstance(data, PairSet):
        for length in ("short", "long"):
            captions = [_captions(data, i, length) for i in kept]
            texts = [text for own in captions for text in own]
            if not texts:
                continue
            owner = np.repeat(np.arange(len(captions)), [len(own) for own in captions])
            rows = model.captions[[answers.caption_rows[text] for text in texts]]
            retrieval[length] = retrieval_metrics(images, rows, owner, texts)
            distinct.update(dict.fromkeys(texts))
    labels = _labels(data, kept)
    predicted = None
    if classes is not None:
        predicted = (images[labels >= 0] @ classes.T).argmax(axis=1).astype(np.int64)
    asked = model.captions[[answers.caption_rows[text] for text in distinct]]
    return SetScores(
        data=data,
        failed=len(data) - len(kept),
        images=images,
        texts=asked if classes is None or len(asked) else classes,
        best=_best_images(asked, images) if len(asked) and len(images) > 1 else None,
        retrieval=retrieval,
        predicted=predicted,
        labels=None if predicted is None else labels[labels >= 0],
    )


def _captions(data: PairSet, index: int, length: str) -> tuple[str, ...]:
    item = data.items[index]
    if length == "short":
        return item.short
    return () if item.long is None else (item.long,)


def _labels(data: DataSet, kept: Sequence[int]) -> NDArray[np.int64]:
    """(n,) int64, the class of each kept image; -1 where its line names none."""
    if isinstance(data, LabelledSet):
        return np.array([data.items[i].label for i in kept], np.int64)
    index = {name: number for number, name in enumerate(class_names(data))}
    return np.array([index.get(data.items[i].category, -1) for i in kept], np.int64)


def _best_images(texts: NDArray[np.float32], images: NDArray[np.float32]) -> NDArray[np.int64]:
    """(q, k) int64, best first; equal scores in the order of the images."""
    parts = []
    step = max(1, _BLOCK_BYTES // (4 * len(images)))
    for start in range(0, len(texts), step):
        scores = texts[start : start + step] @ images.T
        parts.append(np.argsort(-scores, axis=1, kind="stable")[:, :_BEST])
    return np.concatenate(parts).astype(np.int64)


def _set_report(reference: SetScores, found: SetScores) -> SetReport:
    data = reference.data
    top1 = top10 = None
    if reference.best is not None and found.best is not None:
        same = (reference.best[:, :, None] == found.best[:, None, :]).any(axis=2)
        top1 = float(100 * (reference.best[:, 0] == found.best[:, 0]).mean())
        top10 = float(100 * same.mean())
    return SetReport(
        name=data.root.resolve().name,
        split=data.split,
        images=len(reference.images),
        failed=reference.failed,
        image=CosineDistribution.of(cosine_rows(reference.images, found.images)),
        text=CosineDistribution.of(cosine_rows(reference.texts, found.texts)),
        top1_agreement=top1,
        top10_agreement=top10,
        retrieval=tuple(
            RetrievalChange(length, metrics, found.retrieval[length])
            for length, metrics in reference.retrieval.items()
        ),
        predictions=_prediction_changes(reference, found),
    )


def _prediction_changes(reference: SetScores, found: SetScores) -> tuple[PredictionChange, ...]:
    if reference.predicted is None or found.predicted is None or len(reference.predicted) == 0:
        return ()
    change = PredictionChange(
        by="labels" if isinstance(reference.data, LabelledSet) else "class",
        images=len(reference.predicted),
        classes=len(class_names(reference.data)),
        reference_right=int((reference.predicted == reference.labels).sum()),
        found_right=int((found.predicted == found.labels).sum()),
        changed=int((reference.predicted != found.predicted).sum()),
    )
    return (change,)

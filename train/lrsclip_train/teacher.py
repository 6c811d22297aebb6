"""A teacher's embeddings, to which a student's are drawn.

Distances between embeddings teach more per image than matches alone (CLIP-KD, arXiv 2307.12732, finds
them the strongest kind of distillation). A teacher is a file of rows, so it costs nothing while
training and may be any ensemble.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from lrsclip_rt.errors import InputError
from lrsclip_rt.npz_reading import arrays_from_npz

__all__ = ["Teacher", "save_teacher"]

_NAMES = ("image_keys", "images", "texts", "text_rows")
_MOST_BYTES = 64 << 30
"""Rows of ten million images: more is a bomb."""


class Teacher:
    """Embeddings by the name of an image and by the words of a text.

    Args:
        path: ``.npz`` with ``image_keys`` (N,), ``images`` (N, D), ``texts`` (M,) and ``text_rows`` (M, D).

    Raises:
        InputError: If the file cannot be read or its arrays do not fit together.
    """

    def __init__(self, path: Path) -> None:
        try:
            keys, images, texts, rows = arrays_from_npz(path, _NAMES, most_bytes=_MOST_BYTES)
        except ValueError as error:
            raise InputError(f"{path} is no teacher, an .npz of {', '.join(_NAMES)} ({error})") from error
        _check(path, keys, images, texts, rows)
        self.dimension = int(images.shape[1])
        self._images = F.normalize(torch.from_numpy(images.astype(np.float32)), dim=1)
        self._texts = F.normalize(torch.from_numpy(rows.astype(np.float32)), dim=1)
        self._image_row = {str(key): row for row, key in enumerate(keys)}
        self._text_row = {str(text): row for row, text in enumerate(texts)}

    def image_distance(self, images: torch.Tensor, keys: Sequence[str]) -> torch.Tensor:
        """1 - cosine, mean over the images that the teacher knows.

        Args:
            images: (N, D) unit rows.
            keys: Their names.
        """
        return _distance(images, [self._image_row.get(key, -1) for key in keys], self._images)

    def text_distance(self, rows: torch.Tensor, texts: Sequence[str]) -> torch.Tensor:
        """1 - cosine, mean over the texts that the teacher knows.

        Args:
            rows: (M, D) unit rows.
            texts: Their words.
        """
        return _distance(rows, [self._text_row.get(text, -1) for text in texts], self._texts)


def _distance(rows: torch.Tensor, places: list[int], table: torch.Tensor) -> torch.Tensor:
    known = [row for row, place in enumerate(places) if place >= 0]
    if not known:
        return rows.new_zeros(())
    wanted = table[[places[row] for row in known]].to(rows.device)
    return 1 - (rows[known] * wanted).sum(dim=1).mean()


def _check(
    path: Path,
    keys: NDArray[np.generic],
    images: NDArray[np.generic],
    texts: NDArray[np.generic],
    rows: NDArray[np.generic],
) -> None:
    for name, words in (("image_keys", keys), ("texts", texts)):
        if words.ndim != 1 or words.dtype.kind != "U":
            raise InputError(f"{path}: {name} is {words.dtype} {words.shape}, expected a row of strings")
    for name, values, count in (("images", images, len(keys)), ("text_rows", rows, len(texts))):
        if values.ndim != 2 or values.dtype.kind != "f" or len(values) != count:
            raise InputError(
                f"{path}: {name} is {values.dtype} {values.shape}, expected floating-point rows ({count}, D)"
            )
        if not np.isfinite(values).all():
            raise InputError(f"{path}: {name} holds NaN or infinite numbers; make the teacher again")
    if images.shape[1] != rows.shape[1]:
        raise InputError(f"{path}: images {images.shape} and text_rows {rows.shape} must agree in D")


def save_teacher(
    path: Path,
    *,
    image_keys: Sequence[str],
    images: NDArray[np.floating[Any]],
    texts: Sequence[str],
    text_rows: NDArray[np.floating[Any]],
) -> None:
    """Write what :class:`Teacher` reads; float16 on disk.

    Args:
        path: Exactly this file, whatever it ends in; what it held is replaced.
        image_keys: N names.
        images: (N, D) rows.
        texts: M texts.
        text_rows: (M, D) rows.

    Raises:
        InputError: If the arrays do not fit together.
    """
    keys, words = np.array(image_keys, dtype=np.str_), np.array(texts, dtype=np.str_)
    rows = (images.astype(np.float16), text_rows.astype(np.float16))
    _check(path, keys, rows[0], words, rows[1])
    with path.open("wb") as file:
        np.savez(file, image_keys=keys, images=rows[0], texts=words, text_rows=rows[1])

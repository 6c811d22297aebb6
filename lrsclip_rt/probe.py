"""The probe: a few images and texts that a bundle carries with their fp32 embeddings."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.bundle import Bundle
from lrsclip_rt.errors import BundleError
from lrsclip_rt.npz_reading import arrays_from_npz

__all__ = ["Probe", "probe_from_bundle"]

_MAX_BYTES = 256 << 20
_KEYS = ("images", "texts", "image_embeddings", "text_embeddings")


@dataclass(frozen=True, slots=True, eq=False)
class Probe:
    """Inputs and their fp32 answers.

    Attributes:
        images: ``(n, h, w, 3) uint8``.
        texts: m texts.
        image_embeddings: ``(n, D) float32``, unit rows.
        text_embeddings: ``(m, D) float32``, unit rows.
    """

    images: NDArray[np.uint8]
    texts: tuple[str, ...]
    image_embeddings: NDArray[np.float32]
    text_embeddings: NDArray[np.float32]

    def __repr__(self) -> str:
        return f"Probe({len(self.images)} images, {len(self.texts)} texts)"


def probe_from_bundle(bundle: Bundle) -> Probe:
    """Read and check a bundle's probe.

    Raises:
        BundleError: If it has none, or its arrays are not as they should be.
    """
    path = bundle.probe_path
    try:
        images, texts, image_rows, text_rows = arrays_from_npz(path, _KEYS, most_bytes=_MAX_BYTES)
    except ValueError as error:
        raise BundleError(
            f"{path} cannot be read: {error}. Expected the arrays {', '.join(_KEYS)}"
        ) from error
    expected = (
        images.ndim == 4 and images.shape[3] == 3 and images.dtype == np.uint8,
        texts.ndim == 1 and texts.dtype.kind == "U",
        image_rows.shape == (len(images), bundle.spec.embed_dim) and image_rows.dtype == np.float32,
        text_rows.shape == (len(texts), bundle.spec.embed_dim) and text_rows.dtype == np.float32,
    )
    for key, fits, array in zip(_KEYS, expected, (images, texts, image_rows, text_rows), strict=True):
        if not fits:
            raise BundleError(
                f"{path}: {key} has the shape {array.shape} and type {array.dtype}: not a probe's"
            )
    return Probe(images, tuple(texts.tolist()), image_rows, text_rows)

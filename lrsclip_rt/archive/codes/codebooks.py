"""Codes of rows: 4 bits for every four numbers, twice, made to be scanned 32 rows at a time.

A row without the mean is rotated to the principal axes of a sample, whose variances are dealt out evenly to
groups of 8 numbers; each group is replaced by the nearest of 16 centroids. What is left is rotated to its own
principal axes, dealt out and replaced in the same way. A score is a sum over both, so one scan of
4-bit tables (FastScan: Andre et al., "Quicker ADC", 2019) scores the sum of the two. The second pass is
what a plain product quantiser of the same size lacks; with it a recall takes a fraction of the candidates.

The inner product with the mean is the same for all rows of a query and is left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.errors import DependencyError, InputError

__all__ = ["TRAINING_ROWS", "Codebook", "groups_of", "import_faiss", "index_of_blocks", "train_codebook"]

TRAINING_ROWS = 65_536
"""Rows that a codebook is trained on, at most."""
_CENTROIDS = 16
_GROUP = 8
"""Numbers of a group."""
_LEAST_ROWS = 64


def import_faiss() -> Any:
    """The faiss module.

    Raises:
        DependencyError: If it is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise DependencyError.of("faiss-cpu", extra="search") from error
    return faiss


def groups_of(dim: int) -> int:
    """Groups of a level, which is also the bytes of a row's code: even, as two 4-bit codes share a byte.

    Example:
        >>> groups_of(512), groups_of(768), groups_of(20)
        (64, 96, 4)
    """
    return 2 * -(-dim // (2 * _GROUP))


@dataclass(frozen=True, eq=False)
class Codebook:
    """What turns rows into codes and queries into tables.

    Attributes:
        mean: ``(D,)`` float32, subtracted from every row.
        rotations: ``(2, W, D)`` float32, of the rows and of what is left; W = 8 groups, zero rows pad.
        centroids: ``(2, G, 16, 8)`` float32.
    """

    mean: NDArray[np.float32]
    rotations: NDArray[np.float32]
    centroids: NDArray[np.float32]

    @property
    def dim(self) -> int:
        """D."""
        return len(self.mean)

    @property
    def groups(self) -> int:
        """G, also the bytes of a row's code."""
        return groups_of(self.dim)

    def codes_from_rows(self, rows: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Encode ``(N, D)`` float32 rows: ``(N, G)`` uint8, two groups a byte, the first level first."""
        first, second = self._quantizers
        left = rows - self.mean
        codes = first.compute_codes(np.ascontiguousarray(left @ self.rotations[0].T))
        left -= first.decode(codes) @ self.rotations[0]
        rest = second.compute_codes(np.ascontiguousarray(left @ self.rotations[1].T))
        return np.concatenate([codes, rest], axis=1)

    def scanned_queries(self, queries: NDArray[np.float32]) -> NDArray[np.float32]:
        """``(Q, D)`` queries as the scan wants them: ``(Q, 2 W)`` float32."""
        # Not BLAS: waking its threads takes longer than so small a product.
        turned: NDArray[np.float32] = np.einsum("qd,lwd->qlw", queries, self.rotations)
        return turned.reshape(len(queries), -1)

    def index_from_codes(self, codes: NDArray[np.uint8]) -> Any:
        """A faiss index over ``(N, G)`` codes, laid out for scanning; it copies them."""
        faiss = import_faiss()
        width, groups = 2 * _GROUP * self.groups, 2 * self.groups
        plain = faiss.IndexPQ(width, groups, 4, faiss.METRIC_INNER_PRODUCT)
        faiss.copy_array_to_vector(self.centroids.reshape(-1), plain.pq.centroids)
        plain.is_trained = True
        faiss.copy_array_to_vector(codes.reshape(-1), plain.codes)
        plain.ntotal = len(codes)
        index = faiss.IndexPQFastScan(plain)
        index.orig_codes = None  # would point into `plain`, which ends here
        return index

    @cached_property
    def _quantizers(self) -> tuple[Any, Any]:
        faiss = import_faiss()
        made = []
        for centroids in self.centroids:
            quantizer = faiss.ProductQuantizer(_GROUP * self.groups, self.groups, 4)
            faiss.copy_array_to_vector(np.ascontiguousarray(centroids).reshape(-1), quantizer.centroids)
            made.append(quantizer)
        return made[0], made[1]


def index_of_blocks(index: Any, blocks: NDArray[np.int64], rows: int) -> Any:
    """An index over some blocks of another, of ``bbs`` rows each, as they are laid out there; it copies them.

    Args:
        index: Of ``Codebook.index_from_codes``.
        blocks: Increasing numbers of blocks.
        rows: Rows in them; only the last block may hold fewer than ``bbs``.
    """
    faiss = import_faiss()
    part = faiss.IndexPQFastScan()
    for name in ("d", "metric_type", "is_trained", "implem", "bbs", "M", "nbits", "ksub", "code_size", "M2"):
        setattr(part, name, getattr(index, name))
    part.pq = index.pq
    block_bytes = index.bbs * index.M2 // 2
    part.codes.resize(len(blocks) * block_bytes)
    held = faiss.rev_swig_ptr(index.codes.get(), index.codes.size()).reshape(-1, block_bytes)
    wanted = faiss.rev_swig_ptr(part.codes.get(), part.codes.size()).reshape(-1, block_bytes)
    np.take(held, blocks, axis=0, out=wanted, mode="clip")  # in range; "raise" would copy once more
    part.ntotal, part.ntotal2 = rows, len(blocks) * index.bbs
    return part


def train_codebook(sample: NDArray[np.float32]) -> Codebook:
    """Fit a codebook to ``(N, D)`` float32 rows; the same rows give the same codebook on a machine.

    Raises:
        DependencyError: If faiss is not installed.
        InputError: If there are too few rows.
    """
    if len(sample) < _LEAST_ROWS:
        raise InputError(f"{len(sample)} rows are too few to train codes on, expected {_LEAST_ROWS} or more")
    mean = sample.mean(axis=0, dtype=np.float64).astype(np.float32)
    left = sample - mean
    rotations, centroids = [], []
    for _ in range(2):
        rotation = _dealt_axes(left)
        quantizer = _trained(np.ascontiguousarray(left @ rotation.T))
        codes = quantizer.compute_codes(np.ascontiguousarray(left @ rotation.T))
        left = left - quantizer.decode(codes) @ rotation
        faiss = import_faiss()
        found = faiss.vector_to_array(quantizer.centroids).reshape(-1, _CENTROIDS, _GROUP)
        rotations.append(rotation)
        centroids.append(found)
    return Codebook(mean, np.stack(rotations), np.stack(centroids))


def _trained(rows: NDArray[np.float32]) -> Any:
    faiss = import_faiss()
    quantizer = faiss.ProductQuantizer(rows.shape[1], rows.shape[1] // _GROUP, 4)
    quantizer.cp.min_points_per_centroid = 1
    quantizer.train(rows)
    return quantizer


def _dealt_axes(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Principal axes as ``(W, D)`` rows, so ordered that the groups' variances have about equal products.

    Ge et al., "Optimized Product Quantization" (2013), section 3.2.1: the parametric solution.
    """
    dim = rows.shape[1]
    groups = groups_of(dim)
    variances, axes = np.linalg.eigh(np.cov(rows, rowvar=False, dtype=np.float64).reshape(dim, dim))
    order = np.argsort(variances)[::-1]
    weights = np.log(np.maximum(variances[order], max(variances.max() * 1e-7, 1e-30)))
    weights -= weights.min()
    result = np.zeros((groups, _GROUP, dim), np.float32)
    sums, filled = np.zeros(groups), np.zeros(groups, int)
    for weight, axis in zip(weights, order, strict=True):
        open_sums = np.where(filled < _GROUP, sums, np.inf)
        group = int(np.lexsort((filled, open_sums))[0])
        result[group, filled[group]] = axes[:, axis]
        sums[group] += weight + 1e-9
        filled[group] += 1
    return result.reshape(groups * _GROUP, dim)

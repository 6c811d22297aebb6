"""Query vectors: as unit rows, and of more than one thing: examples for and against, words and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.archive.scanning import row_scores
from lrsclip_rt.errors import InputError

__all__ = ["checked_queries", "examples_query", "mixed_query"]


def checked_queries(
    vectors: NDArray[np.floating[Any]], *, dim: int, rows: int | str = "N"
) -> NDArray[np.float32]:
    """Query vectors as unit rows: ``(Q, D)`` float32.

    Args:
        vectors: ``(Q, D)`` or ``(D,)``.
        dim: D of the archive.
        rows: Of the archive, for the message.

    Raises:
        InputError: If the shape is another, or a query is zero or not finite.
    """
    queries = np.atleast_2d(np.asarray(vectors, np.float64))
    if queries.ndim != 2 or queries.shape[1] != dim:
        raise InputError(
            f"archive ({rows}, {dim}) and queries {np.shape(vectors)} must agree in D; "
            "embed both with the same model"
        )
    lengths = np.linalg.norm(queries, axis=1, keepdims=True)
    if not np.isfinite(lengths).all() or (lengths == 0).any():
        raise InputError("a query is zero or not finite; expected embeddings of one model")
    return np.asarray(queries / lengths, np.float32)


def examples_query(like: NDArray[np.float32], unlike: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rocchio's query: twice the mean of the positive examples minus the mean of the negative ones.

    Args:
        like: ``(P, D)`` rows; may be empty.
        unlike: ``(N, D)`` rows; may be empty.

    Returns:
        ``(D,)`` float32, a unit row.

    Raises:
        InputError: If both are empty, or they cancel each other.

    Example:
        >>> examples_query(np.eye(1, 3, dtype=np.float32), np.empty((0, 3), np.float32)).tolist()
        [1.0, 0.0, 0.0]
    """
    if not len(like) and not len(unlike):
        raise InputError("a query by example needs at least one example")
    query = np.zeros(like.shape[1], np.float64)
    if len(like):
        query += 2.0 * like.mean(axis=0, dtype=np.float64)
    if len(unlike):
        query -= unlike.mean(axis=0, dtype=np.float64)
    return _unit(query, "the examples for and against cancel each other; leave one out")


def mixed_query(parts: Sequence[NDArray[np.float32]], sample: NDArray[np.float32]) -> NDArray[np.float32]:
    """One query that ranks by the average of the parts' scores, each standardised over ``sample``.

    Words and pictures have cosines of different spread; standardised they weigh the same. A standardised
    score is linear in the row, so their average is the score of one vector: the sum of the parts,
    each divided by the standard deviation of its scores.

    Args:
        parts: ``(D,)`` unit rows, at least one.
        sample: ``(n, D)`` rows of the archive.

    Returns:
        ``(D,)`` float32, a unit row.

    Raises:
        InputError: If the parts cancel each other.
    """
    if len(parts) == 1:
        return parts[0]
    query = np.zeros(len(parts[0]), np.float64)
    for part in parts:
        deviation = float(row_scores(sample, part).astype(np.float64).std()) if len(sample) else 0.0
        query += part / (deviation if deviation > 0 else 1.0)
    return _unit(query, "the parts of the query cancel each other; leave one out")


def _unit(query: NDArray[np.float64], cancelled: str) -> NDArray[np.float32]:
    length = float(np.linalg.norm(query))
    if length < 1e-6:
        raise InputError(cancelled)
    return (query / length).astype(np.float32)

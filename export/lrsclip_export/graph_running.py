"""Run graph files on the CPU with ONNX Runtime, in batches of bounded size."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lrsclip_rt.errors import DependencyError

if TYPE_CHECKING:
    from lrsclip_rt.tokenizer import TokenBatch

__all__ = ["Feed", "cpu_session", "embedded_images", "embedded_texts", "image_feeds", "text_feeds"]

_IMAGES_PER_RUN = 4
_TOKENS_PER_RUN = 1024

Feed = Mapping[str, NDArray[Any]]
"""Inputs of one run by name."""


def image_feeds(pixels: NDArray[np.floating[Any]]) -> list[Feed]:
    """(n, 3, S, S) in small batches."""
    starts = range(0, len(pixels), _IMAGES_PER_RUN)
    return [{"pixels": pixels[start : start + _IMAGES_PER_RUN]} for start in starts]


def text_feeds(texts: TokenBatch, *, fixed: bool = False) -> list[Feed]:
    """Texts from the shortest to the longest, each batch cut behind the longest of its own.

    Args:
        texts: m texts.
        fixed: Keep all 248 columns.
    """
    order = np.argsort(texts.eot, kind="stable")
    columns = np.full(len(order), texts.tokens.shape[1]) if fixed else texts.eot[order] + 1
    feeds: list[Feed] = []
    start = 0
    while start < len(order):
        stop = start + 1
        while stop < len(order) and (stop + 1 - start) * columns[stop] <= _TOKENS_PER_RUN:
            stop += 1
        picked, length = order[start:stop], columns[stop - 1]
        tokens = np.ascontiguousarray(texts.tokens[picked, :length])
        feeds.append({"tokens": tokens, "eot": texts.eot[picked]})
        start = stop
    return feeds


def embedded_images(path: Path, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n, 3, S, S) -> (n, D) by an ``image`` graph, (n, P, D) by a ``dense`` one, in the type it reads."""
    session = cpu_session(path)
    (meta,) = session.get_inputs()
    typed = pixels.astype(np.float16) if meta.type == "tensor(float16)" else pixels
    return np.concatenate([session.run(None, feed)[0] for feed in image_feeds(typed)])


def embedded_texts(path: Path, texts: TokenBatch, *, fixed: bool = False) -> NDArray[np.float32]:
    """Texts -> (m, D) by a text graph, in the order of ``texts``; ``fixed`` pads them to 248 tokens."""
    session = cpu_session(path)
    by_length = np.concatenate([session.run(None, feed)[0] for feed in text_feeds(texts, fixed=fixed)])
    rows = np.empty_like(by_length)
    rows[np.argsort(texts.eot, kind="stable")] = by_length
    return rows


def cpu_session(path: Path) -> Any:
    """A loaded graph.

    Raises:
        DependencyError: If onnxruntime is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise DependencyError.of("onnxruntime", extra="export") from error
    options = onnxruntime.SessionOptions()
    # Q/DQ pairs stay what the file says, rounding between float nodes: fused kernels differ by processor, and
    # those for int8 take float8 by mistake.
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    # A device often calibrates beside its other work, which threads that wait busily would slow down.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # A typed fp16 graph on a CPU falls back to float32 kernels with a warning a node; that is expected.
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

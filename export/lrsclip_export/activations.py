"""What enters the products of a graph on calibration data: largest values by channel, and sampled rows.

The fp32 graph runs with the inputs of its products as further outputs. A batch is reduced before the next
one runs, so memory holds one batch of activations and a few hundred rows a product, however many images
there are.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lrsclip_export.graph_running import Feed, cpu_session
from lrsclip_export.graph_source import SourceGraph

__all__ = ["SAMPLED_ROWS", "ActivationSample", "merged", "sample_activations"]

SAMPLED_ROWS = 512
"""Rows that are kept of each activation."""


@dataclass(frozen=True, slots=True, eq=False)
class ActivationSample:
    """One activation, seen over a whole calibration.

    Attributes:
        maxima: (C,) largest magnitude of each channel over all rows.
        rows: (R, C) rows, evenly spread over batches and tokens.
    """

    maxima: NDArray[np.float32]
    rows: NDArray[np.float32]

    def scaled(self, divisor: NDArray[np.float32]) -> ActivationSample:
        """The sample of the activation divided by ``divisor`` (C,)."""
        return ActivationSample(self.maxima / divisor, self.rows / divisor)


def merged(samples: Sequence[ActivationSample]) -> ActivationSample:
    """One activation seen in several graphs, with as many rows of each."""
    if len(samples) == 1:
        return samples[0]
    rows = [sample.rows[:: len(samples)] for sample in samples]
    return ActivationSample(np.maximum.reduce([s.maxima for s in samples]), np.concatenate(rows))


def sample_activations(
    path: Path,
    values: Sequence[str],
    feeds: Sequence[Feed],
    scratch: Path,
    *,
    progress: Callable[[float], None] = lambda fraction: None,
) -> Mapping[str, ActivationSample]:
    """Run a graph over ``feeds`` and sample ``values``.

    Args:
        path: The fp32 graph.
        values: Names of (..., C) values inside it.
        feeds: Batches; rows behind the end of a text are left out.
        scratch: An empty folder of the caller's; receives a copy of the graph and of its weights.
        progress: Called with the fraction done.

    Raises:
        DependencyError: If onnxruntime is not installed.
    """
    session = cpu_session(_with_outputs(path, values, scratch))
    names = list(dict.fromkeys(values))
    maxima: dict[str, NDArray[np.float32]] = {}
    rows: dict[str, list[NDArray[np.float32]]] = {name: [] for name in names}
    share = -(-SAMPLED_ROWS // len(feeds))
    for done, feed in enumerate(feeds, start=1):
        for name, value in zip(names, session.run(names, feed), strict=True):
            flat = _valid_rows(value, feed)
            largest = np.abs(flat).max(axis=0)
            maxima[name] = np.maximum(maxima[name], largest) if name in maxima else largest
            rows[name].append(flat[_spread(len(flat), share)])
        progress(done / len(feeds))
    return {name: ActivationSample(maxima[name], np.concatenate(rows[name])) for name in names}


def _valid_rows(value: NDArray[np.float32], feed: Feed) -> NDArray[np.float32]:
    """(N, T, C) or (N, C) -> (rows, C), of texts only the tokens up to the end."""
    if "tokens" in feed and value.ndim == 3 and value.shape[1] == feed["tokens"].shape[1]:
        return value[np.arange(value.shape[1]) <= feed["eot"][:, None]]
    return value.reshape(-1, value.shape[-1])


def _spread(count: int, wanted: int) -> NDArray[np.intp]:
    """``wanted`` evenly spaced indices into ``count`` rows, all of them where there are fewer."""
    return np.unique(np.linspace(0, count - 1, min(count, wanted)).round().astype(np.intp))


def _with_outputs(path: Path, values: Sequence[str], scratch: Path) -> Path:
    """A copy of the graph that also returns ``values``."""
    import onnx

    model = SourceGraph(path).model
    for name in _weight_files(model):
        if not (scratch / name).exists():
            shutil.copyfile(path.parent / name, scratch / name)
    for name in dict.fromkeys(values):
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    target = scratch / path.name
    target.write_bytes(model.SerializeToString())
    return target


def _weight_files(model: Any) -> Iterator[str]:
    locations = {
        entry.value
        for tensor in model.graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }
    yield from sorted(locations)

"""Tensors of a TorchScript archive, as views of the mapped file."""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator

import torch

from lrsclip_rt.errors import CheckpointError
from lrsclip_train.checkpoint_archives import TorchArchive
from lrsclip_train.safe_unpickle import ModuleSpec, TensorSpec, module_from_pickle

__all__ = ["torchscript_tensors"]

_DEPTH_LIMIT = 64


def torchscript_tensors(archive: TorchArchive) -> dict[str, torch.Tensor]:
    """Every tensor of the archive's module, named by its path of attributes.

    Nothing is copied; writing to a tensor does not change the file.

    Args:
        archive: A TorchScript archive whose records were checked.

    Raises:
        CheckpointError: If the pickle asks for anything but tensors and plain containers, or declares
            tensors that its records do not hold.
    """
    root = module_from_pickle(archive)
    with archive.path.open("rb") as file:
        # ACCESS_COPY: torch wants writable memory, and writes must not reach the file.
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    return {name: _tensor(archive, content, name, spec) for name, spec in _walk(archive, root)}


def _walk(archive: TorchArchive, root: ModuleSpec) -> Iterator[tuple[str, TensorSpec]]:
    pending: list[tuple[tuple[str, ...], ModuleSpec]] = [((), root)]
    seen = {id(root)}
    while pending:
        path, module = pending.pop()
        for key, value in module.attributes.items():
            if isinstance(value, TensorSpec):
                yield ".".join((*path, key)), value
            elif isinstance(value, ModuleSpec):
                # A module that is its own descendant would be walked for ever.
                if id(value) in seen or len(path) > _DEPTH_LIMIT:
                    raise CheckpointError(
                        f"{archive.path}: module {'.'.join((*path, key))} occurs twice or lies too deep; "
                        "expected a plain tree of modules"
                    )
                seen.add(id(value))
                pending.append(((*path, key), value))


def _tensor(archive: TorchArchive, content: mmap.mmap, name: str, spec: TensorSpec) -> torch.Tensor:
    storage = spec.storage
    record = archive.records.get(f"data/{storage.key}")
    held = 0 if record is None else record.size // storage.dtype.itemsize
    elements = math.prod(spec.size)
    last = spec.offset + sum((n - 1) * step for n, step in zip(spec.size, spec.stride, strict=True))
    if (
        record is None
        or elements == 0
        or elements > storage.elements
        or max(storage.elements - 1, last) >= held
    ):
        raise CheckpointError(
            f"{archive.path}: {name} declares more elements than record data/{storage.key:.40} holds, which "
            f"are {held}. The file is damaged or forged"
        )
    flat = torch.frombuffer(content, dtype=storage.dtype, count=held, offset=record.offset)
    try:
        return flat.as_strided(spec.size, spec.stride, spec.offset)
    except (RuntimeError, TypeError) as error:  # a stride too large for 64 bits along an edge of length 1
        raise CheckpointError(f"{archive.path}: {name} declares strides that cannot be: {error}") from error

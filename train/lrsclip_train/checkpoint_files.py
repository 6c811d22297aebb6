"""The three kinds of file that hold weights, opened without executing anything.

A zip archive of ``torch.save`` and an old pickle go through ``torch.load(weights_only=True)``, a TorchScript
archive through :mod:`lrsclip_train.checkpoint_torchscript`, safetensors through its own library.
"""

from __future__ import annotations

import contextlib
import io
import pickle
import pickletools
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from lrsclip_rt.errors import CheckpointError, DependencyError
from lrsclip_train.checkpoint_archives import TorchArchive, open_archive
from lrsclip_train.checkpoint_torchscript import torchscript_tensors

__all__ = ["FileContent", "open_checkpoint_file"]

# A state dict of 450 tensors with an optimiser's state needs 6,000.
_TUPLE_LIMIT = 50_000
# Before torch 1.6 a file was: magic number, protocol, system, objects, keys of the storages, bytes.
_PICKLES_OF_OLD_FILES = 5


@dataclass(frozen=True, slots=True)
class FileContent:
    """What a file holds, before any name is understood.

    Attributes:
        kind: How it was stored.
        root: A state dict, or a dict that wraps one.
        metadata: Free texts of a safetensors header.
        bytes: Size of the file [bytes].
    """

    kind: Literal["torch", "torchscript", "safetensors"]
    root: object
    metadata: Mapping[str, str]
    bytes: int


def open_checkpoint_file(path: Path) -> FileContent:
    """Open a checkpoint by its first bytes, whatever it is called.

    Tensors are views of the mapped file wherever the format allows it.

    Args:
        path: A ``.pt``/``.pth``/``.bin`` or ``.safetensors`` file.

    Raises:
        CheckpointError: If the file is missing, of an unknown kind, damaged, or asks for code.
        DependencyError: If it is a safetensors file and the library is not installed.
    """
    if not path.is_file():
        what = "is a folder; name the file in it" if path.is_dir() else "does not exist; name a file"
        raise CheckpointError(f"{path} {what}, e.g. DGTRS-CLIP-ViT-B-16.pt or model.safetensors")
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(256)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be opened: {error.strerror}") from error
    if start.startswith(b"PK\x03\x04"):
        archive = open_archive(path)
        if archive.torchscript:
            return FileContent("torchscript", torchscript_tensors(archive), {}, size)
        return FileContent("torch", _load_pickled(path, archive), {}, size)
    if start[8:9] == b"{":
        return _open_safetensors(path, size)
    if len(start) > 2 and start[0] == 0x80 and start[1] <= 5:
        return FileContent("torch", _load_pickled(path, None), {}, size)
    raise CheckpointError(f"{path} {_description(start, size)}")


def _description(start: bytes, size: int) -> str:
    if start.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the weights. Fetch them: git lfs pull"
    if start.lstrip()[:9].lower().startswith((b"<!doctype", b"<html")):
        return "is a web page, not the weights. Fetch the file itself again"
    return (
        f"is no checkpoint that can be read: {size} bytes that begin with {start[:8]!r}; expected a PyTorch "
        "archive (torch.save), a TorchScript archive or safetensors"
    )


def _load_pickled(path: Path, archive: TorchArchive | None) -> object:
    with _refusals(path), warnings.catch_warnings():
        _refuse_deep_tuples(path, archive)
        # Some versions of torch.load hand TorchScript archives on to torch.jit.load after this warning.
        warnings.filterwarnings("error", message=".*TorchScript archive.*")
        warnings.filterwarnings("ignore", message=".*TypedStorage is deprecated.*")
        warnings.filterwarnings("ignore", message=".*pickle protocol.*")
        return torch.load(path, map_location="cpu", weights_only=True, mmap=archive is not None)


def _refuse_deep_tuples(path: Path, archive: TorchArchive | None) -> None:
    """Count the tuples of the pickle(s): hashing one that is nested a million times kills the process."""
    tuples = 0
    with path.open("rb") as file:
        stream = file if archive is None else io.BytesIO(archive.read("data.pkl"))
        try:
            for _ in range(_PICKLES_OF_OLD_FILES):
                for instruction, _, _ in pickletools.genops(stream):
                    tuples += instruction.name.startswith("TUPLE")
                    if tuples > _TUPLE_LIMIT:
                        raise CheckpointError(
                            f"{path}: its pickle holds more than {_TUPLE_LIMIT} tuples, more than any state "
                            "dict. Save the weights alone: torch.save(model.state_dict(), path)"
                        )
        except CheckpointError:
            raise
        except ValueError:
            return  # where the scan cannot go on, torch.load cannot either, and says why


def _open_safetensors(path: Path, size: int) -> FileContent:
    try:
        from safetensors import safe_open
    except ImportError as error:
        raise DependencyError.of("safetensors", extra="train") from error
    with _refusals(path), safe_open(path, framework="pt", device="cpu") as file:
        names: list[str] = list(file.keys())
        tensors = {name: file.get_tensor(name) for name in names}
        return FileContent("safetensors", tensors, dict(file.metadata() or {}), size)


@contextlib.contextmanager
def _refusals(path: Path) -> Iterator[None]:
    """Turn whatever a reader raises into one refusal: hostile bytes can raise anything."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        if isinstance(error, pickle.UnpicklingError):
            raise CheckpointError(
                f"{path} asks for {_asked_for(str(error))}; a checkpoint may hold tensors and plain "
                "containers only. Nothing of it was executed. Save the weights alone: "
                "torch.save(model.state_dict(), path)"
            ) from error
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(
            f"{path} cannot be read ({reason[:200]}). It is truncated or damaged: fetch it again"
        ) from error


def _asked_for(message: str) -> str:
    """What torch's restricted unpickler refused, out of its long message."""
    if asked := re.search(r"GLOBAL ([\w.]+)", message):
        return asked.group(1)
    if asked := re.search(r"[Uu]nsupported operand (\d+)", message):
        return f"the pickle instruction {asked.group(1)}"
    return "something that is neither"

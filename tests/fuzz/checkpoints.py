"""Checkpoints: zip archives and old pickles of torch.save, TorchScript, safetensors."""

from __future__ import annotations

import io
import struct
import warnings
import zipfile
import zlib
from pathlib import Path
from random import Random
from typing import Any

import checkpoint_makers as makers
import torch
from safetensors.torch import save

from fuzz.harness import Harness
from fuzz.mutation import HOSTILE_TEXTS, mutated_bytes, mutated_json
from lrsclip_train.checkpoints import read_checkpoint
from lrsclip_train.model import ClipConfig

__all__ = ["CheckpointHarness"]

_TINY = ClipConfig("", 64, 8, 8, 64, 1, 64, 1, token_rows=8)
_LARGE_BYTES = 200_000
"""From here on an input is a model, whose names and shapes are changed and not its bytes."""
_OPCODES = b"()]}.ab0eustQR\x81\x85\x86\x87\x88\x89N2\x80\x93\x94\x95\x8c\x8a\x8bGJKMXcioPqrhj"
_PUSHES = (
    b"cos\nsystem\n",
    b"ctorch\nFloatStorage\n",
    b"c__torch__\nM\n)\x81",
    b"K\x01",
    b"X\x01\x00\x00\x00w",
)


class CheckpointHarness(Harness):
    """Reads a file as a checkpoint.

    Archives get their checksums renewed in half of the cases, so that damage reaches the pickle.
    """

    name = "checkpoints"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        generator = torch.Generator().manual_seed(0)
        state = {f"w{n}": torch.randn(3, 2, generator=generator) for n in range(3)}
        self._path = folder / "weights.bin"
        self.model = makers.state_of(makers.random_model(_TINY))
        self.model["token_map"] = self.model["token_map"].to(torch.int16)
        makers.save_torchscript(self._path, state)
        self.seeds = [
            _saved(state),
            _saved({"state_dict": state, "epoch": 3, "args": [1, None, "x"]}),
            _saved(state, zip_file=False),
            self._path.read_bytes(),
            save(state, metadata={"kps_keep": "20", "kps_ratio": "4"}),
        ]

    def case(self, rng: Random) -> bytes:
        """One in ten is a whole model with something changed."""
        if rng.randrange(10) == 0:
            return self._other_model(rng)
        return super().case(rng)

    def guided_seeds(self) -> list[bytes]:
        """A whole model too: behind its names lie the checks of shapes."""
        return [*self.seeds, _saved(self.model)]

    def mutate(self, data: bytes, rng: Random) -> bytes:
        """By the kind of file."""
        if len(data) > _LARGE_BYTES:
            return self._other_model(rng)
        if data.startswith(b"PK") and rng.randrange(4):
            return _other_archive(data, rng)
        if data[8:9] == b"{" and rng.randrange(3):
            (length,) = struct.unpack("<Q", data[:8])
            if length <= len(data):
                header = mutated_json(data[8 : 8 + length].rstrip(), rng)
                return struct.pack("<Q", len(header)) + header + data[8 + length :]
        if data.startswith(b"\x80") and rng.randrange(2):
            return _other_pickle(data, rng)
        return mutated_bytes(data, rng)

    def feed(self, data: bytes) -> None:
        """Read it, and look at every tensor."""
        self._path.write_bytes(data)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            checkpoint = read_checkpoint(self._path)
        assert all(tensor.isfinite().all() for tensor in checkpoint.state.values())

    def _other_model(self, rng: Random) -> bytes:
        state: dict[Any, Any] = dict(self.model)
        for _ in range(rng.choice((0, 1, 1, 2, 4))):
            _change_state(state, rng)
        if rng.randrange(2) and all(isinstance(v, torch.Tensor) and v.numel() for v in state.values()):
            try:
                saved: bytes = save({str(name): tensor.contiguous() for name, tensor in state.items()})
                return saved
            except (ValueError, RuntimeError, UnicodeError, TypeError):
                pass
        return _saved(state)


def _saved(content: object, *, zip_file: bool = True) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=zip_file)
    return stream.getvalue()


def _other_archive(data: bytes, rng: Random) -> bytes:
    """Change a record and write the archive anew, with its checksums right."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            records = {info.filename: archive.read(info) for info in archive.infolist()}
    except (
        zipfile.BadZipFile,
        ValueError,
        OverflowError,
        NotImplementedError,
        struct.error,
        RuntimeError,
        EOFError,
    ):
        return mutated_bytes(data, rng)
    except (zlib.error, OSError):
        return mutated_bytes(data, rng)
    if not records:
        return mutated_bytes(data, rng)
    pickles = [name for name in records if name.endswith("data.pkl")]
    name = rng.choice(pickles) if pickles and rng.randrange(4) else rng.choice(list(records))
    kind = rng.randrange(12)
    if kind == 0:
        records[name.replace("data/", "../")] = records.pop(name)
    elif kind == 1:
        records[f"{name.partition('/')[0]}/data/{rng.choice(HOSTILE_TEXTS)[:100]!a}"] = b"x"
    elif name.endswith("data.pkl"):
        records[name] = _other_pickle(records[name], rng)
    else:
        records[name] = mutated_bytes(records[name], rng)
    stream = io.BytesIO()
    method = zipfile.ZIP_DEFLATED if rng.randrange(20) == 0 else zipfile.ZIP_STORED
    with warnings.catch_warnings(), zipfile.ZipFile(stream, "w", method) as archive:
        warnings.simplefilter("ignore")
        for record, content in records.items():
            archive.writestr(record, content)
    return stream.getvalue()


def _other_pickle(data: bytes, rng: Random) -> bytes:
    """Instructions put in, taken out, or swapped for others."""
    content = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5))):
        place = rng.randrange(len(content) + 1)
        kind = rng.randrange(5)
        if kind == 0:
            content[place:place] = bytes([rng.choice(_OPCODES)])
        elif kind == 1:
            content[place:place] = rng.choice(_PUSHES)
        elif kind == 2 and place < len(content):
            content[place] = rng.choice(_OPCODES)
        elif kind == 3:
            source = rng.randrange(len(content) + 1)
            content[place:place] = content[source : source + rng.choice((4, 20, 80))]
        else:
            content[:] = mutated_bytes(bytes(content), rng)
    return bytes(content)


def _change_state(state: dict[Any, Any], rng: Random) -> None:
    name = rng.choice(list(state) or ["x"])
    tensor = state.get(name, torch.zeros(1))
    if not isinstance(tensor, torch.Tensor):
        return
    # One that an earlier change left without plain storage cannot be sliced or filled.
    plain = tensor.layout == torch.strided and not tensor.is_meta
    kind = rng.randrange(11) if plain else rng.choice((0, 1, 7, 8))
    if kind == 0:
        state.pop(name, None)
    elif kind == 1:
        state[rng.choice((*HOSTILE_TEXTS, f"{name}x", f"module.{name}", 7, ("a",)))] = state.pop(name, tensor)
    elif kind == 2:
        state[name] = tensor.flatten()[: rng.choice((0, 1, 3))]
    elif kind == 3:
        state[name] = tensor[None] if rng.randrange(2) else tensor.T if tensor.ndim == 2 else tensor
    elif kind == 4 and tensor.is_floating_point() and tensor.numel():
        state[name] = tensor.clone()
        state[name].flatten()[0] = rng.choice((float("nan"), float("inf"), 1e38))
    elif kind == 5:
        state[name] = tensor.to(
            rng.choice((torch.float64, torch.bfloat16, torch.int64, torch.bool, torch.uint8))
        )
    elif kind == 6:
        state[name] = torch.zeros((1,) * tensor.ndim).expand(tensor.shape)
    elif kind == 7:
        state[name] = rng.choice((None, 1, "text", [tensor], {"a": tensor}))
    elif kind == 8:
        state[f"transformer.resblocks.{rng.choice((1, 2, -1, 10**30))}.ln_1.bias"] = torch.zeros(64)
    elif kind == 9:
        state[name] = torch.zeros(tensor.shape, device="meta") if rng.randrange(2) else tensor.to_sparse()
    else:
        state[name] = torch.zeros([rng.choice((1, 2, 64, 77, 248)) for _ in range(max(1, tensor.ndim))])

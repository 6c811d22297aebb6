"""What a walk through a shard found, kept on disk: the next start reads one small file instead.

A sidecar belongs to the shard at one path with one size and modification time; any other shard there is
walked through anew. A sidecar that cannot be read, or does not fit, only costs that walk.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path

import numpy as np

from lrsclip_rt.errors import InputError
from lrsclip_rt.image_decoding import one_line, shown_name
from lrsclip_rt.npz_reading import arrays_from_npz
from lrsclip_train.shards import MAX_IMAGE_BYTES, Shard, ShardProblem, shard_from_tar

__all__ = ["shard_with_sidecar"]

_FORMAT = 1
_NAMES = ("meta", "places", "json", "names", "name_ends")
_MOST_BYTES = 8 << 30


def shard_with_sidecar(path: str | Path, folder: str | Path, *, strict: bool = True) -> Shard:
    """Like :func:`~lrsclip_train.shards.shard_from_tar`, but from its sidecar in ``folder`` where that fits.

    Args:
        path: The shard.
        folder: Holds the sidecars; made if it is not there.
        strict: As for ``shard_from_tar``.

    Raises:
        InputError: As ``shard_from_tar``, or if the sidecar cannot be written.
    """
    path = Path(path)
    sidecar = Path(folder) / f"{hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:32]}.npz"
    known = _read(sidecar, path)
    if known is None:
        known = shard_from_tar(path, strict=strict)
        _write(sidecar, known)
    elif strict and known.problems:
        return shard_from_tar(path, strict=True)  # raises for the first of them
    return known


def _read(sidecar: Path, path: Path) -> Shard | None:
    try:
        status = path.stat()
        arrays = arrays_from_npz(sidecar, _NAMES, most_bytes=_MOST_BYTES)
        meta_bytes, places, in_json, names, name_ends = arrays
        meta = json.loads(meta_bytes.tobytes())
        if meta["version"] != [_FORMAT, str(path.resolve()), status.st_size, status.st_mtime_ns]:
            return None
        problems = tuple(ShardProblem(path, key, reason) for key, reason in meta["problems"])
        version = (status.st_size, status.st_mtime_ns)
        shard = Shard(path, version, places, in_json, names.tobytes(), name_ends, problems)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return shard if _fits(shard) else None


def _fits(shard: Shard) -> bool:
    """Every place lies in the shard: a damaged sidecar must not make a read of any size."""
    n = len(shard.json)
    typed = shard.places.dtype == shard.name_ends.dtype == np.int64 and shard.json.dtype == np.bool_
    if not typed or shard.places.shape != (n, 3, 2) or shard.name_ends.shape != (n,):
        return False
    starts, sizes = shard.places[..., 0], shard.places[..., 1]
    inside = (starts >= 0) & (sizes >= 0) & (sizes <= MAX_IMAGE_BYTES) & (starts <= shard.version[0] - sizes)
    absent = (starts == -1) & (np.arange(3) == 2)
    ends = np.concatenate(([0], shard.name_ends, [len(shard.names)]))
    return bool((inside | absent).all() and (np.diff(ends) >= 0).all())


def _write(sidecar: Path, shard: Shard) -> None:
    meta = {
        "version": [_FORMAT, str(shard.path.resolve()), *shard.version],
        "problems": [[problem.key, problem.reason] for problem in shard.problems],
    }
    try:
        sidecar.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=".sidecar-", dir=sidecar.parent)
        try:
            with os.fdopen(descriptor, "wb") as out:
                np.savez(
                    out,
                    meta=np.frombuffer(json.dumps(meta).encode("ascii"), np.uint8),
                    places=shard.places,
                    json=shard.json,
                    names=np.frombuffer(shard.names, np.uint8),
                    name_ends=shard.name_ends,
                )
            Path(temporary).replace(sidecar)
        finally:
            Path(temporary).unlink(missing_ok=True)
    except OSError as error:
        raise InputError(
            f"the sidecar {shown_name(sidecar)} cannot be written ({one_line(error)}); choose another folder"
        ) from error

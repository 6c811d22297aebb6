"""Checkpoints for others: the authors' own layout, and safetensors."""

from __future__ import annotations

import os
import secrets
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import torch

from lrsclip_rt.errors import CheckpointError, DependencyError, OutputExistsError
from lrsclip_train.model import DualClip

__all__ = ["write_longclip", "write_safetensors"]


def write_longclip(path: str | Path, model: DualClip, *, overwrite: bool = False) -> None:
    """Write the flat float32 state dict that Long-CLIP's, LRSCLIP's and DGTRS's code loads.

    Both positional tables are in it; ``logit_scale`` is the logarithm, as in the model.

    Args:
        path: File to write, by custom ``.pt``.
        model: A stretched ViT model with 248 positions.
        overwrite: Whether an existing file is replaced.

    Raises:
        CheckpointError: If the layout has no place for the model: another stretch, a stem, shared token rows.
        OutputExistsError: If the file exists and may not be replaced.
    """
    config = model.config
    fits = model.stretched and (config.context_length, config.keep) == (248, 20)
    if not fits or config.stem != "none" or config.token_rows != config.vocab_size:
        raise CheckpointError(
            f"the Long-CLIP layout has no place for this {config.name} model: {config.context_length} "
            f"positions, keep {config.keep if model.stretched else 'none'}, stem {config.stem}, "
            f"{config.token_rows} token rows; expected a plain ViT with 248 positions, keep 20 and "
            f"{config.vocab_size} token rows. Write safetensors instead"
        )
    state = OrderedDict(_cpu_tensors(model))
    _write_atomically(Path(path), lambda temporary: torch.save(state, temporary), overwrite=overwrite)


def write_safetensors(path: str | Path, model: DualClip, *, overwrite: bool = False) -> None:
    """Write any of our models as safetensors, float32; the header records keep and ratio.

    Args:
        path: File to write.
        model: Any model.
        overwrite: Whether an existing file is replaced.

    Raises:
        DependencyError: If safetensors is not installed.
        OutputExistsError: If the file exists and may not be replaced.
    """
    try:
        from safetensors.torch import save_file
    except ImportError as error:
        raise DependencyError.of("safetensors", extra="train") from error
    metadata = {
        "format": "pt",
        "architecture": model.config.name,
        "kps_keep": str(model.config.keep),
        "kps_ratio": str(model.config.ratio),
    }
    state = _cpu_tensors(model)
    _write_atomically(
        Path(path), lambda temporary: save_file(state, temporary, metadata=metadata), overwrite=overwrite
    )


def _cpu_tensors(model: DualClip) -> dict[str, torch.Tensor]:
    out: dict[str, torch.Tensor] = {}
    for name, tensor in model.state_dict().items():
        wanted = torch.float32 if tensor.is_floating_point() else tensor.dtype
        tensor = tensor.detach().to("cpu", wanted).contiguous()
        # A view would drag its whole storage into the file.
        whole = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
        out[name] = tensor if whole else tensor.clone()
    return out


def _write_atomically(path: Path, write: Callable[[Path], object], *, overwrite: bool) -> None:
    """Write beside ``path``, sync, then rename: a reader sees the old file or the new one, whole."""
    if path.exists() and not overwrite:
        raise OutputExistsError(f"{path} exists. Choose another name, or allow overwriting")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        write(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)

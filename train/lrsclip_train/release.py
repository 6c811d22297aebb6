"""From a training checkpoint to the file that is exported: averaged weights, rounded to float16."""

from __future__ import annotations

from pathlib import Path

import torch

__all__ = ["save_release"]


def save_release(checkpoint: Path, out: Path) -> Path:
    """Write the averaged weights of a run's checkpoint to a safetensors file.

    Every weight is rounded to the nearest float16 and kept as float32, so that a bundle may store
    half the bytes and still be exactly this model.

    Args:
        checkpoint: What :func:`lrsclip_train.loop.train` returned.
        out: Safetensors file to write.

    Returns:
        ``out``.
    """
    from safetensors.torch import save_file

    state = torch.load(checkpoint, weights_only=True)["model"]
    rounded = {
        name: value.to(torch.float16).float().contiguous()
        if value.is_floating_point()
        else value.contiguous()
        for name, value in state.items()
    }
    save_file(rounded, out)
    return out

"""From a training checkpoint to the file that is exported: the averaged weights."""

from __future__ import annotations

from pathlib import Path

import torch

__all__ = ["save_release"]


def save_release(checkpoint: Path, out: Path) -> Path:
    """Write the averaged weights of a run's checkpoint to a safetensors file.

    The weights of the small model are rounded to the nearest float16 and kept as float32, so that a
    bundle may store half the bytes and still be exactly this model; others are written as they are.

    Args:
        checkpoint: What :func:`lrsclip_train.loop.train` returned.
        out: Safetensors file to write.

    Returns:
        ``out``.
    """
    from safetensors.torch import save_file

    content = torch.load(checkpoint, weights_only=True)
    state, settings = content["model"], content["config"]["model"]
    small = any(name.startswith("visual.stem.") for name in state)
    released = {
        name: (value.half().float() if small and value.is_floating_point() else value).contiguous()
        for name, value in state.items()
    }
    metadata = {"format": "pt", "kps_keep": str(settings["keep"]), "kps_ratio": str(settings["ratio"])}
    save_file(released, out, metadata=metadata)
    return out

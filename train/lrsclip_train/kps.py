"""Knowledge-preserved stretching of a positional table (Long-CLIP, arXiv 2403.15378)."""

from __future__ import annotations

import torch

from lrsclip_rt.errors import CheckpointError

__all__ = ["effective_table", "stretch_table", "stretched_length"]


def stretched_length(length: int, *, keep: int = 20, ratio: int = 4) -> int:
    """Length after stretching: ``keep`` rows stay, each later row becomes ``ratio`` rows.

    Example:
        >>> stretched_length(77)
        248
    """
    return keep + (length - keep) * ratio


def stretch_table(table: torch.Tensor, *, keep: int = 20, ratio: int = 4) -> torch.Tensor:
    """Stretch a positional table, keeping its well-trained first rows.

    Between two old rows the new ones lie on the straight line; after the last row the line through
    the last two is continued at the same step. Computed in float32 whatever the input (Long-CLIP
    interpolates in float16 where the weights are float16; the difference is about 1e-4).

    Args:
        table: (L, width) positional table.
        keep: Rows taken over unchanged.
        ratio: New rows for each later row.

    Returns:
        (keep + (L - keep) * ratio, width) float32.

    Raises:
        CheckpointError: If the table has fewer than ``keep + 2`` rows or a number is not positive.
    """
    if table.ndim != 2 or keep < 0 or ratio < 1 or table.shape[0] < keep + 2:
        raise CheckpointError(
            f"cannot stretch a positional table of shape {tuple(table.shape)} with keep {keep} and "
            f"ratio {ratio}: it needs two dimensions and at least keep + 2 rows"
        )
    old = table.detach().to(torch.float32)
    inner, after = old[keep:-1], old[keep + 1 :]
    steps = torch.arange(ratio, dtype=torch.float32)[None, :, None]
    between = ((ratio - steps) * inner[:, None] + steps * after[:, None]) / ratio
    tail = old[-1] + torch.arange(ratio, dtype=torch.float32)[:, None] * (old[-1] - old[-2]) / ratio
    return torch.cat([old[:keep], between.reshape(-1, old.shape[1]), tail])


def effective_table(frozen: torch.Tensor, trained: torch.Tensor, *, keep: int = 20) -> torch.Tensor:
    """Rows that the model really uses: ``frozen[:keep]`` then ``trained[keep:]``, both (L, width)."""
    return torch.cat([frozen[:keep], trained[keep:]])

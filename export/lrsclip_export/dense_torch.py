"""The ``dense`` graph's twin in PyTorch, which exports are held against."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lrsclip_export.dense_recipe import DenseRecipe
from lrsclip_export.layers import HEAD_WIDTH

if TYPE_CHECKING:
    import torch

    from lrsclip_train.model import Block, ImageTower

__all__ = ["dense_patches"]


def dense_patches(tower: ImageTower, pixels: torch.Tensor, recipe: DenseRecipe) -> torch.Tensor:
    """Normalised (N, 3, S, S) pixels -> (N, P, D) unit rows, row-major.

    Args:
        tower: The image tower.
        pixels: Normalised pixels.
        recipe: What is free in the recipe.
    """
    import torch.nn.functional as F

    seen: list[torch.Tensor] = []
    last = tower.transformer.resblocks[-1]
    handle = last.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        classes = F.normalize(tower(pixels), dim=-1)
    finally:
        handle.remove()
    attended = _query_query_attention(last, seen[0])[:, 1:]  # type: ignore[arg-type]
    patches = F.normalize(tower.ln_post(attended) @ tower.proj, dim=-1)
    return F.normalize(patches + recipe.class_share * classes[:, None], dim=-1)


def _query_query_attention(block: Block, x: torch.Tensor) -> torch.Tensor:
    """(N, T, C) -> (N, T, C), what the block's attention gives where keys are the queries."""
    import torch
    import torch.nn.functional as F

    n, tokens, width = x.shape
    qkv = F.linear(block.ln_1(x), block.attn.in_proj_weight, block.attn.in_proj_bias)
    q, _, v = qkv.view(n, tokens, 3, width // HEAD_WIDTH, HEAD_WIDTH).permute(2, 0, 3, 1, 4)
    mixed = torch.softmax(q @ q.transpose(-1, -2) * HEAD_WIDTH**-0.5, dim=-1) @ v
    out: torch.Tensor = block.attn.out_proj(mixed.transpose(1, 2).reshape(n, tokens, width))
    return out

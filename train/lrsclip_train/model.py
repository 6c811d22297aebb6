"""Dual-granularity CLIP: a pre-norm ViT and a text tower whose positions are stretched to 248.

Parameter names are those of OpenAI's CLIP and of Long-CLIP, so that state dicts go both ways. The
small built-in model adds ``visual.stem`` (MobileNetV2 up to its last convolution) in front of the
patch convolution and lets token rows that training never met share one row.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from lrsclip_train.kps import effective_table
from lrsclip_train.stem import STEM_CHANNELS, STEM_STRIDE, MobileNetV2Stem

__all__ = [
    "ARCHITECTURES",
    "MINI",
    "VIT_B_16",
    "VIT_B_32",
    "VIT_L_14",
    "VIT_L_14_336",
    "ClipConfig",
    "DualClip",
]


@dataclass(frozen=True, slots=True)
class ClipConfig:
    """Shapes of both towers.

    Attributes:
        name: Architecture name as written into bundles.
        embed_dim: Width D of the shared space.
        image_size: Input edge S [px].
        patch_size: Edge of a patch [px of the patch convolution's input].
        image_width: Width of the image blocks; heads are ``width // 64``.
        image_layers: Number of image blocks.
        text_width: Width of the text blocks; heads are ``width // 64``.
        text_layers: Number of text blocks.
        context_length: Rows of the positional table; 77 before stretching.
        keep: First rows that stretching keeps and that stay frozen.
        ratio: Rows made of each later row.
        vocab_size: Token ids.
        token_rows: Rows of the token embedding; fewer than ``vocab_size`` where ids share rows.
        stem: What stands in front of the patch convolution.
    """

    name: str
    embed_dim: int
    image_size: int
    patch_size: int
    image_width: int
    image_layers: int
    text_width: int
    text_layers: int
    context_length: int = 248
    keep: int = 20
    ratio: int = 4
    vocab_size: int = 49408
    token_rows: int = 49408
    stem: Literal["none", "mobilenetv2"] = "none"

    @property
    def grid(self) -> int:
        """Patches along one edge."""
        stride = STEM_STRIDE if self.stem == "mobilenetv2" else 1
        return self.image_size // stride // self.patch_size

    @property
    def patch_input_channels(self) -> int:
        """Channels that the patch convolution reads."""
        return STEM_CHANNELS if self.stem == "mobilenetv2" else 3


VIT_B_32 = ClipConfig("ViT-B/32", 512, 224, 32, 768, 12, 512, 12)
VIT_B_16 = ClipConfig("ViT-B/16", 512, 224, 16, 768, 12, 512, 12)
VIT_L_14 = ClipConfig("ViT-L/14", 768, 224, 14, 1024, 24, 768, 12)
VIT_L_14_336 = ClipConfig("ViT-L/14-336", 768, 336, 14, 1024, 24, 768, 12)
MINI = ClipConfig("mini", 512, 192, 1, 256, 4, 256, 4, stem="mobilenetv2")
ARCHITECTURES = {shape.name: shape for shape in (MINI, VIT_B_32, VIT_B_16, VIT_L_14, VIT_L_14_336)}
"""Shapes by name."""


class QuickGELU(nn.Module):
    """``x * sigmoid(1.702 x)``, the activation of all OpenAI-derived weights."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., C) -> (..., C)."""
        return x * torch.sigmoid(1.702 * x)


class LayerNorm(nn.LayerNorm):
    """LayerNorm computed in float32 whatever the input's type."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., C) -> (..., C) in the input's type."""
        weight, bias = self.weight.float(), self.bias.float()
        return F.layer_norm(x.float(), self.normalized_shape, weight, bias, self.eps).to(x.dtype)


class Attention(nn.Module):
    """Multi-head self-attention with the parameter names of ``nn.MultiheadAttention``."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: torch.Tensor, *, causal: bool) -> torch.Tensor:
        """(N, T, C) -> (N, T, C)."""
        n, t, c = x.shape
        qkv = F.linear(x, self.in_proj_weight, self.in_proj_bias)
        q, k, v = qkv.view(n, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        if x.device.type == "cpu" and q.dtype == torch.bfloat16:
            y = _attention_by_products(q, k, v, causal=causal)
        else:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        out: torch.Tensor = self.out_proj(y.transpose(1, 2).reshape(n, t, c))
        return out


def _attention_by_products(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool
) -> torch.Tensor:
    """Attention as two matrix products, (N, heads, T, C) each.

    torch's fused kernel is made for long sequences: in bfloat16 on a CPU this was 2 to 7 times as
    fast at 16 to 248 tokens, forward and backward (torch 2.13).
    """
    logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if causal:
        logits = logits + logits.new_full(logits.shape[-2:], -math.inf).triu(1)
    return torch.softmax(logits, dim=-1).to(v.dtype) @ v


class Block(nn.Module):
    """Pre-norm residual block: attention, then a four times wider MLP."""

    def __init__(self, width: int, heads: int, *, causal: bool) -> None:
        super().__init__()
        self.causal = causal
        self.ln_1 = LayerNorm(width)
        self.attn = Attention(width, heads)
        self.ln_2 = LayerNorm(width)
        self.mlp = nn.Sequential(
            OrderedDict(
                c_fc=nn.Linear(width, 4 * width), gelu=QuickGELU(), c_proj=nn.Linear(4 * width, width)
            )
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, T, C) -> (N, T, C)."""
        x = x + self.attn(self.ln_1(x), causal=self.causal)
        out: torch.Tensor = x + self.mlp(self.ln_2(x))
        return out


class Transformer(nn.Module):
    """A stack of blocks."""

    def __init__(self, width: int, layers: int, *, causal: bool) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(Block(width, width // 64, causal=causal) for _ in range(layers))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, T, C) -> (N, T, C)."""
        for block in self.resblocks:
            x = block(x)
        return x


class ImageTower(nn.Module):
    """Pixels to the embedding of the class token, or of every patch."""

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        width = config.image_width
        if config.stem == "mobilenetv2":
            self.stem = MobileNetV2Stem()
        self.conv1 = nn.Conv2d(
            config.patch_input_channels, width, config.patch_size, config.patch_size, bias=False
        )
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.positional_embedding = nn.Parameter(torch.empty(config.grid**2 + 1, width))
        self.ln_pre = LayerNorm(width)
        self.transformer = Transformer(width, config.image_layers, causal=False)
        self.ln_post = LayerNorm(width)
        self.proj = nn.Parameter(torch.empty(width, config.embed_dim))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Normalised (N, 3, S, S) pixels -> (N, D), not normalised."""
        out: torch.Tensor = self.ln_post(self.tokens(pixels)[:, 0]) @ self.proj
        return out

    def patches(self, pixels: torch.Tensor) -> torch.Tensor:
        """Normalised (N, 3, S, S) pixels -> (N, P, D) projected patch tokens, row-major, not normalised."""
        out: torch.Tensor = self.ln_post(self.tokens(pixels)[:, 1:]) @ self.proj
        return out

    def tokens(self, pixels: torch.Tensor) -> torch.Tensor:
        """Normalised (N, 3, S, S) pixels -> (N, 1 + P, C) tokens after the last block."""
        if hasattr(self, "stem"):
            pixels = self.stem(pixels)
        return self.tokens_from_features(pixels)

    def tokens_from_features(
        self,
        features: torch.Tensor,
        *,
        kept: torch.Tensor | None = None,
        positions: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """What the patch convolution reads, (N, C, H, W) -> (N, 1 + P, C) tokens.

        Args:
            features: Pixels, or what the stem gives.
            kept: (N, K) patches that stay, of all that the convolution gives; None keeps all.
            positions: (N, P) places in the image of the patches that the convolution gives; None where
                they are the whole grid.
        """
        x = self.conv1(features).flatten(2).transpose(1, 2)
        first = self.class_embedding.to(x.dtype).expand(x.shape[0], 1, -1)
        table = self.positional_embedding.to(x.dtype)
        x = x + (table[1:] if positions is None else table[1:][positions])
        if kept is not None:
            x = x.gather(1, kept[:, :, None].expand(-1, -1, x.shape[2]))
        x = torch.cat([first + table[0], x], dim=1)
        out: torch.Tensor = self.transformer(self.ln_pre(x))
        return out


class DualClip(nn.Module):
    """Both towers; short and long texts go through the same stretched text tower.

    Args:
        config: Shapes. A ``context_length`` of the stretched kind (248 for 77, keep 20, ratio 4)
            brings the second, trainable table ``positional_embedding_res``.
        stretched: Whether the text positions are the two tables of KPS or one plain table.
    """

    token_map: torch.Tensor

    def __init__(self, config: ClipConfig, *, stretched: bool = True) -> None:
        super().__init__()
        self.config = config
        self.stretched = stretched
        self.visual = ImageTower(config)
        self.transformer = Transformer(config.text_width, config.text_layers, causal=True)
        self.token_embedding = nn.Embedding(config.token_rows, config.text_width)
        if config.token_rows != config.vocab_size:
            self.register_buffer("token_map", torch.zeros(config.vocab_size, dtype=torch.int32))
        self.positional_embedding = nn.Parameter(torch.empty(config.context_length, config.text_width))
        if stretched:
            self.positional_embedding.requires_grad_(False)
            self.positional_embedding_res = nn.Parameter(
                torch.empty(config.context_length, config.text_width)
            )
        self.ln_final = LayerNorm(config.text_width)
        self.text_projection = nn.Parameter(torch.empty(config.text_width, config.embed_dim))
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        self.initialise()

    @torch.no_grad()
    def initialise(self) -> None:
        """Draw the weights as OpenAI's CLIP does."""
        for tower, width, layers in (
            (self.visual.transformer, self.config.image_width, self.config.image_layers),
            (self.transformer, self.config.text_width, self.config.text_layers),
        ):
            for block in tower.resblocks:
                assert isinstance(block, Block)
                nn.init.normal_(block.attn.in_proj_weight, std=width**-0.5)
                nn.init.normal_(block.attn.out_proj.weight, std=width**-0.5 * (2 * layers) ** -0.5)
                fc, proj = block.mlp[0], block.mlp[2]
                assert isinstance(fc, nn.Linear)
                assert isinstance(proj, nn.Linear)
                nn.init.normal_(fc.weight, std=(2 * width) ** -0.5)
                nn.init.normal_(proj.weight, std=width**-0.5 * (2 * layers) ** -0.5)
        scale = self.config.image_width**-0.5
        for parameter in (self.visual.class_embedding, self.visual.positional_embedding, self.visual.proj):
            nn.init.normal_(parameter, std=scale)
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.positional_embedding, std=0.01)
        if self.stretched:
            self.positional_embedding_res.copy_(self.positional_embedding)
        nn.init.normal_(self.text_projection, std=self.config.text_width**-0.5)

    def text_positions(self) -> torch.Tensor:
        """(context_length, width) table that is in force."""
        if not self.stretched:
            return self.positional_embedding
        return effective_table(
            self.positional_embedding, self.positional_embedding_res, keep=self.config.keep
        )

    def encode_image(self, pixels: torch.Tensor) -> torch.Tensor:
        """Normalised (N, 3, S, S) pixels -> (N, D), not normalised."""
        out: torch.Tensor = self.visual(pixels)
        return out

    def encode_text(self, tokens: torch.Tensor) -> torch.Tensor:
        """(N, T) token ids, T at most the context length -> (N, D), not normalised.

        The row at the first end-of-text token (the largest id) is the text; the causal mask makes
        every T beyond it give the same result.
        """
        rows = self.token_map[tokens.long()].long() if hasattr(self, "token_map") else tokens.long()
        x = self.token_embedding(rows)
        x = x + self.text_positions()[: tokens.shape[1]].to(x.dtype)
        x = self.transformer(x)
        ends = x[torch.arange(x.shape[0], device=x.device), tokens.argmax(dim=-1)]
        out: torch.Tensor = self.ln_final(ends) @ self.text_projection
        return out

"""Shapes of both towers, told from the tensors alone, and every tensor held against them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import torch

from lrsclip_rt.errors import CheckpointError
from lrsclip_train.model import MINI, VIT_B_16, VIT_B_32, VIT_L_14, VIT_L_14_336, ClipConfig, DualClip
from lrsclip_train.stem import STEM_CHANNELS, STEM_STRIDE

__all__ = ["VOCABULARY_SIZE", "check_tensors", "config_from_tensors", "float32_tensors"]

VOCABULARY_SIZE = 49408
_KNOWN = (VIT_B_32, VIT_B_16, VIT_L_14, VIT_L_14_336, MINI)
_LISTED = 4
_NEEDED = {
    "visual.conv1.weight": 4,
    "visual.positional_embedding": 2,
    "visual.proj": 2,
    "token_embedding.weight": 2,
    "positional_embedding": 2,
    "text_projection": 2,
}
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_INTEGERS = (torch.int16, torch.int32, torch.int64)


def float32_tensors(
    tensors: Mapping[str, torch.Tensor], *, limit_bytes: int | None, where: str
) -> dict[str, torch.Tensor]:
    """Check that every tensor is plain and finite, and widen it to float32 (``token_map`` to int32).

    Tensors that are contiguous float32 already are not copied.

    Args:
        tensors: Under OpenAI's names.
        limit_bytes: Refuse tensors that together declare more than twice this; ``None``: no limit.
        where: Name of the file, for messages.

    Raises:
        CheckpointError: If a tensor is sparse, quantised, complex, without data or not finite, or the tensors
            declare more than the file can hold.
    """
    for name, tensor in tensors.items():
        types = _INTEGERS if name == "token_map" else _FLOATS
        if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.dtype not in types:
            raise CheckpointError(
                f"{where}: {name} is a {tensor.dtype} tensor ({tensor.layout}, {tensor.device}); expected "
                f"dense {' or '.join(map(str, types))}"
            )
        # A stride of 0 lets a few bytes pose as a tensor of any size.
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise CheckpointError(
                f"{where}: {name} declares shape {tuple(tensor.shape)} but holds only "
                f"{tensor.untyped_storage().nbytes()} bytes"
            )
    declared = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    if limit_bytes is not None and declared > 2 * limit_bytes:
        raise CheckpointError(
            f"{where}: the tensors declare {declared} bytes, the file has {limit_bytes}. "
            "It is damaged or forged"
        )
    out: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        wanted = torch.int32 if name == "token_map" else torch.float32
        out[name] = tensor.to(wanted).contiguous()
        if wanted == torch.float32 and not bool(torch.isfinite(out[name]).all()):
            raise CheckpointError(
                f"{where}: {name} holds NaN or infinite numbers. The file is damaged, or training diverged"
            )
    if "logit_scale" in out and out["logit_scale"].numel() == 1:
        out["logit_scale"] = out["logit_scale"].reshape(())
    return out


def config_from_tensors(
    state: Mapping[str, torch.Tensor], *, keep: int, ratio: int, where: str
) -> ClipConfig:
    """Read widths, depths, patch and input size off the tensors' shapes.

    Args:
        state: Tensors under OpenAI's names, text positions resolved.
        keep: Rows that stretching keeps; not visible in the tensors.
        ratio: Rows made of each later row.
        where: Name of the file, for messages.

    Raises:
        CheckpointError: If a tensor that tells a shape is missing, or the shapes are none of a CLIP ViT.
    """
    for name, dimensions in _NEEDED.items():
        if name not in state or state[name].ndim != dimensions or 0 in state[name].shape:
            found_shape = f"shape {tuple(state[name].shape)}" if name in state else "nothing"
            raise CheckpointError(
                f"{where}: {name} has {found_shape}; expected a tensor of {dimensions} dimensions, as in a "
                "CLIP ViT"
            )
    stem: Literal["none", "mobilenetv2"] = "none"
    if any(name.startswith("visual.stem.") for name in state):
        stem = "mobilenetv2"
    image_width, channels, patch, patch_columns = state["visual.conv1.weight"].shape
    tokens = state["visual.positional_embedding"].shape[0]
    grid = math.isqrt(max(tokens - 1, 0))
    text_width, embed_dim = state["text_projection"].shape
    expected_channels = STEM_CHANNELS if stem == "mobilenetv2" else 3
    if patch != patch_columns or channels != expected_channels or grid < 1 or grid * grid + 1 != tokens:
        raise CheckpointError(
            f"{where}: visual.conv1.weight has shape {tuple(state['visual.conv1.weight'].shape)} and there "
            f"are {tokens} image positions; expected {expected_channels} channels, square patches and a "
            "square grid of them plus the class token"
        )
    if image_width % 64 or text_width % 64:
        raise CheckpointError(
            f"{where}: widths are {image_width} (image) and {text_width} (text); expected multiples of 64, "
            "the width of a head"
        )
    found = ClipConfig(
        name="",
        embed_dim=embed_dim,
        image_size=grid * patch * (STEM_STRIDE if stem == "mobilenetv2" else 1),
        patch_size=patch,
        image_width=image_width,
        image_layers=_depth(state, "visual.transformer.resblocks.", where),
        text_width=text_width,
        text_layers=_depth(state, "transformer.resblocks.", where),
        context_length=state["positional_embedding"].shape[0],
        keep=keep,
        ratio=ratio,
        vocab_size=_vocabulary(state, where),
        token_rows=state["token_embedding.weight"].shape[0],
        stem=stem,
    )
    return replace(found, name=_name(found))


def check_tensors(state: Mapping[str, torch.Tensor], config: ClipConfig, *, where: str) -> None:
    """Hold every name and shape against the model that ``config`` describes.

    Raises:
        CheckpointError: If a tensor is missing, unknown or of another shape.
    """
    with torch.device("meta"):
        model = DualClip(config, stretched="positional_embedding_res" in state)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    missing = sorted(expected.keys() - state.keys())
    unexpected = sorted(state.keys() - expected.keys())
    if missing or unexpected:
        parts = [f"{_some(missing)} missing"] if missing else []
        parts += [f"{_some(unexpected)} unknown"] if unexpected else []
        raise CheckpointError(
            f"{where}: {' and '.join(parts)}; expected the {len(expected)} tensors of a {config.name} model"
        )
    for name, shape in expected.items():
        if tuple(state[name].shape) != shape:
            raise CheckpointError(
                f"{where}: {name} has shape {tuple(state[name].shape)}; expected {shape}, as the other "
                f"tensors make it a {config.name} model"
            )


def _depth(state: Mapping[str, torch.Tensor], prefix: str, where: str) -> int:
    numbers = {name[len(prefix) :].split(".", 1)[0] for name in state if name.startswith(prefix)}
    # Counted, never taken from the largest number: a forged one would build a model of any depth.
    if not numbers or numbers != {str(number) for number in range(len(numbers))}:
        raise CheckpointError(
            f"{where}: blocks {_some(sorted(numbers))} under {prefix}; expected 0, 1, 2 ... without a gap"
        )
    return len(numbers)


def _vocabulary(state: Mapping[str, torch.Tensor], where: str) -> int:
    rows = state["token_embedding.weight"].shape[0]
    if "token_map" not in state:
        ids = rows
    else:
        token_map = state["token_map"]
        ids = token_map.shape[0] if token_map.ndim == 1 else -1
        if ids > 0 and not 0 <= int(token_map.min()) <= int(token_map.max()) < rows:
            raise CheckpointError(
                f"{where}: token_map points to rows {int(token_map.min())}..{int(token_map.max())} of a "
                f"token embedding with {rows} rows"
            )
    if ids != VOCABULARY_SIZE:
        raise CheckpointError(
            f"{where}: the vocabulary has {ids} ids; expected the {VOCABULARY_SIZE} of OpenAI's tokenizer"
        )
    return ids


def _name(config: ClipConfig) -> str:
    for known in _KNOWN:
        alike = replace(
            known,
            name="",
            context_length=config.context_length,
            keep=config.keep,
            ratio=config.ratio,
            token_rows=config.token_rows,
        )
        if alike == config:
            return known.name
    kind = "ViT" if config.stem == "none" else config.stem
    return f"{kind}-{config.image_width}x{config.image_layers}/{config.patch_size}-{config.image_size}"


def _some(names: list[str]) -> str:
    """A few of many names.

    Example:
        >>> _some(["a", "b", "c", "d", "e", "f"])
        'a, b, c, d and 2 more'
    """
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return (", ".join(names[:_LISTED]) or "none") + more

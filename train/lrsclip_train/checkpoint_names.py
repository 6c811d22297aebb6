"""Tensor names of every known layout, brought to those of OpenAI's CLIP and Long-CLIP."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch

from lrsclip_rt.errors import CheckpointError

__all__ = ["Layout", "NamedTensors", "named_tensors"]

Layout = Literal["longclip", "openai", "open_clip", "huggingface", "mini"]

_WRAPPERS = ("state_dict", "model_state_dict", "model")
_PREFIXES = ("module.", "_orig_mod.")
# Shapes and constant masks that some files carry beside the weights; the tensors tell all of it.
_IGNORED = frozenset(
    {
        "attn_mask",
        "context_length",
        "input_resolution",
        "mask1",
        "mask2",
        "text_model.embeddings.position_ids",
        "vision_model.embeddings.position_ids",
        "vocab_size",
    }
)
# Names are shown in messages, so nothing that a terminal would obey may be in them.
_NAME = re.compile(r"[\w.-]{1,200}")
_TELLTALES = ("visual.conv1.weight", "visual.class_embedding", "token_embedding.weight", "text_projection")
_TEXT_TOWER = ("transformer.", "token_embedding.", "positional_embedding", "ln_final.", "text_projection")
_HUGGINGFACE = {
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.embeddings.position_embedding_res.weight": "positional_embedding_res",
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.final_layer_norm.bias": "ln_final.bias",
    "text_model.final_layer_norm.weight": "ln_final.weight",
    "text_projection.weight": "text_projection",
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.post_layernorm.bias": "visual.ln_post.bias",
    "vision_model.post_layernorm.weight": "visual.ln_post.weight",
    "vision_model.pre_layrnorm.bias": "visual.ln_pre.bias",
    "vision_model.pre_layrnorm.weight": "visual.ln_pre.weight",
    "visual_projection.weight": "visual.proj",
}
_HUGGINGFACE_TRANSPOSED = ("text_projection.weight", "visual_projection.weight")
_HUGGINGFACE_LAYER = re.compile(r"(text|vision)_model\.encoder\.layers\.(\d+)\.(.+)\.(weight|bias)")
_HUGGINGFACE_TOWERS = {"text": "transformer.resblocks", "vision": "visual.transformer.resblocks"}
_HUGGINGFACE_PARTS = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}


@dataclass(frozen=True, slots=True)
class NamedTensors:
    """Tensors under OpenAI's names.

    Attributes:
        tensors: By name; shapes, types and positions are not checked yet.
        layout: Whose names they were.
        notes: What was unwrapped, renamed or left out, for people.
    """

    tensors: dict[str, torch.Tensor]
    layout: Layout
    notes: tuple[str, ...]


def named_tensors(root: object, *, where: str) -> NamedTensors:
    """Find the state dict in ``root`` and give its tensors OpenAI's names.

    Args:
        root: A state dict, or a dict that wraps one.
        where: Name of the file, for messages.

    Raises:
        CheckpointError: If there is no state dict, it holds something that is no tensor, or its layout is
            unknown.
    """
    notes: list[str] = []
    entries, wrapped = _unwrapped(root, where, notes)
    entries, prefixed = _without_prefixes(entries, notes)
    entries, custom_text = _without_text_prefix(entries, notes)
    dropped = sorted(name for name in entries if name in _IGNORED)
    if dropped:
        notes.append(f"ignored {', '.join(dropped)}")
    tensors: dict[str, torch.Tensor] = {}
    for name, value in entries.items():
        if name in _IGNORED:
            continue
        if not isinstance(value, torch.Tensor):
            raise CheckpointError(
                f"{where}: {name!r} is a {type(value).__name__}; expected a state dict of tensors, or one "
                f"under the key {' or '.join(map(repr, _WRAPPERS))}"
            )
        tensors[name] = value.detach()
    if any(name.startswith("vision_model.") for name in tensors):
        return NamedTensors(_from_huggingface(tensors, where), "huggingface", tuple(notes))
    if tensors.keys().isdisjoint(_TELLTALES):
        raise CheckpointError(
            f"{where} is of no known layout: {len(tensors)} tensors such as {', '.join(sorted(tensors)[:4])}"
            "; expected those of a CLIP ViT as OpenAI, Long-CLIP, open_clip or Hugging Face name them"
        )
    layout: Layout = "open_clip" if wrapped or prefixed or custom_text else "openai"
    if "positional_embedding_res" in tensors:
        layout = "longclip"
    if "token_map" in tensors or any(name.startswith("visual.stem.") for name in tensors):
        layout = "mini"
    return NamedTensors(tensors, layout, tuple(notes))


def _unwrapped(root: object, where: str, notes: list[str]) -> tuple[dict[str, object], bool]:
    wrapped = False
    if isinstance(root, Mapping):
        for key in _WRAPPERS:
            if isinstance(root.get(key), Mapping):
                others = sorted(str(other) for other in root if other != key)
                notes.append(f"read {key!r}, left out {', '.join(others)}" if others else f"read {key!r}")
                root, wrapped = root[key], True
                break
    if not isinstance(root, Mapping) or not root:
        found = "nothing" if isinstance(root, Mapping) else f"a {type(root).__name__}"
        raise CheckpointError(f"{where} holds {found}; expected a state dict, a mapping of names to tensors")
    odd = [key for key in root if not isinstance(key, str) or not _NAME.fullmatch(key)]
    if odd:
        shown = ascii(odd[0])[:80] if isinstance(odd[0], str) else f"a {type(odd[0]).__name__}"
        raise CheckpointError(f"{where} has {shown} for a key; expected a state dict, whose keys are names")
    return dict(root), wrapped


def _without_prefixes(entries: dict[str, object], notes: list[str]) -> tuple[dict[str, object], bool]:
    found = False
    while prefix := next((p for p in _PREFIXES if all(name.startswith(p) for name in entries)), None):
        entries = {name.removeprefix(prefix): value for name, value in entries.items()}
        notes.append(f"{prefix} prefix removed")
        found = True
    return entries, found


def _without_text_prefix(entries: dict[str, object], notes: list[str]) -> tuple[dict[str, object], bool]:
    """open_clip's CustomTextCLIP keeps the text tower under ``text.``; CLIP does not."""
    if "text.token_embedding.weight" not in entries:
        return entries, False
    notes.append("text. prefix removed")
    known = tuple(f"text.{part}" for part in (*_TEXT_TOWER, "attn_mask"))
    return {
        name.removeprefix("text.") if name.startswith(known) else name: value
        for name, value in entries.items()
    }, True


def _from_huggingface(tensors: Mapping[str, torch.Tensor], where: str) -> dict[str, torch.Tensor]:
    out: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        layer = _HUGGINGFACE_LAYER.fullmatch(name)
        if layer is None:
            transposed = name in _HUGGINGFACE_TRANSPOSED and tensor.ndim == 2
            out[_HUGGINGFACE.get(name, name)] = tensor.T if transposed else tensor
            continue
        tower, number, part, kind = layer.groups()
        block = f"{_HUGGINGFACE_TOWERS[tower]}.{number}"
        if part in _HUGGINGFACE_PARTS:
            out[f"{block}.{_HUGGINGFACE_PARTS[part]}.{kind}"] = tensor
        elif part == "self_attn.q_proj":
            out[f"{block}.attn.in_proj_{kind}"] = _joined(tensors, name, where)
        elif part not in ("self_attn.k_proj", "self_attn.v_proj"):
            out[name] = tensor
    return out


def _joined(tensors: Mapping[str, torch.Tensor], query: str, where: str) -> torch.Tensor:
    """Rows [q; k; v] of one layer."""
    names = [query.replace(".q_proj.", f".{letter}_proj.") for letter in "qkv"]
    parts = [tensors.get(name) for name in names]
    shapes = [None if part is None else tuple(part.shape) for part in parts]
    if len(set(shapes)) != 1 or not shapes[0]:
        raise CheckpointError(f"{where}: {', '.join(names)} have shapes {shapes}; expected three equal ones")
    return torch.cat([part for part in parts if part is not None])

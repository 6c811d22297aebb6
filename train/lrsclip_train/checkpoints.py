"""Weights from any known checkpoint file, with shapes told from the tensors and nothing executed.

Read are Long-CLIP / LRSCLIP / DGTRS files, OpenAI's CLIP (state dict or TorchScript archive), open_clip
state dicts, DDP saves, Hugging Face ``CLIPModel`` weights and this project's own, as ``.pt`` or safetensors.
Whether a tower was trained with QuickGELU or GELU cannot be seen in its tensors: these models use QuickGELU,
and where a file might be of the other kind, a note says so.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from lrsclip_rt.errors import CheckpointError
from lrsclip_rt.file_stamps import sha256_of_file
from lrsclip_train.checkpoint_files import open_checkpoint_file
from lrsclip_train.checkpoint_names import named_tensors
from lrsclip_train.checkpoint_positions import resolved_positions
from lrsclip_train.checkpoint_shapes import check_tensors, config_from_tensors, float32_tensors
from lrsclip_train.model import ClipConfig, DualClip

__all__ = ["Checkpoint", "checkpoint_from_state", "model_from_checkpoint", "read_checkpoint"]

_KEEP, _RATIO = 20, 4
_ACTIVATION_NOTE = (
    "the activation cannot be seen in the tensors: QuickGELU is assumed; weights trained with GELU "
    "(e.g. open_clip's LAION models) give wrong embeddings"
)


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """A checkpoint, understood.

    Attributes:
        state: Tensors under the names of :class:`DualClip`, float32. They may be views of the file, so the
            file must stay in place while they are used; writing to them does not change it.
        config: Shapes of both towers.
        layout: ``longclip``, ``openai``, ``openai-jit``, ``open_clip``, ``huggingface`` or ``mini`` (this
            project's small model), behind ``safetensors/`` where the file is of that kind.
        sha256: Hex SHA-256 of the file.
        notes: What was stretched, unwrapped, ignored or assumed, for people.
    """

    state: dict[str, torch.Tensor] = field(repr=False)
    config: ClipConfig
    layout: str
    sha256: str
    notes: tuple[str, ...]


def read_checkpoint(
    path: str | Path, *, keep: int | None = None, ratio: int | None = None, stretch: bool = True
) -> Checkpoint:
    """Read a checkpoint of any known layout.

    Args:
        path: ``.pt``, ``.pth``, ``.bin`` or ``.safetensors`` file.
        keep: Text positions that stretching keeps; by default what the file records, else 20.
        ratio: Positions made of each later one; by default what the file records, else 4.
        stretch: Whether 77 text positions are stretched; without, the model keeps one plain table.

    Raises:
        CheckpointError: If the file is damaged, asks for code, is of no known layout, or a tensor is missing,
            unknown, of another shape or not finite. The message says what was found and expected.
        DependencyError: If it is a safetensors file and the library is not installed.
    """
    path = Path(path)
    content = open_checkpoint_file(path)
    checkpoint = checkpoint_from_state(
        content.root,
        where=str(path),
        keep=_recorded(keep, content.metadata, "kps_keep", _KEEP, path),
        ratio=_recorded(ratio, content.metadata, "kps_ratio", _RATIO, path),
        stretch=stretch,
        limit_bytes=content.bytes,
    )
    layout, notes = checkpoint.layout, list(checkpoint.notes)
    if content.kind == "torchscript" and layout == "openai":
        layout = "openai-jit"
    if layout == "huggingface":
        notes += _huggingface_activation(path)
    elif layout in ("openai", "open_clip"):
        notes.append(_ACTIVATION_NOTE)
    if content.kind == "safetensors":
        layout = f"safetensors/{layout}"
    return Checkpoint(checkpoint.state, checkpoint.config, layout, sha256_of_file(path), tuple(notes))


def checkpoint_from_state(
    root: object,
    *,
    where: str,
    keep: int = _KEEP,
    ratio: int = _RATIO,
    stretch: bool = True,
    limit_bytes: int | None = None,
) -> Checkpoint:
    """Understand a state dict in memory; :func:`read_checkpoint` without the file.

    Args:
        root: State dict of any known layout, or a dict that wraps one.
        where: What to call it in messages.
        keep: Text positions that stretching keeps.
        ratio: Positions made of each later one.
        stretch: Whether 77 text positions are stretched.
        limit_bytes: Size of the file it came from [bytes], to refuse tensors that cannot have been in it.

    Returns:
        A checkpoint without a hash.

    Raises:
        CheckpointError: As :func:`read_checkpoint`.
    """
    named = named_tensors(root, where=where)
    notes = list(named.notes)
    narrow = sorted(
        {str(t.dtype).removeprefix("torch.") for t in named.tensors.values() if t.is_floating_point()}
        - {"float32"}
    )
    state = float32_tensors(named.tensors, limit_bytes=limit_bytes, where=where)
    if narrow:
        notes.append(f"{', '.join(narrow)} weights converted to float32")
    _check_position_tables(state, where)
    notes += resolved_positions(state, keep=keep, ratio=ratio, stretch=stretch, where=where)
    config = config_from_tensors(state, keep=keep, ratio=ratio, where=where)
    check_tensors(state, config, where=where)
    return Checkpoint(state, config, named.layout, "", tuple(notes))


def model_from_checkpoint(checkpoint: Checkpoint) -> DualClip:
    """Build the model that a checkpoint describes.

    The parameters ARE the checkpoint's tensors, so that a large model is never held twice.
    """
    with torch.device("meta"):
        model = DualClip(checkpoint.config, stretched="positional_embedding_res" in checkpoint.state)
    model.load_state_dict(checkpoint.state, strict=True, assign=True)
    return model


def _check_position_tables(state: Mapping[str, torch.Tensor], where: str) -> None:
    for name in ("positional_embedding", "positional_embedding_res"):
        if name in state and state[name].ndim != 2:
            raise CheckpointError(
                f"{where}: {name} has shape {tuple(state[name].shape)}; expected (positions, text width)"
            )


def _recorded(given: int | None, metadata: Mapping[str, str], key: str, default: int, path: Path) -> int:
    if given is not None:
        return given
    text = metadata.get(key, str(default))
    if not text.isdecimal():
        raise CheckpointError(f"{path}: its header records {key} = {text!r:.40}; expected a whole number")
    return int(text)


def _huggingface_activation(path: Path) -> list[str]:
    """Hold the ``config.json`` beside Hugging Face weights against QuickGELU."""
    beside = path.with_name("config.json")
    if not beside.is_file():
        return [_ACTIVATION_NOTE]
    try:
        config = json.loads(beside.read_text(encoding="utf-8"))
        # transformers' own default is quick_gelu, so configurations may leave it out.
        used = {
            config.get(tower, {}).get("hidden_act", "quick_gelu")
            for tower in ("text_config", "vision_config")
        }
    except (ValueError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{beside} is no configuration of a CLIPModel ({error})") from error
    if used != {"quick_gelu"}:
        raise CheckpointError(
            f"{path}: {beside.name} beside it says hidden_act {', '.join(sorted(map(str, used)))}; "
            "only quick_gelu, as in all OpenAI-derived weights, can be run"
        )
    return []

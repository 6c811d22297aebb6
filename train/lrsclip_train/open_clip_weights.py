"""Start from open_clip's pretrained weights: OpenAI's, or any of a QuickGELU ViT."""

from __future__ import annotations

from typing import Any

import torch

from lrsclip_rt.errors import CheckpointError
from lrsclip_train.checkpoints import checkpoint_from_state, model_from_checkpoint
from lrsclip_train.model import DualClip
from lrsclip_train.open_clip_import import import_open_clip

__all__ = ["clip_from_open_clip"]

_TOLERANCE = 3e-4
_SOT, _EOT = 49406, 49407


def clip_from_open_clip(
    name: str, pretrained: str | None = None, *, keep: int = 20, ratio: int = 4, stretch: bool = True
) -> DualClip:
    """Build our model from ``open_clip.create_model(name, pretrained)``.

    What cannot be seen in the weights (activation, pooling, masks) is proven by running both models on one
    image and one text.

    Args:
        name: open_clip's architecture name, e.g. ``ViT-B-16-quickgelu``.
        pretrained: Its tag, e.g. ``openai``, or a file; ``None``: random weights.
        keep: Text positions that stretching keeps.
        ratio: Positions made of each later one.
        stretch: Whether the 77 text positions are stretched.

    Raises:
        CheckpointError: If open_clip cannot make the model, or the model's tensors or its results are not
            those of a QuickGELU CLIP ViT.
        DependencyError: If open_clip is not installed.
    """
    where = f"open_clip {name}" + (f" ({pretrained})" if pretrained else "")
    open_clip = import_open_clip()
    try:
        theirs = open_clip.create_model(name, pretrained=pretrained, device="cpu").eval()
    except Exception as error:  # whatever a download, a file or an unknown name makes it raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(
            f"{where} could not be made ({reason[:200]}). open_clip.list_pretrained() lists names and tags; "
            "a tag needs the network once, a file does not"
        ) from error
    state = theirs.state_dict()
    plain = model_from_checkpoint(checkpoint_from_state(state, where=where, stretch=False))
    _check_agreement(plain, theirs, where)
    if not stretch:
        return plain
    return model_from_checkpoint(checkpoint_from_state(state, where=where, keep=keep, ratio=ratio))


@torch.no_grad()
def _check_agreement(ours: DualClip, theirs: Any, where: str) -> None:
    size = ours.config.image_size
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(1, 3, size, size, generator=generator)
    tokens = torch.zeros(1, ours.config.context_length, dtype=torch.long)
    tokens[0, 0], tokens[0, -10] = _SOT, _EOT
    tokens[0, 1:-10] = torch.randint(1, _SOT, (tokens.shape[1] - 11,), generator=generator)
    for what, mine, other in (
        ("image", ours.encode_image(pixels), theirs.encode_image(pixels)),
        ("text", ours.encode_text(tokens), theirs.encode_text(tokens)),
    ):
        difference = float((mine - other).norm() / other.norm())
        if not difference < _TOLERANCE:
            raise CheckpointError(
                f"{where}: its {what} embedding differs by {difference:.2g} (relative) from that of the same "
                f"weights here; expected under {_TOLERANCE}. Only QuickGELU, class-token pooling and causal "
                "text are supported: take a -quickgelu model"
            )

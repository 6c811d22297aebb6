"""Small checkpoints with the exact names of every published layout, and random weights everywhere.

The names of the foreign layouts are written out here once more, from the conventions of their own code, so
that the reader's tables are not compared with themselves.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import nn

from lrsclip_train.model import ClipConfig, DualClip

# Image width, text width and D differ, so that a transposed matrix cannot pass.
SMALL = ClipConfig("ViT-128x2/8-32", 96, 32, 8, 128, 2, 64, 3)
SMALL_77 = ClipConfig("ViT-128x2/8-32", 96, 32, 8, 128, 2, 64, 3, context_length=77)
SMALL_MINI = ClipConfig("", 64, 64, 1, 64, 1, 64, 1, token_rows=500, stem="mobilenetv2")


def random_model(config: ClipConfig, *, seed: int = 0, stretched: bool = True) -> DualClip:
    """A model in which no tensor is constant, biases and norms included."""
    torch.manual_seed(seed)
    model = DualClip(config, stretched=stretched).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith("visual.stem."):
                continue
            if parameter.ndim < 2 or "ln_" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
        if stretched:
            model.positional_embedding_res.add_(0.01 * torch.randn_like(model.positional_embedding_res))
        if config.token_rows != config.vocab_size:
            model.token_map.copy_(torch.randint(0, config.token_rows, (config.vocab_size,)))
    return model


def state_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def plain_state(seed: int = 0) -> dict[str, torch.Tensor]:
    """77 positions, one table: OpenAI's names."""
    return state_of(random_model(SMALL_77, seed=seed, stretched=False))


def as_openai_types(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """OpenAI's files: convolution, linear, attention and projections float16, the rest float32."""
    half = (".attn.", ".mlp.", "conv1.", "text_projection", "visual.proj")
    return {
        name: tensor.half() if any(part in name for part in half) else tensor
        for name, tensor in state.items()
    }


def openai_state(seed: int = 0) -> dict[str, torch.Tensor]:
    extra = {"input_resolution": 32, "context_length": 77, "vocab_size": 49408}
    return as_openai_types(plain_state(seed)) | {key: torch.tensor(value) for key, value in extra.items()}


def huggingface_state(
    state: dict[str, torch.Tensor], *, position_ids: bool = True
) -> dict[str, torch.Tensor]:
    """Names of transformers' CLIPModel."""
    out = {
        "logit_scale": state["logit_scale"],
        "text_projection.weight": state["text_projection"].T.contiguous(),
        "visual_projection.weight": state["visual.proj"].T.contiguous(),
        "text_model.embeddings.token_embedding.weight": state["token_embedding.weight"],
        "text_model.embeddings.position_embedding.weight": state["positional_embedding"],
        "vision_model.embeddings.class_embedding": state["visual.class_embedding"],
        "vision_model.embeddings.patch_embedding.weight": state["visual.conv1.weight"],
        "vision_model.embeddings.position_embedding.weight": state["visual.positional_embedding"],
    }
    if position_ids:
        out["text_model.embeddings.position_ids"] = torch.arange(len(state["positional_embedding"]))[None]
        out["vision_model.embeddings.position_ids"] = torch.arange(17)[None]
    for kind in ("weight", "bias"):
        out[f"text_model.final_layer_norm.{kind}"] = state[f"ln_final.{kind}"]
        out[f"vision_model.pre_layrnorm.{kind}"] = state[f"visual.ln_pre.{kind}"]
        out[f"vision_model.post_layernorm.{kind}"] = state[f"visual.ln_post.{kind}"]
        for theirs, ours, layers in (("text_model", "", 3), ("vision_model", "visual.", 2)):
            for n in range(layers):
                block, layer = f"{ours}transformer.resblocks.{n}", f"{theirs}.encoder.layers.{n}"
                q, k, v = state[f"{block}.attn.in_proj_{kind}"].chunk(3)
                out[f"{layer}.self_attn.q_proj.{kind}"] = q.clone()
                out[f"{layer}.self_attn.k_proj.{kind}"] = k.clone()
                out[f"{layer}.self_attn.v_proj.{kind}"] = v.clone()
                out[f"{layer}.self_attn.out_proj.{kind}"] = state[f"{block}.attn.out_proj.{kind}"]
                out[f"{layer}.layer_norm1.{kind}"] = state[f"{block}.ln_1.{kind}"]
                out[f"{layer}.layer_norm2.{kind}"] = state[f"{block}.ln_2.{kind}"]
                out[f"{layer}.mlp.fc1.{kind}"] = state[f"{block}.mlp.c_fc.{kind}"]
                out[f"{layer}.mlp.fc2.{kind}"] = state[f"{block}.mlp.c_proj.{kind}"]
    return out


def custom_text_state(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Names of open_clip's CustomTextCLIP."""
    moved = ("transformer.", "token_embedding.", "positional_embedding", "ln_final.", "text_projection")
    return {f"text.{name}" if name.startswith(moved) else name: tensor for name, tensor in state.items()}


class _Node(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def save_torchscript(path: Path, state: dict[str, torch.Tensor]) -> None:
    """A TorchScript archive whose module tree has the tensors of ``state`` as parameters and buffers."""
    root = _Node()
    for name, tensor in state.items():
        *parents, leaf = name.split(".")
        node: nn.Module = root
        for parent in parents:
            if parent not in dict(node.named_children()):
                node.add_module(parent, _Node())
            node = dict(node.named_children())[parent]
        if tensor.is_floating_point():
            node.register_parameter(leaf, nn.Parameter(tensor))
        else:
            node.register_buffer(leaf, tensor)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(root), path)


def published_names(image_layers: int, text_layers: int) -> Iterable[str]:
    """Every name of a Long-CLIP / LRSCLIP / DGTRS file."""
    yield from ("positional_embedding", "positional_embedding_res", "text_projection", "logit_scale")
    yield from ("visual.class_embedding", "visual.positional_embedding", "visual.proj", "visual.conv1.weight")
    yield from ("token_embedding.weight", "ln_final.weight", "ln_final.bias")
    for norm in ("ln_pre", "ln_post"):
        yield from (f"visual.{norm}.weight", f"visual.{norm}.bias")
    for tower, layers in (("visual.transformer", image_layers), ("transformer", text_layers)):
        for n in range(layers):
            block = f"{tower}.resblocks.{n}"
            yield from (f"{block}.attn.in_proj_weight", f"{block}.attn.in_proj_bias")
            for part in ("attn.out_proj", "ln_1", "mlp.c_fc", "mlp.c_proj", "ln_2"):
                yield from (f"{block}.{part}.weight", f"{block}.{part}.bias")

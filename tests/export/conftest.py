"""Checkpoints of many shapes, and a float64 evaluation of their weights that shares no code with ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray

from lrsclip_train.model import MINI, VIT_B_16, VIT_L_14, ClipConfig, DualClip

Array = NDArray[Any]
CONFIGS = {
    "tiny": ClipConfig("tiny", 64, 32, 8, 64, 2, 64, 2),
    # Unequal widths and depths, three heads, a single image block.
    "odd": ClipConfig("odd", 96, 48, 16, 192, 1, 128, 3),
    "mini": ClipConfig("small-mini", 64, 64, 1, 64, 2, 64, 2, token_rows=1000, stem="mobilenetv2"),
    "real-mini": MINI,
    "b16": VIT_B_16,
    "l14": VIT_L_14,
}


class Float64Clip:
    """CLIP as its papers describe it, over a state dict, in float64 NumPy."""

    def __init__(self, state: Mapping[str, torch.Tensor], keep: int = 20) -> None:
        self.state, self.keep = state, keep

    def __getitem__(self, name: str) -> Array:
        return self.state[name].detach().double().numpy()

    def image(self, pixels: Array) -> Array:
        return unit(self._norm(self._image_tokens(pixels)[:, 0], "visual.ln_post") @ self["visual.proj"])

    def dense(self, pixels: Array) -> Array:
        """The last block's attention of queries to queries alone, and a share of the class embedding."""
        x, last = self._before_last_block(pixels)
        y = self._norm(x, f"{last}.ln_1") @ self[f"{last}.attn.in_proj_weight"].T
        y = y + self[f"{last}.attn.in_proj_bias"]
        n, t, c = x.shape
        q, _, v = (part.reshape(n, t, c // 64, 64).swapaxes(1, 2) for part in np.split(y, 3, axis=-1))
        y = (softmax(q @ q.swapaxes(-1, -2) / 8) @ v).swapaxes(1, 2).reshape(n, t, c)
        y = self._norm(self._linear(y, f"{last}.attn.out_proj")[:, 1:], "visual.ln_post")
        share = 0.5 if "visual.stem.first.weight" in self.state else -0.3
        return unit(unit(y @ self["visual.proj"]) + share * self.image(pixels)[:, None])

    def text(self, tokens: Array) -> Array:
        """(N, T) ids; each text is cut behind its first EOT, which a causal model cannot notice."""
        return np.concatenate([self._one_text(row[: row.argmax() + 1]) for row in tokens])

    def _one_text(self, ids: Array) -> Array:
        rows = self["token_map"].astype(int)[ids] if "token_map" in self.state else ids
        table = self["positional_embedding"]
        if "positional_embedding_res" in self.state:
            table = np.vstack([table[: self.keep], self["positional_embedding_res"][self.keep :]])
        x = self.state["token_embedding.weight"][torch.from_numpy(rows).long()].double().numpy()
        x = (x + table[: len(ids)])[None]
        hidden = np.arange(len(ids))[None, :] > np.arange(len(ids))[:, None]
        x = self._blocks(x, "transformer.resblocks", np.where(hidden, -np.inf, 0.0))
        return unit(self._norm(x[:, -1], "ln_final") @ self["text_projection"])

    def _image_tokens(self, pixels: Array) -> Array:
        return self._blocks(self._embedded(pixels), "visual.transformer.resblocks", 0.0)

    def _before_last_block(self, pixels: Array) -> tuple[Array, str]:
        prefix = "visual.transformer.resblocks"
        last = sum(name.startswith(prefix) and name.endswith(".ln_1.weight") for name in self.state) - 1
        return self._blocks(self._embedded(pixels), prefix, 0.0, stop=last), f"{prefix}.{last}"

    def _embedded(self, pixels: Array) -> Array:
        x = pixels.astype(np.float64)
        if "visual.stem.first.weight" in self.state:
            x = self._stem(x)
        kernel = self["visual.conv1.weight"]
        n, c, h, w = x.shape
        p = kernel.shape[-1]
        cells = x.reshape(n, c, h // p, p, w // p, p).transpose(0, 2, 4, 1, 3, 5).reshape(n, -1, c * p * p)
        x = cells @ kernel.reshape(len(kernel), -1).T
        first = np.broadcast_to(self["visual.class_embedding"], (n, 1, len(kernel)))
        x = np.concatenate([first, x], axis=1) + self["visual.positional_embedding"]
        return self._norm(x, "visual.ln_pre")

    def _blocks(self, x: Array, prefix: str, mask: Any, stop: int | None = None) -> Array:
        layer = 0
        while layer != stop and f"{prefix}.{layer}.ln_1.weight" in self.state:
            p = f"{prefix}.{layer}"
            y = (
                self._norm(x, f"{p}.ln_1") @ self[f"{p}.attn.in_proj_weight"].T
                + self[f"{p}.attn.in_proj_bias"]
            )
            n, t, c = x.shape
            q, k, v = (part.reshape(n, t, c // 64, 64).swapaxes(1, 2) for part in np.split(y, 3, axis=-1))
            y = softmax(q @ k.swapaxes(-1, -2) / 8 + mask) @ v
            x = x + self._linear(y.swapaxes(1, 2).reshape(n, t, c), f"{p}.attn.out_proj")
            y = self._linear(self._norm(x, f"{p}.ln_2"), f"{p}.mlp.c_fc")
            x = x + self._linear(y / (1 + np.exp(-1.702 * y)), f"{p}.mlp.c_proj")
            layer += 1
        return x

    def _linear(self, x: Array, name: str) -> Array:
        return x @ self[f"{name}.weight"].T + self[f"{name}.bias"]

    def _norm(self, x: Array, name: str) -> Array:
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
        return scaled * self[f"{name}.weight"] + self[f"{name}.bias"]

    def _stem(self, x: Array) -> Array:
        x = relu6(self._conv(x, "visual.stem.first", 2))
        for block in range(17):
            p, before = f"visual.stem.blocks.{block}", x
            if f"{p}.expand.weight" in self.state:
                x = relu6(self._conv(x, f"{p}.expand", 1))
            # Stages of MobileNetV2 that halve the picture begin at these blocks.
            stride = 2 if block in (1, 3, 6, 13) else 1
            x = self._conv(relu6(self._conv(x, f"{p}.depthwise", stride)), f"{p}.project", 1)
            x = before + x if before.shape == x.shape else x
        return relu6(self._conv(x, "visual.stem.last", 1))

    def _conv(self, x: Array, name: str, stride: int) -> Array:
        kernel, bias = self[f"{name}.weight"], self[f"{name}.bias"]
        size = kernel.shape[-1]
        before, after = (size // 2, size // 2) if stride == 1 else (0, 1)
        padded = np.pad(x, ((0, 0), (0, 0), (before, after), (before, after)))
        cells = np.lib.stride_tricks.sliding_window_view(padded, (size, size), axis=(2, 3))
        cells = cells[:, :, ::stride, ::stride]
        depthwise = kernel.shape[1] == 1 and x.shape[1] > 1
        rule = "nchwij,cij->nchw" if depthwise else "nchwij,ocij->nohw"
        out = np.einsum(rule, cells, kernel[:, 0] if depthwise else kernel, optimize=True)
        return out + bias[:, None, None]


def unit(rows: Array) -> Array:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def relu6(x: Array) -> Array:
    return np.clip(x, 0, 6)


def random_state(config: ClipConfig, *, seed: int = 0) -> dict[str, torch.Tensor]:
    """Weights of which none is zero or one, so that each of them shows in the result."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        model = DualClip(config)
        for name, parameter in model.named_parameters():
            if ".stem." in name:
                # He's scale keeps 53 layers of ReLU6 alive.
                fan_in = parameter[0].numel() if parameter.ndim > 1 else 100
                parameter.normal_(std=(2 / fan_in) ** 0.5)
            elif name.endswith("bias") or ".ln_" in name or name.startswith("ln_"):
                parameter += 0.1 * torch.randn_like(parameter)
            elif "resblocks" in name:
                parameter *= 2
        model.positional_embedding.normal_(std=0.05)
        model.positional_embedding_res.normal_(std=0.05)
        if config.token_rows != config.vocab_size:
            model.token_map.copy_(torch.randint(config.token_rows, (config.vocab_size,)))
        return model.state_dict()


@pytest.fixture(scope="session")
def float64_clip() -> type[Float64Clip]:
    return Float64Clip


@pytest.fixture(scope="session")
def state_of() -> Callable[[str], dict[str, torch.Tensor]]:
    """A state dict by the name of a shape; a fresh one each time, the same each time."""
    return lambda name: random_state(CONFIGS[name])


@pytest.fixture(scope="session")
def config_of() -> Mapping[str, ClipConfig]:
    return CONFIGS


@pytest.fixture(scope="session")
def run_graph() -> Callable[..., Array]:
    """Run a graph file with ONNX Runtime on one thread and return its only output."""

    def run(path: Path, **feed: Array) -> Array:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        result: Array = session.run(None, feed)[0]
        return result

    return run


@pytest.fixture(scope="session")
def token_rows() -> Array:
    """(6, 248) ids whose ends lie at 1, 2, 19, 20, 100 and 247; behind the end there is rubbish."""
    rng = np.random.default_rng(5)
    tokens = rng.integers(1, 49406, size=(6, 248)).astype(np.int32)
    tokens[:, 0] = 49406
    for row, end in enumerate((1, 2, 19, 20, 100, 247)):
        tokens[row, end] = 49407
    return tokens

"""The towers against float64 NumPy written from the architecture's description, never from the code."""

from __future__ import annotations

import checkpoint_makers as makers
import numpy as np
import pytest
import torch

from lrsclip_train.model import MINI, VIT_B_16, VIT_B_32, VIT_L_14, VIT_L_14_336, ClipConfig, DualClip

TINY = ClipConfig("tiny", 40, 16, 4, 128, 2, 192, 3, vocab_size=60, token_rows=60)
START, END = 58, 59
Weights = dict[str, np.ndarray]


def layer_norm(x: np.ndarray, weights: Weights, name: str) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    variance = (centred**2).mean(-1, keepdims=True)
    return centred / np.sqrt(variance + 1e-5) * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def attention(x: np.ndarray, weights: Weights, name: str, *, causal: bool) -> np.ndarray:
    tokens, width = x.shape
    qkv = x @ weights[f"{name}.in_proj_weight"].T + weights[f"{name}.in_proj_bias"]
    q, k, v = qkv[:, :width], qkv[:, width : 2 * width], qkv[:, 2 * width :]
    out = np.zeros_like(x)
    for head in range(width // 64):
        part = slice(64 * head, 64 * head + 64)
        scores = q[:, part] @ k[:, part].T / 8.0
        if causal:
            for row in range(tokens):
                scores[row, row + 1 :] = -np.inf
        exponentials = np.exp(scores - scores.max(-1, keepdims=True))
        out[:, part] = exponentials / exponentials.sum(-1, keepdims=True) @ v[:, part]
    return out @ weights[f"{name}.out_proj.weight"].T + weights[f"{name}.out_proj.bias"]


def blocks(x: np.ndarray, weights: Weights, name: str, layers: int, *, causal: bool) -> np.ndarray:
    for n in range(layers):
        block = f"{name}.resblocks.{n}"
        x = x + attention(layer_norm(x, weights, f"{block}.ln_1"), weights, f"{block}.attn", causal=causal)
        hidden = layer_norm(x, weights, f"{block}.ln_2") @ weights[f"{block}.mlp.c_fc.weight"].T
        hidden = hidden + weights[f"{block}.mlp.c_fc.bias"]
        hidden = hidden / (1 + np.exp(-1.702 * hidden))
        x = x + hidden @ weights[f"{block}.mlp.c_proj.weight"].T + weights[f"{block}.mlp.c_proj.bias"]
    return x


def image_tokens(pixels: np.ndarray, weights: Weights, config: ClipConfig) -> np.ndarray:
    """(3, S, S) -> (1 + P, D): every token normalised and projected."""
    p, rows = config.patch_size, [weights["visual.class_embedding"]]
    kernel = weights["visual.conv1.weight"]
    for row in range(config.image_size // p):
        for col in range(config.image_size // p):
            patch = pixels[:, row * p : row * p + p, col * p : col * p + p]
            rows.append((kernel * patch).sum(axis=(1, 2, 3)))
    x = np.stack(rows) + weights["visual.positional_embedding"]
    x = layer_norm(x, weights, "visual.ln_pre")
    x = blocks(x, weights, "visual.transformer", config.image_layers, causal=False)
    return layer_norm(x, weights, "visual.ln_post") @ weights["visual.proj"]


def text_embedding(tokens: np.ndarray, weights: Weights, config: ClipConfig) -> np.ndarray:
    """(T,) -> (D,): the row at the first end-of-text token."""
    keep = config.keep
    table = np.concatenate(
        [weights["positional_embedding"][:keep], weights["positional_embedding_res"][keep:]]
    )
    x = weights["token_embedding.weight"][tokens] + table[: len(tokens)]
    x = blocks(x, weights, "transformer", config.text_layers, causal=True)
    end = int(np.argmax(tokens == END))
    return layer_norm(x, weights, "ln_final")[end] @ weights["text_projection"]


@pytest.fixture(scope="module")
def model() -> DualClip:
    return makers.random_model(TINY)


@pytest.fixture(scope="module")
def weights(model: DualClip) -> Weights:
    return {name: tensor.double().numpy() for name, tensor in model.state_dict().items()}


@torch.no_grad()
def test_the_image_tower_agrees_with_float64_numpy(model: DualClip, weights: Weights) -> None:
    pixels = np.random.default_rng(0).standard_normal((3, 3, 16, 16)).astype(np.float32)
    wanted = np.stack([image_tokens(image.astype(np.float64), weights, TINY) for image in pixels])
    got = model.encode_image(torch.from_numpy(pixels)).numpy()
    np.testing.assert_allclose(got, wanted[:, 0], rtol=1e-4, atol=2e-5)
    patches = model.visual.patches(torch.from_numpy(pixels)).numpy()
    np.testing.assert_allclose(patches, wanted[:, 1:], rtol=1e-4, atol=2e-5)


@torch.no_grad()
@pytest.mark.parametrize("words", [0, 5, 18, 19, 60, 246])
def test_the_text_tower_agrees_with_float64_numpy(model: DualClip, weights: Weights, words: int) -> None:
    tokens = np.zeros(248, np.int64)
    tokens[: words + 2] = [START, *np.random.default_rng(words).integers(1, START, words), END]
    wanted = text_embedding(tokens, weights, TINY)
    got = model.encode_text(torch.from_numpy(tokens)[None])[0].numpy()
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=2e-5)


@torch.no_grad()
def test_tokens_after_the_end_and_the_length_change_nothing(model: DualClip) -> None:
    tokens = torch.zeros(1, 248, dtype=torch.long)
    tokens[0, :9] = torch.tensor([START, 4, 9, 2, 44, 17, 3, 8, END])
    whole = model.encode_text(tokens)
    torch.testing.assert_close(model.encode_text(tokens[:, :9]), whole, rtol=1e-5, atol=1e-6)
    tokens[0, 9:] = 7
    torch.testing.assert_close(model.encode_text(tokens), whole, rtol=1e-5, atol=1e-6)
    tokens[0, 20] = END
    torch.testing.assert_close(model.encode_text(tokens), whole, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_dead_rows_of_the_two_tables_are_never_read(model: DualClip) -> None:
    other = makers.random_model(TINY)
    other.positional_embedding[20:] = 99.0
    other.positional_embedding_res[:20] = -99.0
    tokens = torch.randint(1, START, (2, 248), generator=torch.Generator().manual_seed(3))
    tokens[:, -1] = END
    assert torch.equal(other.encode_text(tokens), model.encode_text(tokens))


@torch.no_grad()
def test_shared_token_rows_are_looked_up_through_the_map() -> None:
    config = ClipConfig("tiny", 40, 16, 4, 64, 1, 64, 1, vocab_size=60, token_rows=10)
    shared = makers.random_model(config)
    plain = DualClip(ClipConfig("tiny", 40, 16, 4, 64, 1, 64, 1, vocab_size=60, token_rows=60)).eval()
    state = makers.state_of(shared)
    rows = state.pop("token_map").long()
    state["token_embedding.weight"] = state["token_embedding.weight"][rows]
    plain.load_state_dict(state)
    tokens = torch.tensor([[START, 5, 6, 7, 33, END]])
    assert len(set(rows[tokens[0]].tolist())) > 2
    torch.testing.assert_close(shared.encode_text(tokens), plain.encode_text(tokens))


def test_only_the_trainable_table_gets_gradients() -> None:
    model = makers.random_model(TINY)
    model.encode_text(torch.tensor([[START, *range(1, 30), END]])).sum().backward()
    assert model.positional_embedding.grad is None
    grown = model.positional_embedding_res.grad
    assert grown is not None
    assert float(grown[:20].abs().sum()) == 0
    assert float(grown[20:31].abs().min()) > 0
    assert float(grown[31:].abs().sum()) == 0


@pytest.mark.parametrize(
    ("config", "tensors", "parameters"),
    [(VIT_B_16, 303, 149_835_265), (VIT_L_14, 447, 427_938_305)],
)
def test_the_published_models_have_the_published_numbers_of_tensors_and_parameters(
    config: ClipConfig, tensors: int, parameters: int
) -> None:
    with torch.device("meta"):
        state = DualClip(config).state_dict()
    assert len(state) == tensors
    assert sum(tensor.numel() for tensor in state.values()) == parameters


@pytest.mark.parametrize(
    ("config", "grid"), [(VIT_B_32, 7), (VIT_B_16, 14), (VIT_L_14, 16), (VIT_L_14_336, 24), (MINI, 6)]
)
def test_the_grid_is_what_the_image_tower_yields(config: ClipConfig, grid: int) -> None:
    assert config.grid == grid
    with torch.device("meta"):
        pixels = torch.empty(1, 3, config.image_size, config.image_size)
        assert DualClip(config).visual.patches(pixels).shape == (1, grid * grid, config.embed_dim)


def same_convolution(x: np.ndarray, weights: Weights, name: str, *, stride: int, groups: int) -> np.ndarray:
    """TensorFlow's SAME: max((ceil(n / s) - 1) s + k - n, 0) pixels in all, the odd one at the end."""
    kernel, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
    k, n = kernel.shape[-1], x.shape[-1]
    size = -(-n // stride)
    total = max((size - 1) * stride + k - n, 0)
    x = np.pad(x, ((0, 0), (total // 2, total - total // 2), (total // 2, total - total // 2)))
    out = np.zeros((len(kernel), size, size))
    per_group_in, per_group_out = kernel.shape[1], len(kernel) // groups
    for channel in range(len(kernel)):
        first = channel // per_group_out * per_group_in
        for i in range(k):
            for j in range(k):
                window = x[
                    first : first + per_group_in,
                    i : i + stride * size : stride,
                    j : j + stride * size : stride,
                ]
                out[channel] += np.tensordot(kernel[channel, :, i, j], window, axes=1)
    return out + bias[:, None, None]


@torch.no_grad()
def test_the_stem_agrees_with_float64_numpy_and_same_padding() -> None:
    stem = makers.random_model(makers.SMALL_MINI).visual.stem
    for parameter in stem.parameters():
        # Wide enough for ReLU6 to clip at both ends.
        parameter.copy_(
            torch.randn_like(parameter) * (1.0 if parameter.ndim == 1 else parameter[0].numel() ** -0.5)
        )
    weights = {name: tensor.double().numpy() for name, tensor in stem.state_dict().items()}
    pixels = np.random.default_rng(0).uniform(-1, 1, (3, 64, 64)).astype(np.float32)

    def relu6(x: np.ndarray) -> np.ndarray:
        return np.clip(x, 0, 6)

    x = relu6(same_convolution(pixels.astype(np.float64), weights, "first", stride=2, groups=1))
    table = [
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ]
    number = 0
    for expansion, channels, repeats, first_stride in table:
        for repeat in range(repeats):
            y, stride = x, first_stride if repeat == 0 else 1
            if expansion > 1:
                y = relu6(same_convolution(y, weights, f"blocks.{number}.expand", stride=1, groups=1))
            name = f"blocks.{number}.depthwise"
            y = relu6(same_convolution(y, weights, name, stride=stride, groups=len(y)))
            y = same_convolution(y, weights, f"blocks.{number}.project", stride=1, groups=1)
            x = x + y if stride == 1 and len(x) == channels else y
            number += 1
    wanted = relu6(same_convolution(x, weights, "last", stride=1, groups=1))
    got = stem(torch.from_numpy(pixels)[None])[0].numpy()
    assert 0.02 < (wanted > 0).mean() < 0.98
    np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=1e-3)

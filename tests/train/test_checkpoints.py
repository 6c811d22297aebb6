from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import checkpoint_makers as makers
import numpy as np
import pytest
import torch
from peak_memory import PEAK_KIB

from lrsclip_rt.errors import CheckpointError, OutputExistsError
from lrsclip_train.checkpoint_positions import lies_on_stretched_lines
from lrsclip_train.checkpoint_shapes import config_from_tensors
from lrsclip_train.checkpoint_writer import write_longclip, write_safetensors
from lrsclip_train.checkpoints import Checkpoint, model_from_checkpoint, read_checkpoint
from lrsclip_train.model import (
    MINI,
    VIT_B_16,
    VIT_B_32,
    VIT_L_14,
    VIT_L_14_336,
    ClipConfig,
    DualClip,
)
from lrsclip_train.open_clip_import import import_open_clip
from lrsclip_train.open_clip_weights import clip_from_open_clip

State = dict[str, torch.Tensor]


def stretched(table: torch.Tensor, keep: int = 20, ratio: int = 4) -> torch.Tensor:
    """By the formulas, row by row, in float64."""
    old, rows = table.double(), []
    for i in range(keep):
        rows.append(old[i])
    for i in range(keep, len(old) - 1):
        rows += [((ratio - j) * old[i] + j * old[i + 1]) / ratio for j in range(ratio)]
    rows += [old[-1] + k * (old[-1] - old[-2]) / ratio for k in range(ratio)]
    return torch.stack(rows)


def assert_same(got: State, wanted: State) -> None:
    assert got.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert torch.equal(got[name], tensor.float() if tensor.is_floating_point() else tensor), name
        assert got[name].dtype == (torch.float32 if tensor.is_floating_point() else torch.int32)


def assert_stretched_from(checkpoint: Checkpoint, plain: State) -> None:
    """Every weight as in the 77-position file, positions by the formulas."""
    state = dict(checkpoint.state)
    table = stretched(plain["positional_embedding"])
    for name in ("positional_embedding", "positional_embedding_res"):
        torch.testing.assert_close(state.pop(name).double(), table, rtol=1e-6, atol=1e-7)
    assert_same(state, {name: tensor for name, tensor in plain.items() if name != "positional_embedding"})
    assert any("stretched 77 -> 248" in note for note in checkpoint.notes)


def save(path: Path, root: object) -> Path:
    torch.save(root, path)
    return path


def prefixed(state: State, prefix: str) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


# ------------------------------------------------------------------------------------------ layouts


def test_a_long_clip_file_is_read_bit_for_bit(tmp_path: Path) -> None:
    state = makers.state_of(makers.random_model(makers.SMALL))
    assert set(state) == set(makers.published_names(2, 3))
    path = save(tmp_path / "longclip.pt", state)
    checkpoint = read_checkpoint(path)
    assert_same(checkpoint.state, state)
    assert checkpoint.layout == "longclip"
    assert checkpoint.notes == ()
    assert checkpoint.config == makers.SMALL
    assert checkpoint.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_an_openai_state_dict_is_widened_and_stretched(tmp_path: Path) -> None:
    checkpoint = read_checkpoint(save(tmp_path / "clip.pt", makers.openai_state()))
    assert_stretched_from(checkpoint, makers.as_openai_types(makers.plain_state()))
    assert checkpoint.layout == "openai"
    assert any("float16 weights converted" in note for note in checkpoint.notes)
    assert any("context_length, input_resolution, vocab_size" in note for note in checkpoint.notes)
    assert any("QuickGELU is assumed" in note for note in checkpoint.notes)


def test_an_openai_torchscript_archive_is_read_without_torch_jit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    makers.save_torchscript(tmp_path / "ViT.pt", makers.openai_state())

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("torch's own loaders must not see a TorchScript archive")

    monkeypatch.setattr(torch.jit, "load", refuse)
    monkeypatch.setattr(torch, "load", refuse)
    checkpoint = read_checkpoint(tmp_path / "ViT.pt")
    assert_stretched_from(checkpoint, makers.as_openai_types(makers.plain_state()))
    assert checkpoint.layout == "openai-jit"
    assert not any("QuickGELU" in note for note in checkpoint.notes)


def test_writing_to_a_tensor_of_an_archive_leaves_the_file_alone(tmp_path: Path) -> None:
    makers.save_torchscript(tmp_path / "jit.pt", makers.plain_state())
    save(tmp_path / "zip.pt", makers.plain_state())
    for name in ("jit.pt", "zip.pt"):
        before = (tmp_path / name).read_bytes()
        for tensor in read_checkpoint(tmp_path / name).state.values():
            tensor.zero_()
        assert (tmp_path / name).read_bytes() == before


WRAPPINGS: dict[str, Callable[[State], Any]] = {
    "state_dict": lambda s: {
        "epoch": 3,
        "name": "run",
        "state_dict": s,
        "optimizer": {"state": {0: s["ln_final.bias"]}},
    },
    "state_dict, module.": lambda s: {"state_dict": prefixed(s, "module.")},
    "module.": lambda s: prefixed(s, "module."),
    "module._orig_mod.": lambda s: prefixed(s, "module._orig_mod."),
    "model": lambda s: {"model": s, "step": 7},
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_wrappers_and_prefixes_are_taken_off(tmp_path: Path, wrapping: str) -> None:
    plain = makers.plain_state()
    checkpoint = read_checkpoint(save(tmp_path / "open_clip.pt", WRAPPINGS[wrapping](plain)))
    assert_stretched_from(checkpoint, plain)
    assert checkpoint.layout == "open_clip"
    if "module." in wrapping:
        assert "module. prefix removed" in checkpoint.notes


def test_a_text_tower_under_its_own_prefix_is_read(tmp_path: Path) -> None:
    plain = makers.plain_state()
    root = {"state_dict": prefixed(makers.custom_text_state(plain), "module.")}
    checkpoint = read_checkpoint(save(tmp_path / "custom.pt", root))
    assert_stretched_from(checkpoint, plain)
    assert "text. prefix removed" in checkpoint.notes


def test_masks_that_forks_saved_are_ignored_and_named(tmp_path: Path) -> None:
    state = makers.state_of(makers.random_model(makers.SMALL))
    masks = {"mask1": torch.zeros(248, 1), "mask2": torch.ones(248, 1)}
    checkpoint = read_checkpoint(save(tmp_path / "fork.pt", prefixed({**state, **masks}, "module.")))
    assert_same(checkpoint.state, state)
    assert checkpoint.layout == "longclip"
    assert "ignored mask1, mask2" in checkpoint.notes


@pytest.mark.parametrize("position_ids", [True, False])
def test_a_hugging_face_model_is_renamed_joined_and_transposed(tmp_path: Path, position_ids: bool) -> None:
    plain = makers.plain_state()
    path = save(tmp_path / "pytorch_model.bin", makers.huggingface_state(plain, position_ids=position_ids))
    checkpoint = read_checkpoint(path)
    assert_stretched_from(checkpoint, plain)
    assert checkpoint.layout == "huggingface"
    assert any("QuickGELU is assumed" in note for note in checkpoint.notes)


def test_the_configuration_beside_hugging_face_weights_decides_about_the_activation(tmp_path: Path) -> None:
    path = save(tmp_path / "pytorch_model.bin", makers.huggingface_state(makers.plain_state()))
    beside = tmp_path / "config.json"
    beside.write_text(json.dumps({"text_config": {"hidden_act": "quick_gelu"}, "vision_config": {}}))
    assert not any("QuickGELU" in note for note in read_checkpoint(path).notes)
    beside.write_text(
        json.dumps({"text_config": {"hidden_act": "gelu"}, "vision_config": {"hidden_act": "gelu"}})
    )
    with pytest.raises(CheckpointError, match="hidden_act gelu"):
        read_checkpoint(path)
    beside.write_text("[]")
    with pytest.raises(CheckpointError, match="no configuration"):
        read_checkpoint(path)


@pytest.mark.parametrize("layout", ["longclip", "openai", "huggingface"])
def test_safetensors_are_read_whatever_their_names(tmp_path: Path, layout: str) -> None:
    from safetensors.torch import save_file

    plain = makers.plain_state()
    full = makers.state_of(makers.random_model(makers.SMALL))
    state = {"longclip": full, "openai": plain, "huggingface": makers.huggingface_state(plain)}[layout]
    save_file(state, tmp_path / "model.safetensors")
    checkpoint = read_checkpoint(tmp_path / "model.safetensors")
    assert checkpoint.layout == f"safetensors/{layout}"
    if layout == "longclip":
        assert_same(checkpoint.state, full)
    else:
        assert_stretched_from(checkpoint, plain)


def test_an_old_pickle_without_a_zip_archive_is_read(tmp_path: Path) -> None:
    plain = makers.plain_state()
    torch.save(plain, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert_stretched_from(read_checkpoint(tmp_path / "old.pt"), plain)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_float_types_become_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    state = {name: t.to(dtype) for name, t in makers.state_of(makers.random_model(makers.SMALL)).items()}
    checkpoint = read_checkpoint(save(tmp_path / "typed.pt", state))
    assert_same(checkpoint.state, state)
    assert checkpoint.notes == (f"{str(dtype).removeprefix('torch.')} weights converted to float32",)


def test_our_own_small_layout_goes_through_the_same_door(tmp_path: Path) -> None:
    model = makers.random_model(makers.SMALL_MINI)
    write_safetensors(tmp_path / "mini.safetensors", model)
    save(tmp_path / "mini.pt", {"model": model.state_dict(), "step": 3})
    for name, layout in (("mini.safetensors", "safetensors/mini"), ("mini.pt", "mini")):
        checkpoint = read_checkpoint(tmp_path / name)
        assert_same(checkpoint.state, makers.state_of(model))
        assert checkpoint.layout == layout
        assert replace(checkpoint.config, name="") == makers.SMALL_MINI
        assert checkpoint.config.name == "mobilenetv2-64x1/1-64"


# ---------------------------------------------------------------------------------------- positions


@pytest.mark.parametrize(
    ("keep", "ratio", "length"), [(20, 4, 248), (10, 2, 144), (20, 8, 476), (77 - 2, 3, 81)]
)
def test_keep_and_ratio_are_the_callers_choice(tmp_path: Path, keep: int, ratio: int, length: int) -> None:
    plain = makers.plain_state()
    path = save(tmp_path / "clip.pt", plain)
    checkpoint = read_checkpoint(path, keep=keep, ratio=ratio)
    assert (checkpoint.config.context_length, checkpoint.config.keep, checkpoint.config.ratio) == (
        length,
        keep,
        ratio,
    )
    wanted = stretched(plain["positional_embedding"], keep, ratio)
    torch.testing.assert_close(
        checkpoint.state["positional_embedding"].double(), wanted, rtol=1e-6, atol=1e-7
    )
    assert any(
        f"stretched 77 -> {length} positions (keep {keep}, ratio {ratio})" in n for n in checkpoint.notes
    )


def test_safetensors_remember_keep_and_ratio_and_the_caller_may_overrule(tmp_path: Path) -> None:
    model = makers.random_model(replace(makers.SMALL, context_length=144, keep=10, ratio=2))
    write_safetensors(tmp_path / "short.safetensors", model)
    checkpoint = read_checkpoint(tmp_path / "short.safetensors")
    assert checkpoint.config == model.config
    assert model_from_checkpoint(checkpoint).config.keep == 10
    with pytest.raises(CheckpointError, match="144 rows; expected 77 rows, or 248"):
        read_checkpoint(tmp_path / "short.safetensors", keep=20, ratio=4)
    # A .pt records nothing: the caller must say it.
    path = save(tmp_path / "short.pt", makers.state_of(model))
    with pytest.raises(CheckpointError, match="keep and ratio"):
        read_checkpoint(path)
    assert_same(read_checkpoint(path, keep=10, ratio=2).state, makers.state_of(model))


def test_without_stretching_the_plain_table_stays(tmp_path: Path) -> None:
    plain = makers.plain_state()
    checkpoint = read_checkpoint(save(tmp_path / "clip.pt", plain), stretch=False)
    assert_same(checkpoint.state, plain)
    model = model_from_checkpoint(checkpoint)
    assert not model.stretched
    assert model.config.context_length == 77


def test_a_single_stretched_table_serves_as_both_and_the_note_says_which_it_was(tmp_path: Path) -> None:
    plain = makers.plain_state()
    frozen = stretched(plain["positional_embedding"]).float()
    trained = frozen + 1e-3 * torch.randn(frozen.shape, generator=torch.Generator().manual_seed(0))
    rest = {name: tensor for name, tensor in plain.items() if name != "positional_embedding"}
    cases = (
        ("positional_embedding", frozen, "the frozen one"),
        ("positional_embedding", frozen.half(), "the frozen one"),
        ("positional_embedding_res", frozen, "the frozen one"),
        ("positional_embedding_res", trained, "the trained one"),
        ("positional_embedding", trained, "a trained or merged one"),
    )
    for name, table, said in cases:
        checkpoint = read_checkpoint(save(tmp_path / "one.pt", {**rest, name: table}))
        (note,) = [note for note in checkpoint.notes if note.startswith("only one positional table")]
        assert said in note
        assert torch.equal(checkpoint.state["positional_embedding"], table.float())
        assert torch.equal(checkpoint.state["positional_embedding_res"], table.float())
        model = model_from_checkpoint(checkpoint)
        assert torch.equal(model.text_positions(), table.float())


def test_a_hugging_face_conversion_with_one_lost_table_is_recognised(tmp_path: Path) -> None:
    plain = makers.plain_state()
    state = makers.huggingface_state(
        {**plain, "positional_embedding": stretched(plain["positional_embedding"]).float()}
    )
    checkpoint = read_checkpoint(save(tmp_path / "pytorch_model.bin", state))
    assert any("the frozen one" in note and "rows 20..247 are lost" in note for note in checkpoint.notes)


def test_a_table_leaves_the_lines_of_stretching_when_it_is_trained() -> None:
    table = stretched(makers.plain_state()["positional_embedding"]).float()
    assert lies_on_stretched_lines(table, keep=20, ratio=4)
    assert lies_on_stretched_lines(table.half().float(), keep=20, ratio=4)
    moved = table + 3e-4 * torch.randn(table.shape, generator=torch.Generator().manual_seed(1))
    assert not lies_on_stretched_lines(moved, keep=20, ratio=4)
    assert not lies_on_stretched_lines(table, keep=20, ratio=1)


# ------------------------------------------------------------------------------------------- shapes


@pytest.mark.parametrize("config", [VIT_B_32, VIT_B_16, VIT_L_14, VIT_L_14_336, MINI], ids=lambda c: c.name)
def test_shapes_come_from_the_tensors_alone(config: ClipConfig) -> None:
    with torch.device("meta"):
        state = DualClip(config).state_dict()
    assert config_from_tensors(state, keep=20, ratio=4, where="test") == config


@pytest.mark.parametrize("image", [64, 320])
@pytest.mark.parametrize("text", [64, 192])
def test_any_width_of_whole_heads_is_read(tmp_path: Path, image: int, text: int) -> None:
    config = ClipConfig("", 72, 48, 16, image, 1, text, 2)
    checkpoint = read_checkpoint(save(tmp_path / "odd.pt", DualClip(config).state_dict()))
    assert replace(checkpoint.config, name="") == config
    model = model_from_checkpoint(checkpoint)
    assert model.visual.transformer.resblocks[0].attn.heads == image // 64
    assert model.transformer.resblocks[0].attn.heads == text // 64


# -------------------------------------------------------------------------------------------- model


def test_the_model_answers_as_the_one_that_was_saved(tmp_path: Path) -> None:
    model = makers.random_model(makers.SMALL)
    write_longclip(tmp_path / "m.pt", model)
    again = model_from_checkpoint(read_checkpoint(tmp_path / "m.pt")).eval()
    pixels, tokens = torch.randn(2, 3, 32, 32), torch.randint(1, 49408, (2, 248))
    with torch.no_grad():
        assert torch.equal(again.encode_image(pixels), model.encode_image(pixels))
        assert torch.equal(again.encode_text(tokens), model.encode_text(tokens))
    assert again.stretched
    trainable = {name for name, parameter in again.named_parameters() if not parameter.requires_grad}
    assert trainable == {"positional_embedding"}


def test_the_model_holds_the_checkpoints_tensors_not_a_copy(tmp_path: Path) -> None:
    write_longclip(tmp_path / "m.pt", makers.random_model(makers.SMALL))
    checkpoint = read_checkpoint(tmp_path / "m.pt")
    for name, tensor in model_from_checkpoint(checkpoint).state_dict().items():
        assert tensor.data_ptr() == checkpoint.state[name].data_ptr(), name


# ------------------------------------------------------------------------------------------ writing


def test_the_long_clip_layout_is_written_as_published_and_bit_for_bit(tmp_path: Path) -> None:
    model = makers.random_model(makers.SMALL)
    write_longclip(tmp_path / "out.pt", model)
    written = torch.load(tmp_path / "out.pt", weights_only=True)
    assert set(written) == set(makers.published_names(2, 3))
    assert all(tensor.dtype == torch.float32 for tensor in written.values())
    assert_same(written, makers.state_of(model))
    assert written["logit_scale"].shape == ()
    assert written["logit_scale"].item() == model.logit_scale.item()
    assert_same(read_checkpoint(tmp_path / "out.pt").state, makers.state_of(model))


@pytest.mark.parametrize("write", [write_longclip, write_safetensors])
def test_a_view_does_not_drag_its_whole_storage_into_the_file(
    tmp_path: Path, write: Callable[..., None]
) -> None:
    model = makers.random_model(makers.SMALL)
    model.ln_final.weight = torch.nn.Parameter(torch.randn(200_000, 64)[3])
    write(tmp_path / "out", model)
    wanted = makers.state_of(model)
    assert_same(read_checkpoint(tmp_path / "out").state, wanted)
    assert (tmp_path / "out").stat().st_size < 1.05 * sum(tensor.nbytes for tensor in wanted.values())


def test_a_checkpoint_goes_through_both_formats_bit_for_bit(tmp_path: Path) -> None:
    first = read_checkpoint(save(tmp_path / "clip.pt", makers.openai_state()))
    write_safetensors(tmp_path / "a.safetensors", model_from_checkpoint(first))
    second = read_checkpoint(tmp_path / "a.safetensors")
    write_longclip(tmp_path / "b.pt", model_from_checkpoint(second))
    third = read_checkpoint(tmp_path / "b.pt")
    assert_same(second.state, first.state)
    assert_same(third.state, first.state)
    assert third.config == first.config


@pytest.mark.parametrize("write", [write_longclip, write_safetensors])
def test_an_existing_file_is_replaced_only_on_request_and_never_half(
    tmp_path: Path, write: Callable[..., None]
) -> None:
    target = tmp_path / "deep" / "m.ckpt"
    write(target, makers.random_model(makers.SMALL))
    before = target.read_bytes()
    with pytest.raises(OutputExistsError, match="exists"):
        write(target, makers.random_model(makers.SMALL, seed=1))
    assert target.read_bytes() == before
    write(target, makers.random_model(makers.SMALL, seed=1), overwrite=True)
    assert target.read_bytes() != before
    assert [path.name for path in target.parent.iterdir()] == ["m.ckpt"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "m.pt"
    target.write_bytes(b"old")

    def break_off(state: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", break_off)
    with pytest.raises(OSError, match="No space"):
        write_longclip(target, makers.random_model(makers.SMALL), overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["m.pt"]
    assert target.read_bytes() == b"old"


def test_what_the_authors_code_cannot_load_is_not_written_in_their_layout(tmp_path: Path) -> None:
    unfit = (
        makers.random_model(makers.SMALL_MINI),
        makers.random_model(makers.SMALL_77, stretched=False),
        makers.random_model(replace(makers.SMALL, context_length=144, keep=10, ratio=2)),
    )
    for model in unfit:
        with pytest.raises(CheckpointError, match="no place"):
            write_longclip(tmp_path / "m.pt", model)
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------------------------------- open_clip


@pytest.fixture(scope="module")
def open_clip_small(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """open_clip with small architectures of ViT-B-16-quickgelu's structure, and with GELU."""
    folder = tmp_path_factory.mktemp("open_clip")
    open_clip = import_open_clip()
    shared = {
        "embed_dim": 96,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 128, "patch_size": 8},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 3},
    }
    for name, more in (("small-quickgelu", {"quick_gelu": True}), ("small-gelu", {"quick_gelu": False})):
        (folder / f"{name}.json").write_text(json.dumps({**shared, **more}))
    custom = {**shared, "quick_gelu": True, "custom_text": True}
    (folder / "small-custom.json").write_text(json.dumps(custom))
    pooled = {**shared, "quick_gelu": True, "vision_cfg": {**shared["vision_cfg"], "pool_type": "avg"}}  # type: ignore[dict-item]
    (folder / "small-pooled.json").write_text(json.dumps(pooled))
    open_clip.add_model_config(folder)
    return open_clip


@torch.no_grad()
@pytest.mark.parametrize("name", ["small-quickgelu", "small-custom"])
def test_our_towers_answer_as_open_clips(open_clip_small: ModuleType, tmp_path: Path, name: str) -> None:
    torch.manual_seed(3)
    theirs = open_clip_small.create_model(name, pretrained=None).eval()
    for parameter in theirs.parameters():
        parameter.add_(0.02 * torch.randn_like(parameter))
    path = save(tmp_path / "theirs.pt", {"epoch": 1, "state_dict": theirs.state_dict()})
    ours = model_from_checkpoint(read_checkpoint(path, stretch=False)).eval()
    pixels = torch.randn(3, 3, 32, 32)
    tokens = open_clip_small.get_tokenizer(name)(["a harbour", "many planes on an airport", "x " * 90])
    torch.testing.assert_close(ours.encode_image(pixels), theirs.encode_image(pixels), rtol=0, atol=1e-5)
    torch.testing.assert_close(ours.encode_text(tokens), theirs.encode_text(tokens), rtol=0, atol=1e-5)
    longer = model_from_checkpoint(read_checkpoint(path)).eval()
    short = tokens[:2, :20]
    torch.testing.assert_close(longer.encode_text(short), theirs.encode_text(tokens)[:2], rtol=0, atol=1e-5)
    weights = theirs.state_dict()
    table = weights.get("positional_embedding", weights.get("text.positional_embedding"))
    torch.testing.assert_close(longer.text_positions().double(), stretched(table), rtol=1e-6, atol=1e-7)


def test_a_model_starts_from_open_clips_weights(open_clip_small: ModuleType, tmp_path: Path) -> None:
    torch.manual_seed(5)
    theirs = open_clip_small.create_model("small-quickgelu", pretrained=None)
    path = save(tmp_path / "weights.pt", theirs.state_dict())
    ours = clip_from_open_clip("small-quickgelu", str(path))
    assert (ours.config.context_length, ours.stretched) == (248, True)
    assert torch.equal(ours.visual.proj, theirs.visual.proj)
    table = stretched(theirs.positional_embedding.detach())
    torch.testing.assert_close(ours.positional_embedding.detach().double(), table, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(ours.positional_embedding_res.detach().double(), table, rtol=1e-6, atol=1e-7)
    assert clip_from_open_clip("small-quickgelu", keep=10, ratio=2).config.context_length == 144


@pytest.mark.parametrize("name", ["small-gelu", "small-pooled"])
def test_what_the_weights_do_not_show_is_found_by_running_both(
    open_clip_small: ModuleType, name: str
) -> None:
    with pytest.raises(CheckpointError, match="-quickgelu"):
        clip_from_open_clip(name)


def test_an_architecture_that_open_clip_does_not_know_is_refused(open_clip_small: ModuleType) -> None:
    with pytest.raises(
        CheckpointError, match=r"ViT-Z-99 could not be made \(.*\)\. open_clip.list_pretrained"
    ):
        clip_from_open_clip("ViT-Z-99")
    with pytest.raises(CheckpointError, match="could not be made"):
        clip_from_open_clip("small-quickgelu", "no such tag or file")


def test_open_clip_imports_where_the_compiled_operators_are_missing() -> None:
    code = (
        "from lrsclip_train.open_clip_import import import_open_clip\n"
        "module = import_open_clip()\n"
        "assert import_open_clip() is module\n"
        "assert module.get_tokenizer('ViT-B-32')(['a']).shape == (1, 77)\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


# --------------------------------------------------------------------------------------- full sizes


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "tensors", "parameters"),
    [(VIT_B_16, 303, 149_835_265), (VIT_L_14, 447, 427_938_305)],
    ids=["B/16", "L/14"],
)
def test_full_published_layouts_are_written_read_and_built_in_bounded_memory(
    tmp_path: Path, config: ClipConfig, tensors: int, parameters: int
) -> None:
    model = makers.random_model(config)
    wanted = {name: hashlib.sha256(tensor.numpy()).hexdigest() for name, tensor in model.state_dict().items()}
    assert set(wanted) == set(makers.published_names(config.image_layers, config.text_layers))
    path = tmp_path / "full.pt"
    write_longclip(path, model)
    write_safetensors(tmp_path / "full.safetensors", model)
    del model
    for file, layout in ((path, "longclip"), (tmp_path / "full.safetensors", "safetensors/longclip")):
        checkpoint = read_checkpoint(file)
        assert (checkpoint.config, checkpoint.layout, checkpoint.notes) == (config, layout, ())
        assert len(checkpoint.state) == tensors
        assert sum(tensor.numel() for tensor in checkpoint.state.values()) == parameters
        found = {
            name: hashlib.sha256(tensor.numpy()).hexdigest() for name, tensor in checkpoint.state.items()
        }
        assert found == wanted
        del checkpoint
        peak, before = _peak_bytes_of_reading(file)
        assert peak - before < 1.4 * file.stat().st_size


def _peak_bytes_of_reading(path: Path) -> tuple[int, int]:
    """Peak and initial resident bytes of a process that reads a file and builds its model."""
    code = PEAK_KIB + (
        "import sys, torch\n"
        "from lrsclip_train.checkpoints import model_from_checkpoint, read_checkpoint\n"
        "before = peak_kib()\n"
        "model = model_from_checkpoint(read_checkpoint(sys.argv[1]))\n"
        "model.encode_text(torch.tensor([[49406, 5, 49407]]))\n"
        "print(1024 * peak_kib(), 1024 * before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=True, capture_output=True, text=True)
    peak, before = map(int, done.stdout.split())
    return peak, before


def test_numpy_sees_the_tensors_of_a_checkpoint_without_a_copy(tmp_path: Path) -> None:
    state = read_checkpoint(save(tmp_path / "m.pt", makers.state_of(makers.random_model(makers.SMALL)))).state
    for tensor in state.values():
        array = tensor.numpy()
        assert array.flags.c_contiguous
        assert array.dtype == np.float32

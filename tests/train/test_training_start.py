"""Where a run begins: any checkpoint, stretched where it must be; what is frozen, decayed and clamped."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import checkpoint_makers as makers
import numpy as np
import pytest
import torch
import training_makers as make

from lrsclip_rt.datasets import pair_set_from_folder
from lrsclip_rt.errors import CheckpointError, InputError
from lrsclip_train.checkpoint_writer import write_longclip, write_safetensors
from lrsclip_train.checkpoints import model_from_checkpoint, read_checkpoint
from lrsclip_train.gathering import World
from lrsclip_train.kps import stretch_table
from lrsclip_train.prepare import prepare
from lrsclip_train.release import save_release
from lrsclip_train.run_state import first_state
from lrsclip_train.teacher import save_teacher
from lrsclip_train.texts import TokenTable

State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make.tiles_folder(tmp_path_factory.mktemp("tiles"), train=8, val=2)


def written(kind: str, path: Path) -> tuple[str, State, bool]:
    """A checkpoint of a layout, the tensors that are in it under our names, and whether it is stretched."""
    if kind == "longclip":
        model = makers.random_model(makers.SMALL)
        write_longclip(path, model)
        return str(path), makers.state_of(model), True
    if kind == "safetensors":
        model = makers.random_model(makers.SMALL)
        write_safetensors(path, model)
        return str(path), makers.state_of(model), True
    state = makers.plain_state()
    if kind == "openai":
        state = {name: value.float() for name, value in makers.as_openai_types(state).items()}
        torch.save(makers.openai_state(), path)
    elif kind == "openai-jit":
        state = {name: value.float() for name, value in makers.as_openai_types(state).items()}
        makers.save_torchscript(path, makers.openai_state())
    else:
        torch.save({"epoch": 3, "state_dict": {f"module.{name}": state[name] for name in state}}, path)
    return str(path), state, False


@pytest.mark.parametrize("kind", ["openai", "openai-jit", "open_clip", "longclip", "safetensors"])
def test_a_run_starts_from_the_weights_of_any_layout_and_stretches_77_positions(
    folder: Path, tmp_path: Path, kind: str
) -> None:
    path, state, stretched = written(kind, tmp_path / f"{kind}.file")
    config = make.settings(tmp_path / "run", folder, path, steps=1, batch=4, optimizer_lr=0.0)
    trained = make.run_of(config)["trained"]
    if not stretched:
        table = stretch_table(state["positional_embedding"])
        state = state | {"positional_embedding": table, "positional_embedding_res": table}
    assert make.equal(trained, state)


def test_the_source_file_is_never_written_to(folder: Path, tmp_path: Path) -> None:
    path, _, _ = written("longclip", tmp_path / "init.pt")
    before = Path(path).read_bytes()
    make.run_of(make.settings(tmp_path / "run", folder, path, steps=2, batch=4))
    assert Path(path).read_bytes() == before


def test_the_kept_positions_stay_and_the_later_ones_learn(folder: Path, init: str, tmp_path: Path) -> None:
    start = torch.load(init, weights_only=True)
    config = make.settings(tmp_path, folder, init, steps=3, optimizer_weight_decay=0.5)
    trained = make.run_of(config)["trained"]
    assert torch.equal(trained["positional_embedding"], start["positional_embedding"])
    moved = (trained["positional_embedding_res"] != start["positional_embedding_res"]).any(dim=1)
    assert not moved[:20].any()
    assert moved[20:24].all()  # the texts are longer than 24 tokens


def test_weight_decay_reaches_matrices_and_leaves_norms_biases_and_embeddings(
    folder: Path, init: str, tmp_path: Path
) -> None:
    config = make.settings(tmp_path, folder, init, optimizer_weight_decay=0.3)
    sources, _ = prepare(config)
    state = first_state(config, sources, TokenTable(), World())
    decay = {id(p): g["weight_decay"] for g in state.optimizer.param_groups for p in g["params"]}
    found = {name: decay.pop(id(p)) for name, p in state.model.named_parameters() if p.requires_grad}
    assert not decay
    decayed = {name for name, value in found.items() if value}
    assert set(found.values()) == {0.0, 0.3}
    parts = ("attn.in_proj_weight", "attn.out_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
    blocks = ("transformer.resblocks.0", "visual.transformer.resblocks.0")
    assert decayed == {f"{block}.{part}" for block in blocks for part in parts} | {
        "visual.conv1.weight",
        "visual.proj",
        "text_projection",
    }
    assert "positional_embedding" not in found


def test_a_pretrained_stem_learns_at_its_own_rate_and_a_cached_front_not_at_all(
    folder: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {
        "model_architecture": "mini",
        "model_stem_weights": make.stem_file(tmp_path / "stem.npz"),
        "model_image_layers": 1,
        "model_text_layers": 1,
        "optimizer_stem_lr": 0.25,
    }
    config = make.settings(tmp_path / "run", folder, "", **options)
    sources, _ = prepare(config)
    for cached in (0, 2):
        part = make.changed(config, data_cached_views=cached)
        state = first_state(part, sources, TokenTable(), World())
        factor = {id(p): g["factor"] for g in state.optimizer.param_groups for p in g["params"]}
        for name, parameter in state.model.named_parameters():
            if name.startswith("visual.stem.first"):
                assert (id(parameter) in factor) == (cached == 0)
            elif parameter.requires_grad:
                assert factor[id(parameter)] == (0.25 if ".stem." in name else 1.0)


def test_a_missing_word_shares_its_row_and_words_of_the_data_have_their_own(
    folder: Path, tmp_path: Path
) -> None:
    stem = make.stem_file(tmp_path / "stem.npz")
    config = make.settings(
        tmp_path / "run", folder, "", model_architecture="mini", model_stem_weights=stem, model_image_layers=1
    )
    sources, _ = prepare(config)
    table = TokenTable()
    model = first_state(config, sources, table, World()).model
    words = table.seen([sources[0].samples[0].long or "pond", "aerial image"])
    rows = model.token_map[torch.from_numpy(words)].tolist()
    unknown = table.seen(["zeppelin"])
    assert len(set(rows)) == len(rows)
    assert model.token_map[torch.from_numpy(unknown)].min() == 0
    assert int(model.token_map.max()) + 1 == model.token_embedding.num_embeddings


def test_the_scale_starts_where_it_is_told_and_never_passes_its_bound(
    folder: Path, init: str, tmp_path: Path
) -> None:
    config = make.settings(tmp_path / "a", folder, init, steps=2, model_reset_scale=100.0, optimizer_lr=0.0)
    assert math.exp(make.run_of(config)["trained"]["logit_scale"]) == pytest.approx(100.0, rel=1e-5)
    state = torch.load(init, weights_only=True) | {"logit_scale": torch.tensor(math.log(500.0))}
    torch.save(state, tmp_path / "hot.pt")
    config = make.settings(
        tmp_path / "b", folder, str(tmp_path / "hot.pt"), steps=2, optimizer_max_scale=50.0
    )
    make.run_of(config)
    assert all(row["scale"] <= 50.01 for row in make.log_of(config))
    torch.save(state | {"logit_scale": torch.tensor(-3.0)}, tmp_path / "cold.pt")
    config = make.settings(tmp_path / "c", folder, str(tmp_path / "cold.pt"), steps=1, optimizer_lr=0.0)
    make.run_of(config)
    assert make.log_of(config)[0]["scale"] == 1.0


def test_what_cannot_start_is_named(folder: Path, init: str, tmp_path: Path) -> None:
    (tmp_path / "bad.pt").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match=r"bad\.pt"):
        make.run_of(make.settings(tmp_path / "a", folder, str(tmp_path / "bad.pt")))
    with pytest.raises(InputError, match="unknown architecture 'ViT-Z/3'; known are mini, ViT-B/32"):
        make.run_of(make.settings(tmp_path / "b", folder, "", model_architecture="ViT-Z/3"))
    with pytest.raises(InputError, match="unknown architecture 'ViT-Z/3'"):
        make.run_of(make.settings(tmp_path / "c", folder, "", model_architecture="ViT-Z/3", data_tiles=1))


def teacher_file(path: Path, folder: Path, width: int) -> None:
    """Random rows for the training images and their short texts."""
    items = pair_set_from_folder(folder, split="train").items
    texts = sorted({text for item in items for text in item.short})
    rng = np.random.default_rng(5)
    images, rows = rng.normal(size=(len(items), width)), rng.normal(size=(len(texts), width))
    save_teacher(path, image_keys=[item.image for item in items], images=images, texts=texts, text_rows=rows)


def test_a_teacher_draws_the_embeddings_to_its_own(folder: Path, init: str, tmp_path: Path) -> None:
    teacher_file(tmp_path / "teacher.npz", folder, make.TINY.embed_dim)
    config = make.settings(
        tmp_path / "run",
        folder,
        init,
        steps=25,
        save_every=100,
        loss_teacher=str(tmp_path / "teacher.npz"),
        loss_teacher_weight=20.0,
        optimizer_lr=3e-3,
    )
    make.run_of(config)
    rows = make.log_of(config)
    assert rows[0]["teacher"] == pytest.approx(2.0, abs=0.4)  # two random directions
    assert rows[-1]["teacher"] < rows[0]["teacher"] - 0.1
    first = rows[0]
    assert first["loss"] == pytest.approx(
        0.5 * first["short"] + 0.5 * first["long"] + 20 * first["teacher"], abs=2e-3
    )


def test_a_teacher_of_another_width_or_kind_is_refused(folder: Path, init: str, tmp_path: Path) -> None:
    teacher_file(tmp_path / "wide.npz", folder, 96)
    config = make.settings(tmp_path / "a", folder, init, loss_teacher=str(tmp_path / "wide.npz"))
    with pytest.raises(InputError, match=r"D = 96, the model's have 64"):
        make.run_of(config)
    (tmp_path / "none.npz").write_bytes(b"nothing")
    config = make.settings(tmp_path / "b", folder, init, loss_teacher=str(tmp_path / "none.npz"))
    with pytest.raises(InputError, match="is no teacher"):
        make.run_of(config)


def test_the_trained_file_starts_the_next_run(folder: Path, init: str, tmp_path: Path) -> None:
    config = make.settings(tmp_path / "one", folder, init, steps=2)
    make.run_of(config)
    released = save_release(tmp_path / "one" / "last.pt", tmp_path / "model.safetensors")
    model = model_from_checkpoint(read_checkpoint(released))
    again = make.settings(tmp_path / "two", folder, str(released), steps=1, optimizer_lr=0.0)
    assert make.equal(make.run_of(again)["trained"], dict(model.state_dict()))
    trained = torch.load(tmp_path / "one" / "last.pt", weights_only=True)["model"]
    assert make.equal(trained, dict(model.state_dict()))


def test_the_small_model_is_released_in_float16_numbers_and_its_stretch_is_recorded(tmp_path: Path) -> None:
    from safetensors import safe_open

    weights = {"visual.stem.first.weight": torch.randn(4, 3), "ln": torch.randn(5)}
    content = {"model": weights, "config": {"model": {"keep": 24, "ratio": 3}}}
    torch.save(content, tmp_path / "last.pt")
    save_release(tmp_path / "last.pt", tmp_path / "model.safetensors")
    with safe_open(tmp_path / "model.safetensors", "pt") as released:
        assert released.metadata() == {"format": "pt", "kps_keep": "24", "kps_ratio": "3"}
        for name, value in weights.items():
            assert torch.equal(released.get_tensor(name), value.half().float())

"""``lrsclip export`` as a person types it."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from rendered_folders import write_pairs, write_tiles

from lrsclip_export.cli.export import command
from lrsclip_rt.bundle import Bundle
from lrsclip_rt.errors import InputError, OutputExistsError


def call(*arguments: object) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, state_of) -> Path:
    path = tmp_path_factory.mktemp("command") / "tiny.pt"
    torch.save(state_of("tiny"), path)
    return path


def test_a_checkpoint_becomes_a_bundle_with_one_line_a_precision(tmp_path, checkpoint) -> None:
    out = tmp_path / "bundle"
    done = call(
        checkpoint, "-o", out, "--precision", "fp32,fp16", "--name", "mine", "--licence", "CC0", "--template",
        "from above: {}",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["precision"] for row in rows] == ["fp16", "fp32"]
    assert all(row["passed"] for row in rows)
    assert rows[0]["image_cosine"] > 0.999
    bundle = Bundle.open(out)
    assert rows[0]["identity"] == bundle.identity
    assert (bundle.spec.name, bundle.source.licence) == ("mine", "CC0")
    assert bundle.spec.templates == ("from above: {}",)
    assert done.stderr.splitlines() == [
        "reading the checkpoint ...",
        "writing fp32 ...",
        "running PyTorch ...",
        "running fp32 ...",
        "writing fp16 ...",
        "running fp16 ...",
        "finishing ...",
    ]


def test_a_precision_is_added_in_place_without_overwrite(tmp_path, checkpoint) -> None:
    out = tmp_path / "bundle"
    assert call(checkpoint, "-o", out).exit_code == 0
    done = call(out, "-o", out, "--precision", "int8-cpu", "--allow-failed")
    assert done.exit_code == 0, done.output
    assert set(Bundle.open(out).precisions) == {"fp32", "int8-cpu"}


def test_what_reading_had_to_decide_is_said(tmp_path, state_of) -> None:
    state = state_of("tiny")
    del state["positional_embedding_res"]
    state["positional_embedding"] = state["positional_embedding"][:77].clone()
    torch.save(state, tmp_path / "old.pt")
    done = call(tmp_path / "old.pt", "-o", tmp_path / "bundle")
    assert done.exit_code == 0, done.output
    assert "note: stretched 77 -> 248 positions" in done.stderr


def test_float16_storage_is_refused_on_the_command_line_too(tmp_path, checkpoint) -> None:
    done = call(checkpoint, "-o", tmp_path / "bundle", "--store-fp16")
    assert isinstance(done.exception, InputError)


def test_an_unknown_precision_is_one_clear_error(tmp_path, checkpoint) -> None:
    done = call(checkpoint, "-o", tmp_path / "bundle", "--precision", "int4")
    assert isinstance(done.exception, InputError)
    assert str(done.exception) == (
        "precision int4 cannot be exported by this version; it writes fp32, fp16, int8, int8-cpu, fp8"
    )


def test_int8_without_a_calibration_says_what_to_pass(tmp_path, checkpoint) -> None:
    done = call(checkpoint, "-o", tmp_path / "bundle", "--precision", "int8")
    assert isinstance(done.exception, InputError)
    assert "--calibration DATA" in str(done.exception)
    assert not (tmp_path / "bundle").exists()


def test_fp8_is_made_from_a_checkpoint_and_a_folder_of_images(tmp_path, checkpoint) -> None:
    (tmp_path / "photos").mkdir()
    photos = write_tiles(tmp_path / "photos", 64)
    out = tmp_path / "bundle"
    done = call(
        checkpoint, "-o", out, "--precision", "fp8", "--calibration", photos, "--allow-failed"
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    rows = {row["precision"]: row for row in map(json.loads, done.stdout.splitlines())}
    assert set(rows) == {"fp32", "fp8"}
    assert rows["fp8"]["image_cosine"] > 0.97
    assert "calibrating fp8 ..." in done.stderr.splitlines()
    assert Bundle.open(out).record("fp8").notes["calibration"]["images"] == 64


def test_the_command_of_the_documentation_adds_int8(tmp_path, checkpoint, monkeypatch) -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "precision.md"
    (line,) = re.findall(r"^lrsclip export (.*)$", page.read_text("utf-8"), re.M)
    (tmp_path / "tiles").mkdir()
    write_pairs(write_tiles(tmp_path / "tiles"), tmp_path / "data" / "pairs")
    monkeypatch.chdir(tmp_path)
    assert call(checkpoint, "-o", "bundle").exit_code == 0
    done = call(*shlex.split(line), "--allow-failed")
    assert done.exit_code == 0, done.output
    assert set(Bundle.open(tmp_path / "bundle").precisions) == {"fp32", "int8"}


def test_an_existing_bundle_is_not_replaced_without_overwrite(tmp_path, checkpoint) -> None:
    out = tmp_path / "bundle"
    assert call(checkpoint, "-o", out).exit_code == 0
    assert isinstance(call(checkpoint, "-o", out).exception, OutputExistsError)
    assert call(checkpoint, "-o", out, "--name", "second", "--overwrite").exit_code == 0
    assert Bundle.open(out).spec.name == "second"


def test_the_output_must_be_named(checkpoint) -> None:
    assert call(checkpoint).exit_code == 2

"""Bundles from checkpoints, precisions from bundles, and what happens when something does not fit."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from rendered_folders import write_tiles

from lrsclip_export import checkpoint_source
from lrsclip_export.checkpoint_source import CheckpointModel, checkpoint_model
from lrsclip_export.exporting import Provenance, bundle_from_model, export_bundle
from lrsclip_export.graph_source import SourceGraph
from lrsclip_export.int8_cpu import int8_cpu_graph
from lrsclip_export.precisions import graph_files, save_graph
from lrsclip_export.probe import PROBE_TEXTS, Probe, default_probe, probe_from_arrays, read_probe
from lrsclip_export.proof import answers_from_graphs, inputs_from_probe
from lrsclip_export.weight_file import WeightFile
from lrsclip_rt.bundle import TOWERS, Bundle
from lrsclip_rt.errors import (
    BundleError,
    CheckpointError,
    InputError,
    OutputExistsError,
    ParityError,
)
from lrsclip_rt.pixels import CLIP_MEAN, CLIP_STD
from lrsclip_rt.tokenizer import Tokenizer

IMAGES = [np.random.default_rng(i).integers(0, 256, (40, 50, 3), dtype=np.uint8) for i in range(3)]
TEXTS = ["a harbour", "many ships " * 60, "one"]


def snapshot(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def tiny_file(tmp_path_factory, state_of) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "my-clip.pt"
    torch.save(state_of("tiny"), path)
    return path


@pytest.fixture(scope="module")
def plain_bundle(tmp_path_factory, tiny_file) -> Path:
    """fp32 alone."""
    out = tmp_path_factory.mktemp("plain") / "bundle"
    return export_bundle(tiny_file, out, probe_images=IMAGES, probe_texts=TEXTS).path


def test_a_checkpoint_becomes_a_bundle_that_says_what_it_is(plain_bundle, tiny_file, state_of) -> None:
    bundle = Bundle.open(plain_bundle)
    spec = bundle.spec
    assert (spec.name, spec.architecture) == ("my-clip", "ViT-64x2/8-32")
    assert (spec.embed_dim, spec.image_size, spec.patch_grid) == (64, 32, (4, 4))
    assert (spec.mean, spec.std) == (CLIP_MEAN, CLIP_STD)
    assert (spec.context_length, spec.kps_keep, spec.kps_ratio) == (248, 20, 4)
    assert spec.logit_scale == pytest.approx(float(state_of("tiny")["logit_scale"].exp()))
    assert spec.templates == checkpoint_source.DEFAULT_TEMPLATES
    assert spec.tokenizer_sha256 == Tokenizer(bundle.vocabulary_path).sha256
    assert bundle.source.layout == "longclip"
    assert bundle.source.how_made == "lrsclip export my-clip.pt"
    assert bundle.source.licence == "not stated"
    assert (bundle.default_precision, tuple(bundle.precisions)) == ("fp32", ("fp32",))
    assert set(bundle.record("fp32").files) == set(graph_files("fp32"))
    report = bundle.record("fp32").parity
    assert report is not None
    assert (report.n_images, report.n_texts) == (3, 3)
    assert report.passed
    assert report.dense_passed


def test_names_templates_and_origin_are_the_callers(tmp_path, tiny_file) -> None:
    bundle = export_bundle(
        tiny_file,
        tmp_path / "b",
        name="other",
        templates=["seen from above: {}"],
        provenance=Provenance("by hand", "CC0", "none"),
        probe_images=IMAGES,
        probe_texts=TEXTS,
    )
    assert bundle.spec.name == "other"
    assert bundle.spec.templates == ("seen from above: {}",)
    assert (bundle.source.how_made, bundle.source.licence, bundle.source.training_data) == (
        "by hand",
        "CC0",
        "none",
    )


def test_the_probe_holds_what_the_fp32_graphs_answer(plain_bundle, float64_clip, state_of) -> None:
    bundle = Bundle.open(plain_bundle)
    probe = read_probe(bundle.probe_path)
    np.testing.assert_array_equal(probe.images, np.stack(IMAGES))
    assert probe.texts == tuple(TEXTS)
    inputs = inputs_from_probe(probe, bundle.spec, bundle.vocabulary_path)
    expected = float64_clip(state_of("tiny"))
    with np.load(bundle.probe_path) as arrays:
        assert arrays["image_embeddings"].dtype == np.float32
        assert np.abs(arrays["image_embeddings"] - expected.image(inputs.pixels)).max() < 5e-6
        assert np.abs(arrays["text_embeddings"] - expected.text(inputs.texts.tokens)).max() < 5e-6


def test_the_default_probe_is_rendered_and_has_short_and_long_texts() -> None:
    probe = default_probe()
    assert probe.images.dtype == np.uint8
    assert len(probe.images) >= 10
    assert len({image.tobytes() for image in probe.images}) == len(probe.images)
    lengths = Tokenizer().encode_batch(PROBE_TEXTS).eot + 1
    assert len(set(PROBE_TEXTS)) == len(PROBE_TEXTS) >= 32
    assert (lengths < 20).sum() >= 16
    assert ((lengths >= 80) & (lengths <= 220)).sum() >= 8
    assert lengths.max() > 200


def test_answers_come_back_in_the_order_of_the_texts(plain_bundle) -> None:
    bundle = Bundle.open(plain_bundle)
    texts = ("a very long text " * 20, "short", "a text of medium length with some more words", "tiny")
    probe = Probe(np.stack(IMAGES), tuple(text + str(i) for i in range(5) for text in texts))
    paths = {tower: bundle.graph_path(tower, "fp32") for tower in TOWERS}
    answers = answers_from_graphs(paths, inputs_from_probe(probe, bundle.spec, bundle.vocabulary_path))
    assert np.abs(answers.texts - answers.texts_fixed).max() < 1e-6
    assert np.abs(answers.texts[0] - answers.texts[1]).max() > 1e-3


def test_the_same_checkpoint_gives_the_same_bundle(tmp_path, plain_bundle, tiny_file) -> None:
    again = export_bundle(tiny_file, tmp_path / "again", probe_images=IMAGES, probe_texts=TEXTS)
    assert snapshot(again.path) == snapshot(plain_bundle)


def test_a_file_of_77_positions_is_stretched(tmp_path, state_of, float64_clip, run_graph, token_rows) -> None:
    state = state_of("tiny")
    del state["positional_embedding_res"]
    state["positional_embedding"] = state["positional_embedding"][:77].clone()
    torch.save({k: v.half() if v.ndim > 1 else v for k, v in state.items()}, tmp_path / "openai.pt")
    bundle = export_bundle(tmp_path / "openai.pt", tmp_path / "b", probe_images=IMAGES, probe_texts=TEXTS)
    assert bundle.source.layout == "openai"
    assert any("stretched 77 -> 248" in note for note in bundle.record("fp32").notes["checkpoint"])

    old = state["positional_embedding"].half().double()
    new = torch.empty(248, 64, dtype=torch.float64)
    new[:20] = old[:20]
    for i in range(56):
        for j in range(4):
            new[20 + 4 * i + j] = ((4 - j) * old[20 + i] + j * old[21 + i]) / 4
    for k in range(4):
        new[244 + k] = old[76] + k * (old[76] - old[75]) / 4
    rounded = {k: v.half().float() if v.ndim > 1 else v for k, v in state.items()}
    expected = float64_clip({**rounded, "positional_embedding": new}).text(token_rows)
    eot = token_rows.argmax(1).astype(np.int32)
    found = run_graph(bundle.graph_path("text", "fp32"), tokens=token_rows, eot=eot)
    assert np.abs(found - expected).max() < 5e-6


def test_float16_storage_is_the_same_model_in_half_the_bytes(tmp_path, state_of) -> None:
    rounded = {
        name: value.half().float() if value.is_floating_point() else value
        for name, value in state_of("mini").items()
    }
    torch.save(rounded, tmp_path / "mini.pt")
    wide, narrow = (
        export_bundle(
            tmp_path / "mini.pt",
            tmp_path / name,
            precisions=("fp32", "fp16", "int8-cpu"),
            probe_images=IMAGES,
            probe_texts=TEXTS,
            store_fp16=half,
            allow_failed=True,
        )
        for name, half in (("wide", False), ("narrow", True))
    )
    assert wide.spec.mean == narrow.spec.std == (0.5, 0.5, 0.5)
    assert wide.identity == narrow.identity
    with np.load(wide.probe_path) as a, np.load(narrow.probe_path) as b:
        for name in ("image_embeddings", "text_embeddings"):
            np.testing.assert_array_equal(a[name], b[name])
    assert narrow.files["image.fp32.weights"].bytes < 0.52 * wide.files["image.fp32.weights"].bytes
    # What is made from both is the same too.
    for file in ("image.fp16.weights", "text.fp16.weights", "text.int8-cpu.weights"):
        assert narrow.files[file] == wide.files[file]
    assert narrow.record("fp32").notes["weights_stored_as"] == "float16"


def test_float16_storage_is_refused_where_it_would_change_a_weight(tmp_path, tiny_file) -> None:
    with pytest.raises(InputError, match=r"storing float16 would change \d+ of \d+ numbers of "):
        export_bundle(tiny_file, tmp_path / "b", store_fp16=True)
    assert list(tmp_path.iterdir()) == []


class Mistaken(CheckpointModel):
    """Writes graphs of other weights than it is proven against."""

    __slots__ = ()
    changed = ""

    def write_fp32(self, folder, progress):
        state = dict(self.checkpoint.state)
        state[self.changed] = state[self.changed].roll(1, 0)
        honest = CheckpointModel(
            replace(self.checkpoint, state=state), self.spec, self.source, self.vocabulary, self.store_half
        )
        return honest.write_fp32(folder, progress)


@pytest.mark.parametrize(
    "changed",
    [
        "visual.transformer.resblocks.1.attn.in_proj_bias",
        "visual.conv1.weight",
        "transformer.resblocks.0.mlp.c_fc.bias",
        "positional_embedding_res",
        "text_projection",
    ],
)
def test_graphs_that_answer_otherwise_are_not_written(tmp_path, tiny_file, changed) -> None:
    model = checkpoint_model(tiny_file, name=None, templates=None, provenance=Provenance(), store_half=False)

    class Wrong(Mistaken):
        __slots__ = ()

    Wrong.changed = changed
    wrong = Wrong(model.checkpoint, model.spec, model.source, model.vocabulary, model.store_half)
    probe = probe_from_arrays(IMAGES, TEXTS)
    with pytest.raises(ParityError, match="do not answer as the checkpoint does"):
        bundle_from_model(wrong, tmp_path / "b", precisions=("fp32",), probe=probe)
    assert list(tmp_path.iterdir()) == []


def outlier_state(state: Mapping[str, torch.Tensor], factor: float) -> dict[str, torch.Tensor]:
    """The same function with channels of very different size, which one activation scale cannot hold."""
    out = {name: value.clone() for name, value in state.items()}
    for name in [name for name in out if name.endswith("ln_1.weight")]:
        p = name.removesuffix("ln_1.weight")
        for norm, linear in (("ln_1", "attn.in_proj_weight"), ("ln_2", "mlp.c_fc.weight")):
            out[f"{p}{norm}.weight"][:6] *= factor
            out[f"{p}{norm}.bias"][:6] *= factor
            out[f"{p}{linear}"][:, :6] /= factor
    return out


def test_a_precision_below_its_gate_is_written_only_on_request(tmp_path, state_of) -> None:
    # Channels are evened out by factors of up to 256.
    torch.save(outlier_state(state_of("tiny"), 2.0**20), tmp_path / "outliers.pt")
    options = {"precisions": ("fp32", "int8-cpu"), "probe_images": IMAGES, "probe_texts": TEXTS}
    with pytest.raises(ParityError, match=r"int8-cpu fell below its gate .* --allow-failed"):
        export_bundle(tmp_path / "outliers.pt", tmp_path / "b", **options)
    assert [path.name for path in tmp_path.iterdir()] == ["outliers.pt"]
    bundle = export_bundle(tmp_path / "outliers.pt", tmp_path / "b", allow_failed=True, **options)
    assert (bundle.passed("fp32"), bundle.passed("int8-cpu")) == (True, False)


def test_wide_channels_are_evened_out_for_int8_cpu(tmp_path, state_of, run_graph) -> None:
    """The same function; a conversion that takes activations as they are loses it."""
    torch.save(outlier_state(state_of("tiny"), 30.0), tmp_path / "outliers.pt")
    options = {"precisions": ("fp32", "int8-cpu"), "probe_images": IMAGES, "probe_texts": TEXTS}
    bundle = export_bundle(tmp_path / "outliers.pt", tmp_path / "b", allow_failed=True, **options)
    record = bundle.record("int8-cpu")
    assert record.notes["migrated_activations"] > 0
    assert record.parity is not None
    assert record.parity.image is not None
    assert record.parity.image.reaches(record.parity.gate)
    with WeightFile(tmp_path / "image.naive.weights") as weights:
        model = int8_cpu_graph(SourceGraph(bundle.graph_path("image", "fp32")), weights)
    save_graph(model, tmp_path / "image.naive.onnx")
    size = bundle.spec.image_size
    pixels = np.random.default_rng(3).standard_normal((8, 3, size, size)).astype(np.float32)
    exact, naive, evened = (
        run_graph(path, pixels=pixels)
        for path in (
            bundle.graph_path("image", "fp32"),
            tmp_path / "image.naive.onnx",
            bundle.graph_path("image", "int8-cpu"),
        )
    )
    assert (exact * evened).sum(-1).min() > 0.97
    assert (exact * naive).sum(-1).mean() < 0.99


def test_precisions_are_added_to_a_bundle_in_place(tmp_path, plain_bundle, tiny_bundle) -> None:
    work = tmp_path / "work"
    export_bundle(plain_bundle, work)
    assert snapshot(work) == snapshot(plain_bundle)
    before = Bundle.open(work)
    bundle = export_bundle(work, work, precisions=("fp16",), allow_failed=True)
    bundle = export_bundle(work, work, precisions=("int8-cpu",), allow_failed=True)
    assert bundle.path == work
    assert set(bundle.precisions) == {"fp32", "fp16", "int8-cpu"}
    assert (bundle.identity, bundle.default_precision) == (before.identity, "fp32")
    for file in before.files:
        assert bundle.files[file] == before.files[file]
    assert [path.name for path in tmp_path.iterdir()] == ["work"]
    Bundle.open(work).verify(use_stamps=False)
    report = bundle.record("int8-cpu").parity
    assert report is not None
    assert (report.n_images, report.n_texts) == (3, 3)


def test_a_precision_from_a_bundle_equals_the_one_from_the_checkpoint(tmp_path, tiny_bundle) -> None:
    written = {path.name: path.stat().st_mtime_ns for path in tiny_bundle.iterdir()}
    work = export_bundle(
        tiny_bundle, tmp_path / "work", precisions=("fp16", "int8-cpu"), allow_failed=True
    ).path
    assert snapshot(work) == snapshot(tiny_bundle)
    assert {path.name: path.stat().st_mtime_ns for path in tiny_bundle.iterdir()} == written


def test_the_source_bundle_stays_as_it_was(tmp_path, plain_bundle) -> None:
    before = snapshot(plain_bundle)
    export_bundle(plain_bundle, tmp_path / "copy", precisions=("int8-cpu",), allow_failed=True)
    assert snapshot(plain_bundle) == before
    copy = Bundle.open(tmp_path / "copy")
    assert "int8-cpu" in copy.precisions
    # onnx refuses weights with a second name, and whoever edits one bundle must not edit the other.
    for file in copy.files:
        assert (copy.path / file).stat().st_nlink == 1
    onnx.checker.check_model(str(copy.graph_path("image", "fp32")))


WITHOUT_TORCH = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "torchvision", "open_clip", "lrsclip_train", "safetensors"}:
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocker())
from pathlib import Path
from lrsclip_export.exporting import export_bundle
source, out = Path(sys.argv[1]), Path(sys.argv[2])
bundle = export_bundle(source, out, precisions=("fp16", "int8-cpu"), allow_failed=True)
print(",".join(sorted(bundle.precisions)))
assert "torch" not in sys.modules
"""


def test_precisions_are_added_to_a_bundle_without_torch(tmp_path, plain_bundle) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, plain_bundle, tmp_path / "out"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout.strip()) == (0, "fp16,fp32,int8-cpu"), done.stderr


def test_a_bundle_without_fp32_graphs_cannot_be_a_source(tmp_path, tiny_bundle) -> None:
    from lrsclip_rt.bundle_writer import BundleWriter

    shutil.copytree(tiny_bundle, tmp_path / "small")
    with BundleWriter.extending(Bundle.open(tmp_path / "small")) as writer:
        writer.remove_precision("fp32")
        writer.set_default("fp16")
        writer.finish()
    with pytest.raises(BundleError, match="no fp32 graphs"):
        export_bundle(tmp_path / "small", tmp_path / "out", precisions=("int8-cpu",))


@pytest.mark.parametrize("precision", ["int4", "bf16", "half"])
def test_unknown_precisions_are_refused_before_anything_is_read(tmp_path, precision) -> None:
    with pytest.raises(InputError, match="it writes fp32, fp16, int8, int8-cpu, fp8"):
        export_bundle(tmp_path / "nowhere.pt", tmp_path / "out", precisions=("fp32", precision))


@pytest.mark.parametrize("wanted", [("int8",), ("fp32", "fp8"), ("int8", "fp8")])
def test_int8_and_fp8_are_refused_without_real_data(tmp_path, plain_bundle, wanted) -> None:
    with pytest.raises(InputError, match=rf"{wanted[-1]} must see real data: .*--calibration DATA"):
        export_bundle(plain_bundle, tmp_path / "out", precisions=wanted)
    assert not (tmp_path / "out").exists()


def test_a_calibration_that_nothing_needs_is_refused(tmp_path, plain_bundle) -> None:
    with pytest.raises(InputError, match="is for int8 and fp8 and int8-cpu, but only fp16 was"):
        export_bundle(plain_bundle, tmp_path / "out", precisions=("fp16",), calibration=tmp_path)


def test_int8_is_added_to_a_bundle_and_records_its_calibration(tmp_path, plain_bundle, caplog) -> None:
    (tmp_path / "photos").mkdir()
    photos = write_tiles(tmp_path / "photos", 66)
    (photos / "007.png").write_bytes(b"not an image")
    shutil.copytree(plain_bundle, tmp_path / "work")
    seen: list[tuple[str, float]] = []
    bundle = export_bundle(
        tmp_path / "work",
        tmp_path / "work",
        precisions=("int8",),
        calibration=photos,
        progress=lambda stage, fraction: seen.append((stage, fraction)),
    )
    record = bundle.record("int8")
    assert bundle.passed("int8")
    assert set(record.files) == set(graph_files("int8"))
    assert record.notes["calibration"]["images"] == 65
    assert record.notes["calibration"]["unreadable_images"] == 1
    assert "007.png" in caplog.text
    Bundle.open(tmp_path / "work").verify(use_stamps=False)
    assert not [path for path in (tmp_path / "work").iterdir() if path.name.startswith(".")]
    fractions = [fraction for _, fraction in seen]
    assert fractions == sorted(fractions)
    assert "calibrating int8" in dict(seen)


def test_too_small_a_calibration_leaves_the_bundle_as_it_was(tmp_path, plain_bundle) -> None:
    (tmp_path / "photos").mkdir()
    before = snapshot(plain_bundle)
    with pytest.raises(InputError, match="3 readable images of 3, expected at least 64"):
        export_bundle(
            plain_bundle,
            tmp_path / "out",
            precisions=("int8",),
            calibration=write_tiles(tmp_path / "photos", 3),
        )
    assert snapshot(plain_bundle) == before
    assert not (tmp_path / "out").exists()


def test_sources_that_are_none_are_refused(tmp_path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.pt does not exist"):
        export_bundle(tmp_path / "nowhere.pt", tmp_path / "out")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match=r"without bundle\.json"):
        export_bundle(tmp_path / "folder", tmp_path / "out")
    (tmp_path / "text.pt").write_text("not a checkpoint")
    with pytest.raises(CheckpointError):
        export_bundle(tmp_path / "text.pt", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_existing_output_is_replaced_only_on_request(tmp_path, tiny_file, plain_bundle) -> None:
    out = export_bundle(tiny_file, tmp_path / "out", probe_images=IMAGES, probe_texts=TEXTS).path
    before = snapshot(out)
    for source in (tiny_file, plain_bundle):
        with pytest.raises(OutputExistsError, match="--overwrite"):
            export_bundle(source, out)
    assert snapshot(out) == before
    export_bundle(tiny_file, out, name="new", probe_images=IMAGES, probe_texts=TEXTS, overwrite=True)
    assert Bundle.open(out).spec.name == "new"


def test_options_of_a_checkpoint_are_refused_for_a_bundle(tmp_path, plain_bundle) -> None:
    with pytest.raises(InputError, match="is a bundle: its name"):
        export_bundle(plain_bundle, tmp_path / "out", name="renamed")
    with pytest.raises(InputError, match="is a bundle: its name"):
        export_bundle(plain_bundle, tmp_path / "out", store_fp16=True)


@pytest.mark.parametrize("template", ["no placeholder", "{} and {}"])
def test_templates_need_one_placeholder(tmp_path, tiny_file, template) -> None:
    with pytest.raises(InputError, match="placeholder"):
        export_bundle(tiny_file, tmp_path / "out", templates=[template])


@pytest.mark.parametrize(
    ("images", "texts"),
    [
        ([], TEXTS),
        (IMAGES, []),
        (IMAGES, [" "]),
        ([IMAGES[0], IMAGES[1][:20]], TEXTS),
        ([image.astype(np.float32) for image in IMAGES], TEXTS),
        ([image[..., 0] for image in IMAGES], TEXTS),
    ],
)
def test_probes_that_cannot_be_stored_are_refused(images, texts) -> None:
    with pytest.raises(InputError, match="probe images must be uint8"):
        probe_from_arrays(images, texts)


def test_progress_rises_from_nothing_to_all(tmp_path, tiny_file) -> None:
    seen: list[tuple[str, float]] = []
    export_bundle(
        tiny_file,
        tmp_path / "out",
        precisions=("fp16", "int8-cpu"),
        probe_images=IMAGES,
        probe_texts=TEXTS,
        allow_failed=True,
        progress=lambda stage, fraction: seen.append((stage, fraction)),
    )
    fractions = [fraction for _, fraction in seen]
    assert fractions == sorted(fractions)
    assert (fractions[0], fractions[-1]) == (0.0, 1.0)
    stages = list(dict.fromkeys(stage for stage, _ in seen))
    assert stages == [
        "reading the checkpoint",
        "writing fp32",
        "running PyTorch",
        "running fp32",
        "writing fp16",
        "running fp16",
        "calibrating int8-cpu",
        "running int8-cpu",
        "finishing",
    ]

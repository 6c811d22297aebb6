from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from lrsclip_rt import file_stamps
from lrsclip_rt.bundle import BUILT_IN, Bundle
from lrsclip_rt.bundle_records import Manifest
from lrsclip_rt.bundle_writer import BundleWriter, text_tower_copy
from lrsclip_rt.errors import BundleError, InputError, OutputExistsError
from lrsclip_rt.parity import GATES, Gate

pytestmark = pytest.mark.usefixtures("cache_home")


def folder_state(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.is_file()}


@pytest.fixture
def settled_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """An hour has passed since the files were written."""
    now = time.time_ns()
    monkeypatch.setattr(file_stamps.time, "time_ns", lambda: now + 3600 * 10**9)


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files whose content is really read and hashed."""
    names: list[str] = []
    real = file_stamps.sha256_of_file

    def spy(path: Path) -> str:
        names.append(path.name)
        return real(path)

    monkeypatch.setattr(file_stamps, "sha256_of_file", spy)
    return names


def test_a_written_bundle_opens_with_what_was_written(made_bundle: Path, handmade: ModuleType) -> None:
    bundle = Bundle.open(made_bundle)
    assert bundle.spec == handmade.make_spec(handmade.REAL_VOCABULARY.read_bytes())
    assert set(bundle.precisions) == {"fp32", "fp16", "int8-cpu"}
    assert bundle.default_precision == "fp32"
    assert bundle.towers("fp32") == ("image", "dense", "text", "text-248")
    assert bundle.graph_path("text-248", "int8-cpu") == bundle.path / "text-248.int8-cpu.onnx"
    assert bundle.vocabulary_path.is_file()
    assert bundle.probe_path.is_file()
    report = bundle.record("int8-cpu").parity
    assert report is not None
    assert report.passed
    assert bundle.passed("int8-cpu")
    assert bundle.passed("fp32")


def test_bundle_json_has_the_documented_keys(made_bundle: Path) -> None:
    record = json.loads((made_bundle / "bundle.json").read_text())
    assert set(record) == {
        "format_version", "model", "source", "files", "precisions", "default_precision"
    }  # fmt: skip
    assert record["format_version"] == 1
    assert record["model"]["kps"] == {"keep": 20, "ratio": 4}
    assert set(record["files"]["image.fp32.onnx"]) == {"sha256", "bytes"}
    assert "bundle.json" not in record["files"]


def test_writing_the_same_bundle_twice_gives_the_same_manifest(tmp_path: Path, handmade: ModuleType) -> None:
    first, second = (handmade.make_bundle(tmp_path / name, vocabulary=None) for name in ("a", "b"))
    skip = {"probe.npz"}  # a zip file carries the time
    assert {k: v for k, v in first.files.items() if k not in skip} == {
        k: v for k, v in second.files.items() if k not in skip
    }


def test_the_identity_follows_weights_and_preprocessing_alone(tmp_path: Path, handmade: ModuleType) -> None:
    bundle = handmade.make_bundle(tmp_path / "a", vocabulary=None)
    same = handmade.make_bundle(tmp_path / "b", vocabulary=None, extra={"int8-cpu": 0.02})
    other = handmade.make_bundle(tmp_path / "c", vocabulary=None, checkpoint_sha256="cd" * 32)
    assert bundle.identity == same.identity != other.identity
    assert len(bundle.identity) == 64

    def with_spec(**change: object) -> str:
        manifest: Manifest = replace(bundle.manifest, spec=replace(bundle.spec, **change))
        return manifest.identity

    assert with_spec(name="another", templates=("{}",)) == bundle.identity
    assert (
        len(
            {
                bundle.identity,
                with_spec(image_size=64),
                with_spec(mean=(0.4, 0.5, 0.5)),
                with_spec(std=(0.3, 0.2, 0.2)),
            }
        )
        == 4
    )


def test_a_precision_that_is_not_there_is_refused_with_those_that_are(made_bundle: Path) -> None:
    with pytest.raises(BundleError, match=r"fp16, fp32, int8-cpu, not fp8.*--precision fp8"):
        Bundle.open(made_bundle).graph_path("image", "fp8")


def test_bf16_borrows_the_graphs_of_fp32(tmp_path: Path, handmade: ModuleType) -> None:
    bundle = handmade.make_bundle(tmp_path / "b", vocabulary=None)
    with BundleWriter.extending(bundle) as writer:
        writer.add_precision("bf16", files=bundle.record("fp32").files, parity=None)
        bundle = writer.finish()
    assert bundle.graph_path("text", "bf16").name == "text.fp32.onnx"
    assert not bundle.passed("bf16")


def test_a_setting_goes_with_the_precision_whose_files_it_runs(tmp_path: Path, handmade: ModuleType) -> None:
    bundle = handmade.make_bundle(tmp_path / "b", vocabulary=None, extra={"int8": 0.02})
    with BundleWriter.extending(bundle) as writer:
        writer.add_precision("int8-bf16", files=bundle.record("int8").files, parity=None)
        bundle = writer.finish()
    graph = bundle.graph_path("image", "int8-bf16")
    assert graph == bundle.graph_path("image", "int8")
    with BundleWriter.extending(bundle) as writer:
        writer.remove_precision("int8")
        bundle = writer.finish()
    assert not {"int8", "int8-bf16"} & set(bundle.precisions)
    assert not graph.exists()
    with pytest.raises(BundleError, match=r"not int8\. Add it: .*--precision int8$"):
        bundle.record("int8-bf16")


def test_without_a_built_in_bundle_the_error_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("lrsclip_rt.bundle.BUILT_IN", tmp_path / "none")
    with pytest.raises(BundleError, match=r"no built-in bundle.*lrsclip export"):
        Bundle.open()


def test_the_built_in_bundle_opens_where_it_is_installed() -> None:
    if not (BUILT_IN / "bundle.json").is_file():
        pytest.skip("no built-in bundle in this checkout")
    assert Bundle.open().spec.embed_dim == 512


# Hashes and their stamps


@pytest.mark.usefixtures("settled_clock")
def test_each_file_version_is_hashed_once(tmp_path: Path, handmade: ModuleType, hashed: list[str]) -> None:
    bundle = handmade.make_bundle(tmp_path / "b", vocabulary=None)
    Bundle.open(bundle.path)
    assert sorted(hashed) == sorted(bundle.files)
    hashed.clear()
    Bundle.open(bundle.path)
    assert hashed == []
    (bundle.path / "image.fp32.weights").touch()
    Bundle.open(bundle.path)
    assert hashed == ["image.fp32.weights"]


@pytest.mark.usefixtures("settled_clock")
def test_a_changed_file_of_the_same_size_and_time_is_found(tmp_path: Path, handmade: ModuleType) -> None:
    bundle = handmade.make_bundle(tmp_path / "b", vocabulary=None)
    path = bundle.path / "image.fp32.weights"
    Bundle.open(bundle.path)
    stat = path.stat()
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(bytes(content))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with pytest.raises(BundleError, match=r"image\.fp32\.weights has sha256"):
        Bundle.open(bundle.path)


def test_a_file_written_just_now_is_not_stamped(
    tmp_path: Path, handmade: ModuleType, hashed: list[str]
) -> None:
    bundle = handmade.make_bundle(tmp_path / "b", vocabulary=None)
    Bundle.open(bundle.path)
    Bundle.open(bundle.path)
    assert len(hashed) == 2 * len(bundle.files)


@pytest.mark.usefixtures("settled_clock")
def test_a_forged_or_damaged_stamp_only_costs_time(
    tmp_path: Path, handmade: ModuleType, cache_home: Path, hashed: list[str]
) -> None:
    bundle = handmade.make_bundle(tmp_path / "b", vocabulary=None)
    Bundle.open(bundle.path)
    hashed.clear()
    for i, stamp in enumerate(sorted((cache_home / "lrsclip-rt" / "stamps").iterdir())):
        stamp.write_bytes((b"", b"[]", b"{", b"\xff\xfe", b'{"sha256": 5}')[i % 5])
    Bundle.open(bundle.path)
    assert sorted(hashed) == sorted(bundle.files)


@pytest.mark.usefixtures("settled_clock")
def test_an_unwritable_cache_never_fails(
    tmp_path: Path, handmade: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = handmade.make_bundle(tmp_path / "b", vocabulary=None)
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    Bundle.open(bundle.path)
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.delenv("HOME", raising=False)
    Bundle.open(bundle.path)


@pytest.mark.usefixtures("settled_clock")
def test_verify_without_stamps_always_hashes(
    tmp_path: Path, handmade: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = handmade.make_bundle(tmp_path / "b", vocabulary=None)
    Bundle.open(bundle.path)
    seen: list[Path] = []

    def spy(path: Path) -> str:
        seen.append(path)
        return bundle.files[path.name].sha256

    monkeypatch.setattr("lrsclip_rt.bundle.sha256_of_file", spy)
    bundle.verify(use_stamps=False)
    assert len(seen) == len(bundle.files)


# Writing


def test_nothing_is_left_when_writing_fails(tmp_path: Path, handmade: ModuleType) -> None:
    bundle = handmade.make_bundle(tmp_path / "b", vocabulary=None)
    before = folder_state(bundle.path)

    def write() -> None:
        with BundleWriter.extending(bundle) as writer:
            (writer.folder / "half").write_bytes(b"x")
            raise RuntimeError("broke")

    with pytest.raises(RuntimeError, match="broke"):
        write()
    assert [p.name for p in tmp_path.iterdir()] == ["b"]
    assert folder_state(bundle.path) == before


def test_an_existing_bundle_needs_permission_and_another_folder_is_never_replaced(
    tmp_path: Path, handmade: ModuleType
) -> None:
    handmade.make_bundle(tmp_path / "b", vocabulary=None)
    with pytest.raises(OutputExistsError, match="--overwrite"):
        handmade.make_bundle(tmp_path / "b", vocabulary=None)
    replaced = handmade.make_bundle(tmp_path / "b", vocabulary=None, seed=1, overwrite=True)
    assert replaced.path == (tmp_path / "b").resolve()
    precious = tmp_path / "photos"
    precious.mkdir()
    (precious / "holiday.jpg").write_bytes(b"x")
    with pytest.raises(OutputExistsError, match=r"folder without bundle\.json"):
        handmade.make_bundle(precious, vocabulary=None, overwrite=True)
    assert (precious / "holiday.jpg").is_file()
    empty = tmp_path / "empty"
    empty.mkdir()
    assert handmade.make_bundle(empty, vocabulary=None).path == empty.resolve()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b", "empty", "photos"]


def test_extending_adds_a_precision_and_keeps_engines(tmp_path: Path, handmade: ModuleType) -> None:
    bundle = handmade.make_bundle(tmp_path / "b", vocabulary=None)
    engine = bundle.path / "engines" / "sm_87-trt10.3-fp16" / "image.plan"
    engine.parent.mkdir(parents=True)
    engine.write_bytes(b"plan")
    with BundleWriter.extending(bundle) as writer:
        files = handmade.write_graphs(writer.folder, "int8", handmade.Weights.seeded(noise=0.01))
        writer.add_precision("int8", files=files, parity=None, notes={"calibration": "none"})
        writer.set_default("int8")
        extended = writer.finish()
    assert set(extended.precisions) == {"fp32", "int8"}
    assert extended.default_precision == "int8"
    assert extended.record("int8").notes == {"calibration": "none"}
    assert engine.read_bytes() == b"plan"
    assert not any(name.startswith("engines") for name in extended.files)
    assert extended.identity == bundle.identity
    assert [p.name for p in tmp_path.iterdir()] == ["b"]


def test_a_linked_file_written_over_in_place_is_found(tmp_path: Path, handmade: ModuleType) -> None:
    bundle = handmade.make_bundle(tmp_path / "b", vocabulary=None)
    with BundleWriter.extending(bundle) as writer:
        (writer.folder / "image.fp32.onnx").write_bytes(b"other")
        with pytest.raises(BundleError, match="in place"):
            writer.finish()


def test_a_removed_precision_takes_only_its_own_files(tmp_path: Path, handmade: ModuleType) -> None:
    bundle = handmade.make_bundle(tmp_path / "b", vocabulary=None, extra={"int8-cpu": 0.02})
    with BundleWriter.extending(bundle, tmp_path / "c") as writer:
        writer.remove_precision("int8-cpu")
        smaller = writer.finish()
    assert set(smaller.precisions) == {"fp32"}
    assert not any("int8" in name for name in smaller.files)
    assert Bundle.open(bundle.path).towers("int8-cpu")


def test_the_swap_works_where_the_system_cannot_exchange_folders(
    tmp_path: Path, handmade: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lrsclip_rt.folder_swap._exchanged", lambda folder, target: False)
    handmade.make_bundle(tmp_path / "b", vocabulary=None)
    second = handmade.make_bundle(tmp_path / "b", vocabulary=None, seed=7, overwrite=True)
    assert Bundle.open(tmp_path / "b").files == second.files
    assert [p.name for p in tmp_path.iterdir()] == ["b"]


def test_finish_refuses_what_no_reader_would_accept(tmp_path: Path, handmade: ModuleType) -> None:
    bundle = handmade.make_bundle(tmp_path / "b", vocabulary=None)

    def write(change: str) -> None:
        spec = replace(bundle.spec, templates=("no placeholder",)) if change == "template" else bundle.spec
        with BundleWriter(tmp_path / "c", spec, bundle.source) as writer:
            if change != "vocabulary":
                (writer.folder / "vocabulary.txt.gz").write_bytes(bundle.vocabulary_path.read_bytes())
            if change != "precision":
                files = handmade.write_graphs(writer.folder, "fp32", handmade.Weights.seeded())
                listed = [
                    f for f in files if change != "unlisted weights" or not f.endswith("image.fp32.weights")
                ]
                notes = {"bad": {1, 2}} if change == "notes" else {}
                writer.add_precision("fp32", files=listed, parity=None, notes=notes)
            if change == "link":
                (writer.folder / "link").symlink_to("/etc/hostname")
            if change == "default":
                writer.set_default("fp16")
            writer.finish()

    for change, message in {
        "template": "placeholder",
        "vocabulary": r"vocabulary\.txt\.gz",
        "precision": "no precision",
        "unlisted weights": "takes weights from 'image.fp32.weights'",
        "notes": "cannot be written",
        "link": "ordinary file",
        "default": "default_precision is 'fp16'",
    }.items():
        with pytest.raises(BundleError, match=message):
            write(change)
        assert [p.name for p in tmp_path.iterdir()] == ["b"], change


def test_a_precision_must_be_known_and_its_files_written(tmp_path: Path, handmade: ModuleType) -> None:
    bundle = handmade.make_bundle(tmp_path / "b", vocabulary=None)
    with BundleWriter.extending(bundle, tmp_path / "c") as writer:
        with pytest.raises(BundleError, match="int4"):
            writer.add_precision("int4", files=[], parity=None)
        with pytest.raises(BundleError, match="was not written"):
            writer.add_precision("fp16", files=["image.fp16.onnx"], parity=None)
        with pytest.raises(BundleError, match="no path inside"):
            writer.add_precision("fp16", files=["../image.fp16.onnx"], parity=None)
        with pytest.raises(BundleError, match="parity report"):
            writer.add_precision("fp16", files=[], parity={"cosine": 1.0})
    with pytest.raises(InputError, match="with block"):
        _ = writer.folder


def test_a_bundle_may_tighten_its_gates(tmp_path: Path, handmade: ModuleType) -> None:
    bundle = handmade.make_bundle(tmp_path / "b", vocabulary=None, extra={"int8-cpu": 0.02})
    tight = Gate(mean=0.99999, minimum=0.99, top1=95.0)
    with BundleWriter(tmp_path / "c", bundle.spec, bundle.source, gates={"int8-cpu": tight}) as writer:
        for name in bundle.files:
            (writer.folder / name).write_bytes((bundle.path / name).read_bytes())
        for name, record in bundle.precisions.items():
            writer.add_precision(name, files=record.files, parity=record.parity)
        tightened = writer.finish()
    assert tightened.gate("int8-cpu") == tight
    assert tightened.gate("fp16") == GATES["fp16"]
    assert bundle.passed("int8-cpu")
    assert not tightened.passed("int8-cpu")


def test_the_text_tower_can_be_copied_alone_with_its_identity(tmp_path: Path, made_bundle: Path) -> None:
    whole = Bundle.open(made_bundle)
    copy = text_tower_copy(whole, tmp_path / "text", precisions=["int8-cpu"])
    assert copy.identity == whole.identity
    assert copy.towers("int8-cpu") == ("text", "text-248")
    assert not any(name.startswith(("image", "dense", "probe")) for name in copy.files)
    with pytest.raises(BundleError, match="no image graph"):
        copy.graph_path("image", "int8-cpu")
    with pytest.raises(BundleError, match=r"no probe\.npz"):
        _ = copy.probe_path

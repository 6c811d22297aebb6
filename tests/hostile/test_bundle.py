"""Bundles that lie: each is refused with a BundleError that names what is wrong."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from fuzz.mutation import places
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lrsclip_rt.bundle import Bundle
from lrsclip_rt.bundle_records import Manifest, check_relative_path
from lrsclip_rt.errors import BundleError
from lrsclip_rt.probe import probe_from_bundle

pytestmark = pytest.mark.usefixtures("cache_home")


@pytest.fixture
def bundle(made_bundle: Path, tmp_path: Path) -> Path:
    """A copy to be damaged."""
    return Path(shutil.copytree(made_bundle, tmp_path / "bundle"))


def edit(bundle: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = bundle / "bundle.json"
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


def put(*keys: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(record: dict[str, Any]) -> None:
        for key in keys[:-1]:
            record = record[key]
        record[keys[-1]] = value

    return change


def drop(*keys: str) -> Callable[[dict[str, Any]], None]:
    def change(record: dict[str, Any]) -> None:
        for key in keys[:-1]:
            record = record[key]
        del record[keys[-1]]

    return change


def rename_file(old: str, new: str) -> Callable[[dict[str, Any]], None]:
    def change(record: dict[str, Any]) -> None:
        record["files"][new] = record["files"].pop(old)
        for precision in record["precisions"].values():
            precision["files"] = [new if f == old else f for f in precision["files"]]

    return change


SHA = "0" * 64
EDITS: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "newer format": (put("format_version", value=2), "format_version 2.*Upgrade"),
    "format zero": (put("format_version", value=0), "format_version"),
    "format true": (put("format_version", value=True), "format_version"),
    "format text": (put("format_version", value="1"), "format_version"),
    "no format": (drop("format_version"), "lacks the key 'format_version'"),
    "no model": (drop("model"), "lacks the key 'model'"),
    "no files": (drop("files"), "lacks the key 'files'"),
    "unknown key": (put("surprise", value=1), "unknown keys: 'surprise'"),
    "unknown model key": (put("model", "colour", value=1), "model has unknown keys: 'colour'"),
    "unknown kps key": (put("model", "kps", "x", value=1), "unknown keys: 'x'"),
    "unknown source key": (put("source", "x", value=1), "unknown keys: 'x'"),
    "unknown file key": (put("files", "probe.npz", "x", value=1), "unknown keys: 'x'"),
    "unknown precision key": (put("precisions", "fp32", "x", value=1), "unknown keys: 'x'"),
    "missing model key": (drop("model", "logit_scale"), "logit_scale"),
    "missing source key": (drop("source", "licence"), "licence"),
    "missing parity key": (drop("precisions", "fp32", "parity"), "parity"),
    "model is a list": (put("model", value=[]), "model must be an object"),
    "files is null": (put("files", value=None), "files must be an object"),
    "dim is text": (put("model", "embed_dim", value="512"), "embed_dim"),
    "dim is a fraction": (put("model", "embed_dim", value=512.0), "embed_dim"),
    "dim is huge": (put("model", "embed_dim", value=10**12), "embed_dim"),
    "size is huge": (put("model", "image_size", value=10**7), "image_size"),
    "grid is huge": (put("model", "patch_grid", value=[10**6, 10**6]), "patch_grid"),
    "grid is flat": (put("model", "patch_grid", value=[16]), "patch_grid"),
    "mean of two": (put("model", "mean", value=[0.5, 0.5]), "mean"),
    "mean with text": (put("model", "mean", value=[0.5, 0.5, "0.5"]), "mean"),
    "std of zero": (put("model", "std", value=[0.2, 0.0, 0.2]), "std"),
    "scale below zero": (put("model", "logit_scale", value=-1), "logit_scale"),
    "scale beyond floats": (put("model", "logit_scale", value=10**400), "logit_scale"),
    "another resize rule": (put("model", "resize", value="nearest"), "resize rule 'nearest'"),
    "template without place": (put("model", "templates", value=["a photo"]), "placeholder"),
    "templates text": (put("model", "templates", value="a photo of {}"), "templates"),
    "templates twice": (put("model", "templates", value=["{}", "{}"]), "templates"),
    "hash too short": (put("files", "probe.npz", "sha256", value="ab"), "sha256"),
    "hash upper case": (put("files", "probe.npz", "sha256", value="AB" * 32), "sha256"),
    "size below zero": (put("files", "probe.npz", "bytes", value=-1), "bytes"),
    "wrong hash": (put("files", "probe.npz", "sha256", value=SHA), r"probe\.npz has sha256"),
    "wrong size": (put("files", "probe.npz", "bytes", value=1), r"probe\.npz has \d+ bytes, expected 1"),
    "missing file": (put("files", "absent.bin", value={"sha256": SHA, "bytes": 0}), "absent.bin is missing"),
    "vocabulary not listed": (drop("files", "vocabulary.txt.gz"), r"vocabulary\.txt\.gz"),
    "another vocabulary": (put("model", "tokenizer_sha256", value=SHA), "tokenizer_sha256"),
    "absolute path": (rename_file("probe.npz", "/etc/passwd"), "no path inside"),
    "parent path": (rename_file("probe.npz", "../probe.npz"), "no path inside"),
    "hidden parent path": (rename_file("probe.npz", "a/../../probe.npz"), "no path inside"),
    "dot path": (rename_file("probe.npz", "./probe.npz"), "no path inside"),
    "backslash path": (rename_file("probe.npz", "..\\probe.npz"), "no path inside"),
    "drive path": (rename_file("probe.npz", "C:probe.npz"), "no path inside"),
    "empty path": (rename_file("probe.npz", ""), "no path inside"),
    "path with NUL": (rename_file("probe.npz", "probe\0.npz"), "no path inside"),
    "very long path": (rename_file("probe.npz", "p" * 5000), "no path inside"),
    "two cases of a name": (put("files", "PROBE.npz", value={"sha256": SHA, "bytes": 0}), "twice"),
    "the manifest itself": (put("files", "bundle.json", value={"sha256": SHA, "bytes": 0}), "itself"),
    "unknown precision": (put("precisions", "int4", value={}), "int4"),
    "precision of no file": (put("precisions", "fp32", "files", value=["x.onnx"]), "names x.onnx"),
    "precision files text": (put("precisions", "fp32", "files", value="x.onnx"), "files"),
    "precision files twice": (put("precisions", "fp32", "files", value=["probe.npz"] * 2), "duplicates"),
    "notes list": (put("precisions", "fp32", "notes", value=[]), "notes"),
    "parity list": (put("precisions", "fp16", "parity", value=[]), "parity report"),
    "parity of another": (put("precisions", "fp16", "parity", "precision", value="int8"), "report of 'int8'"),
    "parity count text": (put("precisions", "fp16", "parity", "n_images", value="6"), "whole numbers"),
    "parity cosine text": (put("precisions", "fp16", "parity", "image", "mean", value="1"), "finite number"),
    "no such default": (put("default_precision", value="fp8"), "default_precision is 'fp8'"),
    "looser mean": (put("thresholds", value={"int8": {"mean": 0.5}}), "looser than 0.99"),
    "looser top1": (put("thresholds", value={"int8-cpu": {"top1": 10}}), "looser than 95"),
    "threshold above one": (put("thresholds", value={"fp16": {"mean": 1.5}}), "up to 1"),
    "threshold text": (put("thresholds", value={"fp16": {"mean": "0.9999"}}), "expected a number"),
    "threshold of nothing": (put("thresholds", value={"fp16": {"speed": 1}}), "unknown threshold 'speed'"),
    "threshold of unknown": (put("thresholds", value={"int4": {"mean": 1}}), "int4"),
    "thresholds list": (put("thresholds", value=[]), "thresholds"),
    "presence text": (put("presence_threshold", value="0.2"), "presence_threshold"),
}  # fmt: skip


@pytest.mark.parametrize("name", EDITS)
def test_a_manifest_that_lies_is_refused(name: str, bundle: Path) -> None:
    change, message = EDITS[name]
    Bundle.open(bundle)
    edit(bundle, change)
    with pytest.raises(BundleError, match=message) as caught:
        Bundle.open(bundle)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not valid JSON"),
        ("[]", "must be an object"),
        ("null", "must be an object"),
        ('{"format_version": 1', "not valid JSON"),
        ('{"format_version": 1, "format_version": 1}', "'format_version' occurs twice"),
        ('{"format_version": NaN}', "NaN is not a JSON number"),
        ('{"format_version": 1e999}', "format_version"),
        ("[" * 100_000, "not valid JSON"),
        ('{"format_version": ' + "9" * 10_000 + "}", "not valid JSON"),
        ("\ufeff{}", "not valid JSON"),
    ],
)
def test_a_manifest_that_is_no_json_object_is_refused(bundle: Path, text: str, message: str) -> None:
    (bundle / "bundle.json").write_text(text, encoding="utf-8")
    with pytest.raises(BundleError, match=message):
        Bundle.open(bundle)


def test_a_manifest_that_is_not_utf8_or_too_large_is_refused(bundle: Path) -> None:
    (bundle / "bundle.json").write_bytes(b'{"a": "\xff"}')
    with pytest.raises(BundleError, match="cannot be read"):
        Bundle.open(bundle)
    with (bundle / "bundle.json").open("wb") as stream:
        stream.truncate(1 << 33)  # sparse: 8 GiB that must not be read
    with pytest.raises(BundleError, match="larger than"):
        Bundle.open(bundle)


def test_a_missing_or_damaged_file_is_named(bundle: Path) -> None:
    path = bundle / "image.fp32.weights"
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(BundleError, match=r"image\.fp32\.weights has 255 bytes, expected 256"):
        Bundle.open(bundle, verify=False)
    path.write_bytes(content[:-1] + b"\x00" if content[-1] else content[:-1] + b"\x01")
    with pytest.raises(BundleError, match=r"image\.fp32\.weights has sha256"):
        Bundle.open(bundle)
    path.unlink()
    with pytest.raises(BundleError, match=r"image\.fp32\.weights is missing"):
        Bundle.open(bundle, verify=False)
    path.mkdir()
    with pytest.raises(BundleError, match=r"not an ordinary file"):
        Bundle.open(bundle, verify=False)


def test_a_link_out_of_the_folder_is_refused_and_one_inside_is_not(bundle: Path, tmp_path: Path) -> None:
    path = bundle / "probe.npz"
    outside = tmp_path / "outside.npz"
    path.rename(outside)
    path.symlink_to(outside)
    with pytest.raises(BundleError, match="outside the bundle"):
        Bundle.open(bundle)
    path.unlink()
    outside.rename(bundle / "elsewhere.npz")
    path.symlink_to("elsewhere.npz")
    assert Bundle.open(bundle).probe_path == bundle.resolve() / "probe.npz"
    path.unlink()
    path.symlink_to(path)
    with pytest.raises(BundleError, match="missing"):
        Bundle.open(bundle)


def test_a_linked_subfolder_or_manifest_is_refused(bundle: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "probe.npz").write_bytes((bundle / "probe.npz").read_bytes())
    (bundle / "sub").symlink_to(outside)
    edit(bundle, rename_file("probe.npz", "sub/probe.npz"))
    with pytest.raises(BundleError, match="outside the bundle"):
        Bundle.open(bundle)
    (bundle / "bundle.json").rename(outside / "bundle.json")
    (bundle / "bundle.json").symlink_to(outside / "bundle.json")
    with pytest.raises(BundleError, match="outside the bundle"):
        Bundle.open(bundle)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_in_place_of_a_file_does_not_hang(bundle: Path) -> None:
    for name in ("probe.npz", "bundle.json"):
        (bundle / name).unlink()
        os.mkfifo(bundle / name)
        with pytest.raises(BundleError, match="not an ordinary file"):
            Bundle.open(bundle)


def test_a_folder_without_manifest_a_file_and_nothing_are_no_bundles(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"no bundle\.json"):
        Bundle.open(tmp_path)
    with pytest.raises(BundleError, match="does not exist"):
        Bundle.open(tmp_path / "absent")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(BundleError, match="is a file"):
        Bundle.open(tmp_path / "file")


def test_a_graph_that_takes_weights_from_elsewhere_is_refused(
    made_bundle: Path, handmade: ModuleType, tmp_path: Path
) -> None:
    for location in ("../../secret", "/etc/hostname", "text.fp32.weights.other"):
        folder = Path(shutil.copytree(made_bundle, tmp_path / "b"))
        graph = folder / "image.fp32.onnx"
        import onnx

        model = onnx.load(graph, load_external_data=False)
        for tensor in model.graph.initializer:
            for entry in tensor.external_data:
                if entry.key == "location":
                    entry.value = location
        graph.write_bytes(model.SerializeToString())
        refresh(folder, "image.fp32.onnx")
        bundle = Bundle.open(folder)
        with pytest.raises(BundleError, match="takes weights from"):
            bundle.graph_path("image", "fp32")
        shutil.rmtree(folder)


def test_a_probe_that_is_no_probe_is_refused(bundle: Path, handmade: ModuleType) -> None:
    with np.load(bundle / "probe.npz") as arrays_in_file:
        good = dict(arrays_in_file)
    bad: list[tuple[dict[str, Any], str]] = [
        ({k: v for k, v in good.items() if k != "texts"}, "cannot be read"),
        ({**good, "images": good["images"].astype(np.float32)}, "images has"),
        ({**good, "text_embeddings": good["text_embeddings"][:, :3]}, "text_embeddings has"),
        ({**good, "texts": np.array(["a", None], dtype=object)}, "cannot be read"),
    ]
    for arrays, message in bad:
        np.savez(bundle / "probe.npz", **arrays)
        refresh(bundle, "probe.npz")
        with pytest.raises(BundleError, match=message):
            probe_from_bundle(Bundle.open(bundle))
    with zipfile.ZipFile(bundle / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for key in good:
            header = {"shape": (10**15,), "descr": "|u1", "fortran_order": False}
            with archive.open(f"{key}.npy", "w") as stream:
                np.lib.format.write_array_header_1_0(stream, header)
    bomb = (bundle / "bomb.npz").read_bytes()
    for content in (b"", b"PK\x03\x04 not a zip", b"\x93NUMPY", bomb):
        (bundle / "probe.npz").write_bytes(content)
        refresh(bundle, "probe.npz")
        with pytest.raises(BundleError, match="cannot be read"):
            probe_from_bundle(Bundle.open(bundle))


def test_a_probe_that_unpacks_to_too_much_is_refused_before_it_is(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lrsclip_rt.probe._MAX_BYTES", 1000)
    with pytest.raises(BundleError, match="unpacks to"):
        probe_from_bundle(Bundle.open(bundle))


def refresh(folder: Path, name: str) -> None:
    """Record a file as it is now: what whoever builds a hostile bundle would do."""
    import hashlib

    content = (folder / name).read_bytes()
    value = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    edit(folder, put("files", name, value=value))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_value_in_any_place_is_accepted_or_refused_by_name(
    data: st.DataObject, made_bundle: Path
) -> None:
    record = json.loads((made_bundle / "bundle.json").read_text())
    found = list(places(record))
    holder, key = data.draw(st.sampled_from(found))
    holder[key] = data.draw(json_values)
    try:
        Manifest.from_json(json.dumps(record))
    except BundleError as error:
        lines = str(error).splitlines()
    else:
        lines = ["accepted"]
    assert len(lines) == 1


@given(st.text(max_size=30))
def test_a_path_that_is_accepted_stays_in_its_folder(name: str) -> None:
    try:
        check_relative_path(name)
    except BundleError:
        return
    root = Path("/bundle")
    assert Path(os.path.normpath(root / name)).is_relative_to(root)
    assert Path(os.path.normpath(root / name)) != root

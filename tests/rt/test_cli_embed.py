from __future__ import annotations

import io
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from lrsclip_rt.cli.embed import command, write_npy
from lrsclip_rt.embedder import load
from lrsclip_rt.errors import BackendError, BundleError, InputError, OutputExistsError


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Four pictures in a folder and its subfolder."""
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    for i, name in enumerate(["b.png", "a.jpg", "sub/c.png", "sub/d.bmp"]):
        Image.new("RGB", (20 + i, 30), (40 * i, 200 - 30 * i, 90)).save(folder / name)
    return folder


def run(*arguments: object, stdin: str | None = None) -> Result:
    return CliRunner().invoke(command, [str(a) for a in arguments], input=stdin)


def test_rows_are_in_input_order_with_texts_first(made_bundle: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "rows.npy"
    result = run(
        "-b", made_bundle, photos / "b.png", "--text", "a ship", photos, "--text", "a port", "-o", out
    )
    assert result.exit_code == 0, result.output
    model = load(made_bundle)
    names = ["b.png", "a.jpg", "b.png", "sub/c.png", "sub/d.bmp"]
    expected = [model.embed_texts(["a ship", "a port"]), model.embed_images([photos / n for n in names])]
    rows = np.load(out)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows, np.concatenate(expected), atol=1e-6)
    summary = json.loads(result.stdout)
    assert (summary["rows"], summary["dim"], summary["texts"], summary["images"]) == (7, 16, 2, 5)
    assert summary["failed"] == 0
    assert summary["identity"] == model.identity


def test_a_dash_reads_texts_from_stdin_in_place(made_bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "rows.npy"
    options = ["--text", "first", "--text", "-", "--text", "last"]
    result = run("-b", made_bundle, *options, "-o", out, stdin="a ship\na port\n")
    assert result.exit_code == 0, result.output
    expected = load(made_bundle).embed_texts(["first", "a ship", "a port", "last"])
    np.testing.assert_allclose(np.load(out), expected, atol=1e-6)
    twice = run("-b", made_bundle, "--text", "-", "--text", "-", "-o", tmp_path / "x.npy")
    assert isinstance(twice.exception, InputError)


def test_an_image_that_fails_leaves_a_row_of_nan_and_status_1(
    made_bundle: Path, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "rows.npy"
    (photos / "b.png").write_bytes(b"no image")
    absent = photos / "absent.jpg"
    result = run("-b", made_bundle, absent, photos, "--text", "a ship", "-o", out)
    assert result.exit_code == 1
    rows = np.load(out)
    assert rows.shape == (6, 16)
    assert np.isnan(rows).all(axis=1).tolist() == [False, True, False, True, False, False]
    assert np.isfinite(rows[[0, 2, 4, 5]]).all()
    assert f"failed: {absent} does not exist" in result.stderr
    assert "b.png" in result.stderr
    assert "2 input(s) failed" in result.stderr
    assert json.loads(result.stdout)["failed"] == 2


def test_an_output_is_replaced_only_when_asked(made_bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "rows.npy"
    out.write_bytes(b"precious")
    result = run("-b", made_bundle, "--text", "a ship", "-o", out)
    assert isinstance(result.exception, OutputExistsError)
    assert out.read_bytes() == b"precious"
    assert run("-b", made_bundle, "--text", "a ship", "-o", out, "--overwrite").exit_code == 0
    assert np.load(out).shape == (1, 16)


def test_an_output_in_no_folder_is_refused_before_any_work(made_bundle: Path, tmp_path: Path) -> None:
    result = run("-b", tmp_path / "no-bundle", "--text", "a ship", "-o", tmp_path / "absent" / "rows.npy")
    assert isinstance(result.exception, InputError)
    assert "absent is no folder" in str(result.exception)


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    out = tmp_path / "rows.npy"
    out.write_bytes(b"precious")

    class Broken(np.ndarray):
        def tofile(self, *args: object, **kwargs: object) -> None:
            raise OSError(28, "No space left on device")

    broken = np.zeros((2, 2), np.float32).view(Broken)
    with pytest.raises(InputError, match="No space left"):
        write_npy(out, broken)
    assert out.read_bytes() == b"precious"
    assert [p.name for p in tmp_path.iterdir()] == ["rows.npy"]
    with pytest.raises(InputError, match="cannot be written"):
        write_npy(tmp_path / "absent" / "rows.npy", np.zeros((1, 1), np.float32))


@pytest.mark.parametrize("lines", ["", "a ship\n\na port\n", "   \n"])
def test_nothing_and_blank_texts_are_refused(made_bundle: Path, tmp_path: Path, lines: str) -> None:
    result = run("-b", made_bundle, "--text", "-", "-o", tmp_path / "rows.npy", stdin=lines)
    assert isinstance(result.exception, InputError)
    assert not (tmp_path / "rows.npy").exists()


def test_cut_texts_are_reported_on_stderr(
    made_bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = ["--text", "a ship", "--text", "many ships " * 300, "-o", tmp_path / "rows.npy"]
    assert run("-b", made_bundle, *options).exit_code == 0
    assert "1 of 2 texts were cut at 248 tokens" in caplog.text


def test_errors_of_the_bundle_and_the_backend_come_through(
    made_bundle: Path, tmp_path: Path, handmade: ModuleType
) -> None:
    out = ["--text", "a", "-o", tmp_path / "rows.npy"]
    assert isinstance(run("-b", tmp_path, *out).exception, BundleError)
    assert isinstance(run("-b", made_bundle, "--backend", "tensorrt", *out).exception, BackendError)
    assert isinstance(run("-b", made_bundle, "--precision", "fp16", *out).exception, BackendError)
    assert isinstance(run("-b", made_bundle, "--precision", "int8", *out).exception, BundleError)
    assert run("-b", made_bundle, "--precision", "int8-cpu", "--threads", "1", *out).exit_code == 0


def test_the_file_is_plain_npy(made_bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "rows.anything"
    assert run("-b", made_bundle, "--text", "a ship", "-o", out).exit_code == 0
    assert np.load(io.BytesIO(out.read_bytes()), allow_pickle=False).shape == (1, 16)

"""The teacher's file: what is read back, what is left out of a distance, and files that are none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from lrsclip_rt.errors import InputError
from lrsclip_train.teacher import Teacher, save_teacher

KEYS = ["images/a.jpg", "images/b.jpg", "images/c.jpg"]
TEXTS = ["a pier .", "two ships"]


def rows(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 8)).astype(np.float32)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "teacher"  # no ending is added
    save_teacher(path, image_keys=KEYS, images=rows(3, 0), texts=TEXTS, text_rows=rows(2, 1))
    return path


def unit(values: np.ndarray) -> torch.Tensor:
    return normalize(torch.from_numpy(values.astype(np.float16).astype(np.float32)), dim=1)


def test_equal_rows_are_at_distance_zero_and_opposite_ones_at_two(path: Path) -> None:
    teacher = Teacher(path)
    images, texts = unit(rows(3, 0)), unit(rows(2, 1))
    assert teacher.dimension == 8
    assert teacher.image_distance(images, KEYS).item() == pytest.approx(0, abs=1e-6)
    assert teacher.text_distance(texts, TEXTS).item() == pytest.approx(0, abs=1e-6)
    assert teacher.image_distance(-images, KEYS).item() == pytest.approx(2, abs=1e-6)
    assert teacher.image_distance(images[[1, 0]], [KEYS[1], KEYS[0]]).item() == pytest.approx(0, abs=1e-6)
    assert teacher.image_distance(images[[1, 0]], KEYS[:2]).item() > 0.1


def test_names_that_the_teacher_does_not_know_count_for_nothing(path: Path) -> None:
    teacher = Teacher(path)
    wanted, other = unit(rows(3, 0)), normalize(torch.randn(3, 8, generator=torch.manual_seed(0)), dim=1)
    some = teacher.image_distance(other, ["unknown", KEYS[1], "images/d.jpg"])
    assert some.item() == pytest.approx(1 - (other[1] @ wanted[1]).item(), abs=1e-6)
    assert teacher.image_distance(other, ["x", "y", "z"]).item() == 0
    assert teacher.text_distance(other[:1], KEYS[:1]).item() == 0  # a key is no text


def test_the_gradient_draws_known_rows_to_the_teacher_and_leaves_the_others(path: Path) -> None:
    teacher = Teacher(path)
    free = torch.randn(2, 8, generator=torch.manual_seed(1)).requires_grad_(True)
    before = teacher.text_distance(normalize(free, dim=1), ["unknown", TEXTS[1]])
    before.backward()  # type: ignore[no-untyped-call]
    assert free.grad is not None
    assert not free.grad[0].any()
    moved = (free - free.grad).detach()
    after = teacher.text_distance(normalize(moved, dim=1), ["unknown", TEXTS[1]])
    assert after.item() < before.item() - 1e-3


def stored(path: Path, **changed: object) -> Path:
    arrays: dict[str, object] = {
        "image_keys": np.array(KEYS),
        "images": rows(3, 0),
        "texts": np.array(TEXTS),
        "text_rows": rows(2, 1),
    }
    kept = {name: value for name, value in (arrays | changed).items() if value is not None}
    np.savez(path, **kept)  # type: ignore[arg-type]
    return path


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("images", None, "is no teacher, an .npz of image_keys, images, texts, text_rows"),
        ("images", rows(2, 0), r"images is float32 \(2, 8\), expected floating-point rows \(3, D\)"),
        ("images", rows(3, 0)[0], r"images is float32 \(8,\)"),
        ("images", np.zeros((3, 8), int), "images is int64"),
        ("images", rows(3, 0)[:, :7], r"images \(3, 7\) and text_rows \(2, 8\) must agree in D"),
        ("text_rows", np.float32(1), r"text_rows is float32 \(\)"),
        ("text_rows", np.full((2, 8), np.inf), "text_rows holds NaN or infinite numbers"),
        ("texts", np.array([1, 2]), r"texts is int64 \(2,\), expected a row of strings"),
        ("image_keys", np.array([KEYS]), r"image_keys is <U12 \(1, 3\)"),
        ("image_keys", np.array(KEYS, dtype=object), "is no teacher"),
    ],
)
def test_arrays_that_are_no_teacher_are_named(tmp_path: Path, name: str, value: object, message: str) -> None:
    path = stored(tmp_path / "teacher.npz", **{name: value})
    with pytest.raises(InputError, match=message):
        Teacher(path)


@pytest.mark.parametrize("content", [b"", b"plain text", b"PK\x03\x04 cut"])
def test_bytes_that_are_no_npz_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "teacher.npz").write_bytes(content)
    with pytest.raises(InputError, match="is no teacher"):
        Teacher(tmp_path / "teacher.npz")


def test_a_single_array_a_folder_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", rows(3, 0))
    for name in ("rows.npy", "", "absent.npz"):
        with pytest.raises(InputError, match="is no teacher"):
            Teacher(tmp_path / name)


def test_rows_that_do_not_fit_are_not_written(tmp_path: Path) -> None:
    path = tmp_path / "teacher.npz"
    with pytest.raises(InputError, match=r"images is float16 \(2, 8\)"):
        save_teacher(path, image_keys=KEYS, images=rows(2, 0), texts=TEXTS, text_rows=rows(2, 1))
    with pytest.raises(InputError, match="images holds NaN or infinite"):
        save_teacher(path, image_keys=KEYS, images=np.full((3, 8), np.nan), texts=TEXTS, text_rows=rows(2, 1))
    assert list(tmp_path.iterdir()) == []

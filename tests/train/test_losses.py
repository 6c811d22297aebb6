"""Losses against float64 twins in plain NumPy, and what their gradients do."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from lrsclip_rt.errors import InputError, LrsclipError
from lrsclip_train.losses import distillation_loss, multi_positive_loss, principal_components


def _unit(rng: np.random.Generator, n: int, d: int = 16) -> torch.Tensor:
    return normalize(torch.from_numpy(rng.normal(size=(n, d))).float(), dim=1)


def _ownership(rng: np.random.Generator, n: int, m: int) -> np.ndarray:
    """Each image owns its own text and now and then another; columns from n on may stay without owner."""
    positive = rng.random((n, m)) < 0.1
    positive[np.arange(n), np.arange(n)] = True
    positive[:, m - 1] &= m == n
    return positive


def _cross_entropy(logits: np.ndarray, own: np.ndarray, seen: np.ndarray, smoothing: float) -> float:
    """One query: -sum of target * log softmax over the entries that are seen."""
    logits, own = logits[seen], own[seen]
    peak = logits.max()
    log_p = logits - peak - np.log(np.exp(logits - peak).sum())
    target = own / own.sum() * (1 - smoothing) + smoothing / len(logits)
    return float(-(target * log_p).sum())


def _twin(
    image: np.ndarray,
    text: np.ndarray,
    scale: float,
    positive: np.ndarray,
    ignore: np.ndarray | None,
    smoothing: float,
) -> float:
    logits = scale * image @ text.T
    seen = np.ones_like(positive) if ignore is None else positive | ~ignore
    rows = [_cross_entropy(logits[i], positive[i], seen[i], smoothing) for i in range(len(image))]
    columns = [
        _cross_entropy(logits[:, j], positive[:, j], seen[:, j], smoothing)
        for j in range(len(text))
        if positive[:, j].any()
    ]
    return (float(np.mean(rows)) + float(np.mean(columns))) / 2


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**16),
    n=st.integers(1, 9),
    more=st.integers(0, 6),
    smoothing=st.sampled_from([0.0, 0.1]),
    ignoring=st.booleans(),
)
def test_the_loss_is_that_of_the_twin_with_hard_negatives_repeats_and_ignored_pairs(
    seed: int, n: int, more: int, smoothing: float, ignoring: bool
) -> None:
    rng = np.random.default_rng(seed)
    image, text = _unit(rng, n), _unit(rng, n + more)
    positive = _ownership(rng, n, n + more)
    ignore = rng.random(positive.shape) < 0.3 if ignoring else None
    loss = multi_positive_loss(
        image,
        text,
        torch.tensor(30.0),
        torch.from_numpy(positive),
        ignore=None if ignore is None else torch.from_numpy(ignore),
        smoothing=smoothing,
    )
    expected = _twin(image.double().numpy(), text.double().numpy(), 30.0, positive, ignore, smoothing)
    assert loss.item() == pytest.approx(expected, rel=2e-5, abs=2e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_with_distinct_pairs_value_and_gradients_are_those_of_clips_cross_entropy(smoothing: float) -> None:
    results = []
    for plain in (True, False):
        image, text = (_unit(np.random.default_rng(s), 12).requires_grad_(True) for s in (2, 3))
        log_scale = torch.tensor(3.0, requires_grad=True)
        if plain:
            logits = log_scale.exp() * image @ text.T
            own = torch.arange(12)
            loss = sum(
                torch.nn.functional.cross_entropy(rows, own, label_smoothing=smoothing)
                for rows in (logits, logits.T)
            )
            loss = loss / 2
        else:
            identity = torch.eye(12, dtype=torch.bool)
            loss = multi_positive_loss(image, text, log_scale.exp(), identity, smoothing=smoothing)
        loss.backward()
        results.append([loss.detach(), image.grad, text.grad, log_scale.grad])
    for ours, reference in zip(*results, strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-5, atol=1e-7)


def test_a_hard_negative_pushes_images_away_and_asks_nothing_itself() -> None:
    rng = np.random.default_rng(4)
    image, text = _unit(rng, 4), _unit(rng, 5)
    positive = torch.eye(4, 5, dtype=torch.bool)
    text.requires_grad_(True)
    multi_positive_loss(image, text, torch.tensor(10.0), positive).backward()
    assert text.grad is not None
    # Its gradient is that of the image->text softmax alone: the mean of p(j | i) * scale * image_i / 2.
    share = torch.softmax(10.0 * image @ text.detach().T, dim=1)[:, 4]
    torch.testing.assert_close(text.grad[4], (10.0 * share[:, None] * image).mean(dim=0) / 2)


def test_an_image_without_a_text_and_a_mask_of_another_shape_are_refused() -> None:
    rng = np.random.default_rng(5)
    image, text, scale = _unit(rng, 3), _unit(rng, 4), torch.tensor(5.0)
    positive = torch.eye(3, 4, dtype=torch.bool)
    positive[1] = False
    with pytest.raises(InputError, match="image 1 of the batch owns no text"):
        multi_positive_loss(image, text, scale, positive)
    with pytest.raises(InputError, match=r"positive is \(3, 3\) for 3 images and 4 texts"):
        multi_positive_loss(image, text, scale, torch.eye(3, dtype=torch.bool))
    everything = torch.ones(3, 4, dtype=torch.bool)
    with pytest.raises(InputError, match=r"ignore is \(4, 3\)"):
        multi_positive_loss(image, text, scale, everything, ignore=everything.T)


def test_under_autocast_the_loss_is_computed_in_float32() -> None:
    rng = np.random.default_rng(6)
    image, text = _unit(rng, 32, 64), _unit(rng, 32, 64)
    scale, identity = torch.tensor(100.0), torch.eye(32, dtype=torch.bool)
    plain = [
        multi_positive_loss(image, text, scale, identity),
        principal_components(image, 4),
        distillation_loss(50 * image @ text.T, 40 * image @ text.T),
    ]
    student, teacher = 50 * image @ text.T, 40 * image @ text.T
    with torch.autocast("cpu", torch.bfloat16):
        cast = [
            multi_positive_loss(image, text, scale, identity),
            principal_components(image, 4),
            distillation_loss(student, teacher),
        ]
    for a, b in zip(plain, cast, strict=True):
        assert b.dtype == torch.float32
        assert torch.equal(a, b)


def test_a_well_separated_batch_at_full_scale_keeps_small_gradients() -> None:
    torch.manual_seed(0)
    text = torch.linalg.qr(torch.randn(16, 16)).Q
    image = text.clone().requires_grad_(True)
    multi_positive_loss(image, text, torch.tensor(100.0), torch.eye(16, dtype=torch.bool)).backward()
    assert image.grad is not None
    # exp(-100) of a gradient is all that is left; a rounded softmax would leave 1e-6 and more.
    assert float(image.grad.abs().max()) < 1e-30


def _pca_twin(rows: np.ndarray, k: int) -> np.ndarray:
    mean = rows.mean(axis=0)
    _, _, vt = np.linalg.svd(rows - mean, full_matrices=False)
    return (rows - mean) @ vt[:k].T @ vt[:k] + mean


@pytest.mark.parametrize(("n", "d", "k"), [(40, 24, 5), (12, 64, 8), (200, 32, 31), (10, 6, 1)])
def test_coarse_rows_are_those_of_the_float64_svd(n: int, d: int, k: int) -> None:
    rows = _unit(np.random.default_rng(n), n, d)
    coarse = principal_components(rows, k)
    assert coarse.dtype == torch.float32
    np.testing.assert_allclose(coarse.numpy(), _pca_twin(rows.double().numpy(), k), atol=2e-6)
    exact = principal_components(rows.double(), k)
    np.testing.assert_allclose(exact.numpy(), _pca_twin(rows.double().numpy(), k), atol=1e-12)


def test_coarse_rows_keep_the_mean_and_are_shorter_than_unit_rows() -> None:
    rows = _unit(np.random.default_rng(7), 30, 20)
    coarse = principal_components(rows, 3)
    torch.testing.assert_close(coarse.mean(dim=0), rows.mean(dim=0))
    assert float(coarse.norm(dim=1).max()) < 0.99
    assert int(torch.linalg.matrix_rank(coarse - coarse.mean(dim=0), atol=1e-4)) == 3


def test_small_batches_and_all_components_come_back_as_they_are() -> None:
    rng = np.random.default_rng(8)
    for n, d, k in ((33, 64, 32), (5, 8, 32), (50, 8, 8)):
        rows = _unit(rng, n, d)
        assert torch.equal(principal_components(rows, k), rows)
    rows = _unit(rng, 34, 64)
    assert not torch.allclose(principal_components(rows, 32), rows, atol=1e-4)
    with pytest.raises(InputError, match="0 principal components"):
        principal_components(rows, 0)
    rows[3, 2] = float("nan")
    with pytest.raises(LrsclipError, match="NaN or infinite"):
        principal_components(rows, 4)


def test_the_gradient_stays_finite_on_repeated_rows_where_that_of_the_svd_does_not() -> None:
    wish = torch.from_numpy(np.random.default_rng(9).normal(size=(24, 32))).float()
    found = {}
    for name in ("ours", "svd"):
        rows = _unit(np.random.default_rng(10), 6, 32).repeat(4, 1).requires_grad_(True)
        if name == "ours":
            coarse = principal_components(rows, 8)
        else:
            centred = rows - rows.mean(dim=0)
            basis = torch.linalg.svd(centred, full_matrices=False).Vh[:8].T
            coarse = centred @ basis @ basis.T + rows.mean(dim=0)
        (coarse * wish).sum().backward()
        assert rows.grad is not None
        found[name] = rows.grad
    assert bool(torch.isfinite(found["ours"]).all())
    assert float(found["ours"].abs().max()) > 0.1
    svd = found["svd"]
    assert not bool(torch.isfinite(svd).all()) or float(svd.abs().max()) > 1e3 * float(
        found["ours"].abs().max()
    )


def test_the_gradient_is_that_of_a_projection_on_a_fixed_basis() -> None:
    values = _unit(np.random.default_rng(11), 20, 12).double()
    wish = torch.from_numpy(np.random.default_rng(12).normal(size=(20, 12)))
    centred = (values - values.mean(dim=0)).numpy()
    basis = np.linalg.svd(centred, full_matrices=False)[2][:4].T
    projector = torch.from_numpy(basis @ basis.T)
    inside = wish @ projector
    expected = inside + (wish - inside).mean(dim=0)
    rows = values.clone().requires_grad_(True)
    (principal_components(rows, 4) * wish).sum().backward()
    torch.testing.assert_close(rows.grad, expected, rtol=1e-9, atol=1e-12)


def _kl_twin(student: np.ndarray, teacher: np.ndarray, temperature: float, mask: np.ndarray) -> float:
    total = 0.0
    for s, t, m in ((student, teacher, mask), (student.T, teacher.T, mask.T)):
        lines = []
        for row in range(len(s)):
            if m[row].any():
                p, q = (np.exp(x[row][m[row]] / temperature) for x in (t, s))
                p, q = p / p.sum(), q / q.sum()
                lines.append(float((p * np.log(p / q)).sum()))
        total += float(np.mean(lines))
    return total / 2 * temperature**2


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("masked", [False, True])
def test_distillation_is_the_twins_kl_over_rows_and_columns(temperature: float, masked: bool) -> None:
    rng = np.random.default_rng(13)
    student, teacher = rng.normal(size=(2, 6, 9)) * 4
    mask = rng.random((6, 9)) < 0.6
    mask[2], mask[:, 4] = False, False
    if not masked:
        mask[:] = True
    loss = distillation_loss(
        torch.from_numpy(student).float(),
        torch.from_numpy(teacher).float(),
        temperature=temperature,
        mask=torch.from_numpy(mask) if masked else None,
    )
    assert loss.item() == pytest.approx(_kl_twin(student, teacher, temperature, mask), rel=1e-5)


def test_a_distilled_student_moves_to_its_teacher_and_masked_pairs_do_not_move() -> None:
    rng = np.random.default_rng(14)
    teacher = torch.from_numpy(rng.normal(size=(5, 5))).float().requires_grad_(True)
    student = torch.zeros(5, 5, requires_grad=True)
    mask = torch.ones(5, 5, dtype=torch.bool)
    mask[1, 3] = mask[4] = False
    before = distillation_loss(student, teacher, mask=mask)
    before.backward()
    assert teacher.grad is None
    assert student.grad is not None
    assert bool(torch.isfinite(student.grad).all())
    assert bool((student.grad[~mask] == 0).all())
    after = distillation_loss((student - student.grad).detach(), teacher, mask=mask)
    assert after < before


def test_distillation_refuses_unlike_shapes_an_empty_mask_and_no_temperature() -> None:
    square = torch.zeros(2, 2)
    with pytest.raises(InputError, match=r"teacher \(2, 3\)"):
        distillation_loss(square, torch.zeros(2, 3))
    with pytest.raises(InputError, match="no pair to learn from"):
        distillation_loss(square, square, mask=torch.zeros(2, 2, dtype=torch.bool))
    with pytest.raises(InputError, match="temperature must be above 0"):
        distillation_loss(square, square, temperature=0.0)

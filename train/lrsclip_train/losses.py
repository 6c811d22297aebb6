"""Losses over a batch of images and their texts: contrastive, distilled, and their coarse image features.

All of them compute in float32 at least, whatever autocast is on around them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from lrsclip_rt.errors import InputError, TrainingError

__all__ = ["detail_loss", "distillation_loss", "multi_positive_loss", "principal_components"]

_LEFT_OUT = -1e30
"""Logit of a pair that leaves a softmax; finite, so that a row without any pair stays free of NaN."""


def multi_positive_loss(
    image: torch.Tensor,
    text: torch.Tensor,
    scale: torch.Tensor,
    positive: torch.Tensor,
    *,
    ignore: torch.Tensor | None = None,
    smoothing: float = 0.0,
) -> torch.Tensor:
    """Symmetric InfoNCE in which one image may own several texts of the batch and the other way round.

    With the identity as ``positive`` this is CLIP's loss. Captions repeat in remote-sensing sets, so
    a text that also describes another image of the batch counts as that image's own: the target of
    a row is spread evenly over its positives. A text that no image owns is a hard negative: every
    image is compared with it, and it is no query of its own.

    Args:
        image: (N, D) unit rows.
        text: (M, D) unit rows.
        scale: Scalar that multiplies the cosines.
        positive: (N, M) bool, image i owns text j; every image owns at least one.
        ignore: (N, M) bool, pairs that are neither positive nor negative and leave the softmax.
        smoothing: Share of the target spread evenly over the row's pairs that are not ignored.

    Returns:
        Scalar float32: the mean of the image->text and text->image cross entropies.

    Raises:
        InputError: If the shapes disagree or an image owns no text.
    """
    pairs = (len(image), len(text))
    for name, mask in (("positive", positive), ("ignore", ignore)):
        if mask is not None and tuple(mask.shape) != pairs:
            raise InputError(
                f"{name} is {tuple(mask.shape)} for {pairs[0]} images and {pairs[1]} texts; make it {pairs}"
            )
    owning = positive.any(dim=1)
    if not bool(owning.all()):
        row = int(owning.logical_not().nonzero()[0])
        raise InputError(f"image {row} of the batch owns no text; every row of positive needs one or more")
    with torch.autocast(image.device.type, enabled=False):
        logits = (_wide(scale) * _wide(image)) @ _wide(text).T
        counted = None if ignore is None else positive | ~ignore
        if counted is not None:
            logits = logits.masked_fill_(~counted, _LEFT_OUT)  # the product's backward needs no result
        total = logits.new_zeros(())
        for dim in (1, 0):
            target = _targets(positive, counted, dim, smoothing, logits.dtype)
            # A dot of both matrices: no third one for their product.
            total = total - torch.tensordot(target, F.log_softmax(logits, dim=dim), dims=2)
        return total / 2


def _targets(
    positive: torch.Tensor,
    counted: torch.Tensor | None,
    dim: int,
    smoothing: float,
    dtype: torch.dtype,
) -> torch.Tensor:
    """Target distributions along ``dim`` divided by the number of queries: (N, M), sums to one.

    A line along ``dim`` without a positive is no query: all zero.
    """
    target = positive.to(dtype)
    owned = target.sum(dim=dim, keepdim=True)
    asked = (owned > 0).to(dtype)
    queries = asked.sum()
    target.mul_((1 - smoothing) / (owned.clamp(min=1) * queries))
    if smoothing > 0:
        if counted is None:
            target.add_(asked * (smoothing / positive.shape[dim] / queries))
        else:
            seen = counted.sum(dim=dim, keepdim=True).clamp(min=1)
            target.add_(counted * (asked * smoothing / (seen * queries)))
    return target


def principal_components(features: torch.Tensor, k: int) -> torch.Tensor:
    """Rows reduced to what the first ``k`` principal components of the batch can tell.

    Long-CLIP's primary component matching (arXiv 2403.15378, sec. 3.3) compares short captions with
    these coarse image features. As in its released model code, the rows are centred, projected on the
    first ``k`` right singular vectors and projected back, the mean is added again, and the result is
    NOT normalised once more: a row with much detail thereby counts less. Two things differ. Upstream
    runs it on each rank's own rows; give this function the joined rows of all ranks, so that the
    ranks agree on the components. And upstream differentiates through the decomposition, whose
    backward divides by the differences of singular values: repeated rows make it infinite, which
    its training loop once had to catch. Here the basis is a statistic of the batch without a
    gradient, and the gradient flows through the rows and their mean alone; it is finite for every
    finite batch.

    Args:
        features: (N, D), unit rows as a rule.
        k: Components to keep.

    Returns:
        (N, D) float32, or float64 if ``features`` is. The rows themselves where they cannot lose
        anything: N <= k + 1 or k >= D.

    Raises:
        InputError: If ``k`` is not positive.
        TrainingError: If a feature is not finite.
    """
    if k < 1:
        raise InputError(f"{k} principal components cannot be kept; give 1 or more")
    rows = _wide(features)
    n, d = rows.shape
    if n <= k + 1 or k >= d:
        return rows
    with torch.autocast(features.device.type, enabled=False):
        mean = rows.mean(dim=0)
        centred = rows - mean
        with torch.no_grad():
            # float64: squaring into the covariance costs half of the digits.
            exact = centred.double()
            covariance = exact.T @ exact
            if not bool(torch.isfinite(covariance).all()):
                raise TrainingError("image features became NaN or infinite; lower lr or check the weights")
            basis = torch.linalg.eigh(covariance).eigenvectors[:, -k:].to(rows.dtype)
        coarse: torch.Tensor = (centred @ basis) @ basis.T + mean
        return coarse


def detail_loss(
    images: torch.Tensor, right: torch.Tensor, wrong: torch.Tensor, *, scale: float
) -> torch.Tensor:
    """How badly images tell their own text from one with a detail wrong: the logistic loss of the margin.

    Nothing else of the batch is compared: what an excerpt says ("it lies on the left") may well be true of
    other images.

    Args:
        images: (N, D) unit rows.
        right: (N, D) unit rows, texts that are true of them.
        wrong: (N, D) unit rows, texts that are not.
        scale: Multiplies the difference of both cosines.

    Returns:
        Scalar float32; log 2 where nothing is told apart.

    Raises:
        InputError: If the shapes disagree or there is no row.
    """
    if not (len(images) and images.shape == right.shape == wrong.shape):
        shapes = ", ".join(str(tuple(rows.shape)) for rows in (images, right, wrong))
        raise InputError(f"images and both kinds of texts must have the same shape and a row; got {shapes}")
    with torch.autocast(images.device.type, enabled=False):
        margins = (_wide(images) * (_wide(right) - _wide(wrong))).sum(dim=1)
        return F.softplus(-scale * margins).mean()


def distillation_loss(
    student_logits: torch.Tensor,
    teacher_logits: torch.Tensor,
    *,
    temperature: float = 1.0,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """How far a student's similarities are from a teacher's, as distributions of rows and of columns.

    Args:
        student_logits: (N, M), scaled cosines of images and texts.
        teacher_logits: (N, M), the same pairs seen by the teacher; gets no gradient.
        temperature: Divides both; the result is multiplied by its square, which keeps the size of
            the gradient (arXiv 1503.02531).
        mask: (N, M) bool, the pairs that count; the others leave all softmaxes, and a row or
            column without any pair leaves the mean.

    Returns:
        Scalar float32: the mean of KL(teacher || student) over rows and over columns, halved sum of both.

    Raises:
        InputError: If the shapes disagree, ``temperature`` is not positive, or no pair counts.

    Example:
        >>> logits = torch.tensor([[4.0, 1.0], [0.5, 3.0]])
        >>> distillation_loss(logits, logits).item()
        0.0
    """
    shape = tuple(student_logits.shape)
    if tuple(teacher_logits.shape) != shape or (mask is not None and tuple(mask.shape) != shape):
        other = None if mask is None else tuple(mask.shape)
        raise InputError(
            f"student {shape}, teacher {tuple(teacher_logits.shape)} and mask {other} must be of one shape"
        )
    if not temperature > 0:
        raise InputError(f"temperature must be above 0, got {temperature}")
    if mask is not None and not bool(mask.any()):
        raise InputError("the mask leaves no pair to learn from; skip the loss for this batch")
    with torch.autocast(student_logits.device.type, enabled=False):
        student = _wide(student_logits) / temperature
        teacher = _wide(teacher_logits.detach()) / temperature
        if mask is not None:
            student, teacher = (part.masked_fill(~mask, _LEFT_OUT) for part in (student, teacher))
        total = student.new_zeros(())
        for dim in (1, 0):
            wanted, got = (F.log_softmax(part, dim=dim) for part in (teacher, student))
            lines = F.kl_div(got, wanted, reduction="none", log_target=True).sum(dim=dim)
            total = total + (lines.mean() if mask is None else lines[mask.any(dim=dim)].mean())
        return total * temperature**2 / 2


def _wide(values: torch.Tensor) -> torch.Tensor:
    """float64 stays, everything else becomes float32."""
    return values if values.dtype == torch.float64 else values.float()

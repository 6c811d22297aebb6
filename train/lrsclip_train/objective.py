"""The loss of a step from the embeddings of the whole batch, whatever process computed which row."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lrsclip_train.batches import BatchPlan, TextsPlan
from lrsclip_train.config import LossConfig
from lrsclip_train.losses import detail_loss, multi_positive_loss, principal_components
from lrsclip_train.teacher import Teacher

__all__ = ["BranchEmbeddings", "DetailEmbeddings", "LossParts", "batch_loss"]


@dataclass(frozen=True, slots=True, eq=False)
class BranchEmbeddings:
    """(M, D) unit rows of a branch's texts, and (H, D) of its hard negatives."""

    texts: torch.Tensor
    wrong: torch.Tensor | None = None


@dataclass(frozen=True, slots=True, eq=False)
class DetailEmbeddings:
    """(K, D) unit rows of images, their true texts, and the texts with a detail wrong."""

    images: torch.Tensor
    right: torch.Tensor
    wrong: torch.Tensor


@dataclass(frozen=True, slots=True, eq=False)
class LossParts:
    """The total that is minimised and what it is made of; a branch that is off is None."""

    total: torch.Tensor
    short: torch.Tensor | None
    long: torch.Tensor | None
    teacher: torch.Tensor | None = None
    detail: torch.Tensor | None = None


def batch_loss(
    images: torch.Tensor,
    short: BranchEmbeddings | None,
    long: BranchEmbeddings | None,
    plan: BatchPlan,
    scale: torch.Tensor,
    *,
    weight: float,
    config: LossConfig,
    teacher: Teacher | None = None,
    details: DetailEmbeddings | None = None,
) -> LossParts:
    """L = weight * L_long + (1 - weight) * L_short over the batch, and what else the config asks for.

    Args:
        images: (N, D) unit rows of all images of the plan.
        short: Short texts; None where the plan has none.
        long: Long texts; None where the plan has none.
        plan: Whose text is whose.
        scale: exp(logit_scale).
        weight: a, the share of the long branch.
        config: Smoothing and number of principal components.
        teacher: Embeddings that images and short texts are drawn to.
        details: Images whose right texts are told from wrong ones.
    """
    total = images.new_zeros(())
    parts: list[torch.Tensor | None] = []
    coarse = principal_components(images, config.components) if config.components else images
    for seen, branch, texts, share in (
        (coarse, short, plan.short, 1 - weight),
        (images, long, plan.long, weight),
    ):
        if branch is None or texts is None:
            parts.append(None)
            continue
        loss = _branch_loss(seen, branch, texts, scale, config)
        total = total + share * loss
        parts.append(loss)
    distance = None
    if teacher is not None:
        distance = teacher.image_distance(images, plan.keys)
        if short is not None and plan.short is not None:
            distance = distance + teacher.text_distance(short.texts, plan.short.unthinned)
        total = total + config.teacher_weight * distance
    noticed = None
    if details is not None:
        noticed = detail_loss(details.images, details.right, details.wrong, scale=config.detail_scale)
        total = total + config.detail_weight * noticed
    return LossParts(total, parts[0], parts[1], distance, noticed)


def _branch_loss(
    images: torch.Tensor, branch: BranchEmbeddings, plan: TextsPlan, scale: torch.Tensor, config: LossConfig
) -> torch.Tensor:
    members = torch.tensor(plan.members, device=images.device)
    texts = branch.texts if branch.wrong is None else torch.cat([branch.texts, branch.wrong])
    return multi_positive_loss(
        images[members],
        texts,
        scale,
        torch.from_numpy(plan.positive).to(images.device),
        ignore=torch.from_numpy(plan.ignore).to(images.device),
        smoothing=config.smoothing,
    )

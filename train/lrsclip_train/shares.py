"""Which texts of a step's plan a process encodes, and how those of all processes come together."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lrsclip_train.batches import DetailsPlan, TextsPlan
from lrsclip_train.gathering import World, gather_counted
from lrsclip_train.objective import BranchEmbeddings, DetailEmbeddings

__all__ = ["BranchShare", "DetailShare"]


class BranchShare:
    """This process's texts of a branch, and how the texts of all processes come together."""

    def __init__(self, plan: TextsPlan, mine: range, share: int, world: World) -> None:
        owner = [member // share for member in plan.members]
        texts = plan.texts[: len(plan.members)]
        wrong = plan.texts[len(plan.members) :]
        wrong_owner = [owner[place] for place in plan.wrong_of]
        self.counts = [owner.count(rank) for rank in range(world.size)]
        self.wrong_counts = [wrong_owner.count(rank) for rank in range(world.size)]
        self.own = [text for text, rank in zip(texts, owner, strict=True) if rank == world.rank]
        self.own += [text for text, rank in zip(wrong, wrong_owner, strict=True) if rank == world.rank]
        self.order = torch.zeros(0, dtype=torch.long)
        self.kind = -1

    def joined(self, kinds: Sequence[torch.Tensor], images: torch.Tensor, world: World) -> BranchEmbeddings:
        """Embeddings of all processes' texts, in the order of the plan."""
        rows = images[:0] if self.kind < 0 else kinds[self.kind][self.order]
        number = self.counts[world.rank]
        texts = gather_counted(rows[:number], self.counts, world)
        wrong = gather_counted(rows[number:], self.wrong_counts, world) if sum(self.wrong_counts) else None
        return BranchEmbeddings(texts, wrong)


class DetailShare:
    """This process's texts with and without a wrong detail, and how those of all processes come together."""

    def __init__(self, plan: DetailsPlan, world: World) -> None:
        self.share = len(plan.right) // world.size
        mine = slice(world.rank * self.share, (world.rank + 1) * self.share)
        self.own = [*plan.right[mine], *plan.wrong[mine]]
        self.order = torch.zeros(0, dtype=torch.long)
        self.kind = -1

    def joined(self, kinds: Sequence[torch.Tensor], world: World) -> DetailEmbeddings:
        """Embeddings of all processes' images and texts, in the order of the plan."""
        texts = kinds[self.kind + 1][self.order]
        parts = (kinds[self.kind], texts[: self.share], texts[self.share :])
        return DetailEmbeddings(*(gather_counted(part, [self.share] * world.size, world) for part in parts))

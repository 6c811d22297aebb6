"""Text positions of a checkpoint: stretched on reading, or recognised as stretched already."""

from __future__ import annotations

import torch

from lrsclip_rt.errors import CheckpointError
from lrsclip_train.kps import stretch_table, stretched_length

__all__ = ["ORIGINAL_CONTEXT", "lies_on_stretched_lines", "resolved_positions"]

ORIGINAL_CONTEXT = 77
_LONGEST_CONTEXT = 8192
FROZEN, TRAINED = "positional_embedding", "positional_embedding_res"


def resolved_positions(
    state: dict[str, torch.Tensor], *, keep: int, ratio: int, stretch: bool, where: str
) -> tuple[str, ...]:
    """Bring the text positions in ``state`` to the two tables of KPS, in place.

    A 77-row table is stretched (or left alone without ``stretch``); two tables are taken as they are; a
    single stretched table serves as both.

    Args:
        state: Tensors under OpenAI's names; the position tables are float32 and two-dimensional.
        keep: Rows that stretching keeps.
        ratio: Rows made of each later row.
        stretch: Whether a 77-row table is stretched.
        where: Name of the file, for messages.

    Returns:
        Notes for people.

    Raises:
        CheckpointError: If a table is missing or its length fits neither 77 nor ``keep`` and ``ratio``.
    """
    length = stretched_length(ORIGINAL_CONTEXT, keep=keep, ratio=ratio)
    if keep < 0 or ratio < 1 or length > _LONGEST_CONTEXT:
        raise CheckpointError(
            f"{where}: keep {keep} and ratio {ratio} make {length} text positions of {ORIGINAL_CONTEXT}; "
            f"expected keep 0 to {ORIGINAL_CONTEXT - 2}, ratio 1 or more, and at most {_LONGEST_CONTEXT}"
        )
    tables = {name: state[name] for name in (FROZEN, TRAINED) if name in state}
    rows = {name: table.shape[0] for name, table in tables.items()}
    if set(tables) == {FROZEN} and rows[FROZEN] == ORIGINAL_CONTEXT:
        if not stretch:
            return ()
        state[FROZEN] = stretch_table(tables[FROZEN], keep=keep, ratio=ratio)
        state[TRAINED] = state[FROZEN].clone()
        return (f"stretched {ORIGINAL_CONTEXT} -> {length} positions (keep {keep}, ratio {ratio})",)
    if not tables or set(rows.values()) != {length}:
        found = ", ".join(f"{name} with {count} rows" for name, count in rows.items()) or "no table"
        raise CheckpointError(
            f"{where}: text positions are {found}; expected {ORIGINAL_CONTEXT} rows, or {length} as keep "
            f"{keep} and ratio {ratio} give. A model stretched otherwise needs its own keep and ratio"
        )
    if len(tables) == 2:
        return ()
    (name,) = tables
    note = _only_table_note(name, tables[name], keep=keep, ratio=ratio)
    state[FROZEN], state[TRAINED] = tables[name], tables[name].clone()
    return (note,)


def lies_on_stretched_lines(table: torch.Tensor, *, keep: int, ratio: int) -> bool:
    """Whether a stretched table is still what stretching made of 77 rows, up to float16 rounding.

    Training moves the rows after ``keep`` off the straight lines between the old rows, so a table that
    lies on them was never trained.

    Args:
        table: (L, width) float32, L as ``keep`` and ``ratio`` give.
        keep: Rows that stretching kept.
        ratio: Rows made of each later row; with 1 there are no lines and the answer is no.
    """
    if ratio == 1:
        return False
    original = torch.cat([table[:keep], table[keep::ratio]])
    again = stretch_table(original, keep=keep, ratio=ratio)
    return bool(torch.isclose(table, again, rtol=2e-3, atol=1e-5).float().mean() > 0.99)


def _only_table_note(name: str, table: torch.Tensor, *, keep: int, ratio: int) -> str:
    if lies_on_stretched_lines(table, keep=keep, ratio=ratio):
        return (
            "only one positional table found: the frozen one (its rows lie on the lines of stretching), so "
            f"trained rows {keep}..{table.shape[0] - 1} are lost if there were any"
        )
    if name == TRAINED:
        return f"only one positional table found: the trained one, used for rows 0..{keep - 1} too"
    return "only one positional table found: a trained or merged one (its rows left the lines of stretching)"
